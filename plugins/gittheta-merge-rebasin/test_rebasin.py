"""Networks whose units stand in different orders are averaged as if they stood in one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import digits_from_seeds as digits
import pytest
import torch
from gittheta_merge_rebasin import Rebasin

import gittheta
from gittheta.api import MergeError, Traits
from gittheta.testing import MergeConformance

Model = dict[str, torch.Tensor]
SPEC = "in.weight: P1 -; in.bias: P1; mid.weight: P2 P1; mid.bias: P2; out.weight: - P2"


def network(seed: int, dtype: torch.dtype = torch.float32) -> Model:
    """Three linear layers, not trained."""
    random = torch.Generator().manual_seed(seed)
    shapes = {"in.weight": (24, 7), "in.bias": (24,), "mid.weight": (16, 24), "mid.bias": (16,), "out.weight": (5, 16)}
    shapes["out.bias"] = (5,)
    return {name: torch.randn(shape, generator=random).to(dtype) for name, shape in shapes.items()}


def shuffled(model: Model, seed: int) -> Model:
    """The same function with its hidden units in another order."""
    random = torch.Generator().manual_seed(seed)
    first, second = torch.randperm(24, generator=random), torch.randperm(16, generator=random)
    rearranged = {"in.weight": model["in.weight"][first], "in.bias": model["in.bias"][first]}
    rearranged |= {"mid.weight": model["mid.weight"][second][:, first], "mid.bias": model["mid.bias"][second]}
    return rearranged | {"out.weight": model["out.weight"][:, second], "out.bias": model["out.bias"]}


def run(model: Model, inputs: torch.Tensor) -> torch.Tensor:
    """What the network answers."""
    hidden = torch.relu(inputs @ model["in.weight"].double().T + model["in.bias"].double())
    hidden = torch.relu(hidden @ model["mid.weight"].double().T + model["mid.bias"].double())
    return hidden @ model["out.weight"].double().T + model["out.bias"].double()


def rebasin(*sides: Model, spec: str = SPEC, **options: object) -> Model:
    merged: Model = gittheta.merge(None, sides, "rebasin", spec=spec, device="cpu", **options)
    return merged


def same(one: Model, other: Model) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


# -- what it is for ----------------------------------------------------------------------------------------------------


def test_networks_from_different_seeds_average_much_better_when_aligned() -> None:
    """As well as the README's table says."""
    table = Path(__file__).with_name("README.md").read_text()
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a network is slower with more
    rows = digits.compare([(0, 1), (0, 1, 2)])
    torch.set_num_threads(before)
    for row in rows:
        assert row.best > 0.95
        assert row.aligned > row.best - 0.04, row
        assert row.aligned > row.plain + 0.1, row
        seeds = ", ".join(map(str, row.seeds))
        (shown,) = re.findall(rf"^\| {seeds} +\|.* ([\d.]+)% \|$", table, re.MULTILINE)
        assert float(shown) / 100 == pytest.approx(row.aligned, abs=0.03)


