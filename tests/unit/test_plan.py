"""What a merge decides from manifests alone, case by case."""

from __future__ import annotations

import pytest

from gittheta.flows.plan import Action, Decision, can_average, plan_merge
from gittheta.model import DTYPES, Link, Manifest, ObjectId, Place, Skeleton, Stanza, TensorSpec, digest_of

RECIPE = (Link("dense", (Place(ObjectId("a" * 64), 16, 9),)),)


def tensor(value: str, name: str = "w", dtype: str = "f32", shape: tuple[int, ...] = (2,)) -> Stanza:
    return Stanza(TensorSpec(name, DTYPES[dtype], shape), digest_of(value.encode()), RECIPE)


def manifest(*stanzas: Stanza | None) -> Manifest:
    skeleton = Skeleton(10, 10, digest_of(b"skeleton"), RECIPE)
    return Manifest("safetensors", skeleton, tuple(stanza for stanza in stanzas if stanza))


def decide(base: Stanza | None, ours: Stanza | None, theirs: Stanza | None) -> Decision:
    (decision,) = plan_merge(manifest(base), manifest(ours), manifest(theirs)).decisions
    return decision


A, B, C = tensor("a"), tensor("b"), tensor("c")


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "action", "result"),
    [
        (A, A, A, Action.UNCHANGED, A),
        (A, B, A, Action.OURS, B),
        (A, A, B, Action.THEIRS, B),
        (A, B, B, Action.SAME, B),
        (None, B, B, Action.SAME, B),
        (A, B, C, Action.MERGE, None),
        (None, B, None, Action.OURS, B),
        (None, None, B, Action.THEIRS, B),
        (A, None, A, Action.OURS, None),
        (A, A, None, Action.THEIRS, None),
        (A, None, None, Action.SAME, None),
        (A, None, B, Action.CONFLICT, None),
        (A, B, None, Action.CONFLICT, None),
        (None, B, C, Action.CONFLICT, None),
    ],
)
def test_values(
    base: Stanza | None, ours: Stanza | None, theirs: Stanza | None, action: Action, result: Stanza | None
) -> None:
    decision = decide(base, ours, theirs)
    assert (decision.action, decision.stanza) == (action, result)
    assert bool(decision.reason) == (action is Action.CONFLICT)
    assert (decision.base, decision.ours, decision.theirs) == (base, ours, theirs)


def test_reasons_name_the_side() -> None:
    assert decide(A, None, B).reason == "deleted in ours, changed in theirs"
    assert decide(A, B, None).reason == "deleted in theirs, changed in ours"
    assert "added on both sides" in decide(None, A, B).reason


def test_reshaped_on_one_side_is_taken_and_on_both_is_a_conflict() -> None:
    wide = tensor("a", shape=(2, 1))
    assert decide(A, wide, A).stanza == wide
    assert decide(A, A, wide).stanza == wide
    assert decide(A, wide, wide).stanza == wide
    assert decide(A, wide, B).reason == "shape [2, 1] in ours, [2] in theirs"
    assert decide(A, tensor("b", shape=(3,)), tensor("c", shape=(3,))).action is Action.CONFLICT


def test_another_dtype_is_a_change() -> None:
    half = tensor("h", dtype="f16")
    assert decide(A, half, A).stanza == half
    assert decide(A, half, B).reason == "dtype f16 in ours, f32 in theirs"
    # the very same bytes under another dtype are other values
    assert decide(tensor("a"), tensor("a", dtype="i32"), tensor("a")).action is Action.OURS


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_only_what_can_be_averaged_is_merged(dtype: str) -> None:
    base, ours, theirs = (tensor(value, dtype=dtype, shape=(8,)) for value in "abc")
    decision = decide(base, ours, theirs)
    averaged = {"f16", "bf16", "f32", "f64", "c64", "f8_e4m3", "f8_e5m2", "f8_e4m3fnuz", "f8_e5m2fnuz"}
    assert can_average(DTYPES[dtype]) == (dtype in averaged)
    assert decision.action is (Action.MERGE if dtype in averaged else Action.CONFLICT)
    if dtype not in averaged:
        assert dtype in decision.reason
    assert decide(base, ours, base).stanza == ours


def test_without_an_ancestor_only_equal_tensors_agree() -> None:
    plan = plan_merge(None, manifest(A, tensor("x", "x")), manifest(A, tensor("y", "y")))
    assert [(decision.name, decision.action) for decision in plan.decisions] == [
        ("w", Action.SAME), ("x", Action.OURS), ("y", Action.THEIRS)
    ]  # fmt: skip
    assert plan_merge(None, manifest(A), manifest(B)).conflicts


def test_every_name_once_ours_first_in_file_order() -> None:
    one, two, three, four = (tensor("v", name) for name in ("one", "two", "three", "four"))
    plan = plan_merge(manifest(four, one), manifest(three, one), manifest(one, two))
    assert [decision.name for decision in plan.decisions] == ["three", "one", "two", "four"]


def test_where_and_how_a_tensor_is_stored_is_no_change() -> None:
    elsewhere = Stanza(A.spec, A.digest, (Link("dense", (Place(ObjectId("b" * 64), 50, 9),)),), 4)
    assert decide(A, elsewhere, A).action is Action.UNCHANGED
    assert decide(A, elsewhere, B).stanza == B


def test_the_summary_counts() -> None:
    base = manifest(*(tensor("0", name) for name in "abcdef"))
    ours = manifest(tensor("0", "a"), tensor("1", "b"), tensor("1", "c"), tensor("1", "d"), tensor("0", "e"))
    theirs = manifest(
        tensor("0", "a"), tensor("1", "b"), tensor("2", "c"), tensor("0", "d"), tensor("2", "e"), tensor("9", "f")
    )
    plan = plan_merge(base, ours, theirs)
    counted = "1 unchanged, 1 changed alike on both sides, 1 taken from ours, 1 taken from theirs"
    assert plan.summary("linear") == f"{counted}, 1 merged by linear, 1 in conflict"
    assert [decision.name for decision in plan.conflicts] == ["f"]
    assert plan_merge(None, manifest(), manifest()).summary("linear") == "no tensors"
