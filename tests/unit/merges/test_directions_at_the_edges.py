"""slerp, nuslerp, multislerp, karcher, model_stock: odd shapes, zeros, cancelling sides, weights without meaning."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gittheta.api import Merge, MergeError
from gittheta.merges.directions import Karcher, ModelStock, MultiSlerp, NuSlerp, Slerp
from tests.support.directions import METHODS, family, merged, plain_slerp, random, wide


class TestEdges:
    @pytest.mark.parametrize("method", METHODS, ids=repr)
    @pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0), (1,), (1, 1), (4, 1), (2, 3, 4)])
    def test_every_shape(self, method: Merge, shape: tuple[int, ...]) -> None:
        a, b = random("bf16", *shape, seed=1).abs(), random("bf16", *shape, seed=2).abs() * 2
        result = merged(method, a, b, base=torch.zeros_like(a))
        assert result.shape == shape
        assert torch.isfinite(result).all()

    @pytest.mark.parametrize("method", [MultiSlerp(), Karcher()], ids=repr)
    def test_one_side_is_itself(self, method: Merge) -> None:
        a = random("f64", 1000, seed=1)
        assert torch.equal(merged(method, a, base=random("f64", 1000)), a)

    def test_model_stock_needs_two_sides(self) -> None:
        base, (a, b) = family("f32", 2, 10)
        for sides, weights in (((a,), (1,)), ((a, b), (1, 0))):
            with pytest.raises(MergeError, match=r"tensor 'layer': model_stock needs two sides"):
                merged(ModelStock(), *sides, base=base, weights=weights)

    def test_others_need_two_sides_and_model_stock_a_base(self) -> None:
        sides = [random("f32", 10, seed=seed) for seed in (1, 2, 3)]
        for method in METHODS[:3]:
            with pytest.raises(MergeError, match="takes 2 sides, and there are 3"):
                merged(method, *sides)
        with pytest.raises(MergeError, match="needs a merge base"):
            merged(ModelStock(), *sides)

    @pytest.mark.parametrize("method", METHODS[:3], ids=repr)
    def test_with_a_vector_of_zeros_it_is_a_line(self, method: Merge) -> None:
        a, zeros = random("f64", 40, 5, seed=1), torch.zeros(40, 5, dtype=torch.float64)
        assert torch.allclose(merged(method, a, zeros), a / 2)
        assert torch.allclose(merged(method, zeros, a), a / 2)
        assert torch.equal(merged(method, zeros, zeros, base=a), zeros)

    def test_zeros_have_a_length_but_no_direction(self) -> None:
        a, zeros = random("f64", 200, seed=1), torch.zeros(200, dtype=torch.float64)
        for method in (MultiSlerp(), Karcher()):
            assert torch.allclose(merged(method, a, zeros), a / 2)
            assert torch.allclose(merged(method, zeros, a, zeros), a / 3)
            assert torch.equal(merged(method, zeros, zeros), zeros)
            assert torch.equal(merged(method, zeros, a, weights=(1, 0)), zeros)
            assert torch.allclose(merged(method, a, zeros, weights=(1, 0)), a)

    def test_a_task_vector_of_zeros_agrees_with_none(self) -> None:
        base = random("f64", 200)
        a = base + random("f64", 200, seed=1)
        assert torch.equal(merged(ModelStock(), a, base, base=base), base)
        assert torch.equal(merged(ModelStock(), base, base, base=base), base)
        # Cosines 1, 0, 0: c = 1/3, t = 3/5 of two thirds.
        assert torch.allclose(merged(ModelStock(), a, a, base, base=base), base + (a - base) * 0.4)

    def test_some_rows_are_zero_and_some_alike(self) -> None:
        a, b = random("f64", 5, 30, seed=1), random("f64", 5, 30, seed=2)
        a[1], b[2], b[3] = 0, 0, a[3]
        result = merged(NuSlerp(rows=True), a, b)
        assert torch.allclose(result[1], b[1] / 2)
        assert torch.allclose(result[2], a[2] / 2)
        assert torch.equal(result[3], a[3])
        assert np.allclose(wide(result[4]), plain_slerp(wide(a[4]), wide(b[4]), 0.5))

    def test_opposite_sides(self) -> None:
        a = random("bf16", 1000, seed=1)
        assert torch.equal(merged(Slerp(t=0.25), a, -a), a * 0.5)
        assert torch.equal(merged(NuSlerp(), a, -a, weights=(3, 1)), a * 0.5)
        assert torch.equal(merged(NuSlerp(rows=True), a, -a, weights=(3, 1)), a * 0.5)
        assert not merged(MultiSlerp(), a, -a).any()
        for weights in ((1, 1), (1, 2)):
            with pytest.raises(MergeError, match="karcher finds no direction"):
                merged(Karcher(), a, -a, weights=weights)
        with pytest.raises(MergeError, match="model_stock finds no direction"):
            merged(ModelStock(), a, -a, base=torch.zeros_like(a))

    def test_three_directions_that_cancel_out(self) -> None:
        sides = [torch.tensor([math.cos(angle), math.sin(angle)]).double() for angle in (0.5, 0.5, 0.5 + math.pi)]
        for method in (MultiSlerp(), Karcher()):
            with pytest.raises(MergeError, match=f"tensor 'layer': {method.name} finds no direction"):
                merged(method, *sides, weights=(1, 1, 2))

    def test_weights_that_mean_nothing(self) -> None:
        a, b = random("f32", 6, 7, seed=1), random("f32", 6, 7, seed=2)
        for method in METHODS[1:]:
            with pytest.raises(MergeError, match="tensor 'layer': the weights sum to zero"):
                merged(method, a, b, base=a * 0, weights=(0, 0))
        for method in (Karcher(), ModelStock()):
            with pytest.raises(MergeError, match="below zero"):
                merged(method, a, b, base=a * 0, weights=(2, -1))
        with pytest.raises(MergeError, match="slerp goes by t"):
            merged(Slerp(), a, b, weights=(2, 1))

    def test_a_weight_below_zero_goes_beyond_the_end_of_the_arc(self) -> None:
        a, b = random("f64", 100, seed=1), random("f64", 100, seed=2)
        result = wide(merged(NuSlerp(), a, b, weights=(-1, 3)))
        assert result == pytest.approx(plain_slerp(wide(a), wide(b), 1.5))

    @pytest.mark.parametrize("method", METHODS, ids=repr)
    @pytest.mark.parametrize("size", [1e-300, 1e-180, 1e180, 1e300])
    def test_squares_need_not_fit(self, method: Merge, size: float) -> None:
        """Lengths are measured in float64, where squares of float64 values may not be had."""
        base, (a, b) = family("f64", 2, 50, 7, size=1.0)
        plain = merged(method, a, b, base=base * 0)
        scaled = merged(method, a * size, b * size, base=base * 0)
        assert wide(scaled) / size == pytest.approx(wide(plain), rel=1e-12)

    @pytest.mark.parametrize("method", METHODS, ids=repr)
    def test_values_that_are_not_numbers(self, method: Merge) -> None:
        for value in (math.nan, math.inf):
            a, b = random("f32", 3, 5, seed=1), random("f32", 3, 5, seed=2)
            a[1, 2] = value
            with pytest.raises(MergeError, match="NaN or infinite"):
                merged(method, a, b, base=b * 0)
            assert torch.isnan(merged(method, a, b, base=b * 0, propagate=True)[1]).all()


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (Slerp, {"t": -0.1}),
        (Slerp, {"t": 1.1}),
        (Slerp, {"t": math.nan}),
        (Karcher, {"iterations": 0}),
        (Karcher, {"tolerance": -1.0}),
        (Karcher, {"tolerance": math.nan}),
    ],
)
def test_options_out_of_range(method: type, options: dict[str, float]) -> None:
    with pytest.raises(MergeError):
        method(**options)
