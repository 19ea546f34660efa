"""merge: what the engine is asked to do, made from decisions and stored tensors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Any

from gittheta.api import Merge, TensorReader, Traits
from gittheta.codec.chain import CheckedReader
from gittheta.codec.decode import Decoder
from gittheta.engine.options import weights_of
from gittheta.errors import MergeError, ThetaError
from gittheta.flows.merge.prefetch import Prefetch, read_stored
from gittheta.flows.merge.sidecars import sidecar
from gittheta.flows.transfer.fetch import fetch_missing

if TYPE_CHECKING:
    from gittheta.engine.device import Compute
    from gittheta.engine.operands import StoredOperand
    from gittheta.engine.policy import MethodChoice
    from gittheta.engine.task import Task
    from gittheta.flows.merge.plan import Decision, MergePlan, Versions
    from gittheta.flows.workspace import Workspace
    from gittheta.model import Digest, Manifest, Stanza, TensorSpec

#: Tensors whose versions are kept open while a whole model is measured: one that is read, and the next.
_OPEN = 2


class Tasks:
    """Makes a task of each decision to merge."""

    def __init__(
        self, workspace: Workspace, versions: Versions, plan: MergePlan, prefetch: Prefetch | None = None
    ) -> None:
        self.workspace = workspace
        self.versions = versions
        self.plan = plan
        self._prefetch = prefetch
        self.tensors = workspace.tensors
        self._decoder = Decoder(workspace.tensors)
        self._sidecars: dict[tuple[int, str, str | None], dict[str, Stanza]] = {}
        self._reading = Lock()

    def fetch(self, decisions: list[Decision]) -> None:
        """Bring here what is to be read, in one go for each side."""
        names = {decision.name for decision in decisions}
        for manifest in (self.versions.base, *(side.manifest for side in self.versions.sides)):
            if manifest:
                fetch_missing(self.workspace, _only(manifest, names))

    def opened(self, decision: Decision) -> tuple[Task, dict[Digest, TensorReader]]:
        """The task, and its tensors by digest, decoded and checked."""
        at_hand = self._prefetch.taken(decision.name) if self._prefetch else {}

        def read(stanza: Stanza) -> TensorReader:
            if stanza.digest not in at_hand or at_hand[stanza.digest].spec != stanza.spec:
                at_hand[stanza.digest] = read_stored(self.tensors, stanza, len(decision.parts), at_hand)
            return at_hand[stanza.digest]

        return self._task(decision, read), at_hand

    def measure(self, decisions: list[Decision], compute: Compute) -> dict[MethodChoice, Any]:
        """What methods of global scope want to know of all their tensors, by choice."""
        from gittheta.engine.run import measure_all

        together: dict[MethodChoice, list[Task]] = {}
        recent = _Recent(self._decoder, _OPEN * (len(self.versions.sides) + 1), self.tensors.limits.kept_blocks)
        for decision in decisions:
            if decision.choice and getattr(self.plan.methods[decision.choice].method, "scope", "tensor") == "global":
                task = self._task(decision, recent.values)
                if task.traits.scope == "global":
                    together.setdefault(decision.choice, []).append(task)
        return {choice: measure_all(tasks, compute) for choice, tasks in together.items()}

    def _task(self, decision: Decision, read: Callable[[Stanza], TensorReader]) -> Task:
        """What the engine is asked to do."""
        from gittheta.engine.fallback import fallback, statistics_based
        from gittheta.engine.operands import StoredOperand
        from gittheta.engine.task import Task

        if decision.choice is None:
            raise ThetaError("a decision without a method", tensor=decision.name)
        recipe = self.plan.methods[decision.choice]
        weights = weights_of(recipe.weight, self.versions.labels)
        sides = [side for index in decision.parts if (side := decision.sides[index])]
        method = fallback(recipe.method, sides[0].spec)
        statistics = self._statistics(decision, method, read)
        method = statistics_based(method, statistics)
        base = decision.base if decision.base and _is_of_use(decision.base, sides, method) else None
        return Task(
            name=decision.name,
            base=StoredOperand(read(base), base.digest) if base else None,
            sides=tuple(StoredOperand(read(side), side.digest) for side in sides),
            labels=tuple(self.versions.labels[index] for index in decision.parts),
            weights=tuple(weights[index] for index in decision.parts),
            method=method,
            statistics=statistics if Traits.of(method).kinds else (),
            propagate=recipe.propagate,
        )

    def _statistics(
        self, decision: Decision, method: Merge, read: Callable[[Stanza], TensorReader]
    ) -> tuple[dict[str, StoredOperand], ...]:
        """For each side that takes part, by kind, what is known of this tensor."""
        from gittheta.engine.operands import StoredOperand

        kinds = Traits.of(method).kinds
        found = []
        for index in decision.parts if kinds else ():
            known = {}
            for kind in kinds:
                stanza = self._sidecar(index, kind, getattr(method, "stats", None)).get(decision.name)
                if stanza:
                    known[kind] = StoredOperand(read(stanza), stanza.digest)
            found.append(known)
        return tuple(found)

    def _sidecar(self, index: int, kind: str, pattern: str | None) -> dict[str, Stanza]:
        key = (index, kind, pattern)
        with self._reading:
            if key not in self._sidecars:
                side = self.versions.sides[index]
                found = sidecar(self.workspace, side, pattern, self.versions.path, kind)
                if not any(stanza.spec.name in found for stanza in side.manifest.stanzas):
                    raise MergeError(f"the statistics ({kind}) of {side.label} know none of its tensors")
                self._sidecars[key] = found
        return self._sidecars[key]


class _Recent:
    """Stored tensors that are opened when they are read, the last few kept open. Safe to use from several threads."""

    def __init__(self, decoder: Decoder, count: int, kept: int) -> None:
        self._decoder = decoder
        self._kept = kept
        self._count = count
        self._open: OrderedDict[Digest, CheckedReader] = OrderedDict()
        self._lock = Lock()

    def values(self, stanza: Stanza) -> TensorReader:
        """A tensor to be read in parts, each block checked."""
        return _Opened(stanza, self)

    def read(self, stanza: Stanza, begin: int, end: int) -> memoryview:
        """A range of one of them."""
        with self._lock:
            base = self._open.pop(stanza.digest, None) or CheckedReader(
                self._decoder.open(stanza.spec, stanza.recipe), self._kept
            )
            self._open[stanza.digest] = base
            if len(self._open) > self._count:
                self._open.popitem(last=False)
        return base.read(begin, end)


@dataclass(frozen=True)
class _Opened:
    """One of them. Safe to use from several threads."""

    stanza: Stanza
    recent: _Recent

    @property
    def spec(self) -> TensorSpec:
        return self.stanza.spec

    def read(self, begin: int, end: int) -> memoryview:
        return self.recent.read(self.stanza, begin, end)


def _is_of_use(base: Stanza, sides: list[Stanza], method: Merge) -> bool:
    """Whether the base is to be read: because the method looks at it, or because the sides are stored over it."""
    below = {link.base for side in sides for link in side.recipe}
    return base.spec == sides[0].spec and (base.digest in below or not Traits.of(method).ignores_base)


def _only(manifest: Manifest, names: set[str]) -> Manifest:
    return replace(manifest, stanzas=tuple(stanza for stanza in manifest.stanzas if stanza.spec.name in names))
