"""The safetensors format: what is read, and what a merge of headers gives."""

from __future__ import annotations

import io
import json
from typing import Any, BinaryIO

import pytest

from gittheta.errors import FormatError
from gittheta.flows.merge.metadata import merge_metadata
from gittheta.formats.safetensors import Safetensors
from gittheta.model import DTYPES, Layout, TensorSpec
from tests.support.safetensors_file import framed, safetensors

FORMAT = Safetensors()


def split(data: bytes) -> Layout:
    return FORMAT.split(io.BytesIO(data))


def merged(base: object, ours: object, theirs: object, *wanted: TensorSpec) -> Any:
    """The merged header of three, or None."""
    try:
        old, mine, yours = (
            FORMAT.metadata(framed(header)) if header is not None else {} for header in (base, ours, theirs)
        )
    except FormatError:
        return None
    metadata = merge_metadata(old, mine, yours)
    composed = FORMAT.compose(wanted, metadata) if metadata is not None else None
    if composed is None:
        return None
    made = composed.skeleton
    assert split(made) == composed.layout
    assert int.from_bytes(made[:8], "little") == len(made) - 8
    assert len(made) % 8 == 0, "tensor data is aligned"
    return json.loads(made[8:])


def with_metadata(**metadata: str) -> dict[str, object]:
    return {"__metadata__": metadata}


W = TensorSpec("w", DTYPES["bf16"], (2, 3))
B = TensorSpec("b", DTYPES["f32"], ())


def test_a_layout() -> None:
    data = safetensors(
        [("w", "BF16", [2, 3], bytes(12)), ("none", "F32", [0], b""), ("b", "F32", [], bytes(4))], padding=b"  "
    )
    layout = split(data)
    start = len(data) - 16
    assert layout.length == len(data)
    assert [(one.spec.name, one.spec.dtype.name, one.spec.shape, one.offset) for one in layout.segments] == [
        ("w", "bf16", (2, 3), start),
        ("none", "f32", (0,), start + 12),
        ("b", "f32", (), start + 12),
    ]


def test_the_order_of_the_header_is_not_that_of_the_data() -> None:
    entries = [(name, "U8", [3], name.encode() * 3) for name in "abc"]
    straight, mixed = safetensors(entries), safetensors(entries, order=[2, 0, 1])
    assert straight != mixed
    assert split(straight) == split(mixed)


def test_an_unknown_dtype_is_bytes() -> None:
    (segment,) = split(safetensors([("w", "F2_E1M0", [3, 4], b"abc")])).segments
    assert (segment.spec.dtype.name, segment.spec.shape) == ("raw", (3,))


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1])
def test_a_header_length_that_lies(length: int) -> None:
    data = length.to_bytes(8, "little") + b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}x'
    files: tuple[BinaryIO, ...] = (io.BytesIO(data), io.BufferedReader(io.BytesIO(data)))
    for file in files:
        with pytest.raises(FormatError):
            FORMAT.split(file)


@pytest.mark.parametrize("metadata", [["a"], "text", 5, {"a": 1}, {"a": None}, {"a": {"b": "c"}}, True])
def test_metadata_that_is_not_a_table_of_strings_breaks_the_format(metadata: object) -> None:
    with pytest.raises(FormatError):
        split(safetensors([("w", "U8", [1], b"x")], metadata=metadata))


def test_a_header_for_the_wanted_tensors_in_their_order() -> None:
    for expected in ((W, B), (B, W), (B,), ()):
        header = merged({}, {}, {}, *expected)
        assert list(header) == [spec.name for spec in expected]
    header = merged({}, {}, {}, B, W)
    assert header["w"] == {"dtype": "BF16", "shape": [2, 3], "data_offsets": [4, 16]}
    assert header["b"] == {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "expected"),
    [
        ({"a": "1"}, {"a": "1"}, {"a": "1"}, {"a": "1"}),
        ({"a": "1"}, {"a": "2"}, {"a": "1"}, {"a": "2"}),
        ({"a": "1"}, {"a": "1"}, {"a": "2"}, {"a": "2"}),
        ({"a": "1"}, {"a": "2"}, {"a": "2"}, {"a": "2"}),
        ({"a": "1"}, {"a": "2"}, {"a": "3"}, None),
        ({}, {"a": "1"}, {"b": "2"}, {"a": "1", "b": "2"}),
        ({}, {"a": "1"}, {"a": "2"}, None),
        ({"a": "1", "b": "2"}, {"b": "2"}, {"a": "1", "b": "3"}, {"b": "3"}),
        ({"a": "1"}, {}, {"a": "2"}, None),
        ({"a": "1"}, {}, {}, {}),
    ],
)
def test_metadata_is_merged_key_by_key(
    base: dict[str, str], ours: dict[str, str], theirs: dict[str, str], expected: dict[str, str] | None
) -> None:
    header = merged({"__metadata__": base}, {"__metadata__": ours}, {"__metadata__": theirs}, B)
    assert (header is None) == (expected is None)
    if header is not None:
        assert header.get("__metadata__", {}) == expected


def test_without_a_base_what_both_sides_say_must_agree() -> None:
    assert merged(None, with_metadata(a="1"), with_metadata(a="1", b="2"), B)["__metadata__"] == {"a": "1", "b": "2"}
    assert merged(None, with_metadata(a="1"), with_metadata(a="2"), B) is None


def test_a_tensor_of_unknown_dtype_cannot_be_described() -> None:
    assert merged({}, {}, {}, TensorSpec("w", DTYPES["raw"], (3,))) is None


@pytest.mark.parametrize("text", ['ü\n"\\', "\u2028", "\ud800"])
def test_any_text_in_metadata_survives_or_is_refused(text: str) -> None:
    """A lone surrogate can stand in JSON but in no UTF-8."""
    skeleton = framed(json.dumps({"__metadata__": {"a": text}, "w": 0}).encode())
    try:
        metadata = FORMAT.metadata(skeleton)
    except FormatError:
        return
    made = FORMAT.compose((B,), metadata)
    assert made is not None
    assert json.loads(made.skeleton[8:])["__metadata__"] == {"a": text}
