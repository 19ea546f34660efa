"""What a merge commit's message says, and that a merge is repeated by it as it was made."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gittheta.engine.options import ConfiguredMethod
from gittheta.engine.policy import BOTH, MethodChoice, Policy, Rule
from gittheta.flows.merge.plan import Action, Decision, Side, Versions, plan_merge
from gittheta.flows.resolve.trailers import parse_trailers, trailers_of
from gittheta.model import DTYPES, Link, Manifest, ObjectId, Place, Skeleton, Stanza, TensorSpec, digest_of
from gittheta.registry import Registry
from gittheta.wording import visible

pytestmark = pytest.mark.torch


RECIPE = (Link("dense", (Place(ObjectId("a" * 64), 16, 9),)),)


def manifest(values: dict[str, str]) -> Manifest:
    stanzas = (
        Stanza(TensorSpec(name, DTYPES["f32"], (2,)), digest_of(value.encode()), RECIPE)
        for name, value in values.items()
    )
    return Manifest("safetensors", Skeleton(10, 10, digest_of(b"skeleton"), RECIPE), tuple(stanzas))


def versions(base: dict[str, str], *sides: dict[str, str], path: str = "m.safetensors") -> Versions:
    labels = ("ours", "theirs") if len(sides) == 2 else ("HEAD", "b/1", "c 2")
    return Versions(
        path, manifest(base), tuple(Side(label, manifest(side)) for label, side in zip(labels, sides, strict=True))
    )


def trailers(made: Versions, *rules: Rule) -> tuple[str, ...]:
    """The trailers, after a look whether they give the same plan."""
    plan = plan_merge(made, Policy(rules), Registry())
    lines = trailers_of(made, plan)
    parsed = parse_trailers(lines)
    again = plan_merge(made, parsed.policy, Registry())
    assert not plan.conflicts
    assert [described(decision, again.methods) for decision in again.decisions] == [
        described(decision, plan.methods) for decision in plan.decisions
    ]
    assert parsed.paths == ((made.path,) if lines else ())
    return lines


def described(decision: Decision, methods: Mapping[MethodChoice, ConfiguredMethod]) -> object:
    method = methods[decision.choice] if decision.choice and decision.action is Action.MERGE else None
    return decision.name, decision.action, decision.stanza, method and (method.described(), method.method)


def changed(*names: str) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    return dict.fromkeys(names, "0"), dict.fromkeys(names, "1"), dict.fromkeys(names, "2")


def test_one_method_for_all() -> None:
    assert trailers(versions(*changed("a", "b"))) == ("Theta-Merge: m.safetensors linear weight=1",)
    rule = Rule("config", "ties", (("density", "0.3"), ("weight", "1,2")))
    (line,) = trailers(versions(*changed("a", "b")), rule)
    words = line.split()
    assert words[:3] == ["Theta-Merge:", "m.safetensors", "ties"]
    assert {"density=0.3", "weight=1,2", "lambda=1.0", "scope=tensor"} <= set(words)


def test_where_nothing_was_computed_nothing_is_said() -> None:
    base, ours, _ = changed("a", "b")
    assert trailers(versions(base, ours, base)) == ()
    assert trailers(versions(base, ours, ours)) == ()


def test_several_rules() -> None:
    embed, rest = Rule("1", "linear", tensors=("*embed*",)), Rule("2", "task_arithmetic", (("lambda", "0.5"),))
    lines = trailers(versions(*changed("w", "x", "embed.0", "y")), embed, rest)
    assert [line.split()[2] for line in lines] == ["linear", "task_arithmetic"]
    assert "tensors=*embed*" in lines[0]
    assert "tensors=" not in lines[1]


def test_globs_that_overlap_are_not_ambiguous() -> None:
    """In file order the tensors of the second rule come first, and its glob fits those of the first as well."""
    first, second = (
        Rule("1", "take", (("from", "theirs"),), tensors=("*embed.tokens*",)),
        Rule("2", "linear", tensors=("*embed*",)),
    )
    third = Rule("3", "task_arithmetic")
    trailers(
        versions(*changed("embed.x", "embed.tokens", "embed.tokens.2", "embed.tokens.3", "w")), first, second, third
    )


def test_what_changed_alike_is_not_drawn_in() -> None:
    base, ours, theirs = changed("a", "b", "c")
    resolved = Rule("resolve task_arithmetic", "task_arithmetic", tensors=("a", "b"), verbs=BOTH)
    lines = trailers(versions(base, ours, theirs | {"c": "1"}), resolved)
    assert "tensors=a" in lines[0]
    assert "tensors=b" in lines[0]


def test_resolved_one_by_one() -> None:
    rules = (
        Rule("resolve linear", "linear", (("weight", "1,3"),), tensors=("a",), verbs=BOTH),
        Rule("resolve linear", "linear", (("weight", "3,1"),), tensors=("b", "d"), verbs=BOTH),
        Rule("config", "conflict", verbs=BOTH),
        Rule("resolve take", "take", (("from", "base"),), verbs=BOTH),
    )
    assert len(trailers(versions(*changed("a", "b", "d")), *rules)) == 2


@pytest.mark.parametrize(
    "name",
    ["a[0].w", "it's", 'say "x"', "two  words", "*", "what?", "back\\slash", "ü", "x=y", "#", "", "\x85\u2028", "-o"],
)
def test_odd_names(name: str) -> None:
    rules = (Rule("1", "linear", tensors=("plain",)), Rule("2", "take", (("from", "theirs"),), tensors=("x*", "y")))
    trailers(versions(*changed("plain", "x", "y", name), path=f"dir/{name or 'x'}.safetensors"), *rules)
    base, ours, theirs = changed("plain", "more", name)
    resolved = Rule("resolve task_arithmetic", "task_arithmetic", tensors=("[p]lain",), verbs=BOTH)
    trailers(versions(base, ours, theirs | {"more": "1"}), resolved, Rule("2", "dare", (("seed", "3"),)))


@pytest.mark.parametrize("path", ["a\nb", "a\x1b[31m\u202eb", "a $'b' 'c", "\udcffa\r", "$'x'"])
def test_a_name_of_any_characters_comes_back_from_a_line_that_can_be_shown(path: str) -> None:
    made = versions(*changed("a"), path=path)
    lines = trailers_of(made, plan_merge(made, Policy(), Registry()))
    assert lines
    assert not any(visible(line) != line or "\n" in line for line in lines)
    assert parse_trailers(lines).paths == (path,)


def test_many_names_go_into_many_lines() -> None:
    names = [f"model.layers.{number}.self_attn.q_proj.weight" for number in range(2000)]
    odd = Rule("resolve linear", "linear", (("weight", "1,2"),), tensors=tuple(names[::2]), verbs=BOTH)
    lines = trailers(versions(*changed(*names)), odd, Rule("config", "task_arithmetic"))
    assert max(map(len, lines)) < 30_000
    assert lines[-1].endswith("weight=1")


def test_names_of_three_sides() -> None:
    base, ours, theirs = changed("a", "b")
    lines = trailers(versions(base, ours, theirs, dict.fromkeys(base, "3")))
    assert lines[-1] == "Theta-Sides: HEAD b/1 'c 2'"
    assert parse_trailers(lines).labels == ("HEAD", "b/1", "c 2")


def test_lines_of_others_are_passed_over() -> None:
    lines = [
        "Signed-off-by: A <a@b>",
        "Theta-Merge: m",
        "Theta-Merge: 'open",
        "Theta-Merge: m linear",
        "",
        "Theta-Mergex: m ties",
    ]
    parsed = parse_trailers(lines)
    assert (parsed.paths, len(parsed.policy.rules), parsed.labels) == (("m",), 1, ())
