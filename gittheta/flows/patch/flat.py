"""Changes as flat indices and new values, a pair of tensors for each changed one: what serving engines take.

``X.indices`` holds the positions in the flattened tensor ``X``, ascending, as I64 or I32; ``X.values`` the new elements
there, of the tensor's own dtype. Of the same kind: vLLM's sparse weight updates (pull requests 40096 and 50723 there).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, BinaryIO

from gittheta.errors import FormatError
from gittheta.limits import Limits
from gittheta.storage.files import replacing, translated, write_all

if TYPE_CHECKING:
    from gittheta.flows.patch.sides import Side, SideTensor

_STEP = 1 << 20


@dataclass(frozen=True)
class _Entry:
    """A tensor of the file that is written: ``nbytes`` bytes of it stand next in the temporary file."""

    name: str
    dtype: str
    count: int
    nbytes: int


def write_flat(old: Side, new: Side, target: Path, index_bits: int = 64) -> int:
    """Write what differs between two versions with the same tensors; returns the number of changed elements.

    Raises FormatError if tensors came, went, or changed their dtype or shape, or are too large for the indices.
    """
    pairs = _pairs(old, new, index_bits)
    entries: list[_Entry] = []
    with translated(target), TemporaryFile(dir=target.parent) as values:
        for before, after in pairs:
            entries += _differences(before, after, values, index_bits)
        values.seek(0)
        _write(target, entries, values, {"format": "gittheta-indices", "index_bits": str(index_bits)})
    return sum(entry.count for entry in entries) // 2


def _pairs(old: Side, new: Side, index_bits: int) -> list[tuple[SideTensor, SideTensor]]:
    pairs = []
    if old.by_name.keys() != new.by_name.keys():
        name = min(old.by_name.keys() ^ new.by_name.keys())
        raise FormatError("only one of the versions has it, which indices cannot tell", tensor=name)
    for after in new.tensors:
        before, spec = old.by_name[after.spec.name], after.spec
        if (before.spec.dtype, before.spec.shape) != (spec.dtype, spec.shape):
            raise FormatError("its dtype or shape has changed, which indices cannot tell", tensor=spec.name)
        if before.digest == after.digest:
            continue
        if spec.dtype.bits % 8 or spec.dtype.unit > 1 or spec.nbytes // (spec.dtype.bits // 8) >= 1 << (index_bits - 1):
            raise FormatError(f"its elements cannot be told by indices of {index_bits} bits", tensor=spec.name)
        pairs.append((before, after))
    return pairs


def _differences(before: SideTensor, after: SideTensor, values: BinaryIO, index_bits: int) -> Iterator[_Entry]:
    """Write the indices, then the values, of one tensor."""
    import numpy as np

    spec, size = after.spec, after.spec.dtype.bits // 8
    step = Limits().block_bytes(spec.dtype)
    count = 0
    with TemporaryFile() as changed:
        for begin in range(0, spec.nbytes, step):
            end = min(spec.nbytes, begin + step)
            one, other = (
                np.frombuffer(tensor.reader.read(begin, end), np.uint8).reshape(-1, size) for tensor in (before, after)
            )
            at = np.flatnonzero((one != other).any(axis=1))
            values.write((at + begin // size).astype(f"<i{index_bits // 8}").tobytes())
            changed.write(other[at].tobytes())
            count += len(at)
        changed.seek(0)
        while block := changed.read(_STEP):
            values.write(block)
    yield _Entry(f"{spec.name}.indices", f"I{index_bits}", count, count * index_bits // 8)
    yield _Entry(f"{spec.name}.values", spec.dtype.name.upper(), count, count * size)


def _write(target: Path, entries: list[_Entry], values: BinaryIO, metadata: dict[str, str]) -> None:
    header: dict[str, object] = {"__metadata__": metadata}
    at = 0
    for entry in entries:
        header[entry.name] = {"dtype": entry.dtype, "shape": [entry.count], "data_offsets": [at, at + entry.nbytes]}
        at += entry.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(target) as descriptor:
        write_all(descriptor, len(text).to_bytes(8, "little") + text)
        while block := values.read(_STEP):
            write_all(descriptor, block)
