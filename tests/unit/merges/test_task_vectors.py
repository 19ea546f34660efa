"""Task arithmetic, TIES, Breadcrumbs, DARE, DELLA, SCE and RAM against plain float64 references."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from blake3 import blake3

from gittheta.api import DTYPES, Group, MergeError, TensorSpec
from gittheta.engine.device import computing
from gittheta.engine.operands import ResidentOperand
from gittheta.engine.run import measure_all, merge_tensor
from gittheta.engine.task import Task
from gittheta.merges.arithmetic import sign_election
from gittheta.merges.selective import Ram, Sce, Selection
from gittheta.merges.task_vectors import Breadcrumbs, Dare, Della, TaskArithmetic, Ties
from gittheta.model import Digest
from tests.support.merge_formulas import Array, Side, reference

TORCH = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32, "f64": torch.float64}


def _operand(values: torch.Tensor, dtype: str = "f32") -> ResidentOperand:
    values = values.to(TORCH[dtype])
    return ResidentOperand(TensorSpec("x", DTYPES[dtype], tuple(values.shape)), values)


def _task(
    method: Any, base: torch.Tensor, sides: Sequence[torch.Tensor], weights: Sequence[float], **more: Any
) -> Task:
    dtype = more.get("dtype", "f32")
    operands = tuple(_operand(side, dtype) for side in sides)
    labels = tuple(f"side {number}" for number in range(len(sides)))
    return Task(more.get("name", "x"), _operand(base, dtype), operands, labels, tuple(weights), method)


def merged(
    method: Any, base: torch.Tensor, sides: Sequence[torch.Tensor], weights: Any = 1.0, **more: Any
) -> torch.Tensor:
    """Through the engine, flat; ``block`` and ``dtype`` as wanted."""
    weights = weights if isinstance(weights, (tuple, list)) else (weights,) * len(sides)
    with computing("cpu", 2, block=more.pop("block", None)) as compute:
        return torch.cat(list(merge_tensor(_task(method, base, sides, weights, **more), compute)))


BASE = torch.full((6,), 10.0)
DELTAS = [
    torch.tensor(values)
    for values in ([4, -1, 0.5, -3, 2, 0.25], [-2, -5, 1, 6, 0.75, -0.5], [1, 3, -4, -0.25, 5, 2.0])
]
SIDES = [BASE + delta for delta in DELTAS]


# ------------------------------------------------------------------------------------------------------- known answers


def test_task_arithmetic_adds_what_each_side_changed() -> None:
    assert merged(TaskArithmetic(), BASE, SIDES, 0.5).tolist() == [11.5, 8.5, 8.75, 11.375, 13.875, 10.875]
    assert merged(TaskArithmetic(), torch.zeros(2), [torch.ones(2)] * 2).tolist() == [2, 2], "alike, and yet added"
    assert merged(TaskArithmetic(normalize=True), BASE, SIDES[:1] * 2, (3, 1)).tolist() == SIDES[0].tolist()


def test_a_tie_of_signs_is_a_plus() -> None:
    a, b, c = (
        torch.tensor(values, dtype=torch.float32)
        for values in ([1, -1, 0, 2, 0, 0.5, -2, 0], [-1, -1, 1, 0.5, 0, -1, -4, 0], [0.5, 2, 0, -1, 0, 0, 1, 0])
    )
    expected = [0.75, 2, 1, 1.25, 0, -1, -3, 0]
    assert merged(Ties(density=1.0), torch.zeros(8), [a, b, c]).tolist() == expected


LARGE, SMALL = torch.tensor([10.0, 9, 8, 7]), torch.tensor([1.0, 0.9, 0.8, 0.7])


def test_a_threshold_for_each_tensor_or_one_for_the_model() -> None:
    zero = torch.zeros(4)
    kept = [merged(Ties(density=0.5), zero, [delta]).count_nonzero().item() for delta in (LARGE, SMALL)]
    assert kept == [2, 2]
    method = Ties(density=0.5, scope="global")
    tasks = [_task(method, zero, [delta], (1.0,), name=name) for name, delta in (("a", LARGE), ("b", SMALL))]
    with computing("cpu", 2) as compute:
        measured = measure_all(tasks, compute)
        kept = [torch.cat(list(merge_tensor(task, compute, measured))).count_nonzero().item() for task in tasks]
    assert kept == [4, 0]


def test_with_one_threshold_a_side_is_the_same_in_all_tensors_whatever_its_place() -> None:
    zero, method = torch.zeros(4), Ties(density=0.5, scope="global")
    pairs = {"a": (LARGE, SMALL), "b": (SMALL, LARGE)}
    tasks = [_task(method, zero, sides, (1.0, 1.0), name=name) for name, sides in pairs.items()]
    with computing("cpu", 2) as compute:
        cuts = measure_all(tasks, compute)
        got = {task.name: torch.cat(list(merge_tensor(task, compute, cuts))).tolist() for task in tasks}
    assert {name: cut.value for name, (cut,) in cuts.items()} == {"side 0": 7, "side 1": 7}
    assert got == {"a": LARGE.tolist(), "b": LARGE.tolist()}


# ---------------------------------------------------------------------------------------------- against the references

EVERY = [
    TaskArithmetic(lambda_=0.7),
    TaskArithmetic(normalize=True, divisor="count"),
    TaskArithmetic(sign=True, lambda_=1.5),
    Ties(),
    Ties(density=0.29, lambda_=0.7, election="unweighted", divisor="count"),
    Ties(density=0.5, sign=False, lambda_=0.5),
    Ties(density=0.5, normalize=False),
    Breadcrumbs(),
    Breadcrumbs(density=0.4, gamma=0.2, sign=True, normalize=True, election="unweighted"),
    Breadcrumbs(density=0.4, gamma=0.2, normalize=True, divisor="count"),
    Dare(),
    Dare(density=0.3, rescale="l1", seed=7),
    Dare(density=0.3, rescale="none", normalize=True),
    Dare(density=0.9, sign=True, normalize=True),
    Della(),
    Della(density=0.7, epsilon=0.2, sign=False, normalize=False, seed=3),
    Della(sign=False, divisor="count"),
    Sce(),
    Sce(topk=0.3, lambda_=0.5),
    Ram(epsilon=0.05),
    Ram(epsilon=0.05, plus=True, lambda_=0.5),
]


def _random(rows: int, columns: int, dtype: str, count: int = 3) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A base away from 0, so that nothing cancels, and sides close to it; many differences are alike in 16 bits."""
    generator = torch.Generator().manual_seed(11)
    base = torch.rand(rows, columns, generator=generator, dtype=torch.float64) + 1
    sides = [base + torch.randn(rows, columns, generator=generator, dtype=torch.float64) * 0.05 for _ in range(count)]
    return base.to(TORCH[dtype]), [side.to(TORCH[dtype]) for side in sides]


