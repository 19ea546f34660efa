"""Every built-in metric keeps the contract, and the suite finds metrics that do not."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest

from gittheta.api import BlockPair, TensorSpec
from gittheta.metrics.changed import Changed
from gittheta.metrics.norm import Norm
from gittheta.model import DTYPES, Tensor
from gittheta.registry import BUILT_IN
from gittheta.testing import MetricConformance


class TestChanged(MetricConformance):
    metric = Changed()


class TestNorm(MetricConformance):
    metric = Norm()


def test_no_built_in_is_left_out() -> None:
    assert {Changed.name, Norm.name} == set(BUILT_IN["metrics"])


def doubles(*values: float) -> Tensor:
    return Tensor(TensorSpec("w", DTYPES["f64"], (len(values),)), memoryview(struct.pack(f"<{len(values)}d", *values)))


def norms(old: Tensor, new: Tensor, cuts: tuple[int, ...] = ()) -> dict[str, float]:
    return TestNorm().measure(old, new, cuts)


@pytest.mark.parametrize("size", [1e-320, 1e-200, 1.0, 1e200, 1e307])
def test_norms_of_values_whose_squares_no_float_can_hold(size: float) -> None:
    old, new = doubles(0, 0, 0), doubles(3 * size, 0, 4 * size)
    for cuts in ((), (8, 16)):
        result = norms(old, new, cuts)
        assert result["norm"] == pytest.approx(5 * size)
        assert result["relative"] == math.inf
        assert result["largest"] == 4 * size


def test_nan_and_infinity_say_the_same_in_one_block_and_in_two() -> None:
    old, new = doubles(0, 0, 1), doubles(math.inf, math.nan, 1)
    assert repr(norms(old, new)) == repr(norms(old, new, (8, 16)))
    assert math.isnan(norms(old, new)["norm"])
    assert norms(old, doubles(math.inf, 0, 1))["norm"] == math.inf


def test_a_nan_over_nothing_is_not_infinite() -> None:
    assert math.isnan(norms(doubles(0), doubles(math.nan))["relative"])


@dataclass(frozen=True)
class Flawed:
    """Counts changed bytes, with a fault that the suite should find."""

    name: ClassVar[str] = "flawed"
    unit: ClassVar[Literal["element", "tensor"]] = "element"
    fault: str = ""

    def applies(self, spec: TensorSpec) -> bool:
        return True

    def look(self, pair: BlockPair) -> Any:
        if self.fault == "torch":
            import torch  # noqa: F401
        if self.fault == "no elements" and not pair.spec.nbytes:
            raise ZeroDivisionError
        if self.fault == "writes" and len(pair.old) and not pair.old.readonly:
            pair.old[0] = 0
        changed = sum(one != other for one, other in zip(pair.old, pair.new, strict=True))
        if self.fault == "large":
            return changed, bytes(pair.old)
        return (changed, pair.new) if self.fault == "keeps a view" else (changed,)

    def conclude(self, spec: TensorSpec, parts: Iterable[Any]) -> Mapping[str, float]:
        result = list(parts)
        changed = float(sum(part[0] for part in result))
        if self.fault == "whole number":
            return {"flawed": int(changed)}
        if self.fault == "name":
            return {"other": changed, "flawed": changed}
        if self.fault == "cut":
            changed += len(result)
        if self.fault == "keeps a view":
            changed += sum(part[1][0] for part in result if len(part[1]))
        return {"flawed": 0.0 if self.fault == "blind" else changed}


@pytest.mark.parametrize(
    ("fault", "test"),
    [
        ("name", "test_numbers_and_never_exceptions"),
        ("whole number", "test_numbers_and_never_exceptions"),
        ("no elements", "test_numbers_and_never_exceptions"),
        ("cut", "test_the_cut_does_not_matter"),
        ("blind", "test_equal_tensors"),
        ("writes", "test_blocks_stay_as_they_are"),
        ("keeps a view", "test_blocks_stay_as_they_are"),
        ("large", "test_little_memory"),
        ("torch", "test_no_torch"),
    ],
)
def test_the_suite_finds(fault: str, test: str) -> None:
    class Suite(MetricConformance):
        metric = Flawed(fault)

    with pytest.raises((AssertionError, ZeroDivisionError)):
        getattr(Suite(), test)()
    Suite.metric = Flawed()
    getattr(Suite(), test)()
