"""fisher, regmean and mats against plain references in float64 and answers that are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from itertools import permutations
from operator import add
from typing import Literal

import pytest
import torch

from gittheta.api import DTYPES, Group, Merge, MergeError, TensorSpec, digest_of
from gittheta.engine.in_memory import merge
from gittheta.merges.statistics_based import Fisher, Mats, RegMean


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in the engine; and several workers of a test run do not wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


TYPES = {"f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gram(size: int, seed: int, examples: int = 100) -> torch.Tensor:
    inputs = random(examples, size, seed=seed)
    return inputs.mT @ inputs


def total(parts: Iterable[torch.Tensor]) -> torch.Tensor:
    """Their sum, from left to right."""
    return reduce(add, parts)


def group(
    sides: list[torch.Tensor],
    weights: tuple[float, ...] = (),
    base: torch.Tensor | None = None,
    **statistics: list[torch.Tensor],
) -> Group:
    return Group(
        "layer.weight",
        base,
        tuple(sides),
        weights or (1.0,) * len(sides),
        tuple(digest_of(bytes([side])) for side in range(len(sides))),
        TensorSpec("layer.weight", DTYPES["f64"], tuple(sides[0].shape)),
        statistics=tuple({kind: each[side] for kind, each in statistics.items()} for side in range(len(sides))),
    )


class TestFisher:
    @pytest.mark.parametrize("dtype", TYPES)
    def test_is_the_weighted_mean(self, dtype: str) -> None:
        sides = [random(300, 400, seed=seed).to(TYPES[dtype]) for seed in range(3)]
        known = [random(300, 400, seed=9 + seed).square().float() * 1e-12 for seed in range(3)]
        weights = (1.0, 0.5, 3.0)
        scaled = [weight * each.double() for weight, each in zip(weights, known, strict=True)]
        expected = total(f * side.double() for f, side in zip(scaled, sides, strict=True)) / total(scaled)
        result = merge(
            None,
            [{"w": side} for side in sides],
            "fisher",
            weight=weights,
            statistics=[{"fisher": {"w": each}} for each in known],
            device="cpu",
        )["w"]
        if TYPES[dtype].itemsize == 2:
            assert (result != expected.to(TYPES[dtype])).double().mean() < 1e-3
        else:
            size = total(f * side.double().abs() for f, side in zip(scaled, sides, strict=True)) / total(scaled)
            spacing = torch.finfo(TYPES[dtype]).eps * (size if dtype == "f64" else expected.abs())
            assert ((result.double() - expected).abs() <= 2 * spacing).all()

    def test_where_nothing_is_known_the_mean_stands(self) -> None:
        sides = [torch.tensor([1.0, 1.0, 1.0]), torch.tensor([3.0, 3.0, 3.0])]
        known = [torch.tensor([0.0, 0.0, 1e-38]), torch.tensor([0.0, 1e-44, 3e-38])]
        assert Fisher().merge(group(sides, fisher=known)).tolist() == [2.0, 3.0, 2.5]
        assert Fisher().merge(group(sides, (1.0, 3.0), fisher=known)).tolist() == pytest.approx([2.5, 3.0, 2.8])

    def test_floor_is_a_share_of_the_largest_in_the_whole_tensor(self) -> None:
        count = (1 << 18) + 5
        sides = [{"w": torch.zeros(count)}, {"w": torch.ones(count)}]
        known = [torch.full((count,), 1e-9), torch.full((count,), 3e-9)]
        known[0][-1] = 1.0
        statistics = [{"fisher": {"w": each}} for each in known]
        for floor, expected in ((0.0, 0.75), (1e-9, 0.75), (1e-8, 0.5)):
            merged = merge(None, sides, "fisher", statistics=statistics, floor=floor, device="cpu")["w"]
            assert merged[0].item() == expected
            assert merged[-1].item() == pytest.approx(3e-9)

    def test_order_and_blocks_do_not_change_a_bit(self) -> None:
        sides = [random(1000, seed=seed).float() for seed in range(3)]
        known = [random(1000, seed=9 + seed).square().float() for seed in range(3)]
        merged = {
            merge(
                None,
                [{"w": sides[side]} for side in order],
                "fisher",
                weight=[1.0 + side for side in order],
                statistics=[{"fisher": {"w": known[side]}} for side in order],
                device="cpu",
            )["w"]
            .numpy()
            .tobytes()
            for order in permutations(range(3))
        }
        assert len(merged) == 1

    def test_empty(self) -> None:
        empty = torch.empty(0)
        assert Fisher().merge(group([empty, empty], fisher=[empty, empty])).shape == (0,)

    def test_negative_values(self) -> None:
        one = torch.ones(3)
        with pytest.raises(MergeError, match=r"layer\.weight.*\(fisher\) of .*negative"):
            Fisher().merge(group([one, one], fisher=[one, torch.tensor([1.0, -1e-30, 1.0])]))


class TestRegMean:
    @pytest.mark.parametrize("alpha", [0.9, 1.0, 0.0])
    @pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 0.0, 2.5)])
    def test_is_the_published_formula(self, alpha: float, weights: tuple[float, ...]) -> None:
        sides, grams = [random(7, 12, seed=s) for s in range(3)], [gram(12, 9 + s) for s in range(3)]
        shrunk = [w * (alpha * g + (1 - alpha) * torch.diag(g.diagonal())) for g, w in zip(grams, weights, strict=True)]
        expected = sum(side @ each for side, each in zip(sides, shrunk, strict=True)) @ torch.linalg.inv(sum(shrunk))
        result = RegMean(alpha=alpha).merge(group(sides, weights, gram=grams))
        assert torch.allclose(result, expected, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("alpha", [0.9, 1.0])
    def test_equal_statistics_give_the_mean(self, alpha: float) -> None:
        sides = [random(5, 6, seed=seed) for seed in range(2)]
        for each in (torch.eye(6, dtype=torch.float64), gram(6, 3) * 1e-9, torch.zeros(6, 6, dtype=torch.float64)):
            result = RegMean(alpha=alpha).merge(group(sides, gram=[each, each]))
            assert torch.allclose(result, (sides[0] + sides[1]) / 2, rtol=1e-12)

    def test_singular_is_least_squares_closest_to_the_mean(self) -> None:
        """Fewer examples than inputs, of very different size, one input that is always zero."""
        sides, scales = [random(5, 12, seed=seed) for seed in range(2)], torch.logspace(0, 4, 12, dtype=torch.float64)
        inputs = [random(3, 12, seed=9 + seed) * scales for seed in range(2)]
        for each in inputs:
            each[:, 4] = 0
        stored = [(each.mT @ each).float().double() for each in inputs]
        result = RegMean(alpha=1.0).merge(group(sides, gram=stored))
        mean = (sides[0] + sides[1]) / 2
        answers = torch.cat([each @ (side - mean).mT for each, side in zip(inputs, sides, strict=True)])
        closest = mean + torch.linalg.lstsq(torch.cat(inputs), answers, rcond=1e-12, driver="gelsd").solution.mT
        assert torch.allclose(result, closest, rtol=1e-2, atol=1e-2)
        assert torch.allclose(result[:, 4], mean[:, 4])

    def test_an_input_that_one_side_alone_saw_is_as_there(self) -> None:
        sides = [random(3, 4, seed=seed) for seed in range(2)]
        grams = [gram(4, 5), torch.zeros(4, 4, dtype=torch.float64)]
        assert torch.allclose(RegMean().merge(group(sides, gram=grams)), sides[0], rtol=1e-12)

    def test_vectors_get_the_mean_and_need_no_statistics(self) -> None:
        sides = [{"w": random(3, 4, seed=s).bfloat16(), "b": random(3, seed=5 + s).bfloat16()} for s in range(2)]
        statistics = [{"gram": {"w": gram(4, 9 + s).float()}} for s in range(2)]
        merged = merge(None, sides, "regmean", statistics=statistics, device="cpu")
        assert torch.equal(merged["b"], ((sides[0]["b"].float() + sides[1]["b"].float()) / 2).bfloat16())
        swapped = merge(None, sides[::-1], "regmean", statistics=statistics[::-1], device="cpu")
        assert torch.equal(merged["w"], swapped["w"])


class TestMats:
    def test_ends_where_regmean_does(self) -> None:
        base, sides = random(7, 12, seed=0), [random(7, 12, seed=1 + s) for s in range(3)]
        known = group(sides, (1.0, 2.0, 0.5), base, gram=[gram(12, 9 + s) for s in range(3)])
        for start in (0.0, 0.3, 1.0):
            result = Mats(lambda_=start, tolerance=1e-13).merge(known)
            assert torch.allclose(result, RegMean(alpha=1.0).merge(known), rtol=1e-9, atol=1e-10)

    def test_kfac_solves_its_equation(self) -> None:
        base, sides = random(6, 8, seed=0), [random(6, 8, seed=1 + s) for s in range(2)]
        grams, outputs, weights = [gram(8, 9 + s) for s in range(2)], [gram(6, 19 + s) for s in range(2)], (1.0, 3.0)
        result = Mats(form="kfac", tolerance=1e-13).merge(group(sides, weights, base, gram=grams, output=outputs))
        pairs = list(zip(outputs, grams, weights, strict=True))
        matrix = total(w * torch.kron(o, g) for o, g, w in pairs)
        right = total(w * o @ side @ g for side, (o, g, w) in zip(sides, pairs, strict=True))
        assert torch.allclose(result, torch.linalg.solve(matrix, right.flatten()).reshape(6, 8), rtol=1e-7, atol=1e-9)

    @pytest.mark.parametrize("form", ["forward", "kfac"])
    @pytest.mark.parametrize("iterations", [0, 1, 3])
    def test_are_the_steps_of_conjugate_gradients(self, form: Literal["forward", "kfac"], iterations: int) -> None:
        base, sides = random(5, 9, seed=0), [random(5, 9, seed=1 + s) for s in range(2)]
        grams, outputs = [gram(9, 9 + s) for s in range(2)], [gram(5, 19 + s) for s in range(2)]
        outs = outputs if form == "kfac" else [torch.eye(5, dtype=torch.float64)] * 2

        def apply(each: torch.Tensor) -> torch.Tensor:
            return total(out @ each @ g for out, g in zip(outs, grams, strict=True))

        x = base + 0.3 * (sides[0] - base + sides[1] - base)
        r = total(out @ side @ g for out, side, g in zip(outs, sides, grams, strict=True)) - apply(x)
        p = r
        for _ in range(iterations):
            step = (r * r).sum() / (p * apply(p)).sum()
            x, after = x + step * p, r - step * apply(p)
            p, r = after + p * (after * after).sum() / (r * r).sum(), after
        known = group(sides, base=base, gram=grams, output=outputs)
        assert torch.allclose(Mats(lambda_=0.3, iterations=iterations, form=form).merge(known), x, rtol=1e-9)

    @pytest.mark.parametrize("form", ["forward", "kfac"])
    def test_stays_at_the_start_where_nothing_is_known(self, form: Literal["forward", "kfac"]) -> None:
        base, sides = random(5, 9, seed=0), [random(5, 9, seed=1 + s) for s in range(2)]
        inputs = random(20, 9, seed=3) * (torch.arange(9) < 4)
        known = group(sides, base=base, gram=[inputs.mT @ inputs] * 2, output=[gram(5, 19)] * 2)
        result = Mats(form=form).merge(known)
        assert torch.allclose(result[:, 4:], (sides[0] + sides[1] - base)[:, 4:], rtol=1e-12)
        assert torch.allclose(result[:, :4], (sides[0] + sides[1])[:, :4] / 2, rtol=1e-6, atol=1e-6)
        nothing = [torch.zeros(9, 9, dtype=torch.float64)] * 2
        start = Mats(form=form).merge(group(sides, base=base, gram=nothing, output=[gram(5, 19)] * 2))
        assert torch.allclose(start, sides[0] + sides[1] - base)

    def test_exact_start_is_left_alone(self) -> None:
        base, side = random(5, 9, seed=0), random(5, 9, seed=1)
        inputs = random(4, 9, seed=3)
        known = group([side, side], base=base, gram=[inputs.mT @ inputs] * 2)
        assert torch.allclose(Mats(lambda_=0.5).merge(known), side, rtol=1e-12)

    def test_reads_what_its_form_needs(self) -> None:
        assert Mats().kinds == ("gram",)
        assert Mats(form="kfac").kinds == ("gram", "output")


WIDE = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("method", "known", "message"),
    [
        (RegMean(), {"gram": [torch.eye(3), torch.eye(2)]}, r"\(gram\) of the side b3:.* shape \[2, 2\], not \[3, 3\]"),
        (Mats(), {"gram": [torch.eye(3), torch.eye(2)]}, "shape"),
        (Mats(form="kfac"), {"gram": [torch.eye(3)] * 2, "output": [torch.eye(3)] * 2}, r"\(output\).*not \[2, 2\]"),
        (RegMean(), {}, "are missing"),
        (Fisher(), {}, "are missing"),
        (Fisher(), {"fisher": [torch.ones(3), WIDE]}, r"\[3\], not \[2, 3\]"),
        (RegMean(), {"gram": [torch.eye(3), torch.full((3, 3), torch.nan)]}, "not sums of squares"),
        (RegMean(), {"gram": [-torch.eye(3), torch.eye(3)]}, "not sums of squares"),
    ],
)
def test_statistics_that_cannot_be_used(method: Merge, known: dict[str, list[torch.Tensor]], message: str) -> None:
    with pytest.raises(MergeError, match=message):
        method.merge(group([WIDE, WIDE], (), WIDE, **known))


@pytest.mark.parametrize("method", [Fisher(), RegMean(), Mats()], ids=lambda method: method.name)
@pytest.mark.parametrize("weights", [(1.0, -1.0), (0.0, 0.0)])
def test_weights_that_make_no_sense(method: Merge, weights: tuple[float, ...]) -> None:
    with pytest.raises(MergeError, match=f"weights of {method.name}"):
        method.merge(group([WIDE, WIDE], weights, WIDE, fisher=[WIDE] * 2, gram=[torch.eye(3)] * 2))


@pytest.mark.parametrize("method", [RegMean(), Mats()], ids=lambda method: method.name)
def test_only_matrices(method: Merge) -> None:
    with pytest.raises(MergeError, match="not a matrix"):
        method.merge(group([torch.ones(3)] * 2, base=torch.ones(3), gram=[torch.eye(3)] * 2))


@pytest.mark.parametrize("method", [RegMean(), Mats()], ids=lambda method: method.name)
def test_values_let_through(method: Merge) -> None:
    broken = WIDE.clone()
    broken[0, 0] = torch.nan
    merged = method.merge(group([broken, WIDE], base=WIDE, gram=[torch.eye(3)] * 2))
    assert merged[0, 0].isnan()


def test_mats_needs_a_base() -> None:
    with pytest.raises(MergeError, match="merge base"):
        Mats().merge(group([WIDE, WIDE], gram=[torch.eye(3)] * 2))


@pytest.mark.parametrize(
    "make",
    [
        lambda: RegMean(alpha=1.5),
        lambda: Mats(iterations=-1),
        lambda: Mats(tolerance=1.0),
        lambda: Mats(form="backward"),  # type: ignore[arg-type]
        lambda: Fisher(floor=-1.0),
    ],
)
def test_options_out_of_range(make: type[Merge]) -> None:
    with pytest.raises(MergeError, match="is "):
        make()
