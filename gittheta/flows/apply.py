"""apply: fold a PEFT adapter into a checkpoint of the work tree, tensor by tensor, within bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gittheta.api import Format
from gittheta.errors import FormatError, ManifestError, StoreError
from gittheta.flows.adapter import Adapter, read_adapter
from gittheta.flows.fold import predict
from gittheta.flows.workspace import Workspace
from gittheta.manifest import claims_to_be_manifest
from gittheta.model import Layout, TensorSpec, block_bytes
from gittheta.store import translated, write_all

#: What a format sees to decide whether a file is its own.
_SNIFF = 4096
#: Bytes that are copied at once.
_PIECE = 1 << 22


@dataclass(frozen=True)
class Applied:
    """What was done: how many of a checkpoint's tensors the adapter changed."""

    path: str
    changed: int
    tensors: int


def apply(workspace: Workspace, adapter: Path, checkpoint: Path) -> Applied:
    """Replace a checkpoint by itself with the adapter folded in.

    Raises AdapterError if they do not fit, and FormatError, ManifestError or StoreError; the file is then as it was.
    """
    path, target = str(checkpoint), checkpoint.resolve()
    with translated(target), open(target, "rb") as file:
        before = os.fstat(file.fileno())
        layout = _layout(workspace, path, file)
        old = _Old(file, {segment.spec: segment.offset for segment in layout.segments})
        specs = [segment.spec for segment in layout.segments]
        folds = read_adapter(adapter, specs, old.values, workspace.registry.format("safetensors"))
        workspace.reporter.start(f"Folding {adapter.name} into {path}", layout.length)
        temporary = _temporary(workspace, target)
        try:
            _write(workspace, temporary, layout, old, folds)
            os.chmod(temporary, before.st_mode & 0o7777)
            if _state(os.stat(target)) != _state(before):
                raise StoreError("it changed while the adapter was folded in", path=path, mend="try again")
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    return Applied(path, len(folds), len(specs))


def _state(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _layout(workspace: Workspace, path: str, file: BinaryIO) -> Layout:
    """Where the tensors of a checkpoint lie. Raises ManifestError if a manifest stands in its place."""
    head = file.read(_SNIFF)
    if claims_to_be_manifest(head):
        raise ManifestError(
            "the checkpoint itself is not in the work tree, only its manifest", path=path, mend="run: git theta pull"
        )
    file.seek(0)
    try:
        layout = _format(workspace, head).split(file)
        size = os.fstat(file.fileno()).st_size
        if size != layout.length:
            raise FormatError(f"it has {size} bytes, where its header asks for {layout.length}")
    except FormatError as error:
        raise error.located(path=path) from None
    return layout


def _format(workspace: Workspace, head: bytes) -> Format:
    for name in workspace.registry.names("formats"):
        file_format = workspace.registry.format(name)
        if file_format.matches(head):
            return file_format
    raise FormatError("it is no checkpoint of a known format", mend="`git theta plugins` lists the formats")


def _temporary(workspace: Workspace, target: Path) -> Path:
    """A new file on the target's own file system, where Git does not see it if possible."""
    temporary = workspace.store.temporary()
    if temporary.parent.stat().st_dev != target.parent.stat().st_dev:
        return target.with_name(f".{temporary.name}.gittheta")
    return temporary


@dataclass(frozen=True)
class _Old:
    """The checkpoint as it was."""

    file: BinaryIO
    offsets: dict[TensorSpec, int]

    def copy(self, begin: int, end: int) -> Iterator[bytes]:
        """The file's bytes from one offset to another, in pieces."""
        while begin < end:
            self.file.seek(begin)
            piece = self.file.read(min(_PIECE, end - begin))
            if not piece:
                raise StoreError("it was cut short while it was read", mend="try again")
            begin += len(piece)
            yield piece

    def values(self, spec: TensorSpec) -> _OldValues:
        """A tensor's values."""
        return _OldValues(spec, self)


@dataclass(frozen=True)
class _OldValues:
    spec: TensorSpec
    old: _Old

    def read(self, begin: int, end: int) -> memoryview:
        """The raw bytes from offset ``begin`` to ``end``."""
        offset = self.old.offsets[self.spec]
        return memoryview(b"".join(self.old.copy(offset + begin, offset + end)))


def _write(workspace: Workspace, temporary: Path, layout: Layout, old: _Old, folds: Adapter) -> None:
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    try:
        for part in _parts(layout, old, folds):
            write_all(descriptor, part)
            workspace.reporter.advance(len(part))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parts(layout: Layout, old: _Old, folds: Adapter) -> Iterator[bytes | memoryview]:
    """The new file from its beginning to its end."""
    at = 0
    for segment in layout.segments:
        spec = segment.spec
        if spec.name in folds:
            yield from old.copy(at, segment.offset)
            new, base = predict(folds[spec.name], spec), old.values(spec)
            step = block_bytes(spec.dtype)
            for begin in range(0, spec.nbytes, step):
                yield new.read(begin, min(spec.nbytes, begin + step), base)
            at = segment.offset + spec.nbytes
    yield from old.copy(at, layout.length)