def _known(values: torch.Tensor) -> Array:
    known: Array = values.to(torch.float64).reshape(-1).numpy()
    return known


@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("method", EVERY, ids=repr)
def test_every_method_is_what_its_formula_says(method: Any, dtype: str) -> None:
    base, thetas = _random(16, 100, dtype)
    weights = (1.0, 0.5, 0.7)
    raw = [theta.view(torch.uint8).numpy().tobytes() for theta in thetas]
    sides = [
        Side(_known(theta) - _known(base), weight, blake3(data).digest())
        for theta, weight, data in zip(thetas, weights, raw, strict=True)
    ]
    expected = torch.from_numpy(reference(method, _known(base), sides, rows=16))
    got = merged(method, base, thetas, weights, dtype=dtype)
    if dtype in ("f32", "f64"):
        assert bool((_steps(got) - _steps(expected.to(got.dtype))).abs().max() <= 2)
    else:
        assert int((got != expected.to(got.dtype)).sum()) <= 0.001 * got.numel()


def _steps(values: torch.Tensor) -> torch.Tensor:
    """Numbers of one sign as integers, one apart where the numbers are neighbours."""
    assert bool((values > 0).all())
    return values.view(torch.int32 if values.dtype == torch.float32 else torch.int64).to(torch.int64)


