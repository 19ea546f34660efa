"""slerp, nuslerp, multislerp, karcher, model_stock: against plain float64 arithmetic on the whole vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from gittheta.api import Merge
from gittheta.engine.arrays import TORCH
from gittheta.merges.directions import Karcher, ModelStock, MultiSlerp, NuSlerp, Slerp
from tests.support.directions import FLOATS, METHODS, Array, check, family, merged, plain_slerp, random, wide


def plain_multislerp(vectors: Sequence[Array], weights: Sequence[float]) -> Array:
    """As published, with the step in the tangent space that comes to nothing."""
    w = np.array(weights) / sum(weights)
    lengths = [np.sqrt((x * x).sum()) for x in vectors]
    units = [x / length for x, length in zip(vectors, lengths, strict=True)]
    m = sum(each * unit for each, unit in zip(w, units, strict=True))
    m = m / np.sqrt((m * m).sum())
    tangent = sum(each * (unit - (unit * m).sum() * m) for each, unit in zip(w, units, strict=True))
    size = np.sqrt((tangent * tangent).sum())
    moved = m * np.cos(size) + (tangent / size * np.sin(size) if size > 1e-8 else 0)
    merged: Array = moved * (w * lengths).sum()
    return merged


def plain_karcher(vectors: Sequence[Array], weights: Sequence[float], iterations: int = 10) -> Array:
    alphas = np.array(weights) / sum(weights)
    lengths = [np.sqrt((x * x).sum()) for x in vectors]
    units = [x / length for x, length in zip(vectors, lengths, strict=True)]
    u = sum(alpha * unit for alpha, unit in zip(alphas, units, strict=True))
    u = u / np.sqrt((u * u).sum())
    for _ in range(iterations):
        step = np.zeros_like(u)
        for alpha, unit in zip(alphas, units, strict=True):
            angle = np.arccos(np.clip((unit * u).sum(), -1, 1))
            step = step + alpha * (angle / np.sin(angle)) * (unit - np.cos(angle) * u)
        size = np.sqrt((step * step).sum())
        u = np.cos(size) * u + np.sin(size) * step / size
        if size < 1e-5:
            break
    merged: Array = u / np.sqrt((u * u).sum()) * (alphas * lengths).sum()
    return merged


def plain_model_stock(base: Array, sides: Sequence[Array]) -> Array:
    deltas = [side - base for side in sides]
    n = len(sides)
    pairs = [(deltas[i] * deltas[j]).sum() for i in range(n) for j in range(i)]
    sizes = [np.sqrt((deltas[i] ** 2).sum() * (deltas[j] ** 2).sum()) for i in range(n) for j in range(i)]
    c = np.mean(np.array(pairs) / np.array(sizes))
    t = n * c / (1 + (n - 1) * c)
    merged: Array = t * np.mean(sides, axis=0) + (1 - t) * base
    return merged


@pytest.mark.parametrize("dtype", FLOATS)
class TestAgainstPlainArithmetic:
    def test_slerp(self, dtype: str) -> None:
        a, b = random(dtype, 211, 97, seed=1), random(dtype, 211, 97, seed=2)
        for t in (0.5, 0.2, 1.0, 0.0):
            check(merged(Slerp(t=t), a, b), plain_slerp(wide(a), wide(b), t))

    def test_slerp_of_almost_parallel_sides_follows_the_line(self, dtype: str) -> None:
        _, (a, b) = family(dtype, 2, 10_000, size=0.01)
        assert plain_slerp(wide(a), wide(b), 0.3) == pytest.approx(0.7 * wide(a) + 0.3 * wide(b))
        check(merged(Slerp(t=0.3), a, b), 0.7 * wide(a) + 0.3 * wide(b))

    def test_nuslerp(self, dtype: str) -> None:
        base, (a, b) = family(dtype, 2, 150, 130)
        on_deltas = wide(base) + plain_slerp(wide(a) - wide(base), wide(b) - wide(base), 0.75)
        check(merged(NuSlerp(), a, b, base=base, weights=(1, 3)), on_deltas)
        check(merged(NuSlerp(), a, b, weights=(1, 3)), plain_slerp(wide(a), wide(b), 0.75))

    def test_nuslerp_by_row(self, dtype: str) -> None:
        base, (a, b) = family(dtype, 2, 130, 150)
        deltas = zip(wide(a) - wide(base), wide(b) - wide(base), strict=True)
        expected = wide(base) + np.stack([plain_slerp(*rows, 0.25) for rows in deltas])
        check(merged(NuSlerp(rows=True), a, b, base=base, weights=(3, 1)), expected)
        sides = zip(wide(a), wide(b), strict=True)
        expected = np.stack([plain_slerp(*rows, 0.5) for rows in sides])
        check(merged(NuSlerp(rows=True), a, b), expected)

    def test_multislerp(self, dtype: str) -> None:
        base, sides = family(dtype, 3, 20_000)
        weights = (0.5, 0.2, 0.9)
        deltas = [wide(side) - wide(base) for side in sides]
        check(merged(MultiSlerp(), *sides, base=base, weights=weights), wide(base) + plain_multislerp(deltas, weights))
        check(merged(MultiSlerp(), *sides, weights=weights), plain_multislerp([wide(side) for side in sides], weights))

    def test_karcher(self, dtype: str) -> None:
        sides = [random(dtype, 20_000, seed=seed, size=seed) for seed in (1, 2, 3)]
        for weights in ((1, 1, 1), (0.2, 0.7, 0.4)):
            check(merged(Karcher(), *sides, weights=weights), plain_karcher([wide(side) for side in sides], weights))
        few = merged(Karcher(iterations=1), *sides, weights=(1, 2, 4))
        check(few, plain_karcher([wide(side) for side in sides], (1, 2, 4), iterations=1))

    def test_model_stock(self, dtype: str) -> None:
        for count in (2, 5):
            base, sides = family(dtype, count, 20_000)
            expected = plain_model_stock(wide(base), [wide(side) for side in sides])
            check(merged(ModelStock(), *sides, base=base), expected)


class TestKnownAnswers:
    def test_between_two_axes(self) -> None:
        a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0])
        half = math.sqrt(0.5)
        assert merged(Slerp(), a, b).tolist() == pytest.approx([2 * half, 4 * half])
        third = [2 * math.sin(math.pi / 3), 4 * math.sin(math.pi / 6)]
        assert merged(Slerp(t=1 / 3), a, b).tolist() == pytest.approx(third)
        assert merged(NuSlerp(), a, b, weights=(4, 2)).tolist() == pytest.approx(third)
        assert merged(MultiSlerp(), a, b).tolist() == pytest.approx([3 * half, 3 * half])
        assert merged(Karcher(), a, b).tolist() == pytest.approx([3 * half, 3 * half])

    def test_the_ends_of_the_arc_are_the_sides(self) -> None:
        a, b = random("f64", 1000, seed=1), random("f64", 1000, seed=2)
        assert torch.equal(merged(Slerp(t=0.0), a, b), a)
        assert torch.equal(merged(Slerp(t=1.0), a, b), b)

    def test_karcher_of_three_axes_is_their_middle(self) -> None:
        sides = torch.eye(3, dtype=torch.float64) * 5
        assert merged(Karcher(), *sides).tolist() == pytest.approx([5 / math.sqrt(3)] * 3)

    def test_karcher_of_two_is_on_the_arc_where_the_weights_say(self) -> None:
        a, b = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([0.6, 0.8], dtype=torch.float64)
        result = merged(Karcher(iterations=100, tolerance=0.0), a, b, weights=(1, 3))
        assert math.atan2(*result.tolist()[::-1]) == pytest.approx(0.75 * math.acos(0.6))

    def test_karcher_of_nearly_parallel_vectors_keeps_its_precision(self) -> None:
        start = random("f64", 5000)
        for size in (1e-2, 1e-5, 1e-8, 1e-11):
            sides = [start + random("f64", 5000, seed=seed, size=size) for seed in (1, 2, 3)]
            result = wide(merged(Karcher(), *sides))
            mean = np.mean([wide(side) for side in sides], axis=0)
            # On so small a part of the sphere the mean is all but the arithmetic one.
            assert np.abs(result - mean).max() <= 4 * size**2 + 1e-14

    def test_model_stock_trusts_what_agrees(self) -> None:
        base = torch.zeros(4)
        axes = torch.eye(4)
        assert torch.equal(merged(ModelStock(), axes[0], axes[1], base=base), base)
        a, b = torch.tensor([1.0, 1, 0, 0]), torch.tensor([1.0, 0, 1, 0])  # c = 1/2, t = 2/3
        assert merged(ModelStock(), a, b, base=base).tolist() == pytest.approx([2 / 3, 1 / 3, 1 / 3, 0])
        a, b = torch.tensor([1.0, 0]), torch.tensor([-0.5, math.sqrt(0.75)])  # c = -1/2, t = -2
        result = merged(ModelStock(), a, b, base=torch.zeros(2)).tolist()
        assert result == pytest.approx([-0.5, -math.sqrt(0.75)])

    def test_model_stock_of_identical_tiny_changes_is_that_change(self) -> None:
        base = random("f32", 1000, size=1e-30).double()
        for size in (1e-9, 1e-30, 1e-160, 1e-250):
            change = random("f64", 1000, seed=3, size=size)
            assert torch.equal(merged(ModelStock(), change, change, base=base * 0), change)
            almost = change * (1 + 1e-12)
            near = merged(ModelStock(), change, almost, base=base * 0)
            assert (wide(near) / wide(change)).tolist() == pytest.approx([1.0] * 1000)

    def test_weights_of_model_stock_count_as_so_many_sides(self) -> None:
        """A side with weight 0 is not there; t follows from 1 / Σw²."""
        base, (a, b, c) = family("f64", 3, 1000)
        two = merged(ModelStock(), a, b, base=base)
        assert torch.allclose(merged(ModelStock(), a, b, c, base=base, weights=(2, 2, 0)), two, rtol=1e-13, atol=1e-13)


#: Some leaves each; rows that do not end where leaves do.
SHAPES = ((500, 311), (3, 70_001))


class TestBits:
    @pytest.mark.parametrize("method", METHODS, ids=repr)
    def test_neither_blocks_nor_threads_change_a_bit(self, method: Merge) -> None:
        for dtype, shape in zip(("bf16", "f32"), SHAPES, strict=True):
            base, sides = family(dtype, 2, *shape)
            whole = merged(method, *sides, base=base, block=1 << 30)
            assert torch.equal(merged(method, *sides, base=base, block=1 << 16, threads=2), whole)

    @pytest.mark.parametrize("method", METHODS[1:], ids=repr)
    def test_the_order_of_sides_does_not_change_a_bit(self, method: Merge) -> None:
        base, sides = family("f32", 2, 300, 31)
        there = merged(method, *sides, base=base, weights=(0.3, 0.9))
        assert torch.equal(merged(method, *sides[::-1], base=base, weights=(0.9, 0.3)), there)

    @pytest.mark.parametrize("method", [MultiSlerp(), Karcher(), ModelStock()], ids=repr)
    def test_of_many_sides_too(self, method: Merge) -> None:
        base, sides = family("bf16", 5, 1000)
        weights = (0.1, 0.7, 0.4, 0.4, 1.3)
        there = merged(method, *sides, base=base, weights=weights)
        order = (3, 0, 4, 2, 1)
        back = merged(method, *[sides[at] for at in order], base=base, weights=[weights[at] for at in order])
        assert torch.equal(there, back)

    def test_the_order_matters_to_slerp(self) -> None:
        a, b = random("f32", 100, seed=1), random("f32", 100, seed=2)
        assert torch.equal(merged(Slerp(t=0.25), a, b), merged(Slerp(t=0.75), b, a))
        assert not torch.equal(merged(Slerp(t=0.25), a, b), merged(Slerp(t=0.25), b, a))

    @pytest.mark.parametrize("method", METHODS, ids=repr)
    @pytest.mark.parametrize("dtype", [*FLOATS, "f8_e4m3", "f8_e5m2", "c64"])
    def test_identical_sides_give_just_that(self, method: Merge, dtype: str) -> None:
        side = random(dtype if dtype != "c64" else "f64", 37, 11, seed=1).to(
            torch.complex64 if dtype == "c64" else TORCH[dtype]
        )
        side[0, 0] = -0.0
        base = torch.ones_like(side)
        count = 2 if getattr(method, "side_count", None) else 3
        for theta0 in (base, side, torch.zeros_like(side)):
            result = merged(method, *[side] * count, base=theta0)
            assert result.dtype == side.dtype
            assert torch.equal(result.view(torch.uint8), side.view(torch.uint8))
