"""``lowrank`` finds a folded LoRA, and quickly refuses other changes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from math import log2
from time import thread_time

import numpy as np
import pytest

from gittheta.api import Finding
from gittheta.encodings.lowrank.predictor import LowRank
from tests.support.lowrank import HeldReader, folded, held, misses, predict, spec_of, values_of, weights

pytestmark = pytest.mark.once

# What is found


def cost(finding: Finding, new: HeldReader, base: HeldReader) -> float:
    """Bytes of the factors, and of the corrections at their entropy, to bytes of the tensor."""
    share = misses(predict(finding, base), new)
    bits = share - share * log2(share) - (1 - share) * log2(1 - share) if 0 < share < 1 else share
    return len(finding.payload) / new.spec.nbytes + bits / new.spec.dtype.bits


@pytest.mark.parametrize("size", [2e-4, 1e-3])
@pytest.mark.parametrize(("dtype", "most"), [("bf16", 0.045), ("f32", 0.038), ("f16", 0.048)])
def test_a_folded_lora_is_found(dtype: str, most: float, size: float) -> None:
    base = weights(np.random.default_rng(12), 1024, 1024, dtype=dtype)
    new = folded(base, 16, size)
    finding = LowRank().find(new, base)
    assert finding is not None
    assert finding.parameters == (("rank", "16"),)
    assert cost(finding, new, base) < most
    assert LowRank().find(new, base) == finding, "found again, it is the same"


@pytest.mark.parametrize(
    ("shape", "rank", "dtype", "most"),
    [
        ((512, 2048), 8, "bf16", 0.035),
        ((2048, 300), 4, "bf16", 0.04),
        ((256, 256), 4, "f32", 0.04),
        ((640, 640), 64, "f32", 0.21),
        ((17, 5000), 1, "f32", 0.08),
        ((512, 512), 8, "f64", 0.08),
        ((512, 512), 4, "f8_e5m2", 0.09),
    ],
)
def test_other_shapes_ranks_and_dtypes(shape: tuple[int, int], rank: int, dtype: str, most: float) -> None:
    base = weights(np.random.default_rng(13), *shape, dtype=dtype)
    new = folded(base, rank, 4e-3 if dtype.startswith("f8") else 5e-4)
    finding = LowRank().find(new, base)
    assert finding is not None
    assert rank <= int(dict(finding.parameters)["rank"]) <= rank + 1 + rank // 8
    assert cost(finding, new, base) < most


def test_a_tensor_of_four_dimensions_is_a_matrix_too() -> None:
    base = weights(np.random.default_rng(14), 128, 900)
    new = folded(base, 4, 1e-3)
    for tensor in (base, new):
        tensor.spec = spec_of("bf16", 128, 100, 3, 3)
    finding = LowRank().find(new, base)
    assert finding is not None
    assert finding.parameters == (("rank", "4"),)


def test_weak_components_count() -> None:
    base = weights(np.random.default_rng(15), 512, 512)
    rng = np.random.default_rng(16)
    change = (rng.standard_normal((512, 12)) * np.geomspace(1, 0.03, 12)) @ rng.standard_normal((12, 512))
    new = held(values_of(base) + change * (1e-3 / change.std()), "bf16")
    finding = LowRank().find(new, base)
    assert finding is not None
    assert int(dict(finding.parameters)["rank"]) >= 11
    assert misses(predict(finding, base), new) < 0.08


def test_a_difference_that_was_rounded_before_it_was_added() -> None:
    base = weights(np.random.default_rng(17), 512, 512)
    rng = np.random.default_rng(18)
    change = rng.standard_normal((512, 8)) @ rng.standard_normal((8, 512)) * 2e-4
    new = held(values_of(base) + values_of(held(change, "bf16")), "bf16")
    finding = LowRank().find(new, base)
    assert finding is not None
    assert cost(finding, new, base) < 0.06


def test_unchanged_rows_missing_numbers_and_outliers_do_not_disturb() -> None:
    base = weights(np.random.default_rng(19), 512, 512)
    plain = values_of(folded(base, 8, 1e-3))
    plain[100:200] = values_of(base)[100:200]
    plain[:, 7] = values_of(base)[:, 7]
    plain[3, 5], plain[4, 4], plain[300, 300], plain[400, 17] = np.nan, np.inf, 3.0, -1e6
    new = held(plain, "bf16")
    finding = LowRank().find(new, base)
    assert finding is not None
    assert cost(finding, new, base) < 0.07


def test_an_embedding_is_searched_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    base = weights(np.random.default_rng(20), 3000, 256)
    new = folded(base, 4, 1e-3)
    whole = LowRank().find(new, base)
    monkeypatch.setattr("gittheta.encodings.lowrank.difference._KEEP", 0)
    monkeypatch.setattr("gittheta.encodings.lowrank.difference._READ", 1 << 17)
    new.bytes_read = base.bytes_read = 0
    tracemalloc.start()
    parts = LowRank().find(new, base)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert parts == whole
    assert max(new.bytes_read, base.bytes_read) < 4 * new.spec.nbytes
    assert peak < 8 << 20


def _moved(base: HeldReader, size: float) -> HeldReader:
    move = np.random.default_rng(21).standard_normal(base.spec.shape) * size
    return held(values_of(base) + move, base.spec.dtype.name)


REFUSED: dict[str, Callable[[HeldReader], HeldReader]] = {
    "nothing": lambda base: base,
    "each weight a little": lambda base: _moved(base, 2e-4),
    "each weight hardly": lambda base: _moved(base, 1e-5),
    "each weight much": lambda base: _moved(base, 0.02),
    "rows scaled": lambda base: held(
        values_of(base) * np.random.default_rng(22).uniform(0.9, 1.1, (len(values_of(base)), 1)), base.spec.dtype.name
    ),
    "rows permuted": lambda base: held(np.roll(values_of(base), 1, axis=0), base.spec.dtype.name),
    "to nothing": lambda base: held(values_of(base) * 0, base.spec.dtype.name),
    "to NaN": lambda base: held(values_of(base) * np.nan, base.spec.dtype.name),
    "by less than is seen": lambda base: folded(base, 16, 1e-5 if base.spec.dtype.name == "bf16" else 1e-12),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_changes_are_refused_quickly(name: str) -> None:
    for dtype in ("bf16", "f32"):
        base = weights(np.random.default_rng(23), 1024, 1024, dtype=dtype)
        new = REFUSED[name](base)
        seconds = []
        for _ in range(3):
            begun = thread_time()
            assert LowRank().find(new, base) is None
            seconds.append(thread_time() - begun)
        assert min(seconds) < 0.1, "a few milliseconds, on an idle machine"


@pytest.mark.parametrize("shape", [(), (0,), (1,), (5,), (0, 5), (1, 1), (1, 1000), (1000, 1), (3, 3), (16, 16)])
@pytest.mark.parametrize("dtype", ["bf16", "f64", "i32", "bool", "c64", "f8_e8m0"])
def test_tensors_that_are_not_matrices_do_no_harm(shape: tuple[int, ...], dtype: str) -> None:
    spec = spec_of(dtype, *shape)
    rng = np.random.default_rng(24)
    new, base = (HeldReader(spec, memoryview(rng.integers(0, 256, spec.nbytes, np.uint8).tobytes())) for _ in range(2))
    finding = LowRank().find(new, base)
    assert finding is None or spec.elements > 200


def test_bases_of_another_shape_or_dtype_are_refused() -> None:
    new = weights(np.random.default_rng(25), 64, 64)
    for base in (weights(np.random.default_rng(26), 64, 32), weights(np.random.default_rng(26), 64, 64, dtype="f16")):
        assert LowRank().find(new, base) is None
