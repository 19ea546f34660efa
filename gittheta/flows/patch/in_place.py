"""apply-patch --in-place: a checkpoint is changed where it lies; what it was is kept beside it until all is right.

The journal beside the file holds the old bytes of everything that will change, and is synced before the first of them
changes. Without its last line it is not whole, and then nothing was changed yet.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.codec.readers import FileReader, blocks_of
from gittheta.errors import FormatError, PayloadError, StoreError
from gittheta.files.checkpoint import CheckpointFile
from gittheta.flows.patch.apply import Patching, check_fits, is_version, unpacked
from gittheta.flows.patch.sides import side_of
from gittheta.model import RunningDigest, digest_of, piece_spec
from gittheta.storage.files import open_new, read_at, sync, sync_folder, translated, write_all

if TYPE_CHECKING:
    from gittheta.api import Reporter, TensorReader
    from gittheta.codec.tensor_store import TensorStore
    from gittheta.flows.patch.sides import Side
    from gittheta.model import Digest, Manifest

_FIRST = b"gittheta journal 1\n"
_ENTRY = struct.Struct("<QQ")
_END = _ENTRY.pack((1 << 64) - 1, 0)
_DIGEST = 32
_STEP = 1 << 20


@dataclass(frozen=True)
class _Run:
    """Bytes of the checkpoint that will change, and where the journal keeps what they were."""

    offset: int
    length: int
    kept_at: int


def journal_of(checkpoint: Path) -> Path:
    """Where the old bytes of a checkpoint are kept while it is changed."""
    return checkpoint.with_name(f".{checkpoint.name}.gittheta-journal")


def apply_in_place(patch: Path, checkpoint: Path, reporter: Reporter) -> bool:
    """Turn a checkpoint into the new version where it lies; says whether there was anything to do.

    What an earlier run left half done is taken back first. Raises FormatError, also if tensors would have to move,
    PayloadError, StoreError; the file is then as it was, or `undo` makes it so.
    """
    undo(checkpoint, missing_ok=True)
    with (
        translated(checkpoint),
        unpacked(patch, reporter) as (tensors, manifest),
        CheckpointFile.opened(checkpoint, tensors.registry, reporter) as file,
    ):
        old = side_of(tensors, file)
        if is_version(old, manifest):
            return False
        check_fits(old, manifest)
        _check_places(old, manifest)
        _Change(tensors, manifest, old, file).make()
    return True


def undo(checkpoint: Path, *, missing_ok: bool = False) -> bool:
    """Make a checkpoint what it was before it was changed in place; says whether anything had been changed.

    Raises StoreError if there is no journal.
    """
    journal = journal_of(checkpoint)
    with translated(checkpoint):
        try:
            kept = os.open(journal, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except FileNotFoundError:
            if missing_ok:
                return False
            raise StoreError("nothing to undo: no change was cut short", path=str(checkpoint)) from None
        try:
            runs = _runs(kept)
            if runs:
                _put_back(checkpoint, kept, runs)
        finally:
            os.close(kept)
        _remove(journal)
    return bool(runs)


def _put_back(checkpoint: Path, kept: int, runs: list[_Run]) -> None:
    descriptor = os.open(checkpoint, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        for run in runs:
            os.lseek(descriptor, run.offset, os.SEEK_SET)
            for at in range(0, run.length, _STEP):
                write_all(descriptor, read_at(kept, run.kept_at + at, min(_STEP, run.length - at)))
        sync(descriptor)
    finally:
        os.close(descriptor)


def _remove(journal: Path) -> None:
    journal.unlink()
    sync_folder(journal.parent)


def _runs(kept: int) -> list[_Run]:
    """What a journal keeps; nothing if it is not whole. Its digest is compared."""
    size, at, runs = os.fstat(kept).st_size, len(_FIRST), list[_Run]()
    while at + _ENTRY.size <= size:
        entry = read_at(kept, at, _ENTRY.size)
        at += _ENTRY.size
        if entry == _END:
            whole = FileReader(piece_spec(0, at), kept, 0)
            digest = RunningDigest()
            for block in blocks_of(whole, _STEP):
                digest.update(block)
            return runs if digest.digest() == read_at(kept, at, _DIGEST) else []
        offset, length = _ENTRY.unpack(entry)
        runs.append(_Run(offset, length, at))
        at += length
    return []


def _check_places(old: Side, manifest: Manifest) -> None:
    """Raise FormatError unless every tensor stays where it is."""
    before = [(tensor.spec.nbytes, tensor.skip) for tensor in old.tensors]
    after = [(stanza.spec.nbytes, stanza.skip) for stanza in manifest.stanzas]
    same = (len(old.skeleton), old.lead) == (manifest.skeleton.length, manifest.skeleton.lead)
    if before != after or not same:
        what = "tensors would have to move, which is not possible in place"
        raise FormatError(what, hint="leave --in-place away: the file is written anew, then takes its name")


@dataclass(frozen=True)
class _Region:
    """A tensor of the checkpoint, or bytes between two: ``skeleton_at`` is where these stand in the skeleton."""

    offset: int
    length: int
    tensor: int | None
    skeleton_at: int


class _Change:
    """One change in place. For one thread."""

    def __init__(self, tensors: TensorStore, manifest: Manifest, old: Side, file: CheckpointFile) -> None:
        self._tensors = tensors
        self._manifest = manifest
        self._old = old
        self._file = file

    def make(self) -> None:
        regions = [region for region in self._regions() if region.length and self._changes(region)]
        journal = journal_of(self._file.path)
        kept = open_new(journal)
        try:
            runs = self._keep(kept, regions)
            sync_folder(journal.parent)
            self._write(regions, self._readers(kept, zip(regions, runs, strict=True)))
        except (FormatError, PayloadError):
            undo(self._file.path)
            raise
        finally:
            os.close(kept)
        _remove(journal)

    def _regions(self) -> Iterator[_Region]:
        """All of the file, in order."""
        at = skeleton_at = 0
        for index, segment in enumerate(self._file.layout.segments):
            yield _Region(at, segment.offset - at, None, skeleton_at)
            skeleton_at += segment.offset - at
            yield _Region(segment.offset, segment.spec.nbytes, index, skeleton_at)
            at = segment.offset + segment.spec.nbytes
        yield _Region(at, self._file.layout.length - at, None, skeleton_at)

    def _changes(self, region: _Region) -> bool:
        if region.tensor is None:
            return digest_of(self._old.skeleton) != self._manifest.skeleton.digest
        return self._old.tensors[region.tensor].digest != self._manifest.stanzas[region.tensor].digest

    def _keep(self, kept: int, regions: Iterable[_Region]) -> list[_Run]:
        """Write the journal: the bytes of some regions as they are now."""
        digest, runs, at = RunningDigest(), list[_Run](), len(_FIRST)

        def write(data: bytes | memoryview) -> None:
            write_all(kept, data)
            digest.update(data)

        write(_FIRST)
        for region in regions:
            write(_ENTRY.pack(region.offset, region.length))
            runs.append(_Run(region.offset, region.length, at + _ENTRY.size))
            at += _ENTRY.size + region.length
            for block in self._file.copy(region.offset, region.offset + region.length):
                write(block)
        write(_END)
        write_all(kept, digest.digest())
        sync(kept)
        return runs

    def _readers(self, kept: int, changing: Iterable[tuple[_Region, _Run]]) -> dict[Digest, TensorReader]:
        """The old tensors: those that change are read from the journal."""
        readers = dict(self._old.by_digest)
        for region, run in changing:
            if region.tensor is not None:
                tensor = self._old.tensors[region.tensor]
                if readers[tensor.digest] is tensor.reader:
                    readers[tensor.digest] = FileReader(tensor.spec, kept, run.kept_at)
        return readers

    def _write(self, regions: Iterable[_Region], readers: Mapping[Digest, TensorReader]) -> None:
        patching = Patching(self._tensors, self._manifest, readers)
        skeleton = memoryview(patching.skeleton())
        descriptor = os.open(self._file.path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        try:
            for region in regions:
                os.lseek(descriptor, region.offset, os.SEEK_SET)
                if region.tensor is None:
                    write_all(descriptor, skeleton[region.skeleton_at : region.skeleton_at + region.length])
                    continue
                for block in patching.tensor(self._manifest.stanzas[region.tensor]):
                    write_all(descriptor, block)
            sync(descriptor)
        finally:
            os.close(descriptor)