@pytest.mark.parametrize("method", EVERY, ids=repr)
@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_neither_order_nor_size_of_blocks_changes_a_bit(method: Any, dtype: str) -> None:
    base, sides = _random(3, 30_000, dtype)
    weights = (1.0, 0.5, 0.3)
    first = merged(method, base, sides, weights, dtype=dtype)
    turned = merged(method, base, sides[::-1], weights[::-1], dtype=dtype, block=65536)
    assert torch.equal(first, turned)


# --------------------------------------------------------------------------------------------------------------- edges


@pytest.mark.parametrize("method", EVERY, ids=repr)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 1), (0, 4), (2, 3, 4)])
def test_any_shape_will_do(method: Any, shape: tuple[int, ...]) -> None:
    base = torch.ones(shape)
    sides = [base + 0.5, base + 0.25, base]
    assert merged(method, base, sides).shape == (base.numel(),)
    assert torch.equal(merged(method, base, [base, base]), base.reshape(-1)), "nobody has changed anything"


def test_of_equal_changes_the_first_are_kept() -> None:
    base = torch.zeros(70_000)
    for method, kept in (
        (Ties(density=0.2), range(14_000)),
        (Breadcrumbs(density=0.5, gamma=0.1), range(7000, 42_000)),
    ):
        got = merged(method, base, [base + 1, base + 1], (0.5, 0.5), block=65536)
        assert got.nonzero().reshape(-1).tolist() == list(kept)
        assert got.max() == 1


def test_nothing_large_is_dropped_where_gamma_is_less_than_one_element() -> None:
    got = merged(Breadcrumbs(density=0.5, gamma=0.01), BASE, SIDES[:1])
    assert (got - BASE).tolist() == [4, 0, 0, -3, 2, 0]
    got = merged(Breadcrumbs(density=0.9, gamma=0.5), BASE, SIDES[:1])
    assert (got - BASE).tolist() == [0, -1, 0.5, -3, 2, 0.25], "only so many as need not be kept"


@pytest.mark.parametrize("method", [each for each in EVERY if not isinstance(each, Sce)], ids=repr)
def test_a_side_that_changed_nothing_and_weighs_nothing_is_as_good_as_not_there(method: Any) -> None:
    base, sides = _random(20, 50, "f32")
    without = merged(method, base, sides)
    assert torch.equal(merged(method, base, [*sides, base], (1.0, 1.0, 1.0, 0.0)), without)
    assert torch.equal(merged(method, base, [base], (0.0,)), base.reshape(-1))


def test_weights_below_zero_and_weights_that_cancel() -> None:
    one, two = BASE + 1, BASE + 2
    assert merged(Ties(density=1.0), BASE, [one, two], (-1.0, 1.0)).tolist() == [12.0] * 6
    assert merged(TaskArithmetic(normalize=True), BASE, [one, two], (-1.0, 1.0)).tolist() == [11.0] * 6, "0 counts as 1"
    method = Ties(density=1.0, election="unweighted")
    assert merged(method, BASE, [one, two], (-1.0, 1.0)).tolist() == [11.0] * 6


def test_the_quick_way_to_divide_gives_the_bits_of_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    base, sides = _random(100, 100, "bf16", count=4)
    quick = merged(Ties(density=0.1), base, sides, (0.3, 0.7, 0.1, 0.3), dtype="bf16")

    def plain(values: torch.Tensor, least: float) -> torch.Tensor:
        return torch.where(values == 0, torch.ones_like(values), values)

    monkeypatch.setattr(torch.Tensor, "clamp_min_", plain)
    assert torch.equal(merged(Ties(density=0.1), base, sides, (0.3, 0.7, 0.1, 0.3), dtype="bf16"), quick)