@pytest.mark.parametrize("spec", [SPEC, "auto"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_networks_that_differ_only_in_the_order_of_units_are_recognised(spec: str, dtype: torch.dtype) -> None:
    one = network(1, dtype)
    sides = [one, shuffled(one, 2), shuffled(one, 3)]
    merged = rebasin(*sides, spec=spec)
    assert any(same(merged, side) for side in sides)
    inputs = torch.randn(9, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    assert torch.allclose(run(merged, inputs), run(one, inputs), rtol=1e-12, atol=1e-12)


def test_small_changes_of_a_shuffled_network_do_not_hide_it() -> None:
    one = network(1)
    noise = network(5)
    sides = [one, shuffled({name: values + 0.05 * noise[name] for name, values in one.items()}, 6)]
    inputs = torch.randn(9, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    wanted = run({name: values + 0.025 * noise[name] for name, values in one.items()}, inputs)
    assert torch.allclose(run(rebasin(*sides), inputs), wanted, rtol=1e-4, atol=1e-4)


def test_convolutions_and_axes_of_any_number() -> None:
    random = torch.Generator().manual_seed(0)
    one = {"a.weight": torch.randn(6, 3, 3, 3, generator=random), "b.weight": torch.randn(4, 6, 1, 1, generator=random)}
    order = torch.randperm(6, generator=random)
    other = {"a.weight": one["a.weight"][order], "b.weight": one["b.weight"][:, order]}
    merged = rebasin(one, other, spec="a.weight: K - - -; b.weight: - K - -")
    assert same(merged, one) or same(merged, other)


def test_a_residual_stream_has_one_permutation_on_both_axes() -> None:
    random = torch.Generator().manual_seed(0)
    shapes = {"in": (8, 5), "block": (8, 8), "out": (3, 8)}
    one = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    order = torch.randperm(8, generator=random)
    other = {"in": one["in"][order], "block": one["block"][order][:, order], "out": one["out"][:, order]}
    merged = rebasin(one, other, spec="in: R -\nblock: R R\nout: - R")
    assert same(merged, one) or same(merged, other)


# -- how it behaves ----------------------------------------------------------------------------------------------------


def test_the_order_of_the_sides_changes_no_bit() -> None:
    weighted = list(zip([network(seed) for seed in (1, 2, 3)], (0.5, 0.2, 0.3), strict=True))
    results = []
    for order in permutations(weighted):
        sides, weights = zip(*order, strict=True)
        results.append(rebasin(*sides, weight=weights))
    assert all(same(results[0], result) for result in results)


def test_the_seed_and_the_threads_do_not_matter_to_the_same_run() -> None:
    sides = [network(seed) for seed in (1, 2)]
    assert same(rebasin(*sides, seed=7, threads=1), rebasin(*sides, seed=7, threads=4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_bits() -> None:
    sides = [network(seed) for seed in (1, 2, 3)]
    on_gpu = gittheta.merge(None, sides, "rebasin", spec=SPEC, device="cuda")
    assert same(rebasin(*sides), on_gpu)


def test_weights_count() -> None:
    one, other = network(1), shuffled(network(1), 2)
    doubled = {name: values * 2 for name, values in other.items()}
    merged = rebasin(one, doubled, weight=(3, 1))
    expected = {name: values * 1.25 for name, values in one.items()}
    assert torch.equal(merged["out.bias"], expected["out.bias"])
    inputs = torch.randn(9, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    assert torch.allclose(run(merged, inputs), run(expected, inputs), rtol=1e-6, atol=1e-6)


def test_tensors_that_are_not_named_are_averaged_as_they_are() -> None:
    one = network(1) | {"extra": torch.tensor([1.0, 2.0, 3.0])}
    other = shuffled(network(1), 2) | {"extra": torch.tensor([3.0, 2.0, 1.0])}
    assert rebasin(one, other)["extra"].tolist() == [2, 2, 2]


def test_one_side_is_itself() -> None:
    assert same(rebasin(network(1)), network(1))


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e150, 1e300])
def test_values_of_any_size(scale: float) -> None:
    one = {name: values * scale for name, values in network(1, torch.float64).items()}
    other = shuffled(one, 2)
    merged = rebasin(one, other)
    assert same(merged, one) or same(merged, other)


class TestConformance(MergeConformance):
    """The suite of all methods. Its tensors are matrices here, because the specification says so."""

    method = Rebasin("layer.weight: P1 -")
    variants = (Rebasin("layer.weight: P1 P2", seed=1), Rebasin("auto"))

    def shapes(self, traits: Traits) -> Iterator[tuple[int, ...]]:
        return (shape for shape in super().shapes(traits) if len(shape) == 2)

    def test_all_tensors_together(self) -> None:
        """One measurement serves all, in whatever order they come. The suite's own tensors are no chain."""
        one, other = network(1), network(2)
        backwards = [dict(reversed(model.items())) for model in (one, other)]
        assert same(rebasin(one, other), rebasin(*backwards))


# -- what it refuses ---------------------------------------------------------------------------------------------------


def test_a_specification_is_needed() -> None:
    with pytest.raises(MergeError, match="which axes belong together") as caught:
        Rebasin()
    assert "spec=auto" in (caught.value.hint or "")


def test_specifications_that_say_the_same_make_the_same_method() -> None:
    assert Rebasin("a: P1 -\nb: - P1\n") == Rebasin("a: P1 -;b:  - P1")
    assert Rebasin("a: P1 -\nb: - P1\n").spec == "a: P1 -; b: - P1"


@pytest.mark.parametrize("iterations", [0, -1])
def test_iterations_must_be_some(iterations: int) -> None:
    with pytest.raises(MergeError, match="iterations"):
        Rebasin(SPEC, iterations)


def test_weights_that_sum_to_zero() -> None:
    with pytest.raises(MergeError, match="sum to zero"):
        rebasin(network(1), network(2), weight=(1, -1))


@pytest.mark.parametrize(
    ("spec", "tensor", "message"),
    [
        ("in.weight: P1 -; lost.weight: - P1", "lost.weight", "not among the tensors"),
        ("in.weight: P1", "in.weight", "1 axes, and its shape is [24, 7]"),
        ("in.weight: P1 -; mid.weight: P1 -", "mid.weight", "P1 has 16 units here and 24 in 'in.weight'"),
        ("mid.weight: R R", "mid.weight", "R has 24 units here and 16 in 'mid.weight'"),
    ],
)
def test_a_specification_of_another_model(spec: str, tensor: str, message: str) -> None:
    with pytest.raises(MergeError, match=re.escape(message)) as caught:
        rebasin(network(1), network(2), spec=spec)
    assert caught.value.tensor == tensor
    assert caught.value.hint
