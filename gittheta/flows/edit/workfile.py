"""A checkpoint of the work tree that is replaced by a changed version of itself."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.errors import ManifestError, StoreError
from gittheta.files.checkpoint import CheckpointFile
from gittheta.flows.checkout.materialise import manifest_text
from gittheta.storage.files import open_new, sync, translated, write_all

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace


@dataclass(frozen=True)
class WorkFile:
    """A checkpoint of known format, opened for reading."""

    workspace: Workspace
    target: Path
    file: CheckpointFile
    before: os.stat_result

    @classmethod
    @contextmanager
    def opened(cls, workspace: Workspace, target: Path) -> Iterator[WorkFile]:
        """Open a checkpoint. Raises ThetaError for links, folders, manifests and files of no known format."""
        if manifest_text(target) is not None:
            raise ManifestError("only its manifest stands in the work tree", hint="run `git theta pull`")
        with ExitStack() as stack:
            with translated(target):
                if not stat.S_ISREG(target.lstat().st_mode):
                    raise StoreError("not a file of its own", hint="name the file itself, not a link or a folder")
                opening = CheckpointFile.opened(target, workspace.tensors.registry, workspace.reporter)
                file = stack.enter_context(opening)
            yield cls(workspace, target, file, os.fstat(file.descriptor))

    def replace(self, parts: Iterable[bytes | memoryview], then: Callable[[int], None] = lambda _: None) -> None:
        """Put a file of these bytes in its place, with its permissions; on any error it stays as it was.

        ``then`` is called with the descriptor of the new file before that takes the name.
        """
        temporary = self.workspace.tensors.store.temporary()
        with translated(self.target):
            if temporary.parent.stat().st_dev != self.target.parent.stat().st_dev:
                temporary = self.target.with_name(f".{temporary.name}.gittheta")
            try:
                self._write(temporary, parts, then)
                os.chmod(temporary, stat.S_IMODE(self.before.st_mode))
                if _state(self.target.lstat()) != _state(self.before):
                    raise StoreError("the file was changed in the meantime, and is left like that", hint="run it again")
                os.replace(temporary, self.target)
            finally:
                temporary.unlink(missing_ok=True)

    def _write(self, temporary: Path, parts: Iterable[bytes | memoryview], then: Callable[[int], None]) -> None:
        descriptor = open_new(temporary)
        try:
            for part in parts:
                write_all(descriptor, part)
                self.workspace.reporter.advance(len(part))
            sync(descriptor)
            then(descriptor)
        finally:
            os.close(descriptor)


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
