"""merge: several manifests -> one. What the plan has decided without numbers costs no tensor I/O."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from gittheta.codec.choose import BaseCandidate
from gittheta.codec.encode import Encoder
from gittheta.codec.spool import Spool
from gittheta.engine.options import ConfiguredMethod
from gittheta.errors import MergeError, needing_torch
from gittheta.flows.merge.inputs import Tasks
from gittheta.flows.merge.metadata import merged_skeleton
from gittheta.flows.merge.plan import Action, Decision, MergePlan, Versions, plan_merge
from gittheta.flows.merge.prefetch import LANES, Prefetch
from gittheta.model import OPAQUE, Digest, Manifest, RunningDigest, Stanza, TensorSpec
from gittheta.wording import quoted

if TYPE_CHECKING:
    from gittheta.api import TensorReader
    from gittheta.engine.comparison import Comparison
    from gittheta.engine.device import Compute
    from gittheta.engine.policy import MethodChoice, Policy
    from gittheta.flows.workspace import Workspace


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
        tensors = (f"tensor {quoted(decision.name)}: {decision.reason}" for decision in self.plan.conflicts)
        return (*tensors, *self.objections)


def merge_versions(workspace: Workspace, versions: Versions, policy: Policy) -> Outcome:
    """Merge versions of a checkpoint tensor by tensor.

    Raises PluginError or MergeError where the policy has no meaning, ObjectMissing or PayloadError if a tensor that
    several sides changed cannot be read.
    """
    with Prefetch(workspace.tensors, versions) as prefetch:
        return _merged(workspace, versions, plan_merge(versions, policy, workspace.tensors.registry), prefetch)


def _merged(workspace: Workspace, versions: Versions, plan: MergePlan, prefetch: Prefetch) -> Outcome:
    formats = {side.manifest.format: side.label for side in versions.sides}
    if OPAQUE in formats:
        return Outcome(plan, None, ("a file of no known format changed on several sides",))
    if len(formats) > 1:
        return Outcome(plan, None, (", ".join(f"format {name} in {label}" for name, label in formats.items()),))
    if plan.conflicts:
        return Outcome(plan, None)
    encoder = Encoder(workspace.tensors)
    try:
        return _Merging(workspace, versions, plan, encoder, prefetch).run()
    except MergeError as error:
        return _refused(plan, error)
    finally:
        encoder.abort()


class NotMerged(MergeError):
    """Tensors that their methods could not merge."""

    def __init__(self, errors: Sequence[MergeError]) -> None:
        first = errors[0]
        super().__init__(first.what, path=first.path, tensor=first.tensor, hint=first.hint)
        self.errors = tuple(errors)


def _refused(plan: MergePlan, error: MergeError) -> Outcome:
    """What turned out when tensors were read is a conflict of these tensors like one that was foreseen."""
    errors = error.errors if isinstance(error, NotMerged) else (error,)
    reasons = {each.tensor: f"{each.what}; {each.hint}" if each.hint else each.what for each in errors}
    refused = plan.refused({name: reason for name, reason in reasons.items() if name is not None})
    return Outcome(refused, None, tuple(str(each) for each in errors if each.tensor is None))


class _Merging:
    def __init__(
        self, workspace: Workspace, versions: Versions, plan: MergePlan, encoder: Encoder, prefetch: Prefetch
    ) -> None:
        self.workspace = workspace
        self.versions = versions
        self.plan = plan
        self.encoder = encoder
        self.prefetch = prefetch

    def run(self) -> Outcome:
        kept = [decision for decision in self.plan.decisions if decision.stanza or decision.action is Action.MERGE]
        frame = merged_skeleton(self.workspace, self.encoder, self.versions, [_spec(decision) for decision in kept])
        if frame is None:
            return Outcome(self.plan, None, (_metadata_clash(self.versions),))
        merged = {}
        for tensor in computed(self.workspace, self.versions, self.plan, self.prefetch):
            pending = self.encoder.add(tensor.values, (), tensor.candidates)
            merged[tensor.name] = pending, tensor.digest
        self.encoder.finish()
        results = {name: Stanza(pending.spec, digest, pending.recipe()) for name, (pending, digest) in merged.items()}
        results |= {decision.name: decision.stanza for decision in kept if decision.stanza}
        return Outcome(self.plan, frame.manifest(self.versions.sides[0].manifest.format, results))


def _metadata_clash(versions: Versions) -> str:
    choices = " or ".join(f"--metadata {shlex.quote(label)}" for label in versions.labels)
    return (
        "the files' metadata changed on several sides, each in its own way; "
        f"git theta resolve {shlex.quote(versions.path)} {choices}"
    )


@dataclass(frozen=True)
class MergedTensor:
    """A merged tensor."""

    name: str
    values: Spool
    digest: Digest
    #: What it may be stored over.
    candidates: tuple[BaseCandidate, ...]


def computed(
    workspace: Workspace, versions: Versions, plan: MergePlan, prefetch: Prefetch | None = None
) -> Iterator[MergedTensor]:
    """The merged tensors in the order of the plan.

    Raises MergeError where a method cannot apply: NotMerged, once all have been tried.
    """
    decisions = [decision for decision in plan.decisions if decision.action is Action.MERGE]
    if not decisions:
        return
    with needing_torch("merging values"):
        from gittheta.engine.device import computing

    tasks, settings, reporter = Tasks(workspace, versions, plan, prefetch), workspace.settings, workspace.reporter
    tasks.fetch(decisions)
    reporter.start(f"Merging {len(decisions)} tensors", sum(_spec(decision).nbytes for decision in decisions))
    device = computing(settings.device, settings.threads, reporter.warn)
    with device as compute, ThreadPoolExecutor(LANES) as lanes:
        measured = tasks.measure(decisions, compute)
        work = (partial(_attempt, tasks, decision, compute, measured) for decision in decisions)
        failed = []
        for made in replace(compute, pool=lanes, max_in_flight=LANES - 1).each(work):
            if isinstance(made, MergeError):
                failed.append(made)
            elif not failed:
                yield made
    if failed:
        raise NotMerged(failed)


def _attempt(
    tasks: Tasks, decision: Decision, compute: Compute, measured: dict[MethodChoice, Any]
) -> MergedTensor | MergeError:
    """One merged tensor, or why there is none."""
    try:
        return _compute(tasks, decision, compute, measured)
    except MergeError as error:
        origin = decision.choice.origin if decision.choice else ""
        return error.but(what=error.what + origin, tensor=decision.name)


def _compute(tasks: Tasks, decision: Decision, compute: Compute, measured: dict[MethodChoice, Any]) -> MergedTensor:
    """One merged tensor."""
    from gittheta.engine.arrays import raw_bytes
    from gittheta.engine.run import merge_tensor

    task, at_hand = tasks.opened(decision)
    hashed = RunningDigest()
    result = Spool(tasks.tensors, task.spec, tasks.tensors.limits.held)
    known = measured.get(decision.choice) if decision.choice and task.traits.scope == "global" else None
    for run in merge_tensor(task, compute, known):
        block = raw_bytes(run)
        hashed.update(block)
        result.append(block)
        tasks.workspace.reporter.advance(len(block))
    return MergedTensor(decision.name, result, hashed.digest(), _candidates(decision, at_hand))


def _candidates(decision: Decision, at_hand: Mapping[Digest, TensorReader]) -> tuple[BaseCandidate, ...]:
    """The first side; if its chain is long already, what it was told from is tried: often the base."""
    first = next((side for side in decision.sides if side and side.recipe), None)
    if first is None:
        return ()
    kept = {first.digest, decision.base.digest if decision.base else first.digest}
    return (
        BaseCandidate(first.spec, first.digest, first.recipe, {key: at_hand[key] for key in kept & at_hand.keys()}),
    )


def digests_of(workspace: Workspace, versions: Versions, policy: Policy) -> dict[str, Digest] | tuple[str, ...]:
    """The digest of each tensor of the merged checkpoint, storing nothing; or what stands in the way."""
    plan = plan_merge(versions, policy, workspace.tensors.registry)
    if plan.conflicts:
        return Outcome(plan, None).conflicts
    found = {decision.name: decision.stanza.digest for decision in plan.decisions if decision.stanza}
    try:
        return found | {tensor.name: tensor.digest for tensor in computed(workspace, versions, plan)}
    except MergeError as error:
        return (str(error),)


def compare_versions(workspace: Workspace, versions: Versions, plan: MergePlan) -> dict[str, Comparison]:
    """For each tensor that would be merged, how the sides' task vectors lie to one another."""
    decisions = [decision for decision in plan.decisions if decision.action is Action.MERGE]
    if not decisions:
        return {}
    with needing_torch("comparing values"):
        from gittheta.engine.comparison import Compare
        from gittheta.engine.device import computing
        from gittheta.engine.run import measure_all

    looking = {choice: ConfiguredMethod(Compare(), propagate=True) for choice in plan.methods}
    tasks = Tasks(workspace, versions, MergePlan(plan.decisions, looking))
    tasks.fetch(decisions)
    found = {}
    with computing("cpu", workspace.settings.threads) as compute:
        for decision in decisions:
            task, _ = tasks.opened(decision)
            found[decision.name] = measure_all([task], compute)
    return found


def _spec(decision: Decision) -> TensorSpec:
    found = decision.stanza or next(side for index in decision.parts if (side := decision.sides[index]))
    return found.spec
