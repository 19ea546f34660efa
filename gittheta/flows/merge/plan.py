"""What a merge will do, decided from manifests alone. A conflict is a decision like any other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from gittheta.api import Traits
from gittheta.engine.options import ConfiguredMethod, weights_of
from gittheta.engine.policy import CONFLICT, DEFAULTS, TAKE, MethodChoice, Policy, Verb
from gittheta.errors import MergeError, ThetaError

if TYPE_CHECKING:
    from gittheta.model import Dtype, Manifest, Stanza
    from gittheta.registry import Registry


class Action(Enum):
    """What happens to one tensor."""

    UNCHANGED = "unchanged"
    SAME = "changed alike on all sides"
    TAKEN = "taken"
    MERGE = "merged"
    CONFLICT = "in conflict"


@dataclass(frozen=True)
class Side:
    """One version of a checkpoint that takes part: what it is called, what it is, and of which commit."""

    label: str
    manifest: Manifest
    commit: str | None = None


@dataclass(frozen=True)
class Versions:
    """What there is to merge. ``base`` is None where the sides have no common ancestor (all added the file)."""

    path: str
    base: Manifest | None
    sides: tuple[Side, ...]
    verb: Verb = Verb.MERGE
    #: The side whose metadata (all that is no tensor) the result gets; None: they are merged.
    metadata: str | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """What the sides are called."""
        return tuple(side.label for side in self.sides)


@dataclass(frozen=True, slots=True)
class Decision:
    """One tensor's fate. ``stanza`` is the result, unless it must be computed or does not exist."""

    name: str
    action: Action
    base: Stanza | None
    #: Each side's version.
    sides: tuple[Stanza | None, ...]
    stanza: Stanza | None = None
    #: Why it is in conflict.
    reason: str = ""
    #: Whose version was taken.
    origin: str = ""
    #: How it is merged; None where no method was needed.
    choice: MethodChoice | None = None
    #: The sides that take part in the computation: those that changed the tensor.
    parts: tuple[int, ...] = ()


@dataclass(frozen=True)
class MergePlan:
    """A decision for each tensor of any side, the first side's first, in file order."""

    decisions: tuple[Decision, ...]
    #: What the choices of the policy come to.
    methods: Mapping[MethodChoice, ConfiguredMethod] = field(default_factory=dict)

    @property
    def conflicts(self) -> tuple[Decision, ...]:
        """Those that need a person."""
        return tuple(decision for decision in self.decisions if decision.action is Action.CONFLICT)

    def refused(self, reasons: Mapping[str, str]) -> MergePlan:
        """The same with some of what was to be merged in conflict, for reasons by name."""
        decisions = (
            replace(decision, action=Action.CONFLICT, reason=reasons[decision.name])
            if decision.action is Action.MERGE and decision.name in reasons
            else decision
            for decision in self.decisions
        )
        return MergePlan(tuple(decisions), self.methods)

    def summary(self) -> str:
        """How many tensors each action took."""
        counts = Counter(map(_outcome, self.decisions))
        order = list(Action)
        outcomes = sorted(counts, key=lambda outcome: (order.index(outcome[0]), outcome[1]))
        return ", ".join(f"{counts[outcome]} {outcome[1]}" for outcome in outcomes) or "no tensors"


def _outcome(decision: Decision) -> tuple[Action, str]:
    """What became of a tensor, and that in words."""
    return decision.action, _words(decision)


def _words(decision: Decision) -> str:
    if decision.action is Action.TAKEN:
        return f"taken from {decision.origin}"
    if decision.action is Action.MERGE and decision.choice:
        return f"merged by {decision.choice.method}"
    if decision.action is Action.SAME and len(decision.sides) == 2:
        return "changed alike on both sides"
    return str(decision.action.value)


_EXACT_KINDS = ("int", "bool", "raw")
_NO_ARITHMETIC = ("f4", "f6_e2m3", "f6_e3m2", "f8_e8m0")


