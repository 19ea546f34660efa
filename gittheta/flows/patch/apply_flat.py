"""Updates as flat indices and new values, as trainers and :mod:`gittheta.flows.patch.flat` write them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gittheta.errors import FormatError
from gittheta.files.checkpoint import CheckpointFile
from gittheta.storage.files import replacing, translated, write_all

if TYPE_CHECKING:
    import numpy.typing as npt

    from gittheta.api import TensorReader
    from gittheta.codec.tensor_store import TensorStore
    from gittheta.model import Segment

INDICES, VALUES = ".indices", ".values"
_INTEGERS = {"i32": "<i4", "i64": "<i8", "u32": "<u4", "u64": "<u8"}
_HINT = "an update has a pair X.indices, X.values for each tensor X: flat positions, and the new elements there"


@dataclass(frozen=True)
class _Update:
    """The new elements of a tensor, by ascending position."""

    at: npt.NDArray[np.int64]
    #: Of the bytes of each element a row.
    values: npt.NDArray[np.uint8]

    def put(self, data: bytearray, begin: int) -> None:
        """Write those that fall into a run of the tensor's bytes that begins at this offset."""
        size = self.values.shape[1]
        first, last = np.searchsorted(self.at, [begin // size, (begin + len(data)) // size])
        rows = np.frombuffer(data, np.uint8).reshape(-1, size)
        rows[self.at[first:last] - begin // size] = self.values[first:last]


def is_flat(tensors: TensorStore, path: Path) -> bool:
    """Whether a file is a checkpoint in which every tensor is one of a pair."""
    try:
        with CheckpointFile.opened(path, tensors.registry, tensors.reporter) as file:
            names = set(file.segments)
    except (FormatError, OSError):
        return False
    return bool(names) and all(
        (name.endswith(INDICES) and name.removesuffix(INDICES) + VALUES in names)
        or (name.endswith(VALUES) and name.removesuffix(VALUES) + INDICES in names)
        for name in names
    )


def apply_flat(tensors: TensorStore, update: Path, checkpoint: Path, target: Path) -> int:
    """Write a checkpoint with the new elements; returns how many there are. ``target`` is replaced once all is written.

    Whether the update was meant for this version cannot be known. Raises FormatError, naming the tensor, if it does not
    fit; nothing has changed then.
    """
    with (
        translated(checkpoint),
        CheckpointFile.opened(update, tensors.registry, tensors.reporter) as source,
        CheckpointFile.opened(checkpoint, tensors.registry, tensors.reporter) as file,
    ):
        updates = {name.removesuffix(INDICES) for name in source.segments if name.endswith(INDICES)}
        unknown = updates - file.segments.keys()
        if unknown:
            raise FormatError("the checkpoint does not have it", tensor=min(unknown), hint=_HINT)
        read = {name: _update(source, name, file.segments[name]) for name in sorted(updates)}
        tensors.reporter.start(f"Writing {target.name}", file.layout.length)
        with replacing(target, checkpoint) as descriptor:
            for part in _parts(tensors, file, read):
                write_all(descriptor, part)
                tensors.reporter.advance(len(part))
    return sum(len(each.at) for each in read.values())


def _update(source: CheckpointFile, name: str, segment: Segment) -> _Update:
    at_segment, values_segment = source.segments[name + INDICES], source.segments[name + VALUES]
    spec, size = segment.spec, segment.spec.dtype.bits // 8
    word = _INTEGERS.get(at_segment.spec.dtype.name)
    if word is None or spec.dtype.bits % 8 or spec.dtype.unit > 1:
        raise FormatError("its elements or indices are of a kind that cannot be put in", tensor=name, hint=_HINT)
    if values_segment.spec.dtype != spec.dtype:
        wrong = f"the values are {values_segment.spec.dtype.name}, the tensor is {spec.dtype.name}"
        raise FormatError(wrong, tensor=name, hint=_HINT)
    at = np.frombuffer(_all(source.reader(at_segment)), word).astype(np.int64)
    values = np.frombuffer(_all(source.reader(values_segment)), np.uint8).reshape(-1, size)
    if len(at) != len(values):
        raise FormatError(f"{len(at)} indices for {len(values)} values", tensor=name, hint=_HINT)
    order = np.argsort(at, kind="stable")
    at, values = at[order], values[order]
    if len(at) and (at[0] < 0 or at[-1] >= spec.nbytes // size or (np.diff(at) == 0).any()):
        raise FormatError("an index beyond its elements, or the same one twice", tensor=name, hint=_HINT)
    return _Update(at, values)


def _all(reader: TensorReader) -> memoryview:
    return reader.read(0, reader.spec.nbytes)


def _parts(tensors: TensorStore, file: CheckpointFile, updates: dict[str, _Update]) -> Iterator[bytes | memoryview]:
    at = 0
    for segment in file.layout.segments:
        update = updates.get(segment.spec.name)
        if update is None:
            continue
        yield from file.copy(at, segment.offset)
        reader, step = file.reader(segment), tensors.limits.block_bytes(segment.spec.dtype)
        for begin in range(0, segment.spec.nbytes, step):
            data = bytearray(reader.read(begin, min(segment.spec.nbytes, begin + step)))
            update.put(data, begin)
            yield memoryview(data)
        at = segment.offset + segment.spec.nbytes
    yield from file.copy(at, file.layout.length)
