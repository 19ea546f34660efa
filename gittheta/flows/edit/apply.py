"""apply: fold a PEFT adapter into a checkpoint of the work tree, tensor by tensor, within bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.adapters.fold import finding, predict
from gittheta.adapters.read import Adapter, read_adapter
from gittheta.codec.choose import Derivation
from gittheta.codec.readers import FileReader
from gittheta.errors import ThetaError
from gittheta.flows.edit.prestore import KnownOrigin, prestore, stored_as
from gittheta.flows.edit.workfile import WorkFile

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace


@dataclass(frozen=True)
class Applied:
    """What was done: how many of a checkpoint's tensors the adapter changed."""

    changed: int
    tensors: int


def apply(workspace: Workspace, adapter: Path, target: Path, path: str) -> Applied:
    """Replace a checkpoint by itself with the adapter folded in; ``path`` is its name in the index.

    What it becomes is stored at once, as the adapter's own factors over what is stored already. Raises AdapterError if
    they do not fit, FormatError, ManifestError or StoreError; the file is then as it was.
    """
    try:
        with WorkFile.opened(workspace, target) as work:
            file = work.file
            old = {segment.spec: file.reader(segment) for segment in file.layout.segments}
            folds = read_adapter(adapter, list(old), old.__getitem__, workspace.tensors.registry)
            workspace.reporter.start(f"Folding {adapter.name} into {path}", file.layout.length)
            work.replace(
                _parts(work, folds), lambda written: prestore(workspace.tensors, _origins(work, path, folds, written))
            )
            return Applied(len(folds), len(old))
    except ThetaError as error:
        raise error.located(path=path) from None


def _parts(work: WorkFile, folds: Adapter) -> Iterator[bytes | memoryview]:
    """The new file from its beginning to its end."""
    file, limits = work.file, work.workspace.tensors.limits
    at = 0
    for segment in file.layout.segments:
        spec = segment.spec
        if spec.name in folds:
            yield from file.copy(at, segment.offset)
            new, base = predict(folds[spec.name], spec), file.reader(segment)
            step = limits.block_bytes(spec.dtype)
            for begin in range(0, spec.nbytes, step):
                yield new.read(begin, min(spec.nbytes, begin + step), base)
            at = segment.offset + spec.nbytes
    yield from file.copy(at, file.layout.length)


def _origins(work: WorkFile, path: str, folds: Adapter, written: int) -> Iterator[KnownOrigin]:
    """The changed tensors whose former values are stored."""
    file = work.file
    changed = [segment for segment in file.layout.segments if segment.spec.name in folds]
    bases = stored_as(work.workspace, path, map(file.reader, changed))
    for segment in changed:
        base = bases.get(segment.spec.name)
        if base:
            found = finding(folds[segment.spec.name], segment.spec)
            derivation = Derivation("lowrank", found) if found else None
            yield KnownOrigin(FileReader(segment.spec, written, segment.offset), base, derivation)
