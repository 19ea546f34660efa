"""A file format whose index stands at the end, with tensors of block dtypes and under several names.

A file is ``INDEXEND``, the tensors with any bytes between them, an index in JSON, then where the index begins, its
length (each eight bytes, little-endian), and ``ENDINDEX``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from gittheta.api import DTYPES, Composed, Dtype, FormatError, Layout, Segment, TensorSpec
from gittheta.model import block_dtype

HEAD, TAIL = b"INDEXEND", b"ENDINDEX"
_TRAILER = 16 + len(TAIL)
_MAX_INDEX = 1 << 24
_MAX_SIZE = 1 << 62
BLOCKS = {"q4_0": block_dtype("q4_0", 32, 18), "q6_k": block_dtype("q6_k", 256, 210)}


@dataclass(frozen=True)
class IndexAtEnd:
    """The plugin."""

    name: ClassVar[str] = "index_at_end"
    api_version: ClassVar[int] = 2
    needs_whole_file: ClassVar[bool] = True

    def matches(self, head: bytes) -> bool:
        """By the first bytes."""
        return head.startswith(HEAD)

    def split(self, file: BinaryIO) -> Layout:
        """Read the trailer, then the index that it points to."""
        size = file.seek(0, os.SEEK_END)
        if size < len(HEAD) + _TRAILER:
            raise FormatError("the file ends before its index")
        file.seek(size - _TRAILER)
        begin, length = _trailer(file.read(_TRAILER))
        if begin < len(HEAD) or begin + length != size - _TRAILER:
            raise FormatError("the index is not where it should be")
        file.seek(begin)
        index = _parse(file.read(length))
        segments = _segments(index["tensors"], begin)
        return Layout(segments, size, _aliases(index["aliases"], {segment.spec.name for segment in segments}))

    def metadata(self, skeleton: bytes) -> Mapping[str, str]:
        """What the index says under this key."""
        _, length = _trailer(skeleton[-_TRAILER:])
        return dict(_parse(skeleton[:-_TRAILER][-length:])["metadata"])

    def compose(self, specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> Composed | None:
        """The tensors without gaps, each under one name."""
        at, segments = len(HEAD), []
        for spec in specs:
            segments.append(Segment(spec, at))
            at += spec.nbytes
        end = index_and_trailer(segments, {}, metadata, at)
        return Composed(HEAD + end, Layout(tuple(segments), at + len(end)))


def index_and_trailer(
    segments: Sequence[Segment], aliases: Mapping[str, str], metadata: Mapping[str, str], begin: int
) -> bytes:
    """What stands behind the tensors."""
    tensors = [[one.spec.name, one.spec.dtype.name, list(one.spec.shape), one.offset] for one in segments]
    index = {"tensors": tensors, "aliases": dict(aliases), "metadata": dict(metadata)}
    return with_trailer(json.dumps(index).encode(), begin)


def with_trailer(index: bytes, begin: int) -> bytes:
    """An index, and where it begins."""
    return index + begin.to_bytes(8, "little") + len(index).to_bytes(8, "little") + TAIL


def _trailer(data: bytes) -> tuple[int, int]:
    if len(data) != _TRAILER or not data.endswith(TAIL):
        raise FormatError("no trailer where it should be")
    length = int.from_bytes(data[8:16], "little")
    if not 0 < length <= _MAX_INDEX:
        raise FormatError(f"an index of {length} bytes")
    return int.from_bytes(data[:8], "little"), length


def _parse(text: bytes) -> dict[str, Any]:
    try:
        index = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the index is not JSON: {error}") from None
    if not isinstance(index, dict) or index.keys() != {"tensors", "aliases", "metadata"}:
        raise FormatError("the index has other keys than it should")
    if not isinstance(index["tensors"], list) or not _are_texts(index["aliases"]) or not _are_texts(index["metadata"]):
        raise FormatError("the index has values of other kinds than it should")
    return index


def _are_texts(table: object) -> bool:
    return isinstance(table, dict) and all(_is_text(text) for pair in table.items() for text in pair)


def _is_text(text: object) -> bool:
    return isinstance(text, str) and len(text.encode("utf-8", "replace")) <= 4096 and text.isprintable()


def _segments(entries: list[Any], end: int) -> tuple[Segment, ...]:
    segments = sorted(map(_segment, entries), key=lambda segment: (segment.offset, segment.spec.nbytes))
    at = len(HEAD)
    for segment in segments:
        if segment.offset < at:
            raise FormatError(f"tensor '{segment.spec.name}' overlaps another")
        at = segment.offset + segment.spec.nbytes
    if at > end:
        raise FormatError("a tensor reaches beyond the data")
    if len({segment.spec.name for segment in segments}) < len(segments):
        raise FormatError("two tensors have the same name")
    return tuple(segments)


def _segment(entry: object) -> Segment:
    if not isinstance(entry, list) or len(entry) != 4:
        raise FormatError("a tensor that is not described by name, dtype, shape and offset")
    name, dtype, shape, offset = entry
    known: Dtype | None = (DTYPES | BLOCKS).get(dtype) if isinstance(dtype, str) else None
    if not _is_text(name) or known is None:
        raise FormatError("a tensor with a strange name or dtype")
    if not isinstance(shape, list) or len(shape) > 64 or not all(map(_is_size, [*shape, offset])):
        raise FormatError(f"tensor '{name}' has a strange shape or offset")
    spec = TensorSpec(name, known, tuple(shape))
    if spec.bits % 8 or spec.elements > _MAX_SIZE or (known.unit > 1 and (not shape or shape[-1] % known.unit)):
        raise FormatError(f"tensor '{name}' has a shape that its dtype cannot have")
    return Segment(spec, offset)


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_SIZE


def _aliases(table: Mapping[str, str], names: set[str]) -> tuple[tuple[str, str], ...]:
    if not names.isdisjoint(table) or not names.issuperset(table.values()):
        raise FormatError("another name that is the name of a tensor, or that stands for none")
    return tuple(table.items())


@dataclass
class Content:
    """What a file is made of: tensors as dtype, shape and bytes by name, other names, metadata, and bytes between."""

    tensors: dict[str, tuple[str, tuple[int, ...], bytes]]
    aliases: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    gap: bytes = b""

    def data(self) -> bytes:
        """The file."""
        file, segments = HEAD, []
        for name, (dtype, shape, data) in self.tensors.items():
            file += self.gap
            segments.append(Segment(TensorSpec(name, (DTYPES | BLOCKS)[dtype], shape), len(file)))
            file += data
        return file + index_and_trailer(segments, self.aliases, self.metadata, len(file))


def install(site: Path) -> str:
    """Make the plugin known to Pythons that have ``site`` on their path; says what must be on it, too."""
    folder = site / "theta_index_at_end-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: theta-index-at-end\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[gittheta.formats]\n{IndexAtEnd.name} = {__name__}:IndexAtEnd\n")
    return os.pathsep.join([str(site), str(Path(__file__).parents[2])])
