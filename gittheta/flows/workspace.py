"""What every flow works with: one repository, its blobs, and its tensor store."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeVar

from gittheta.api import NullReporter, Reporter
from gittheta.codec.tensor_store import TensorStore
from gittheta.errors import ManifestError
from gittheta.git.process import BlobReader
from gittheta.git.repository import Repository
from gittheta.limits import Limits
from gittheta.runtime import close_parts, lazy
from gittheta.settings import Settings
from gittheta.storage.lending import note_borrower
from gittheta.storage.manifest import MAX_TEXT, claims_to_be_manifest, parse_manifest
from gittheta.storage.objects import ObjectStore, alternate_stores
from gittheta.storage.permissions import Permissions

if TYPE_CHECKING:
    from gittheta.model import Manifest

Kept = TypeVar("Kept")


@dataclass
class Workspace:
    """Opened once a process. Safe to use from several threads; each part is made when it is first needed."""

    repository: Repository
    reporter: Reporter
    #: Limits other than those of the settings: for tests.
    limits: Limits | None = field(default=None)
    _errands: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)
    _keeping: RLock = field(default_factory=RLock, init=False, repr=False)
    _told: set[str] = field(default_factory=set, init=False, repr=False)

    @classmethod
    def open(cls, start: Path, reporter: Reporter | None = None, limits: Limits | None = None) -> Workspace:
        """The workspace around a directory. Raises GitError outside a repository."""
        return cls(Repository.discover(start), reporter or NullReporter(), limits)

    @lazy
    def settings(self) -> Settings:
        """Git's configuration, as far as it is ours. Raises ConfigError."""
        return Settings.read(self.repository)

    @lazy
    def permissions(self) -> Permissions:
        """Who may read and write what is created in the repository. Raises ConfigError."""
        return permissions_of(self.repository)

    @lazy
    def tensors(self) -> TensorStore:
        """The tensor store that all work trees of the repository share."""
        common, settings = self.repository.common_dir, self.settings
        lenders = tuple(alternate_stores(common))
        for lender in lenders:
            note_borrower(lender, common, self.permissions)
        return TensorStore(
            ObjectStore(common / "theta", lenders, self.permissions),
            reporter=self.reporter,
            limits=self.limits or Limits().within(settings.memory),
            threads=settings.threads,
            encodings=settings.encodings,
            keeps=self._may_keep(common),
        )

    def _may_keep(self, common: Path) -> bool:
        """Whether anything can be added at all. If not, what is looked at need not be stored, and cannot be."""
        folders = (common / "theta", common, self.repository.objects_dir)
        return any(folder.exists() and os.access(folder, os.W_OK) for folder in folders)

    @lazy
    def blobs(self) -> BlobReader:
        """Blobs of the repository."""
        return BlobReader.open(self.repository.git)

    @lazy
    def stored_blobs(self) -> BlobReader:
        """Blobs as they are stored, whatever `git replace` says: for what is sent, kept or deleted."""
        return BlobReader.open(self.repository.git.as_stored())

    def kept(self, make: Callable[[Workspace], Kept]) -> Kept:
        """A part that an errand keeps for the life of the workspace: made once, and closed with it if it can be."""
        with self._keeping:
            if make not in self._errands:
                self._errands[make] = make(self)
            part: Kept = self._errands[make]
        return part

    def read_manifest(self, name: str) -> Manifest | None:
        """The manifest that ``name`` (``HEAD:path``, an object id) resolves to; None if it is something else.

        Raises ManifestError if it claims to be a manifest and is not a valid one.
        """
        return _manifest(self.blobs, name)

    def read_stored(self, oid: str) -> Manifest | None:
        """The same of a blob as it is stored, whatever `git replace` says: for what is sent, kept or deleted."""
        return _manifest(self.stored_blobs, oid)

    def try_manifest(self, name: str) -> Manifest | None:
        """The manifest that ``name`` resolves to; None if it is something else, or not a valid one."""
        try:
            return self.read_manifest(name)
        except ManifestError:
            return None

    def warn_once(self, about: str, message: str) -> None:
        """Warn of the first of several things of a kind in this process; the message says how to find the others."""
        with self._keeping:
            is_new = about not in self._told
            self._told.add(about)
        if is_new:
            self.reporter.warn(message)

    def close(self) -> None:
        """End what was started."""
        for part in self._errands.values():
            if hasattr(part, "close"):
                part.close()
        self._errands.clear()
        close_parts(self, "tensors", "blobs", "stored_blobs")

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def permissions_of(repository: Repository) -> Permissions:
    """What umask and ``core.sharedRepository`` say of new files. Raises ConfigError."""
    return Permissions.parse(repository.setting("core.sharedrepository"))


def _manifest(blobs: BlobReader, name: str) -> Manifest | None:
    text = blobs.read(name, MAX_TEXT)
    return parse_manifest(text) if text and claims_to_be_manifest(text) else None
