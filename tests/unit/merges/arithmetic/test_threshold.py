"""The exact k-th largest absolute value, found in blocks, and sums whose bits do not depend on blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pytest
import torch

from gittheta.api import Group
from gittheta.merges.arithmetic import order_statistics
from gittheta.merges.arithmetic.order_statistics import find_cuts
from gittheta.merges.arithmetic.reductions import leaf_dots, leaf_sums, row_sums, total, totals
from gittheta.merges.arithmetic.threshold import Cut, floor_of, is_largest, keep_largest, ranks

MIXED = "mixed"
Result = TypeVar("Result")


@dataclass
class Tensors:
    """Named tensors, each cut into blocks."""

    named: Sequence[tuple[str, torch.Tensor]]
    step: int

    @property
    def groups(self) -> list[Group]:
        return [
            Group(name, None, (values[begin : begin + self.step],), (1.0,), start=begin)
            for name, values in self.named
            for begin in range(0, max(1, len(values)), self.step)
        ]

    @property
    def elements(self) -> int:
        return sum(len(values) for _, values in self.named)

    def map(self, look: Callable[[Group], Result]) -> Iterator[Result]:
        return map(look, self.groups)

    def block(self, index: int) -> Group:
        return self.groups[index]


def _itself(group: Group) -> Iterator[tuple[str, torch.Tensor]]:
    yield "", group.sides[0].clone()


def _kept(tensors: Tensors, cut: Cut) -> np.ndarray:
    """Which elements the cut keeps; both ways of asking must agree."""
    marks, values = [], []
    for group in tensors.groups:
        marks.append(is_largest(group.sides[0], cut, group))
        values.append(keep_largest(group.sides[0].clone(), cut, group))
        assert torch.equal(values[-1], group.sides[0] * marks[-1])
    kept: np.ndarray = torch.cat([each.to(torch.float64) for each in marks]).numpy() == 1
    return kept


def _expected(tensors: Tensors, rank: int) -> np.ndarray:
    """By a stable sort of everything."""
    sizes = np.concatenate([values.abs().to(torch.float64).numpy() for _, values in tensors.named])
    kept = np.zeros(len(sizes), bool)
    kept[np.argsort(-sizes, kind="stable")[:rank]] = True
    return kept


def _values(kind: str, count: int, generator: torch.Generator) -> torch.Tensor:
    values = torch.randn(count, generator=generator, dtype=torch.float64)
    return {
        "distinct": values,
        "of 16 bits": values.to(torch.bfloat16).to(torch.float64),
        "whole": values.round(),
        "equal": values.sign() * 0.3,
        "zero": values * 0,
        "tiny": values * 1e-41,
    }[kind]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, MIXED])
@pytest.mark.parametrize("kind", ["distinct", "of 16 bits", "whole", "equal", "zero", "tiny"])
@pytest.mark.parametrize("way", ["plain", "with little memory", "from a sample"])
def test_as_many_as_wanted_are_kept_and_of_equals_the_first(
    dtype: torch.dtype | str, kind: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "with little memory":
        monkeypatch.setattr(order_statistics, "_REMEMBERED", 50)
        monkeypatch.setattr(order_statistics, "_FEW", 10)
    if way == "from a sample":
        monkeypatch.setattr(order_statistics, "_LARGE", 1)
    generator = torch.Generator().manual_seed(3)
    dtypes = (torch.float64, torch.float32) if dtype is MIXED else (dtype,)
    named = [
        (name, _values(kind, count, generator).to(dtypes[number % len(dtypes)]))
        for number, (name, count) in enumerate([("a", 700), ("b", 0), ("c", 2000), ("d", 1)])
    ]
    for step in (256, 4096) if way == "plain" else (256,):
        tensors = Tensors(named, step)
        ranks = (0, 1, 1500, 2701, 9000) if way == "plain" else (700, 2600)
        cuts = find_cuts(tensors, _itself, ranks)[""]
        alone = [find_cuts(tensors, _itself, (rank,))[""][0] for rank in ranks] if way == "from a sample" else []
        for rank, cut in [*zip(ranks, cuts, strict=True), *zip(ranks, alone, strict=False)]:
            assert (_kept(tensors, cut) == _expected(tensors, rank)).all(), (rank, cut)


@pytest.mark.parametrize("sampled", [0.0, 1.0, 9.0])
def test_a_sample_that_misleads_costs_time_and_nothing_else(sampled: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_statistics, "_LARGE", 1)
    values = torch.rand(5000, generator=torch.Generator().manual_seed(6)) + 1
    values[::17] = sampled
    tensors = Tensors([("x", values)], 17 * 50)
    for rank in (100, 1000, 4000):
        (cut,) = find_cuts(tensors, _itself, (rank,))[""]
        assert (_kept(tensors, cut) == _expected(tensors, rank)).all()


def test_a_good_sample_saves_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_statistics, "_LARGE", 1)
    values = torch.randn(200_000, generator=torch.Generator().manual_seed(7)).to(torch.bfloat16).to(torch.float32)
    tensors = Tensors([("x", values)], 65536)
    looks: list[int] = []
    call = order_statistics._Look.__call__

    def count(look: order_statistics._Look, group: Group) -> object:
        looks.append(look.every)
        return call(look, group)

    monkeypatch.setattr(order_statistics._Look, "__call__", count)
    (cut,) = find_cuts(tensors, _itself, (40_000,))[""]
    assert looks == [17] * 4 + [1] * 4
    assert (_kept(tensors, cut) == _expected(tensors, 40_000)).all()


def test_streams_are_searched_apart_and_need_not_be_in_every_block() -> None:
    a, b = torch.tensor([10.0, 9, 8, 7]), torch.tensor([1.0, 0.9, 0.8, 0.7])

    def streams(group: Group) -> Iterator[tuple[str, torch.Tensor]]:
        yield "all", group.sides[0].clone()
        if group.name == "b":
            yield "only b", group.sides[0].clone()

    tensors = Tensors([("a", a), ("b", b)], 2)
    cuts = find_cuts(tensors, streams, (4,))
    assert _kept(tensors, cuts["all"][0]).tolist() == [True] * 4 + [False] * 4
    assert is_largest(b, cuts["only b"][0], Group("b", None, (b,), (1.0,))).tolist() == [1] * 4


def test_infinities_and_nan_are_larger_than_numbers() -> None:
    values = torch.tensor([1.0, math.inf, 3, -math.inf, 2])
    tensors = Tensors([("x", values)], 8)
    (cut,) = find_cuts(tensors, _itself, (3,))[""]
    assert keep_largest(values.clone(), cut, tensors.block(0)).tolist() == [0, math.inf, 3, -math.inf, 0]
    values = torch.tensor([1.0, math.nan, 3, math.nan])
    tensors = Tensors([("x", values)], 8)
    (cut,) = find_cuts(tensors, _itself, (1,))[""]
    assert keep_largest(values.clone(), cut, tensors.block(0))[[0, 2]].tolist() == [0, 0]


def test_nothing_to_look_at() -> None:
    assert find_cuts(Tensors([("x", torch.zeros(0))], 8), _itself, (0,))[""]
    assert find_cuts(Tensors([("x", torch.zeros(3))], 8), lambda group: iter(()), (1,)) == {}


def test_a_fraction_is_the_one_that_was_written() -> None:
    assert [floor_of(0.29, 100), floor_of(0.1, 10), floor_of(0.7, 10), floor_of(1e-05, 100_000)] == [29, 1, 7, 1]
    assert floor_of(0.3, 10**18) == 3 * 10**17
    assert math.floor(0.29 * 100) == 28, "what floats would give"


def test_ranks_in_a_row_and_the_quick_way_to_them() -> None:
    assert ranks(torch.tensor([[0.5, -2, 1, -0.5]])).tolist() == [[1, 3, 2, 0]]
    values = torch.randn(20, 300, generator=torch.Generator().manual_seed(8)).to(torch.bfloat16).to(torch.float32)
    values[3] = 0
    values[4] *= 1e-43
    values[5, ::2] *= -1
    assert torch.equal(ranks(values), ranks(values.to(torch.float64)))


@pytest.mark.parametrize("count", [0, 1, 5, 65536, 65537, 200_000])
def test_sums_are_the_same_in_blocks_of_any_size(count: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(4))
    sums = {
        total(leaf_sums(values[begin : begin + step]) for begin in range(0, max(1, count), step))
        for step in (65536, 131072, 1 << 20)
    }
    assert len(sums) == 1
    assert sums.pop() == pytest.approx(math.fsum(values.tolist()), abs=1e-9)


def test_sums_of_several_rows_and_of_products() -> None:
    values = torch.randn(3, 70_000, generator=torch.Generator().manual_seed(5))
    exact = [math.fsum(row.tolist()) for row in values]
    assert row_sums(values).tolist() == pytest.approx(exact, abs=1e-9)
    assert totals([leaf_sums(values)]) == pytest.approx(exact, abs=1e-9)
    assert total([leaf_dots(values[0], values[0])]) == pytest.approx(math.fsum(x * x for x in values[0].tolist()))
    assert row_sums(torch.zeros(2, 0)).tolist() == [0, 0]
    assert math.isnan(total([torch.tensor([math.inf, -math.inf])]))
