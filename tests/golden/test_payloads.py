"""Payloads of every encoding decode to what they always did, here and by the specification alone."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from gittheta.api import DTYPES, Tensor, TensorSpec, digest_of
from gittheta.registry import BUILT_IN, Registry
from gittheta.testing import InMemory
from tests.golden.book.blockwise import BLOCKWISE
from tests.golden.book.predictors import PREDICTORS
from tests.golden.materials import weights

HERE = Path(__file__).parent
SPECIFICATION = HERE.parents[1] / "docs/spec/encodings"


@dataclass(frozen=True)
class Golden:
    """One line of payloads.json. ``base`` is the shape of what it is derived from; ``digest`` is that of the result."""

    name: str
    encoding: str
    dtype: str
    shape: list[int]
    parameters: dict[str, str]
    base: list[int] | None
    payload: str
    digest: str

    @property
    def stored(self) -> bytes:
        return (HERE / "payloads" / self.name).read_bytes()

    @property
    def base_values(self) -> bytes:
        return b"" if self.base is None else weights(self.name, self.dtype, tuple(self.base))


GOLDEN = [Golden(**line) for line in json.loads((HERE / "payloads.json").read_text())]
EACH = pytest.mark.parametrize("golden", GOLDEN, ids=[golden.name for golden in GOLDEN])


def test_the_frozen_files_are_untouched() -> None:
    table = (HERE / "payloads.json").read_bytes()
    assert hashlib.sha256(table).hexdigest() == "50d71c15e137683b5f3e888433202acc3e198384801b323abbcdc6d7fa6e562e"
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (HERE / "payloads").iterdir()}
    assert files == {golden.name: golden.payload for golden in GOLDEN}


def test_every_encoding_is_here() -> None:
    assert {golden.encoding for golden in GOLDEN} == set(BUILT_IN["encodings"]) == BLOCKWISE.keys() | PREDICTORS.keys()


@EACH
def test_payloads_decode_to_what_they_did(golden: Golden) -> None:
    plugin = Registry().encoding(golden.encoding)
    spec = TensorSpec("w", DTYPES[golden.dtype], tuple(golden.shape))
    payload = memoryview(golden.stored)
    if plugin.kind == "predictor":
        base_spec = plugin.base_spec(spec, golden.parameters)
        assert list(base_spec.shape) == golden.base
        base = InMemory(Tensor(base_spec, memoryview(golden.base_values)))
        data = plugin.open(payload, spec, golden.parameters).read(0, spec.nbytes, base)
    else:
        data = plugin.over(Tensor(spec, memoryview(golden.base_values))).decode(payload, spec).data
    assert digest_of(bytes(data)).hex() == golden.digest


@EACH
def test_payloads_by_the_specification_alone(golden: Golden) -> None:
    shape, base = tuple(golden.shape), golden.base_values
    if golden.encoding in PREDICTORS:
        data = PREDICTORS[golden.encoding](golden.stored, golden.dtype, shape, golden.parameters, base)
    else:
        nbytes = TensorSpec("w", DTYPES[golden.dtype], shape).nbytes
        data = BLOCKWISE[golden.encoding](golden.stored, golden.dtype, nbytes, base)
    assert digest_of(data).hex() == golden.digest


@pytest.mark.parametrize(
    ("encoding", "dtype", "base", "new"),
    [
        ("dense", "bf16", "0000 0000", "803f 20c0"),
        ("delta", "bf16", "803f 803e 80bf", "823f 803e 7fbf"),
        ("sparse", "f16", "0000 0000 0000 0000 0000 0000", "0000 003c 0000 0000 00c0 0000"),
        ("ternary", "f32", "0000803f " * 6, "0000803f 0000c03f 0000803f 0000803f 0000003f 0000803f"),
    ],
)
def test_examples_of_the_specification(encoding: str, dtype: str, base: str, new: str) -> None:
    """The last lines of each document are the bytes of a body."""
    (example,) = re.findall(r"\n\n    ([0-9a-f ]+)\n", (SPECIFICATION / f"{encoding}.md").read_text())
    body, old, expected = (bytes.fromhex(text) for text in (example, base, new))
    assert BLOCKWISE[encoding](body, dtype, len(expected), old) == expected
    spec = TensorSpec("w", DTYPES[dtype], (len(expected) * 8 // DTYPES[dtype].bits,))
    plugin = Registry().blockwise(encoding)
    decoded = plugin.over(Tensor(spec, memoryview(old))).decode(memoryview(body), spec)
    assert bytes(decoded.data) == expected