def can_average(dtype: Dtype) -> bool:
    """Whether values of this dtype mean something when added; others are merged only where the sides agree."""
    return dtype.kind not in _EXACT_KINDS and dtype.name not in _NO_ARITHMETIC


def plan_merge(versions: Versions, policy: Policy, registry: Registry) -> MergePlan:
    """Decide for each tensor. Raises PluginError or MergeError where the policy has no meaning.

    The registry is asked only about methods that somebody chose, and only where sides differ in more than one way.
    """
    base = by_name(versions.base)
    tables = [by_name(side.manifest) for side in versions.sides]
    names = list(dict.fromkeys(name for table in (*tables, base) for name in table))
    planner = _Planner(versions, policy, registry)
    decisions = [planner.decide(name, base.get(name), tuple(table.get(name) for table in tables)) for name in names]
    planner.check_options(decisions)
    return MergePlan(tuple(decisions), planner.methods)


def by_name(manifest: Manifest | None) -> dict[str, Stanza]:
    """The tensors of a manifest; none if there is no manifest."""
    return {stanza.spec.name: stanza for stanza in manifest.stanzas} if manifest else {}


@dataclass(frozen=True)
class _Planner:
    versions: Versions
    policy: Policy
    registry: Registry
    methods: dict[MethodChoice, ConfiguredMethod] = field(default_factory=dict)

    def decide(self, name: str, base: Stanza | None, sides: tuple[Stanza | None, ...]) -> Decision:
        decision = partial(Decision, name, base=base, sides=sides)
        changed = tuple(index for index, side in enumerate(sides) if not equal(side, base))
        if not changed:
            return decision(Action.UNCHANGED, stanza=base)
        choice = self._or_mean(self.policy.choice(self.versions.path, name, self.versions.verb))
        first = sides[changed[0]]
        if len(changed) == 1 and not (changed == (1,) and self._scales(choice) and base and first):
            return decision(Action.TAKEN, stanza=first, origin=self.versions.labels[changed[0]])
        alike = len(changed) > 1 and all(equal(sides[index], first) for index in changed)
        if alike and (choice.method in (CONFLICT, TAKE) or _is_settled(base, first) or self._idempotent(choice)):
            return decision(Action.SAME, stanza=first)
        if choice.method == TAKE:
            origin, stanza = self._taken(choice, base, sides)
            return decision(Action.TAKEN, stanza=stanza, origin=origin, choice=choice)
        parts = tuple(range(len(sides))) if self.versions.verb is Verb.PICK else changed
        reason = next(self._objections(choice, base, sides, changed), "")
        if not reason:
            self.recipe(choice)
        return decision(Action.CONFLICT if reason else Action.MERGE, choice=choice, parts=parts, reason=reason)

    def check_options(self, decisions: list[Decision]) -> None:
        """Refuse options that no method of this merge has."""
        merged = {decision.choice for decision in decisions if decision.choice and decision.action is Action.MERGE}
        unused = [set(self.recipe(choice).unused) for choice in merged]
        if unused and (useless := set.intersection(*unused)):
            methods = ", ".join(sorted({choice.method for choice in merged}))
            raise MergeError(
                f"there is no option '{min(useless)}' in {methods}",
                path=self.versions.path,
                hint="`git theta plugins` lists the methods; name one with method=",
            )

    def recipe(self, choice: MethodChoice) -> ConfiguredMethod:
        """The method that a choice names, made once. Raises PluginError or MergeError."""
        if choice not in self.methods:
            try:
                recipe = ConfiguredMethod.make(self.registry, choice.method, dict(choice.options), dict(choice.offered))
                weights_of(recipe.weight, self.versions.labels)
            except ThetaError as error:
                raise error.but(what=error.what + choice.origin).located(path=self.versions.path) from None
            self.methods[choice] = recipe
        return self.methods[choice]

    def _or_mean(self, choice: MethodChoice) -> MethodChoice:
        """The choice, but the mean for sidecars of a method that reads them: they have none themselves."""
        stem = PurePosixPath(self.versions.path).stem
        if "." not in stem or not choice.explicit or choice.method in (CONFLICT, TAKE):
            return choice
        kinds = Traits.of(self.recipe(choice).method).kinds
        if stem.rpartition(".")[2] not in kinds:
            return choice
        return MethodChoice(DEFAULTS[Verb.MERGE], source=f"{choice.source}, whose statistics these are")

    def _scales(self, choice: MethodChoice) -> bool:
        """Whether a picked change is to be added in another measure than whole."""
        told = bool(choice.options or choice.offered)
        return self.versions.verb is Verb.PICK and choice.method == DEFAULTS[Verb.PICK] and told

    def _idempotent(self, choice: MethodChoice) -> bool:
        """Whether sides that are alike need not be computed; the defaults are, and are not loaded to find out."""
        return not choice.explicit or Traits.of(self.recipe(choice).method).idempotent

    def _taken(
        self, choice: MethodChoice, base: Stanza | None, sides: tuple[Stanza | None, ...]
    ) -> tuple[str, Stanza | None]:
        wanted = choice.option("from") or ""
        named = {"base": base, **dict(zip(self.versions.labels, sides, strict=True))}
        named.setdefault("ours", sides[0])
        if len(sides) == 2:
            named.setdefault("theirs", sides[1])
        useless = [key for key, _ in choice.options if key != "from"]
        if useless or wanted not in named:
            problem = f"from '{wanted}'" if wanted else "does not say from where"
            raise MergeError(
                (f"`take` has no option '{useless[0]}'" if useless else f"`take` {problem}") + choice.origin,
                path=self.versions.path,
                hint=f"give from= one of {', '.join(named)}",
            )
        return wanted, named[wanted]

    def _objections(
        self, choice: MethodChoice, base: Stanza | None, sides: tuple[Stanza | None, ...], changed: tuple[int, ...]
    ) -> Iterator[str]:
        """Why a tensor that several sides changed, each in its own way, is not computed."""
        labels = self.versions.labels
        present = [(labels[index], side) for index in changed if (side := sides[index]) is not None]
        gone = [labels[index] for index in changed if sides[index] is None]
        if gone:
            yield f"deleted in {_listed(gone)}, changed in {_listed([label for label, _ in present])}"
            return
        if choice.method == CONFLICT:
            yield "changed differently on all sides, and you want to be asked (method=conflict)"
        if base is None and not self._without_base(choice):
            yield f"added on {_both(len(present))} with different values"
            return
        (label, first), *others = present
        for other_label, other in others:
            if first.spec.dtype != other.spec.dtype:
                yield f"dtype {first.spec.dtype.name} in {label}, {other.spec.dtype.name} in {other_label}"
            if first.spec.shape != other.spec.shape:
                yield f"shape {list(first.spec.shape)} in {label}, {list(other.spec.shape)} in {other_label}"
        if base is not None and base.spec != first.spec and not self._without_base(choice):
            yield f"dtype or shape changed on {_both(len(present))}"
        if not can_average(first.spec.dtype):
            yield f"{first.spec.dtype.name} values changed differently on {_both(len(present))}"

    def _without_base(self, choice: MethodChoice) -> bool:
        """Whether somebody asked for a method that can do without a base."""
        return choice.explicit and choice.method != CONFLICT and not Traits.of(self.recipe(choice).method).needs_base


def _is_settled(base: Stanza | None, alike: Stanza | None) -> bool:
    """Whether sides that are alike are the result whatever the method: there is nothing to compute with."""
    return base is None or alike is None or base.spec != alike.spec or not can_average(alike.spec.dtype)


def _both(count: int) -> str:
    return "both sides" if count == 2 else f"{count} sides"


def _listed(labels: list[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"


def equal(one: Stanza | None, other: Stanza | None) -> bool:
    """Whether two versions of a tensor are the same, or both absent."""
    if one is None or other is None:
        return one is other
    return one.digest == other.digest and one.spec == other.spec
