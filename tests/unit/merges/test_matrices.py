"""actmat, tsv, iso and knots against plain references in float64 and answers that are known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import pytest
import torch

from gittheta.api import DTYPES, Group, Merge, MergeError, TensorSpec
from gittheta.engine.in_memory import merge
from gittheta.merges.matrices import ActMat, Iso, Knots, Tsv, trimmed


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in the engine; and several workers of a test run do not wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


METHODS = [ActMat(), Tsv(), Iso(), Knots(), Knots(density=1.0)]
TYPES = {"f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16}


def random(*shape: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def low_rank(rows: int, columns: int, rank: int, seed: int, right: int | None = None) -> torch.Tensor:
    product = random(rows, rank, seed=seed) @ random(rank, columns, seed=1000 + (right or seed))
    scaled: torch.Tensor = product / rank**0.5
    return scaled


def change(
    method: Merge,
    *deltas: torch.Tensor,
    base: torch.Tensor | None = None,
    weights: tuple[float, ...] = (),
    as_: str = "f64",
) -> torch.Tensor:
    """What the method adds to the base, sides stored in some dtype."""
    stored = (torch.zeros_like(deltas[0]) if base is None else base).to(TYPES[as_])
    wide = torch.float32 if as_ == "bf16" else torch.float64
    group = Group(
        "layer.weight",
        stored.to(wide),
        tuple((stored.double() + delta).to(TYPES[as_]).to(wide) for delta in deltas),
        weights or (1.0,) * len(deltas),
        spec=TensorSpec("layer.weight", DTYPES[as_], tuple(stored.shape)),
    )
    merged = method.merge(group)
    assert merged.dtype == wide
    assert merged.shape == stored.shape
    return merged.double() - stored.double()


def close(a: torch.Tensor, b: torch.Tensor, within: float = 1e-10) -> bool:
    return float(torch.linalg.matrix_norm(a - b)) <= within * max(1e-300, float(torch.linalg.matrix_norm(b)))


TWO = torch.tensor([[2.0, 0], [0, 0]], dtype=torch.float64)
ONE = torch.eye(2, dtype=torch.float64)


class TestActMat:
    def test_known_answer(self) -> None:
        assert close(change(ActMat(), TWO, ONE), torch.diag(torch.tensor([1.8, 1.0], dtype=torch.float64)), 1e-14)

    @pytest.mark.parametrize("shape", [(40, 24), (24, 40), (8, 40), (1, 7), (7, 1)])
    @pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 2.0, 0.25)])
    def test_is_the_published_formula(self, shape: tuple[int, int], weights: tuple[float, ...]) -> None:
        deltas = [random(*shape, seed=seed) for seed in range(3)]
        grams = [w * delta.mT @ delta for w, delta in zip(weights, deltas, strict=True)]
        normal = sum(delta @ gram for delta, gram in zip(deltas, grams, strict=True)) @ torch.linalg.pinv(
            sum(grams), hermitian=True, rtol=1e-10
        )
        assert close(change(ActMat(lambda_=0.5), *deltas, weights=weights), 0.5 * normal)

    @pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
    def test_one_side_and_sides_that_are_alike_give_just_that(self, shape: tuple[int, int]) -> None:
        delta = random(*shape, seed=1)
        assert close(change(ActMat(), delta), delta, 1e-13)
        assert close(change(ActMat(), delta, delta, delta), delta, 1e-13)

    def test_disjoint_row_spaces_give_the_sum(self) -> None:
        basis = torch.linalg.qr(random(20, 20, seed=3)).Q
        a, b = random(16, 6, seed=4) @ basis[:6], random(16, 9, seed=5) @ basis[6:15]
        assert close(change(ActMat(), a, b), a + b)

    def test_small_singular_values_do_no_harm(self) -> None:
        columns = torch.logspace(0, -9, 20, dtype=torch.float64)
        delta = random(30, 20, seed=7) * columns @ torch.linalg.qr(random(20, 20, seed=6)).Q
        # Twice the same but for its size: (δδᵀδ + 8δδᵀδ)(5δᵀδ)⁻¹ is 9/5 of it. By that inverse it would be nonsense.
        assert close(change(ActMat(), delta, 2 * delta), 1.8 * delta, 1e-5)

    def test_shared_row_space_survives_rounding(self) -> None:
        """Least squares on the noise of rounded LoRA changes would give values millions of times too large."""
        base = random(96, 96, seed=8, scale=0.02)
        deltas = [low_rank(96, 96, 4, seed=9 + side, right=77) * 0.01 for side in range(2)]
        exact = change(ActMat(), *deltas)
        for dtype, within in (("f32", 1e-5), ("bf16", 0.1)):
            assert close(change(ActMat(), *deltas, base=base.to(TYPES[dtype]).double(), as_=dtype), exact, within)

    def test_sides_too_long_get_the_mean(self) -> None:
        deltas = [random(20_000, 2, seed=seed) for seed in (1, 2)]
        assert close(change(ActMat(), *deltas, weights=(1.0, 3.0)), (deltas[0] + 3 * deltas[1]) / 4)

    @pytest.mark.parametrize("weights", [(1.0, -1.0), (0.0, 0.0)])
    def test_weights_that_make_no_sense(self, weights: tuple[float, ...]) -> None:
        with pytest.raises(MergeError, match=r"layer\.weight.*weights of actmat"):
            change(ActMat(), TWO, ONE, weights=weights)


def published_tsv(deltas: list[torch.Tensor]) -> torch.Tensor:
    """As the authors have it, for changes of full rank."""
    share = min(deltas[0].shape) // len(deltas)
    triples = [torch.linalg.svd(delta, full_matrices=False) for delta in deltas]
    u = torch.cat([u[:, :share] for u, _, _ in triples], dim=1)
    v = torch.cat([vt[:share] for _, _, vt in triples], dim=0)
    values = torch.cat([values[:share] for _, values, _ in triples])
    (pu, _, qu), (pv, _, qv) = (torch.linalg.svd(each, full_matrices=False) for each in (u, v))
    merged: torch.Tensor = torch.linalg.multi_dot([pu, qu, torch.diag(values), pv, qv])
    return merged


class TestTsv:
    @pytest.mark.parametrize("shape", [(24, 40), (40, 24), (33, 33)])
    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_is_the_published_algorithm(self, shape: tuple[int, int], count: int) -> None:
        deltas = [random(*shape, seed=seed) for seed in range(count)]
        assert close(change(Tsv(lambda_=2.0), *deltas), 2 * published_tsv(deltas))

    def test_one_side_gives_just_that(self) -> None:
        delta = random(9, 14, seed=1)
        assert close(change(Tsv(), delta), delta)

    def test_changes_that_do_not_touch_are_added(self) -> None:
        left, right = torch.linalg.qr(random(20, 20, seed=2)).Q, torch.linalg.qr(random(16, 16, seed=3)).Q
        a = left[:, :4] @ random(4, 5, seed=4) @ right[:5]
        b = left[:, 4:7] @ random(3, 6, seed=5) @ right[5:11]
        assert close(change(Tsv(), a, b), a + b)
        assert close(change(Tsv(), a, b, weights=(2.0, -0.5)), 2 * a - 0.5 * b)

    def test_low_rank_that_is_alike_gives_just_that(self) -> None:
        delta = low_rank(30, 20, 4, seed=6)
        assert close(change(Tsv(), delta, delta), delta)

    @pytest.mark.parametrize("shared", [None, 99])
    def test_low_rank_changes_survive_rounding(self, shared: int | None) -> None:
        base = random(96, 80, seed=7, scale=0.02)
        deltas = [low_rank(96, 80, 4, seed=8 + side, right=shared) * 0.01 for side in range(3)]
        exact = change(Tsv(), *deltas)
        for dtype, within in (("f32", 1e-5), ("bf16", 0.1)):
            assert close(change(Tsv(), *deltas, base=base.to(TYPES[dtype]).double(), as_=dtype), exact, within)

    def test_more_sides_than_singular_values(self) -> None:
        rows = [torch.eye(4, dtype=torch.float64)[[side]] * (side + 1) for side in range(3)]
        # One row each: the left vectors are all (±1), and the nearest isometry shares it out.
        assert close(change(Tsv(), *rows), sum(rows, torch.zeros(1, 4, dtype=torch.float64)) / math.sqrt(3))

    def test_tolerance_says_what_is_left_out(self) -> None:
        delta = torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.5], dtype=torch.float64))
        assert close(change(Tsv(tolerance=0.3), delta), torch.diag(torch.tensor([4.0, 2, 0, 0], dtype=torch.float64)))


class TestIso:
    def test_known_answer(self) -> None:
        assert close(change(Iso(), TWO, ONE), 2 * ONE, 1e-14)

    @pytest.mark.parametrize("shape", [(24, 40), (40, 24), (17, 17)])
    def test_is_the_published_formula(self, shape: tuple[int, int]) -> None:
        deltas = [random(*shape, seed=seed) for seed in range(3)]
        u, values, vt = torch.linalg.svd(deltas[0] * 2 + deltas[1] - deltas[2], full_matrices=False)
        assert close(change(Iso(lambda_=0.7), *deltas, weights=(2.0, 1.0, -1.0)), 0.7 * values.mean() * u @ vt)

    def test_only_singular_values_that_are_there_count(self) -> None:
        delta = low_rank(30, 20, 3, seed=1)
        u, values, vt = torch.linalg.svd(delta, full_matrices=False)
        assert close(change(Iso(), delta), values[:3].mean() * u[:, :3] @ vt[:3])

    def test_low_rank_changes_survive_rounding(self) -> None:
        base = random(96, 96, seed=2, scale=0.02)
        deltas = [low_rank(96, 96, 4, seed=3 + side) * 0.01 for side in range(2)]
        exact = change(Iso(), *deltas)
        for dtype, within in (("f32", 1e-5), ("bf16", 0.1)):
            assert close(change(Iso(), *deltas, base=base.to(TYPES[dtype]).double(), as_=dtype), exact, within)

    def test_full_rank_keeps_all_even_where_rounding_is_coarse(self) -> None:
        base = random(48, 48, seed=5, scale=0.02).to(torch.bfloat16).double()
        delta = (base + random(48, 48, seed=6, scale=0.002)).to(torch.bfloat16).double() - base
        u, values, vt = torch.linalg.svd(delta)
        assert close(change(Iso(), delta, base=base, as_="bf16"), values.mean() * u @ vt, 1e-6)


def published_knots(deltas: list[torch.Tensor], weights: tuple[float, ...], density: float) -> torch.Tensor:
    u, values, vt = torch.linalg.svd(torch.cat(deltas, dim=1), full_matrices=False)
    parts = (values[:, None] * vt).split(deltas[0].shape[1], dim=1)
    keep = int(density * parts[0].numel())
    parts = [part * (part.abs() >= part.abs().flatten().sort(descending=True).values[keep - 1]) for part in parts]
    sign = torch.where(sum(part * w for part, w in zip(parts, weights, strict=True)) >= 0, 1, -1)
    total, divisor = torch.zeros_like(parts[0]), torch.zeros_like(parts[0])
    for part, weight in zip(parts, weights, strict=True):
        agrees = part * weight * sign > 0
        total += part * weight * agrees
        divisor += weight * agrees
    merged: torch.Tensor = u @ (total / torch.where(divisor == 0, 1.0, divisor))
    return merged


class TestKnots:
    @pytest.mark.parametrize("shape", [(12, 20), (20, 12), (50, 12)])
    @pytest.mark.parametrize("density", [1.0, 0.3])
    def test_is_the_published_algorithm(self, shape: tuple[int, int], density: float) -> None:
        deltas, weights = [random(*shape, seed=seed) for seed in range(3)], (1.0, 0.5, 2.0)
        expected = 0.6 * published_knots(deltas, weights, density)
        assert close(change(Knots(density=density, lambda_=0.6), *deltas, weights=weights), expected)

    def test_one_side_and_sides_that_are_alike_give_just_that(self) -> None:
        delta = random(9, 14, seed=1)
        assert close(change(Knots(density=1.0), delta), delta)
        assert close(change(Knots(density=1.0), delta, delta), delta)

    def test_without_election_it_is_task_arithmetic(self) -> None:
        deltas = [low_rank(20, 12, 3, seed=seed) for seed in range(3)]
        method = Knots(density=1.0, sign=False, normalize=False)
        assert close(change(method, *deltas, weights=(1.0, 0.5, -2.0)), deltas[0] + 0.5 * deltas[1] - 2 * deltas[2])

    def test_low_rank_changes_survive_rounding(self) -> None:
        base = random(96, 96, seed=2, scale=0.02)
        deltas = [low_rank(96, 96, 4, seed=3 + side) * 0.01 for side in range(2)]
        exact = change(Knots(), *deltas)
        assert close(change(Knots(), *deltas, base=base.to(torch.float32).double(), as_="f32"), exact, 1e-4)

    def test_trimming_keeps_the_first_of_equal_values(self) -> None:
        values = torch.tensor([[1.0, -2.0, 2.0], [2.0, 0.5, -3.0]])
        assert trimmed(values, 0.5).tolist() == [[0, -2, 2], [0, 0, -3]]
        assert trimmed(values, 0.1).tolist() == [[0, 0, 0], [0, 0, 0]]
        assert trimmed(values, 1.0) is values


@pytest.mark.parametrize("method", METHODS, ids=lambda method: f"{method.name}")
class TestAll:
    def test_no_change_gives_the_base(self, method: Merge) -> None:
        base = random(6, 5, seed=1)
        assert not change(method, torch.zeros_like(base), torch.zeros_like(base), base=base).any()

    def test_a_side_of_weight_zero_is_ignored(self, method: Merge) -> None:
        deltas = [random(12, 9, seed=seed) for seed in range(2)]
        other = change(method, deltas[0], torch.zeros(12, 9, dtype=torch.float64), deltas[1], weights=(1.0, 0.0, 1.0))
        assert torch.equal(other, change(method, *deltas))

    def test_empty_and_single(self, method: Merge) -> None:
        for shape in ((0, 4), (4, 0)):
            empty = torch.zeros(shape, dtype=torch.float64)
            assert change(method, empty, empty).shape == shape
        one = torch.ones(1, 1, dtype=torch.float64)
        # Nothing is left of one element if a fifth of it is kept; tsv makes the two directions share the one there is.
        expected = {"knots": 1.0 if getattr(method, "density", 1) == 1 else 0.0, "iso": 2.0}.get(method.name, 1.0)
        assert change(method, one, one).item() == pytest.approx(expected)

    def test_only_matrices(self, method: Merge) -> None:
        vector = torch.ones(3)
        with pytest.raises(MergeError, match="not a matrix"):
            method.merge(Group("bias", vector, (vector, vector), (1.0, 1.0)))

    def test_needs_a_base(self, method: Merge) -> None:
        with pytest.raises(MergeError, match="no merge base"):
            method.merge(Group("w", None, (ONE, TWO), (1.0, 1.0)))

    def test_values_let_through_make_all_unknown(self, method: Merge) -> None:
        broken = TWO.clone()
        broken[0, 1] = math.nan
        assert change(method, broken, ONE).isnan().all()

    def test_order_and_repetition_do_not_change_a_bit(self, method: Merge) -> None:
        base = {"w": random(20, 30, seed=0).float(), "b": random(7, seed=1).float()}
        sides = [
            {name: base[name] + random(*base[name].shape, seed=seed).float() for name in base} for seed in (2, 3, 4)
        ]
        options: dict[str, Any] = {"density": method.density} if isinstance(method, Knots) else {}
        first = merge(base, sides, method.name, device="cpu", threads=1, **options)
        mean = sum((side["b"].double() for side in sides), torch.zeros(7)) / 3
        assert torch.equal(first["b"], mean.float())
        for order in permutations(sides):
            again = merge(base, order, method.name, device="cpu", threads=2, **options)
            assert torch.equal(again["w"], first["w"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: ActMat(tolerance=-0.1),
        lambda: Tsv(tolerance=1.0),
        lambda: Iso(tolerance=2.0),
        lambda: Knots(tolerance=math.nan),
        lambda: Knots(density=0.0),
        lambda: Knots(density=1.1),
    ],
)
def test_options_out_of_range(make: type[Merge]) -> None:
    with pytest.raises(MergeError, match=r"tolerance|density"):
        make()
