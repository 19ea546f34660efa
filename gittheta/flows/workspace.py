"""What every flow works with: one repository, its store, its settings and the installed plugins."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gittheta.api import Reporter
from gittheta.errors import ManifestError
from gittheta.git.process import BlobReader
from gittheta.git.repository import Repository
from gittheta.model import Manifest
from gittheta.registry import Registry
from gittheta.settings import Settings
from gittheta.storage.manifest import MAX_TEXT, claims_to_be_manifest, parse_manifest
from gittheta.storage.objects import Reader, Store
from gittheta.storage.recipe_cache import Known


class Silent:
    """A reporter that tells nobody."""

    def warn(self, message: str) -> None:
        """Nothing."""

    def trace(self, message: str) -> None:
        """Nothing."""

    def start(self, what: str, total: int) -> None:
        """Nothing."""

    def advance(self, amount: int) -> None:
        """Nothing."""


@dataclass
class Workspace:
    """Opened once a process; each part is made when it is first needed."""

    repository: Repository
    reporter: Reporter

    @classmethod
    def open(cls, start: Path, reporter: Reporter | None = None) -> Workspace:
        """The workspace around a directory. Raises GitError outside a repository."""
        return cls(Repository.discover(start), reporter or Silent())

    @cached_property
    def settings(self) -> Settings:
        """Git's configuration, as far as it is ours."""
        return Settings.read(self.repository)

    @cached_property
    def store(self) -> Store:
        """The store that all work trees of the repository share."""
        common = self.repository.common_dir
        return Store(common / "theta", tuple(alternate_stores(common)))

    @cached_property
    def known(self) -> Known:
        """The table of known tensors."""
        return Known(self.repository.common_dir / "theta" / "known.sqlite")

    @cached_property
    def registry(self) -> Registry:
        """Installed plugins."""
        return Registry()

    @cached_property
    def pool(self) -> ThreadPoolExecutor:
        """Workers for encoding and decoding."""
        return ThreadPoolExecutor(self.settings.threads, "gittheta-worker")

    @cached_property
    def digesters(self) -> ThreadPoolExecutor:
        """Workers for digests, which must not wait behind what there is to encode."""
        return ThreadPoolExecutor(self.settings.threads, "gittheta-digest")

    @cached_property
    def reader(self) -> Reader:
        """Open objects."""
        return Reader(self.store)

    @cached_property
    def blobs(self) -> BlobReader:
        """Blobs of the repository."""
        return self.repository.git.batch()

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Trace how long something took."""
        began = time.perf_counter()
        yield
        self.reporter.trace(f"{what}: {(time.perf_counter() - began) * 1000:.1f} ms")

    def read_manifest(self, name: str) -> Manifest | None:
        """The manifest that ``name`` (``HEAD:path``, an object id) resolves to; None if it is something else.

        Raises ManifestError if it claims to be a manifest and is no valid one.
        """
        text = self.blobs.read(name, MAX_TEXT)
        return parse_manifest(text) if text and claims_to_be_manifest(text) else None

    def try_manifest(self, name: str) -> Manifest | None:
        """The same, but an invalid manifest counts as none."""
        try:
            return self.read_manifest(name)
        except ManifestError:
            return None

    def close(self) -> None:
        """End what was started."""
        for part in ("pool", "digesters", "reader", "blobs", "known"):
            opened = self.__dict__.pop(part, None)
            if isinstance(opened, ThreadPoolExecutor):
                opened.shutdown(cancel_futures=True)
            elif opened is not None:
                opened.close()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def alternate_stores(common_dir: Path) -> Iterator[Path]:
    """The stores of repositories that this one borrows objects from (``clone --shared``), and of theirs."""
    seen = {common_dir.resolve()}
    waiting = [common_dir]
    while waiting:
        folder = waiting.pop() / "objects"
        try:
            lines = (folder / "info" / "alternates").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            lender = (folder / line).resolve().parent if line and not line.startswith("#") else None
            if lender and lender not in seen:
                seen.add(lender)
                waiting.append(lender)
                yield lender / "theta"
