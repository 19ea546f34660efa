"""merge: several manifests -> one. What the plan has decided without numbers costs no tensor I/O."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from gittheta.api import Values
from gittheta.codec.choose import Candidate
from gittheta.codec.encode import Encoder
from gittheta.codec.spool import Spool
from gittheta.engine.options import Recipe
from gittheta.engine.policy import Choice, Policy
from gittheta.errors import MergeError
from gittheta.flows.merge.inputs import Tasks
from gittheta.flows.merge.metadata import merged_frame
from gittheta.flows.merge.plan import Action, Decision, MergePlan, Versions, plan_merge
from gittheta.flows.merge.prefetch import LANES, Ahead
from gittheta.flows.workspace import Workspace
from gittheta.model import OPAQUE, Digest, Manifest, Stanza, TensorSpec

if TYPE_CHECKING:
    from gittheta.engine.comparison import Comparison
    from gittheta.engine.device import Compute


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
    with Ahead(workspace, versions) as ahead:
        return _merged(workspace, versions, plan_merge(versions, policy, workspace.registry), ahead)


def _merged(workspace: Workspace, versions: Versions, plan: MergePlan, ahead: Ahead) -> Outcome:
    formats = {side.manifest.format: side.label for side in versions.sides}
    if OPAQUE in formats:
        return Outcome(plan, None, ("a file of no known format changed on several sides",))
    if len(formats) > 1:
        return Outcome(plan, None, (", ".join(f"format {name} in {label}" for name, label in formats.items()),))
    if plan.conflicts:
        return Outcome(plan, None)
    encoder = Encoder(workspace)
    try:
        return _Merging(workspace, versions, plan, encoder, ahead).run()
    except MergeError as error:
        return _refused(plan, error)
    finally:
        encoder.abort()


class NotMerged(MergeError):
    """Tensors that their methods could not merge."""

    def __init__(self, errors: Sequence[MergeError]) -> None:
        first = errors[0]
        super().__init__(first.what, path=first.path, tensor=first.tensor, mend=first.mend)
        self.errors = tuple(errors)


def _refused(plan: MergePlan, error: MergeError) -> Outcome:
    """What turned out when tensors were read is a conflict of these tensors like one that was foreseen."""
    errors = error.errors if isinstance(error, NotMerged) else (error,)
    reasons = {each.tensor: f"{each.what}; {each.mend}" if each.mend else each.what for each in errors}
    refused = plan.refused({name: reason for name, reason in reasons.items() if name is not None})
    return Outcome(refused, None, tuple(str(each) for each in errors if each.tensor is None))


class _Merging:
    def __init__(
        self, workspace: Workspace, versions: Versions, plan: MergePlan, encoder: Encoder, ahead: Ahead
    ) -> None:
        self.workspace = workspace
        self.versions = versions
        self.plan = plan
        self.encoder = encoder
        self.ahead = ahead

    def run(self) -> Outcome:
        kept = [decision for decision in self.plan.decisions if decision.stanza or decision.action is Action.MERGE]
        frame = merged_frame(self.workspace, self.encoder, self.versions, [_spec(decision) for decision in kept])
        if frame is None:
            return Outcome(self.plan, None, (_metadata_clash(self.versions),))
        merged = {}
        for tensor in computed(self.workspace, self.versions, self.plan, self.ahead):
            ticket = self.encoder.add_changed(tensor.values, tensor.candidates)
            merged[tensor.name] = ticket, tensor.digest
        self.encoder.finish()
        results = {name: Stanza(ticket.spec, digest, ticket.recipe()) for name, (ticket, digest) in merged.items()}
        results |= {decision.name: decision.stanza for decision in kept if decision.stanza}
        return Outcome(self.plan, frame.manifest(self.versions.sides[0].manifest.format, results))


def _metadata_clash(versions: Versions) -> str:
    choices = " or ".join(f"--metadata {shlex.quote(label)}" for label in versions.labels)
    return (
        "the files' metadata changed on several sides, each in its own way; "
        f"git theta resolve {shlex.quote(versions.path)} {choices}"
    )


@dataclass(frozen=True)
class Merged:
    """A merged tensor."""

    name: str
    values: Spool
    digest: Digest
    #: What it may be stored over.
    candidates: tuple[Candidate, ...]


def computed(workspace: Workspace, versions: Versions, plan: MergePlan, ahead: Ahead | None = None) -> Iterator[Merged]:
    """The merged tensors in the order of the plan.

    Raises MergeError where a method cannot apply: NotMerged, once all have been tried.
    """
    decisions = [decision for decision in plan.decisions if decision.action is Action.MERGE]
    if not decisions:
        return
    from gittheta.engine.device import computing

    tasks, settings, reporter = Tasks(workspace, versions, plan, ahead), workspace.settings, workspace.reporter
    tasks.fetch(decisions)
    reporter.start(f"Merging {len(decisions)} tensors", sum(_spec(decision).nbytes for decision in decisions))
    device = computing(settings.device, settings.threads, reporter.warn)
    with device as compute, ThreadPoolExecutor(LANES) as lanes:
        measured = tasks.measure(decisions, compute)
        work = (partial(_attempt, tasks, decision, compute, measured) for decision in decisions)
        failed = []
        for made in replace(compute, pool=lanes, ahead=LANES).each(work):
            if isinstance(made, MergeError):
                failed.append(made)
            elif not failed:
                yield made
    if failed:
        raise NotMerged(failed)


def _attempt(tasks: Tasks, decision: Decision, compute: Compute, measured: dict[Choice, Any]) -> Merged | MergeError:
    """One merged tensor, or why there is none."""
    try:
        return _compute(tasks, decision, compute, measured)
    except MergeError as error:
        error.what += decision.choice.origin if decision.choice else ""
        error.tensor = decision.name
        return error


def _compute(tasks: Tasks, decision: Decision, compute: Compute, measured: dict[Choice, Any]) -> Merged:
    """One merged tensor."""
    from gittheta.engine.arrays import raw_bytes
    from gittheta.engine.run import merge_tensor

    task, at_hand = tasks.opened(decision)
    hashed = blake3()
    result = Spool(tasks.workspace.store, task.spec)
    known = measured.get(decision.choice) if decision.choice and task.traits.scope == "global" else None
    for run in merge_tensor(task, compute, known):
        block = raw_bytes(run)
        hashed.update(block)
        result.append(block)
        tasks.workspace.reporter.advance(len(block))
    return Merged(decision.name, result, Digest(hashed.digest()), _candidates(decision, at_hand))


def _candidates(decision: Decision, at_hand: Mapping[Digest, Values]) -> tuple[Candidate, ...]:
    """The first side; if its chain is long already, what it was told from is tried: often the base."""
    first = next((side for side in decision.sides if side and side.recipe), None)
    if first is None:
        return ()
    kept = {first.digest, decision.base.digest if decision.base else first.digest}
    return (Candidate(first.spec, first.digest, first.recipe, {key: at_hand[key] for key in kept & at_hand.keys()}),)


def digests_of(workspace: Workspace, versions: Versions, policy: Policy) -> dict[str, Digest] | tuple[str, ...]:
    """The digest of each tensor of the merged checkpoint, storing nothing; or what stands in the way."""
    plan = plan_merge(versions, policy, workspace.registry)
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
    from gittheta.engine.comparison import Compare
    from gittheta.engine.device import computing
    from gittheta.engine.run import measure_all

    looking = {choice: Recipe(Compare(), propagate=True) for choice in plan.recipes}
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
