"""The suite for merge methods finds what it is for."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from gittheta.api import Blocks, Group, Merge, MergeError
from gittheta.testing import MergeConformance


@dataclass(frozen=True)
class Mean:
    """A method without a fault."""

    scale: float = 1.0

    name: ClassVar[str] = "mean"
    unit: ClassVar[str] = "element"
    idempotent: ClassVar[bool] = True

    def merge(self, group: Group) -> torch.Tensor:
        return sum(group.sides[1:], group.sides[0] * 1) / len(group.sides) * self.scale


class Plain(Mean):
    """No dataclass of its own, and so not frozen either."""

    def __init__(self) -> None:
        object.__setattr__(self, "scale", 2.0)


@dataclass(frozen=True)
class Misnamed(Mean):
    name: ClassVar[str] = "Mean!"


@dataclass(frozen=True)
class ListOption(Mean):
    scales: tuple[list[float], ...] = ([1.0],)


@dataclass(frozen=True)
class ObjectOption(Mean):
    key: object = object()


@dataclass(frozen=True)
class Required(Mean):
    t: float | None = None

    def __post_init__(self) -> None:
        if self.t is None:
            raise TypeError("t is needed")


@dataclass(frozen=True)
class OddUnit(Mean):
    unit: ClassVar[str] = "column"


@dataclass(frozen=True)
class GlobalWithoutMeasure(Mean):
    scope: str = "global"


@dataclass(frozen=True)
class Narrows(Mean):
    def merge(self, group: Group) -> torch.Tensor:
        return super().merge(group).to(torch.bfloat16)


@dataclass(frozen=True)
class Flattens(Mean):
    unit: ClassVar[str] = "tensor"

    def merge(self, group: Group) -> torch.Tensor:
        return super().merge(group).reshape(-1)


@dataclass(frozen=True)
class Needy(Mean):
    def merge(self, group: Group) -> torch.Tensor:
        return group.deltas[0]


@dataclass(frozen=True)
class TwoOnly(Mean):
    def merge(self, group: Group) -> torch.Tensor:
        a, b = group.sides
        return (a + b) / 2


@dataclass(frozen=True)
class Writes(Mean):
    def merge(self, group: Group) -> torch.Tensor:
        group.sides[0].add_(1)
        return super().merge(group)


@dataclass(frozen=True)
class Chance(Mean):
    def merge(self, group: Group) -> torch.Tensor:
        return super().merge(group) * random.random()


@dataclass(frozen=True)
class SeesBlocks(Mean):
    def merge(self, group: Group) -> torch.Tensor:
        return super().merge(group) + len(group.sides[0])


@dataclass(frozen=True)
class SumsAsItLikes(Mean):
    def measure(self, blocks: Blocks) -> float:
        return float(sum(blocks.map(lambda group: group.sides[0].float().sum())))

    def merge(self, group: Group) -> torch.Tensor:
        scaled: torch.Tensor = super().merge(group) * group.measured
        return scaled


@dataclass(frozen=True)
class TwiceTheSame(Mean):
    def merge(self, group: Group) -> torch.Tensor:
        return super().merge(group) * 2


@dataclass(frozen=True)
class Divides(Mean):
    def merge(self, group: Group) -> torch.Tensor:
        return super().merge(group) * (group.sides[0] / group.sides[0])


@dataclass(frozen=True)
class DividesByChange(Mean):
    def merge(self, group: Group) -> torch.Tensor:
        change = group.sides[0] - group.base if group.base is not None else group.sides[0]
        return super().merge(group) * (change / change)


@dataclass(frozen=True)
class Squares(Mean):
    def merge(self, group: Group) -> torch.Tensor:
        squares = group.sides[0] * group.sides[0]
        return super().merge(group) * (squares / squares)


@dataclass(frozen=True)
class MinOfAll(Mean):
    unit: ClassVar[str] = "tensor"

    def merge(self, group: Group) -> torch.Tensor:
        return super().merge(group) - group.sides[0].min()


#: What a test of the suite may fail with: its own words, or the method's.
FAILURES = (AssertionError, MergeError, TypeError, ValueError, RuntimeError)


def suite(tested: Any) -> MergeConformance:
    class Suite(MergeConformance):
        method: Merge = tested

    return Suite()


def test_a_method_without_a_fault_passes() -> None:
    run = suite(Mean())
    for name in dir(run):
        if name.startswith("test_"):
            getattr(run, name)()


@pytest.mark.parametrize(
    ("method", "test"),
    [
        (Plain(), "test_is_a_plugin"),
        (Misnamed(), "test_is_a_plugin"),
        (ListOption(), "test_is_a_plugin"),
        (ObjectOption(), "test_is_a_plugin"),
        (Required(t=1.0), "test_is_a_plugin"),
        (OddUnit(), "test_traits_are_valid"),
        (GlobalWithoutMeasure(), "test_traits_are_valid"),
        (Narrows(), "test_every_dtype_and_shape"),
        (Flattens(), "test_every_dtype_and_shape"),
        (MinOfAll(), "test_every_dtype_and_shape"),
        (Needy(), "test_with_and_without_a_base"),
        (TwoOnly(), "test_any_number_of_sides"),
        (Writes(), "test_nothing_is_written_to"),
        (Chance(), "test_twice_the_same"),
        (SeesBlocks(), "test_neither_blocks_nor_threads_change_a_bit"),
        (SumsAsItLikes(), "test_neither_blocks_nor_threads_change_a_bit"),
        (TwiceTheSame(), "test_identical_sides_give_just_that"),
        (Divides(), "test_zeros"),
        (DividesByChange(), "test_sides_that_are_the_base"),
        (Squares(), "test_tiny_values"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_fault_is_found(method: Any, test: str) -> None:
    with pytest.raises(FAILURES):
        getattr(suite(method), test)()
