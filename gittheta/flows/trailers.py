"""What a merge commit's message says of how checkpoints were merged, and the policy that can be read back from it.

::

    Theta-Merge: model.safetensors ties density=0.2 lambda=1.0 weight=1
    Theta-Merge: model.safetensors linear weight=1 tensors=*.embed*
    Theta-Sides: HEAD left right

Words are quoted as in a shell. The first line that fits a tensor is the one by which it was merged. ``Theta-Sides``
stands there if there were more than two.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from gittheta.flows.plan import MergePlan, Versions
from gittheta.merging.policy import CONFLICT, TAKE, Choice, Policy, Rule, Verb, literal, literal_path, options_rule

MERGE, SIDES = "Theta-Merge", "Theta-Sides"
_TENSORS = "tensors"


def trailers_of(versions: Versions, plan: MergePlan) -> tuple[str, ...]:
    """The trailers for one merged checkpoint; none if nothing had to be computed."""
    used: dict[Choice, list[str]] = {}
    for decision in plan.decisions:
        if decision.choice and decision.choice.method != CONFLICT:
            used.setdefault(decision.choice, []).append(decision.name)
    sources = [choice.source for choice in used]
    lines = []
    for choice, names in used.items():
        globs = choice.tensors if sources.count(choice.source) == 1 else tuple(map(literal, names))
        lines.append((len(globs) == 1 and globs[0] == "*", _line(versions.path, plan, choice, globs)))
    lines.sort(key=lambda line: line[0])  # what is about all tensors comes last
    found = [line for _, line in lines]
    if found and len(versions.sides) > 2:
        found.append(f"{SIDES}: {shlex.join(versions.labels)}")
    return tuple(found)


def _line(path: str, plan: MergePlan, choice: Choice, globs: tuple[str, ...]) -> str:
    taken = {"from": choice.option("from") or ""}
    options = taken if choice.method == TAKE else plan.recipes[choice].described()
    words = [path, choice.method, *(f"{key}={value}" for key, value in options.items())]
    if globs != ("*",):
        words += [f"{_TENSORS}={glob}" for glob in globs]
    return f"{MERGE}: {shlex.join(words)}"


def parse_trailers(lines: Iterable[str]) -> tuple[Policy, tuple[str, ...]]:
    """The policy that trailers describe, and the names of the sides if they tell them. Others are passed over."""
    rules = []
    labels: tuple[str, ...] = ()
    for line in lines:
        key, _, text = line.partition(":")
        try:
            words = shlex.split(text)
        except ValueError:
            continue
        if key == SIDES:
            labels = tuple(words)
        elif key == MERGE and len(words) > 1:
            rules.append(_rule(words))
    return Policy(tuple(rules)), labels


def _rule(words: list[str]) -> Rule:
    path, method, *rest = words
    pairs = [word.partition("=")[::2] for word in rest]
    tensors = tuple(value for key, value in pairs if key == _TENSORS) or ("*",)
    options = {key: value for key, value in pairs if key != _TENSORS}
    rule = options_rule(f"trailer {MERGE}", {**options, "method": method}, frozenset(Verb))
    return Rule(rule.source, rule.method, rule.options, literal_path(path), tensors, rule.verbs)
