"""What a merge decides from manifests alone, case by case."""

from __future__ import annotations

import pytest

from gittheta.engine.policy import Policy, Rule, Verb
from gittheta.errors import MergeError, PluginError
from gittheta.flows.merge.plan import Action, Decision, MergePlan, Side, Versions, can_average, plan_merge
from gittheta.model import DTYPES, Link, Manifest, ObjectId, Place, Skeleton, Stanza, TensorSpec, digest_of
from gittheta.registry import Registry

RECIPE = (Link("dense", (Place(ObjectId("a" * 64), 16, 9),)),)


def tensor(value: str, name: str = "w", dtype: str = "f32", shape: tuple[int, ...] = (2,)) -> Stanza:
    return Stanza(TensorSpec(name, DTYPES[dtype], shape), digest_of(value.encode()), RECIPE)


def manifest(*stanzas: Stanza | None) -> Manifest:
    skeleton = Skeleton(10, 10, digest_of(b"skeleton"), RECIPE)
    return Manifest("safetensors", skeleton, tuple(stanza for stanza in stanzas if stanza))


def plan(base: Manifest | None, *sides: Manifest, rules: tuple[Rule, ...] = (), verb: Verb = Verb.MERGE) -> MergePlan:
    labels = ("ours", "theirs") if len(sides) == 2 else tuple("abcdefg"[: len(sides)])
    named = tuple(Side(label, side) for label, side in zip(labels, sides, strict=True))
    return plan_merge(Versions("m.safetensors", base, named, verb), Policy(rules), Registry())


def decide(base: Stanza | None, *sides: Stanza | None, rules: tuple[Rule, ...] = ()) -> Decision:
    (decision,) = plan(manifest(base), *map(manifest, sides), rules=rules).decisions
    return decision


def fate(decision: Decision) -> Action | str:
    """The action, or whose version was taken."""
    return decision.origin if decision.action is Action.TAKEN else decision.action


A, B, C = tensor("a"), tensor("b"), tensor("c")


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "action", "result"),
    [
        (A, A, A, Action.UNCHANGED, A),
        (A, B, A, "ours", B),
        (A, A, B, "theirs", B),
        (A, B, B, Action.SAME, B),
        (None, B, B, Action.SAME, B),
        pytest.param(A, B, C, Action.MERGE, None, marks=pytest.mark.torch),
        (None, B, None, "ours", B),
        (None, None, B, "theirs", B),
        (A, None, A, "ours", None),
        (A, A, None, "theirs", None),
        (A, None, None, Action.SAME, None),
        (A, None, B, Action.CONFLICT, None),
        (A, B, None, Action.CONFLICT, None),
        (None, B, C, Action.CONFLICT, None),
    ],
)
def test_values(
    base: Stanza | None, ours: Stanza | None, theirs: Stanza | None, action: Action | str, result: Stanza | None
) -> None:
    decision = decide(base, ours, theirs)
    assert (fate(decision), decision.stanza) == (action, result)
    assert bool(decision.reason) == (action is Action.CONFLICT)
    assert (decision.base, decision.sides) == (base, (ours, theirs))


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
    assert decide(tensor("a"), tensor("a", dtype="i32"), tensor("a")).origin == "ours"


@pytest.mark.torch
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
    decisions = plan(None, manifest(A, tensor("x", "x")), manifest(A, tensor("y", "y"))).decisions
    assert [(decision.name, fate(decision)) for decision in decisions] == [
        ("w", Action.SAME), ("x", "ours"), ("y", "theirs")
    ]  # fmt: skip
    assert plan(None, manifest(A), manifest(B)).conflicts


def test_every_name_once_ours_first_in_file_order() -> None:
    one, two, three, four = (tensor("v", name) for name in ("one", "two", "three", "four"))
    result = plan(manifest(four, one), manifest(three, one), manifest(one, two))
    assert [decision.name for decision in result.decisions] == ["three", "one", "two", "four"]


def test_where_and_how_a_tensor_is_stored_is_not_a_change() -> None:
    elsewhere = Stanza(A.spec, A.digest, (Link("dense", (Place(ObjectId("b" * 64), 50, 9),)),), 4)
    assert decide(A, elsewhere, A).action is Action.UNCHANGED
    assert decide(A, elsewhere, B).stanza == B


