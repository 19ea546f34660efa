"""A format that needs the whole file, with block dtypes and several names for a tensor, keeps the contract."""

from __future__ import annotations

import json

from gittheta.testing import FormatConformance, block_values
from tests.support.index_at_end import BLOCKS, HEAD, TAIL, Content, IndexAtEnd, with_trailer

Q4 = ("q4_0", (2, 64), block_values(BLOCKS["q4_0"], 4))
F32 = ("f32", (3, 5), bytes(range(60)))


def indexed(
    tensors: object, aliases: object = None, metadata: object = None, data: bytes = bytes(100), begin: int | None = None
) -> bytes:
    """A file whose index is written by hand."""
    index = {"tensors": tensors, "aliases": aliases or {}, "metadata": metadata or {}}
    return with_index(json.dumps(index).encode(), data, begin)


def with_index(index: bytes, data: bytes = bytes(100), begin: int | None = None) -> bytes:
    return HEAD + data + with_trailer(index, len(HEAD) + len(data) if begin is None else begin)


SAMPLES = [
    Content({"q": Q4, "f": F32}, {"tied": "q", "again": "q", "g": "f"}, {"by": "hand"}).data(),
    Content({"q": Q4, "f": F32}, gap=b"padding").data(),
    Content({"f": F32}).data(),
    Content({}, metadata={"only": "metadata"}).data(),
    Content({"scalar": ("f64", (), bytes(8)), "none": ("i64", (0, 3), b""), "no blocks": ("q6_k", (3, 0), b"")}).data(),
    Content(
        {f"of {name}": (name, (5, dtype.unit), bytes(5 * dtype.itemsize)) for name, dtype in BLOCKS.items()}
    ).data(),
    Content({"packed": ("f4", (3, 2), b"abc"), "six": ("f6_e2m3", (4,), b"def")}, {"ü [x] %": "six"}).data(),
    indexed([["b", "u8", [5], 60], ["a", "u8", [4], 8]]),
]
GOOD = ["w", "f32", [2], 8]
BROKEN = [
    HEAD,
    HEAD + TAIL,
    HEAD + bytes(16) + TAIL,
    SAMPLES[0][:-1],
    SAMPLES[0] + b"x",
    with_index(b""),
    with_index(b"{}"),
    with_index(b"{" * 10_000),
    with_index(b"\xff"),
    with_index(b"[]"),
    *(indexed([GOOD], begin=begin) for begin in (0, 7, 107, 109, 1 << 40, (1 << 64) - 1)),
    HEAD + (8).to_bytes(8, "little") + ((1 << 64) - 1).to_bytes(8, "little") + TAIL,
    indexed(None),
    indexed({}),
    *(indexed([entry]) for entry in (None, [], ["w"], {"w": 1}, [*GOOD, 1])),
    *(indexed([["w", "f32", [2], offset]]) for offset in (-8, 0, 7, 101, 105, 1 << 62, 1 << 70, 8.0, "8", None, True)),
    *(indexed([["w", "f32", shape, 8]]) for shape in ([-2], [2.0], ["2"], [26], [1 << 61, 4], [True], 2, [1] * 65)),
    *(indexed([["w", dtype, [2], 8]]) for dtype in ("f128", "F32", "", None, 5, "q4_0", "f4_0")),
    *(indexed([["w", "q4_0", shape, 8]]) for shape in ([], [31], [33], [64, 16], [2, 16], [192])),
    indexed([["w", "f4", [3], 8]]),
    indexed([["a", "u8", [10], 8], ["b", "u8", [10], 17]]),
    indexed([["a", "u8", [10], 8], ["b", "u8", [10], 8]]),
    indexed([["a", "u8", [50], 8], ["b", "u8", [10], 20]]),
    indexed([GOOD, ["w", "f32", [2], 16]]),
    indexed([["w" * 5000, "f32", [2], 8]]),
    *(indexed([GOOD], aliases) for aliases in ({"w": "w"}, {"v": "u"}, {"v": 1}, ["v"], "v")),
    indexed([GOOD, ["v", "f32", [2], 16]], {"v": "w"}),
    indexed([GOOD], {"v" * 5000: "w"}),
    *(indexed([GOOD], None, metadata) for metadata in ({"a": 1}, ["a"], "a", 1)),
]  # fmt: skip


class TestIndexAtEnd(FormatConformance):
    file_format = IndexAtEnd()
    samples = SAMPLES
    broken = BROKEN
