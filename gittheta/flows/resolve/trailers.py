"""What a merge commit's message says of how checkpoints were merged, and the policy that can be read back from it.

::

    Theta-Merge: model.safetensors linear weight=1 tensors=*.embed*
    Theta-Merge: model.safetensors ties density=0.2 lambda=1.0 weight=1
    Theta-Sides: HEAD left right

Words are quoted as in a shell, those with characters that must not be shown as they are in the form ``$'...'``. The
first line that fits a tensor is the one by which it was merged. ``Theta-Sides`` stands there unless they are ours and
theirs.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from gittheta.api import Traits
from gittheta.engine.policy import (
    BOTH,
    TAKE,
    MethodChoice,
    Policy,
    Rule,
    glob_fits,
    literal,
    literal_path,
    options_rule,
)
from gittheta.flows.merge.plan import Action, MergePlan, Versions
from gittheta.wording import shell_word

MERGE, SIDES = "Theta-Merge", "Theta-Sides"
_TENSORS = "tensors"
#: A line that lists tensors by name goes on in another one after so many characters.
_LONG = 10_000


def trailers_of(versions: Versions, plan: MergePlan) -> tuple[str, ...]:
    """The trailers for one merged checkpoint; none if no method was asked for anything."""
    used: dict[MethodChoice, list[str]] = {}
    for decision in plan.decisions:
        if decision.choice and decision.action is not Action.CONFLICT:
            used.setdefault(decision.choice, []).append(decision.name)
    alike = [decision.name for decision in plan.decisions if decision.action is Action.SAME]
    choices = sorted(used, key=lambda choice: len(used[choice]))
    found = []
    for at, choice in enumerate(choices):
        others = [name for later in choices[at + 1 :] for name in used[later]]
        if choice.method != TAKE and not Traits.of(plan.methods[choice].method).idempotent:
            others += alike
        for globs in _globs(choice, used[choice], others):
            found.append(_line(versions.path, plan, choice, globs))  # noqa: PERF401 - two loops in one are a riddle
    if found and versions.labels != ("ours", "theirs"):
        found.append(f"{SIDES}: {_join(versions.labels)}")
    return tuple(found)


def _globs(choice: MethodChoice, names: list[str], others: list[str]) -> Iterator[tuple[str, ...]]:
    """Globs that fit some tensors, and none of the others that the same line must not be about; a run for each line.

    The shortest: all, if that is so, what the rule says, or the names.
    """
    for globs in (("*",), choice.tensors):
        short = len(globs) == 1 or len(globs) < len(names)
        if short and not any(glob_fits(glob, other) for glob in globs for other in others):
            yield globs
            return
    run: list[str] = []
    for name in names:
        if run and sum(map(len, run)) + len(name) > _LONG:
            yield tuple(run)
            run = []
        run.append(literal(name))
    yield tuple(run)


def _line(path: str, plan: MergePlan, choice: MethodChoice, globs: tuple[str, ...]) -> str:
    taken = {"from": choice.option("from") or ""}
    options = taken if choice.method == TAKE else plan.methods[choice].described()
    words = [path, choice.method, *(f"{key}={value}" for key, value in options.items())]
    if globs != ("*",):
        words += [f"{_TENSORS}={glob}" for glob in globs]
    return f"{MERGE}: {_join(words)}"


def _join(words: Iterable[str]) -> str:
    return " ".join(map(shell_word, words))


#: A part of a word: ``$'...'`` with bytes in hexadecimal digits, or whatever else a shell takes for a part of one.
_PART = re.compile(r"""\$'(?:[^'\\]|\\x[0-9a-f]{2})*'|'[^']*'|"(?:[^"\\]|\\.)*"|\\.|[^\s'"\\]+""", re.DOTALL)


def _split(text: str) -> list[str]:
    """The words of a line. Raises ValueError."""
    return ["".join(map(_plain, word)) for word in _parts(text)]


def _parts(text: str) -> Iterator[list[str]]:
    at = 0
    word: list[str] = []
    while at < len(text):
        match = _PART.match(text, at)
        if match:
            word.append(match[0])
            at = match.end()
        elif text[at].isspace():
            if word:
                yield word
            word = []
            at += 1
        else:
            raise ValueError("a quotation that does not end")
    if word:
        yield word


def _plain(part: str) -> str:
    """What a part of a word stands for."""
    if not part.startswith("$'"):
        return "".join(shlex.split(part))
    units = re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), os.fsencode(part[2:-1]))
    return os.fsdecode(units)


@dataclass(frozen=True)
class ParsedTrailers:
    """What trailers tell."""

    policy: Policy
    #: The checkpoints that were merged.
    paths: tuple[str, ...]
    #: What the sides were called, unless ours and theirs.
    labels: tuple[str, ...]


def parse_trailers(lines: Iterable[str]) -> ParsedTrailers:
    """What the lines of a message's last paragraph tell; what is none of ours is passed over."""
    rules, paths = [], []
    labels: tuple[str, ...] = ()
    for line in lines:
        key, _, text = line.partition(":")
        try:
            words = _split(text)
        except ValueError:
            continue
        if key == SIDES:
            labels = max(labels, tuple(words), key=len)  # not every checkpoint was there on all sides
        elif key == MERGE and len(words) > 1:
            rules.append(_rule(words))
            paths.append(words[0])
    return ParsedTrailers(Policy(tuple(rules)), tuple(dict.fromkeys(paths)), labels)


def _rule(words: list[str]) -> Rule:
    path, method, *rest = words
    pairs = [word.partition("=")[::2] for word in rest]
    tensors = tuple(value for key, value in pairs if key == _TENSORS) or ("*",)
    options = {key: value for key, value in pairs if key != _TENSORS}
    rule = options_rule(f"trailer {MERGE}", {**options, "method": method}, BOTH)
    return replace(rule, path=literal_path(path), tensors=tensors)