@pytest.mark.torch
def test_the_summary_counts() -> None:
    base = manifest(*(tensor("0", name) for name in "abcdef"))
    ours = manifest(tensor("0", "a"), tensor("1", "b"), tensor("1", "c"), tensor("1", "d"), tensor("0", "e"))
    theirs = manifest(
        tensor("0", "a"), tensor("1", "b"), tensor("2", "c"), tensor("0", "d"), tensor("2", "e"), tensor("9", "f")
    )
    result = plan(base, ours, theirs)
    counted = "1 unchanged, 1 changed alike on both sides, 1 taken from ours, 1 taken from theirs"
    assert result.summary() == f"{counted}, 1 merged by linear, 1 in conflict"
    assert [decision.name for decision in result.conflicts] == ["f"]
    assert plan(None, manifest(), manifest()).summary() == "no tensors"


@pytest.mark.torch
def test_of_three_sides_those_that_changed_take_part() -> None:
    d = tensor("d")
    assert fate(decide(A, A, B, A)) == "b"
    assert fate(decide(A, B, B, A)) is Action.SAME
    assert decide(A, B, A, C).parts == (0, 2)
    assert decide(A, B, C, d).parts == (0, 1, 2)
    assert decide(A, None, A, None).stanza is None
    assert decide(A, None, B, C).reason == "deleted in a, changed in b and c"
    assert decide(None, B, C, d).reason == "added on 3 sides with different values"
    assert decide(A, B, tensor("w", shape=(3,)), A).reason == "shape [2] in a, [3] in b"


def test_who_asks_to_be_asked_is_asked() -> None:
    ask = (Rule("test", "conflict"),)
    assert "method=conflict" in decide(A, B, C, rules=ask).reason
    assert fate(decide(A, B, A, rules=ask)) == "ours"
    assert fate(decide(A, B, B, rules=ask)) is Action.SAME


@pytest.mark.parametrize(("word", "expected"), [("ours", B), ("theirs", C), ("base", A)])
def test_take_reads_nothing(word: str, expected: Stanza) -> None:
    rule = Rule("test", "take", (("from", word),))
    assert decide(A, B, C, rules=(rule,)).stanza == expected
    assert decide(A, B, None, rules=(rule,)).stanza == (None if word == "theirs" else expected)


def test_take_from_nobody() -> None:
    with pytest.raises(MergeError, match="nobody"):
        decide(A, B, C, rules=(Rule("test", "take", (("from", "nobody"),)),))


@pytest.mark.torch
def test_what_all_changed_alike_is_computed_where_that_makes_a_difference() -> None:
    assert decide(A, B, B, rules=(Rule("test", "task_arithmetic"),)).action is Action.MERGE
    assert decide(A, B, B, rules=(Rule("test", "linear"),)).action is Action.SAME
    for base, alike in ((tensor("a", dtype="i64"), tensor("b", dtype="i64")), (A, tensor("b", shape=(1, 2)))):
        assert decide(base, alike, alike, rules=(Rule("test", "task_arithmetic"),)).stanza == alike


@pytest.mark.torch
def test_without_an_ancestor_a_chosen_method_that_needs_none_merges() -> None:
    assert decide(None, B, C, rules=(Rule("test", "linear"),)).action is Action.MERGE
    assert decide(None, B, C, rules=(Rule("test", "task_arithmetic"),)).action is Action.CONFLICT


@pytest.mark.torch
def test_options_must_mean_something() -> None:
    with pytest.raises(MergeError, match="density"):
        decide(A, B, C, rules=(Rule("test", None, (("density", "0.2"),)),))
    with pytest.raises(PluginError, match="'nonesuch'"):
        decide(A, B, C, rules=(Rule("test", "nonesuch"),))
    assert decide(A, B, A, rules=(Rule("test", "nonesuch"),)).action is Action.TAKEN
    given = (Rule("test", None, (("density", "0.3"),)), Rule("test", "ties", (("density", "0.1"), ("lambda", "2"))))
    chosen = plan(manifest(A), manifest(B), manifest(C), rules=given)
    (method,) = chosen.methods.values()
    assert (method.described()["density"], method.described()["lambda"]) == ("0.3", "2.0")