def test_choosing_bit_by_bit() -> None:
    for dtype in (torch.float32, torch.float64):
        votes = torch.tensor([1.0, -1.0, 0.0, -1e-45, math.inf, -math.inf], dtype=dtype)
        votes = torch.where(votes == 0, torch.zeros(1, dtype=dtype), votes)
        a, b = torch.arange(6, dtype=dtype), -torch.arange(6, dtype=dtype) - 1
        assert sign_election.either(a, b.clone(), sign_election.negative(votes)).tolist() == [
            x if vote >= 0 else y for x, y, vote in zip(a.tolist(), b.tolist(), votes.tolist(), strict=True)
        ]


# -------------------------------------------------------------------------------------------------------------- chance


def test_dare_keeps_the_asked_part_and_each_side_has_its_own() -> None:
    base = torch.zeros(100_000)
    kept = [merged(Dare(density=0.3, seed=seed), base, [base + size]) != 0 for seed, size in ((0, 1), (0, 2), (1, 1))]
    for each in kept:
        assert each.double().mean().item() == pytest.approx(0.3, abs=0.006)
    for other in kept[1:]:
        assert (kept[0] & other).double().mean().item() == pytest.approx(0.09, abs=0.005)
    assert merged(Dare(density=1.0), base, [base + 1]).tolist() == [1.0] * 100_000
    assert merged(Dare(density=0.3), base, [base + 1]).max().item() == pytest.approx(1 / 0.3)


def test_dare_can_keep_the_sum_of_all_changes() -> None:
    base, (side,) = _random(1, 150_000, "f32", count=1)
    got = merged(Dare(density=0.2, rescale="l1"), base, [side], block=65536)
    assert (got - base[0]).abs().sum().item() == pytest.approx((side - base).abs().sum().item(), rel=1e-4)


def test_della_keeps_large_changes_more_often() -> None:
    generator = torch.Generator().manual_seed(2)
    base = torch.zeros(40, 1000)
    side = torch.rand(40, 1000, generator=generator) + 1
    got = merged(Della(density=0.5, epsilon=0.2), base, [side]).reshape(40, 1000)
    order = side.argsort(dim=1)
    kept = (got != 0).gather(1, order).double().mean(0)
    assert kept[:100].mean().item() == pytest.approx(0.32, abs=0.03)
    assert kept[-100:].mean().item() == pytest.approx(0.68, abs=0.03)
    assert got.mean().item() == pytest.approx(side.mean().item(), rel=0.02), "rescaled"


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: Ties(density=0), "density"),
        (lambda: Ties(density=1.1), "density"),
        (lambda: Ties(density=math.nan), "density"),
        (lambda: Dare(density=-0.5), "density"),
        (lambda: Breadcrumbs(density=0), "density"),
        (lambda: Breadcrumbs(gamma=1), "gamma"),
        (lambda: Della(density=0.1), "epsilon"),
        (lambda: Della(density=0.9), "epsilon"),
        (lambda: Della(epsilon=-0.1), "epsilon"),
        (lambda: Sce(topk=0), "topk"),
        (lambda: Ram(epsilon=-1), "epsilon"),
        (lambda: Ram(r=-1), "r of ram"),
    ],
)
def test_options_out_of_range_are_refused_with_a_hint(make: Callable[[], object], option: str) -> None:
    with pytest.raises(MergeError, match=option) as refusal:
        make()
    assert refusal.value.hint


@pytest.mark.parametrize("method", [Ties(), Dare(), Della(), Sce(), Ram()], ids=repr)
def test_without_a_base_there_is_not_a_task_vector(method: Any) -> None:
    with pytest.raises(MergeError, match="no merge base"):
        method.merge(Group("x", None, (BASE,), (1.0,), (Digest(b"d"),), measured=Selection(None, (1.0,))))
