"""merge: several manifests -> one. What the plan has decided without numbers costs no tensor I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from gittheta.api import Merge, Traits, Values
from gittheta.errors import MergeError, ThetaError
from gittheta.flows.chain import Base
from gittheta.flows.choose import Candidate
from gittheta.flows.decode import Decoder
from gittheta.flows.encode import WHOLE, Encoder, Ticket
from gittheta.flows.plan import Action, Decision, MergePlan, Versions, plan_merge
from gittheta.flows.sidecars import sidecar
from gittheta.flows.skeletons import merged_frame
from gittheta.flows.spool import Spool
from gittheta.flows.transfer import fetch_missing
from gittheta.flows.workspace import Workspace
from gittheta.merging.options import weights_of
from gittheta.merging.policy import Choice, Policy
from gittheta.model import OPAQUE, Digest, Manifest, Stanza, TensorSpec

if TYPE_CHECKING:
    from gittheta.merging.compute import Compute
    from gittheta.merging.engine import Task
    from gittheta.merging.operands import Stored

#: Decoded bytes of tensors that are being merged which are held in memory; beyond, they lie in temporary files.
IN_MEMORY = 512 << 20
#: Tensors that are merged at the same time: while one is computed, another is decoded.
_LANES = 2
#: Stored tensors that are kept open while a whole model is measured.
_OPEN = 64


@dataclass(frozen=True)
class Outcome:
    """What came of a merge: a manifest, unless there are conflicts."""

    plan: MergePlan
    manifest: Manifest | None
    #: What cannot be merged besides tensors, or turned out when they were read.
    objections: tuple[str, ...] = ()

    @property
    def conflicts(self) -> tuple[str, ...]:
        """One line for each thing that needs a person."""
        tensors = (f"tensor '{decision.name}': {decision.reason}" for decision in self.plan.conflicts)
        return (*tensors, *self.objections)


def merge_versions(workspace: Workspace, versions: Versions, policy: Policy) -> Outcome:
    """Merge versions of a checkpoint tensor by tensor.

    Raises PluginError or MergeError where the policy has no meaning, ObjectMissing or PayloadError if a tensor that
    several sides changed cannot be read.
    """
    plan = plan_merge(versions, policy, workspace.registry)
    formats = {side.manifest.format: side.label for side in versions.sides}
    if OPAQUE in formats:
        return Outcome(plan, None, ("a file of no known format changed on several sides",))
    if len(formats) > 1:
        return Outcome(plan, None, (", ".join(f"format {name} in {label}" for name, label in formats.items()),))
    if plan.conflicts:
        return Outcome(plan, None)
    encoder = Encoder(workspace)
    try:
        return _Merging(workspace, versions, plan, encoder).run()
    except MergeError as error:
        return Outcome(plan, None, (str(error),))
    finally:
        encoder.abort()


class _Merging:
    def __init__(self, workspace: Workspace, versions: Versions, plan: MergePlan, encoder: Encoder) -> None:
        self.workspace = workspace
        self.versions = versions
        self.plan = plan
        self.encoder = encoder
        self.decoder = Decoder(workspace)
        self._sidecars: dict[tuple[int, str, str | None], dict[str, Stanza]] = {}
        self._reading = Lock()

    def run(self) -> Outcome:
        kept = [decision for decision in self.plan.decisions if decision.stanza or decision.action is Action.MERGE]
        sides = [side.manifest for side in self.versions.sides]
        specs = [_spec(decision) for decision in kept]
        frame = merged_frame(self.workspace, self.encoder, self.versions.base, sides, specs)
        if frame is None:
            return Outcome(self.plan, None, ("the files' metadata changed on several sides, each in its own way",))
        merged = self._merge_values([decision for decision in kept if decision.action is Action.MERGE])
        self.encoder.finish()
        results = {name: Stanza(ticket.spec, digest, ticket.recipe()) for name, (ticket, digest) in merged.items()}
        results |= {decision.name: decision.stanza for decision in kept if decision.stanza}
        return Outcome(self.plan, frame.manifest(sides[0].format, results))

    def _merge_values(self, decisions: list[Decision]) -> dict[str, tuple[Ticket, Digest]]:
        if not decisions:
            return {}
        from gittheta.merging.compute import computing

        self._fetch(decisions)
        settings, reporter = self.workspace.settings, self.workspace.reporter
        reporter.start(f"Merging {len(decisions)} tensors", sum(_spec(decision).nbytes for decision in decisions))
        merged = {}
        with (
            computing(settings.device, settings.threads, reporter.warn) as compute,
            ThreadPoolExecutor(_LANES) as lanes,
        ):
            measured = self._measure(decisions, compute)
            work = (partial(self._compute, decision, compute, measured) for decision in decisions)
            jobs = replace(compute, pool=lanes, lanes=1).each(work)
            for decision, (spool, digest) in zip(decisions, jobs, strict=True):
                try:
                    ours = next((side for side in decision.sides if side and side.recipe), None)
                    candidates = [Candidate(ours.spec, ours.digest, ours.recipe)] if ours else []
                    merged[decision.name] = self.encoder.add_changed(spool, candidates), digest
                finally:
                    spool.close()
        return merged

    def _fetch(self, decisions: list[Decision]) -> None:
        """What is to be read, in one go for each side."""
        names = {decision.name for decision in decisions}
        for manifest in (self.versions.base, *(side.manifest for side in self.versions.sides)):
            if manifest:
                fetch_missing(self.workspace, _only(manifest, names))

    def _compute(self, decision: Decision, compute: Compute, measured: dict[Choice, Any]) -> tuple[Spool, Digest]:
        """One merged tensor, and its digest."""
        from gittheta.merging.arrays import raw_bytes
        from gittheta.merging.engine import merge_tensor

        with ExitStack() as opened:
            task = self._task(decision, lambda stanza: self._read(stanza, len(decision.parts), opened))
            hashed = blake3()
            result = Spool(self.workspace.store, task.spec)
            known = measured.get(decision.choice) if decision.choice and task.traits.scope == "global" else None
            for run in merge_tensor(task, compute, known):
                block = raw_bytes(run)
                hashed.update(block)
                result.append(block)
                self.workspace.reporter.advance(len(block))
            return result, Digest(hashed.digest())

    def _measure(self, decisions: list[Decision], compute: Compute) -> dict[Choice, Any]:
        """What methods of global scope want to know of all their tensors, by choice."""
        from gittheta.merging.engine import measure_all

        together: dict[Choice, list[Task]] = {}
        recent = Recent(self.decoder)
        for decision in decisions:
            if decision.choice and getattr(self.plan.recipes[decision.choice].method, "scope", "tensor") == "global":
                together.setdefault(decision.choice, []).append(self._task(decision, recent.values))
        return {choice: measure_all(tasks, compute) for choice, tasks in together.items()}

    def _task(self, decision: Decision, read: Callable[[Stanza], Values]) -> Task:
        """What the engine is asked to do."""
        from gittheta.merging.engine import Task
        from gittheta.merging.operands import Stored
        from gittheta.merging.suited import suited

        if decision.choice is None:
            raise ThetaError("a decision without a method", tensor=decision.name)
        recipe = self.plan.recipes[decision.choice]
        weights = weights_of(recipe.weight, self.versions.labels)
        sides = [side for index in decision.parts if (side := decision.sides[index])]
        method = suited(recipe.method, sides[0].spec)
        needs_base = decision.base if decision.base and decision.base.spec == sides[0].spec else None
        return Task(
            name=decision.name,
            base=Stored(read(needs_base), needs_base.digest) if needs_base else None,
            sides=tuple(Stored(read(side), side.digest) for side in sides),
            labels=tuple(self.versions.labels[index] for index in decision.parts),
            weights=tuple(weights[index] for index in decision.parts),
            method=method,
            statistics=self._statistics(decision, method, read),
            propagate=recipe.propagate,
        )

    def _statistics(
        self, decision: Decision, method: Merge, read: Callable[[Stanza], Values]
    ) -> tuple[dict[str, Stored], ...]:
        """For each side that takes part, by kind, what is known of this tensor."""
        from gittheta.merging.operands import Stored

        kinds = Traits.of(method).kinds
        found = []
        for index in decision.parts if kinds else ():
            known = {}
            for kind in kinds:
                stanza = self._sidecar(index, kind, getattr(method, "stats", None)).get(decision.name)
                if stanza:
                    known[kind] = Stored(read(stanza), stanza.digest)
            found.append(known)
        return tuple(found)

    def _sidecar(self, index: int, kind: str, pattern: str | None) -> dict[str, Stanza]:
        key = (index, kind, pattern)
        with self._reading:
            if key not in self._sidecars:
                side = self.versions.sides[index]
                self._sidecars[key] = sidecar(self.workspace, side, pattern, self.versions.path, kind)
        return self._sidecars[key]

    def _read(self, stanza: Stanza, sides: int, opened: ExitStack) -> Values:
        """A stored tensor, decoded and checked, to be read more than once."""
        hold = max(WHOLE, IN_MEMORY // (_LANES * (sides + 2)))
        spool = Spool(self.workspace.store, stanza.spec, hold)
        opened.callback(spool.close)
        for block in self.decoder.checked([(stanza.spec, stanza.digest, stanza.recipe)]):
            spool.append(block)
        return spool


class Recent:
    """Stored tensors that are opened when they are read, the last few of them kept open."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._open: OrderedDict[Digest, Base] = OrderedDict()
        self._lock = Lock()

    def values(self, stanza: Stanza) -> Values:
        """A tensor to be read in parts, each block checked."""
        return _Recent(stanza, self)

    def read(self, stanza: Stanza, begin: int, end: int) -> memoryview:
        """A range of one of them."""
        with self._lock:
            base = self._open.pop(stanza.digest, None) or Base(self._decoder.open(stanza.spec, stanza.recipe))
            self._open[stanza.digest] = base
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
        return base.read(begin, end)


@dataclass(frozen=True)
class _Recent:
    stanza: Stanza
    recent: Recent

    @property
    def spec(self) -> TensorSpec:
        return self.stanza.spec

    def read(self, begin: int, end: int) -> memoryview:
        return self.recent.read(self.stanza, begin, end)


def _spec(decision: Decision) -> TensorSpec:
    found = decision.stanza or next(side for index in decision.parts if (side := decision.sides[index]))
    return found.spec


def _only(manifest: Manifest, names: set[str]) -> Manifest:
    return replace(manifest, stanzas=tuple(stanza for stanza in manifest.stanzas if stanza.spec.name in names))
