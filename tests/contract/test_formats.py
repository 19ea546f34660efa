"""Every built-in format keeps the contract, on files that its own library wrote and on files made by hand."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from gittheta.formats.safetensors import Safetensors
from gittheta.model import DTYPES
from gittheta.registry import BUILT_IN
from gittheta.testing import FormatConformance
from tests.support.safetensors_file import Entry, framed, safetensors

RNG = np.random.default_rng(5)
NUMPY = ("bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8")
EVERY_DTYPE: list[Entry] = [
    (f"a tensor of {name}", name.upper(), [2, 4], bytes(range(dtype.bits)))
    for name, dtype in DTYPES.items()
    if name != "raw"
]


def by_library(**shapes: tuple[int, ...]) -> bytes:
    """A file that the safetensors library wrote."""
    arrays = {name: RNG.normal(size=shape).astype("f4") for name, shape in shapes.items()}
    return save(arrays, {"format": "np", "note": 'ü "quoted"'})


SAMPLES = [
    by_library(w=(3, 5), b=(3,)),
    by_library(scalar=(), empty=(0,), wide_and_empty=(4, 0, 2), one=(1,)),
    save({}, {"only": "metadata"}),
    save({}),
    save({f"of {name}": np.zeros((2, 3), name) for name in NUMPY}),
    safetensors(EVERY_DTYPE),
    safetensors([("w", "F32", [2], bytes(8))]),
    safetensors([("w", "F32", [2], bytes(8))], padding=b" "),
    safetensors([("w", "F32", [2], bytes(8))], padding=b" \n\t\r" * 30),
    safetensors([(name, "U8", [3], name.encode() * 3) for name in "abcde"], order=[3, 1, 4, 0, 2], metadata={}),
    safetensors(
        [("w", "F32", [], bytes(4)), ("e", "F64", [0], b""), ("f", "F64", [7, 0], b""), ("v", "U8", [1], b"x")]
    ),
    safetensors([("new", "F2_FUTURE", [4, 4], b"abcd"), ("nothing", "X", [], b"")], metadata={"a": "b"}),
    safetensors([("", "U8", [1], b"x"), ("ü \U0001f980", "U8", [1], b"y"), ("[a]\n%\0", "U8", [1], b"z")]),
    framed(b'{"\\u00fc":{"shape":[1],"data_offsets":[0,1],"dtype":"U8"}}', b"x"),
    framed(b'{ "w" : { "data_offsets" : [ 0 , 1 ] , "dtype" : "U8" , "shape" : [ 1 ] } }', b"x"),
    framed(b'{"__metadata__":null}'),
]


def entry(
    dtype: object = "U8", shape: object = (2,), data_offsets: object = (0, 2), **more: object
) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": data_offsets, **more}


GOOD = entry()
ONE = b'{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
BROKEN = [
    b"",
    b"\x08",
    bytes(8),
    framed(b"{}")[:9],
    (1 << 63).to_bytes(8, "little") + b"{}",
    (100).to_bytes(8, "little") + b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
    framed(b"[]"),
    framed(b"{}{}"),
    framed(b"{"),
    framed(b"{" * 50_000),
    framed(b'{"a":' * 50_000),
    framed(b'{"w":NaN}'),
    framed(b'{"\xff":{}}'),
    framed(b'{"w":' + ONE + b',"w":' + ONE + b"}", b"x"),
    framed(b'{"w":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"),
    framed(b'{"\\ud800":' + ONE + b"}", b"x"),
    framed(b'{"w":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,1]}}', b"x"),
    framed({"w": None}),
    framed({"w": []}),
    framed({"w": {}}),
    framed({"w": entry(extra=1)}, b"xx"),
    framed({"w": entry(dtype=5)}, b"xx"[:1]),
    framed({"w": entry(dtype=None)})[:-1],
    *(
        framed({"w": entry(shape=shape)}, b"xx")
        for shape in (None, 2, "2", [2.0], ["2"], [-2], [True, 2], [[2]], [3], [1 << 63, 2], [1 << 62] * 2, [1] * 65)
    ),
    *(
        framed({"w": entry(data_offsets=offsets)}, b"xx")
        for offsets in (None, [], [0], [0, 1], [0, 2, 2], [2, 0], [-2, 0], [1, 3], [0.0, 2.0], [0, 1 << 63], ["0", "2"])
    ),
    framed({"a": GOOD, "b": GOOD}, b"xx"),
    framed({"a": GOOD, "b": entry(data_offsets=[1, 3])}, b"xxx"),
    framed({"a": GOOD, "b": entry(data_offsets=[3, 5])}, b"xxxxx"),
    framed({"a": entry(data_offsets=[1, 3])}, b"xxx"),
    framed({"w": entry(dtype="F4", shape=[3])}, b"xx"),
    framed({"w": entry(dtype="F6_E2M3", shape=[2])}, b"xx"),
    framed({"w": GOOD}, b"xx")[:-1],
    framed({"w": GOOD}, b"xx") + b"x",
    framed({"w" * 5000: GOOD}, b"xx"),
]  # fmt: skip


class TestSafetensors(FormatConformance):
    file_format = Safetensors()
    samples = SAMPLES
    broken = BROKEN


def test_no_built_in_is_left_out() -> None:
    assert {Safetensors.name} == set(BUILT_IN["formats"])


@pytest.mark.parametrize("number", [0, 1, 4])
def test_what_the_library_reads_lies_where_the_layout_says(number: int) -> None:
    data = SAMPLES[number]
    arrays = load(data)
    layout = Safetensors().split(io.BytesIO(data))
    results = {
        one.spec.name: (one.spec.shape, data[one.offset : one.offset + one.spec.nbytes]) for one in layout.segments
    }
    assert results == {name: (array.shape, array.tobytes()) for name, array in arrays.items()}


def test_samples_are_files_that_the_library_accepts_too(tmp_path: Path) -> None:
    """All but those of a dtype that is not known yet."""
    for number, sample in enumerate(SAMPLES):
        header = json.loads(sample[8 : 8 + int.from_bytes(sample[:8], "little")])
        unknown = any(name != "__metadata__" and one["dtype"].lower() not in DTYPES for name, one in header.items())
        if not unknown:
            assert accepted(sample, tmp_path), number


def accepted(data: bytes, folder: Path) -> bool:
    path = folder / "sample.safetensors"
    path.write_bytes(data)
    try:
        with safe_open(path, "np") as opened:
            opened.keys()
    except SafetensorError:
        return False
    return True
