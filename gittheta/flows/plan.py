"""What a merge will do, decided from manifests alone. A conflict is a decision like any other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from gittheta.model import Dtype, Manifest, Stanza


class Action(Enum):
    """What happens to one tensor."""

    UNCHANGED = "unchanged"
    SAME = "changed alike on both sides"
    OURS = "taken from ours"
    THEIRS = "taken from theirs"
    MERGE = "merged"
    CONFLICT = "in conflict"


@dataclass(frozen=True, slots=True)
class Decision:
    """One tensor's fate. ``stanza`` is the result, unless it must be computed or does not exist."""

    name: str
    action: Action
    base: Stanza | None
    ours: Stanza | None
    theirs: Stanza | None
    stanza: Stanza | None = None
    reason: str = ""


@dataclass(frozen=True)
class MergePlan:
    """A decision for each tensor of either side, ours first, in file order."""

    decisions: tuple[Decision, ...]

    @property
    def conflicts(self) -> tuple[Decision, ...]:
        """Those that need a person."""
        return tuple(decision for decision in self.decisions if decision.action is Action.CONFLICT)

    def summary(self, method: str) -> str:
        """How many tensors each action took."""
        counts = Counter(decision.action for decision in self.decisions)
        words = {Action.MERGE: f"merged by {method}"}
        parts = [f"{counts[action]} {words.get(action, action.value)}" for action in Action if counts[action]]
        return ", ".join(parts) or "no tensors"


_EXACT_KINDS = ("int", "bool", "raw")
_NO_ARITHMETIC = ("f4", "f6_e2m3", "f6_e3m2", "f8_e8m0")


def can_average(dtype: Dtype) -> bool:
    """Whether values of this dtype mean something when added; others are merged only where the sides agree."""
    return dtype.kind not in _EXACT_KINDS and dtype.name not in _NO_ARITHMETIC


def plan_merge(base: Manifest | None, ours: Manifest, theirs: Manifest) -> MergePlan:
    """Decide for each tensor. ``base`` is None where the sides have no common ancestor (both added the file)."""
    tables = [{stanza.spec.name: stanza for stanza in side.stanzas} if side else {} for side in (base, ours, theirs)]
    names = [*tables[1], *(name for name in tables[2] if name not in tables[1])]
    names += [name for name in tables[0] if name not in tables[1] and name not in tables[2]]
    return MergePlan(tuple(_decide(name, *(table.get(name) for table in tables)) for name in names))


def _decide(name: str, base: Stanza | None, ours: Stanza | None, theirs: Stanza | None) -> Decision:
    sides = (base, ours, theirs)
    if equal(ours, theirs):
        action = Action.UNCHANGED if equal(base, ours) else Action.SAME
        return Decision(name, action, *sides, stanza=ours)
    if equal(base, ours):
        return Decision(name, Action.THEIRS, *sides, stanza=theirs)
    if equal(base, theirs):
        return Decision(name, Action.OURS, *sides, stanza=ours)
    reason = next(_objections(base, ours, theirs), None)
    return Decision(name, Action.CONFLICT if reason else Action.MERGE, *sides, reason=reason or "")


def _objections(base: Stanza | None, ours: Stanza | None, theirs: Stanza | None) -> Iterator[str]:
    """Why a tensor that both sides changed, each in its own way, cannot be computed."""
    if ours is None or theirs is None:
        deleted, changed = ("ours", "theirs") if ours is None else ("theirs", "ours")
        yield f"deleted in {deleted}, changed in {changed}"
        return
    if base is None:
        yield "added on both sides with different values"
        return
    if ours.spec.dtype != theirs.spec.dtype:
        yield f"dtype {ours.spec.dtype.name} in ours, {theirs.spec.dtype.name} in theirs"
    if ours.spec.shape != theirs.spec.shape:
        yield f"shape {list(ours.spec.shape)} in ours, {list(theirs.spec.shape)} in theirs"
    if base.spec != ours.spec:
        yield "dtype or shape changed on both sides"
    if not can_average(ours.spec.dtype):
        yield f"{ours.spec.dtype.name} values changed differently on both sides"


def equal(one: Stanza | None, other: Stanza | None) -> bool:
    """Whether two versions of a tensor are the same, or both absent."""
    if one is None or other is None:
        return one is other
    return one.digest == other.digest and one.spec == other.spec
