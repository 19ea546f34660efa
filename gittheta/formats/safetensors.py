"""The safetensors format: eight bytes of header length, a JSON header, then the tensors without gaps.

Rules as published with the format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO, ClassVar

from gittheta.api import DTYPES, RAW, Composed, Dtype, FormatError, Layout, Segment, TensorSpec
from gittheta.formats.json_header import Members, load
from gittheta.wording import quoted

#: Bytes. The reference implementation refuses longer headers too; this bounds memory.
MAX_HEADER = 100_000_000
MAX_DIMENSIONS = 64
_MAX_SIZE = 1 << 62

_DTYPES: dict[str, Dtype] = {name.upper(): dtype for name, dtype in DTYPES.items() if dtype.kind != "raw"}
_NAMES = {dtype.name: name for name, dtype in _DTYPES.items()}
_TEXT = re.compile("[^\ud800-\udfff]*")
_PLAIN_NAME = re.compile("[^\ud800-\udfff]{0,1024}")
_METADATA = "__metadata__"
_NO_TEXTS = f"{_METADATA} is not a table of texts"
#: Bytes of the longest header of which metadata are merged; taken apart, it takes some ten times its length.
_MAX_METADATA = 32 << 20


@dataclass(frozen=True)
class Safetensors:
    """The format in which Hugging Face publishes models."""

    name: ClassVar[str] = "safetensors"
    needs_whole_file: ClassVar[bool] = False

    def matches(self, head: bytes) -> bool:
        """Whether the file begins with a plausible header length and the brace that the format demands."""
        return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER

    def split(self, file: BinaryIO) -> Layout:
        """Where the tensors lie; reads the header alone. Raises FormatError."""
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise FormatError(f"a header of {length} bytes, which is more than {MAX_HEADER}")
        text = file.read(length)
        if len(text) < length:
            raise FormatError("the file ends within its header")
        segments = sorted(_segments(text), key=lambda segment: (segment.offset, segment.spec.nbytes))
        end = 8 + length
        for segment in segments:
            if segment.offset != end:
                raise FormatError(f"tensor {quoted(segment.spec.name)} overlaps another, or leaves a gap before it")
            end += segment.spec.nbytes
        return Layout(tuple(segments), end)

    def metadata(self, skeleton: bytes) -> Mapping[str, str]:
        """The header's table ``__metadata__``; empty if there is none. Raises FormatError."""
        if len(skeleton) > _MAX_METADATA:
            raise FormatError(f"a header of {len(skeleton)} bytes, which is too large to take its metadata apart")
        metadata = load(skeleton[8:]).get(_METADATA)
        _check_metadata(metadata)
        return metadata or {}

    def compose(self, specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> Composed | None:
        """A new file, whose header lists these tensors; None for dtypes that the format lacks."""
        if any(spec.dtype.name not in _NAMES for spec in specs):
            return None
        header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
        at = 0
        for spec in specs:
            header[spec.name] = {
                "dtype": _NAMES[spec.dtype.name],
                "shape": list(spec.shape),
                "data_offsets": [at, at + spec.nbytes],
            }
            at += spec.nbytes
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        skeleton = len(text).to_bytes(8, "little") + text
        return Composed(skeleton, self.split(io.BytesIO(skeleton)))


def _segments(text: bytes) -> Iterator[Segment]:
    """The tensors that a header names, in its order. Raises FormatError."""
    data = 8 + len(text)
    members = Members(text)
    for name in members.names():
        if name == _METADATA:
            if not members.texts():
                raise FormatError(_NO_TEXTS)
        else:
            yield _segment(name, members.flat(), data)


def _check_metadata(metadata: object) -> None:
    if metadata is None:  # the reference implementation treats null as absent
        return
    if not isinstance(metadata, dict) or not all(
        isinstance(text, str) and _TEXT.fullmatch(text) for pair in metadata.items() for text in pair
    ):
        raise FormatError(_NO_TEXTS)


def _segment(name: str, entry: object, data: int) -> Segment:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"tensor {quoted(name)} is not described by dtype, shape and data_offsets")
    if not _PLAIN_NAME.fullmatch(name):
        raise FormatError("a tensor's name is longer than 1024 characters, or not valid text")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS or prod(shape) > _MAX_SIZE:
        raise FormatError(f"tensor {quoted(name)} has an impossible shape")
    if not _are_sizes(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1]:
        raise FormatError(f"tensor {quoted(name)} has impossible data offsets")
    begin, end = offsets
    dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        # A dtype newer than this program is stored exactly, as bytes, and merged only if all sides agree.
        return Segment(TensorSpec(name, RAW, (end - begin,)), data + begin)
    spec = TensorSpec(name, dtype, tuple(shape))
    if spec.bits != (end - begin) * 8:
        raise FormatError(f"tensor {quoted(name)} has {end - begin} bytes, but its shape asks for {spec.bits / 8:g}")
    return Segment(spec, data + begin)


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item <= _MAX_SIZE for item in value)
