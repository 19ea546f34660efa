"""merge: three manifests -> one. What the plan has decided without numbers costs no tensor I/O."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace

from blake3 import blake3

from gittheta.errors import MergeError, ThetaError
from gittheta.flows.choose import Candidate
from gittheta.flows.decode import Decoder
from gittheta.flows.encode import Encoder, Ticket
from gittheta.flows.plan import Action, Decision, MergePlan, plan_merge
from gittheta.flows.smudge import read_skeleton
from gittheta.flows.spool import Spool
from gittheta.flows.stream import rechunked
from gittheta.flows.transfer import fetch_missing
from gittheta.flows.workspace import Workspace
from gittheta.model import (
    OPAQUE,
    RAW,
    Digest,
    Manifest,
    Skeleton,
    Stanza,
    Tensor,
    TensorSpec,
    block_bytes,
    digest_of,
    flat_spec,
    skeleton_spec,
)


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


def merge_manifests(
    workspace: Workspace, base: Manifest | None, ours: Manifest, theirs: Manifest, method: str = "linear"
) -> Outcome:
    """Merge three versions of a checkpoint tensor by tensor.

    Raises ObjectMissing or PayloadError if a tensor that both sides changed cannot be read.
    """
    plan = plan_merge(base, ours, theirs)
    if OPAQUE in (ours.format, theirs.format):
        return Outcome(plan, None, ("a file of no known format changed on both sides",))
    if ours.format != theirs.format:
        return Outcome(plan, None, (f"format {ours.format} in ours, {theirs.format} in theirs",))
    if plan.conflicts:
        return Outcome(plan, None)
    merging = _Merging(workspace, base, ours, theirs, method)
    try:
        return merging.run(plan)
    finally:
        merging.encoder.abort()


class _Merging:
    def __init__(
        self, workspace: Workspace, base: Manifest | None, ours: Manifest, theirs: Manifest, method: str
    ) -> None:
        self.workspace = workspace
        self.base, self.ours, self.theirs = base, ours, theirs
        self.method = method
        self.encoder = Encoder(workspace)
        self.decoder = Decoder(workspace)

    def run(self, plan: MergePlan) -> Outcome:
        kept = [decision for decision in plan.decisions if decision.stanza or decision.action is Action.MERGE]
        frame = self._frame([_spec(decision) for decision in kept])
        if frame is None:
            return Outcome(plan, None, ("the files' metadata changed on both sides, each in its own way",))
        try:
            merged = self._merge_values([decision for decision in kept if decision.action is Action.MERGE])
        except MergeError as error:
            return Outcome(plan, None, (str(error),))
        self.encoder.finish()
        results = {name: Stanza(ticket.spec, digest, ticket.recipe()) for name, (ticket, digest) in merged.items()}
        results |= {decision.name: decision.stanza for decision in kept if decision.stanza}
        skeleton = frame.skeleton
        if isinstance(frame.recipe, Ticket):
            skeleton = replace(skeleton, recipe=frame.recipe.recipe())
        stanzas = tuple(replace(results[name], skip=skip) for name, skip in frame.order)
        return Outcome(plan, Manifest(self.ours.format, skeleton, stanzas))

    def _merge_values(self, decisions: list[Decision]) -> dict[str, tuple[Ticket, Digest]]:
        if not decisions:
            return {}
        for side in (self.ours, self.theirs):
            fetch_missing(self.workspace, _only(side, {decision.name for decision in decisions}))
        total = sum(_spec(decision).nbytes for decision in decisions)
        self.workspace.reporter.start(f"Merging {len(decisions)} tensors", total)
        merged = {}
        for decision in decisions:
            merged[decision.name] = self._merge_one(decision)
        return merged

    def _merge_one(self, decision: Decision) -> tuple[Ticket, Digest]:
        """One merged tensor on its way into the store, as a change to ours."""
        spec = _spec(decision)
        hashed = blake3()
        spool = Spool(self.workspace.store, spec)
        try:
            for block in self._values(decision, hashed):
                spool.append(block)
            ours = decision.ours
            candidates = [Candidate(ours.spec, ours.digest, ours.recipe)] if ours and ours.recipe else []
            return self.encoder.add_changed(spool, candidates), Digest(hashed.digest())
        finally:
            spool.close()

    def _values(self, decision: Decision, hashed: blake3) -> Iterator[memoryview]:
        """The merged tensor, block by block."""
        from gittheta.api import Group
        from gittheta.merges.arrays import from_torch, to_torch

        method = self.workspace.registry.merge(self.method)()
        spec = _spec(decision)
        sides = [self._chunks(side) for side in (decision.ours, decision.theirs) if side]
        for blocks in zip(*sides, strict=True):
            part = flat_spec(spec, len(blocks[0]))
            values = tuple(to_torch(Tensor(part, block)) for block in blocks)
            result = from_torch(method.merge(Group(spec.name, None, values, (1.0,) * len(values))), part).data
            if len(result) != part.nbytes:
                raise MergeError(f"'{self.method}' gave {len(result)} bytes, not {part.nbytes}", tensor=spec.name)
            hashed.update(result)
            self.workspace.reporter.advance(len(result))
            yield result

    def _chunks(self, stanza: Stanza) -> Iterator[memoryview]:
        """A tensor in blocks of the customary size, however it was stored."""
        blocks = self.decoder.checked([(stanza.spec, stanza.digest, stanza.recipe)])
        return rechunked(blocks, block_bytes(stanza.spec.dtype))

    def _frame(self, wanted: list[TensorSpec]) -> _Frame | None:
        """The skeleton of the result and the order of its tensors; None if the sides' skeletons clash."""
        names = [spec.name for spec in wanted]
        for side, other in ((self.ours, self.theirs), (self.theirs, self.ours)):
            unchanged = self.base is not None and self.base.skeleton.digest == other.skeleton.digest
            agreed = side.skeleton.digest == other.skeleton.digest
            order = [(stanza.spec.name, stanza.skip) for stanza in side.stanzas]
            if (unchanged or agreed) and {name for name, _ in order} == set(names):
                return _Frame(side.skeleton, order)
        return self._composed(wanted)

    def _composed(self, wanted: list[TensorSpec]) -> _Frame | None:
        base = self._skeleton(self.base) if self.base else None
        file_format = self.workspace.registry.format(self.ours.format)
        composed = file_format.merge_skeletons(base, self._skeleton(self.ours), self._skeleton(self.theirs), wanted)
        if composed is None:
            return None
        layout = file_format.split(io.BytesIO(composed))
        order: list[tuple[str, int]] = []
        end = 0
        for segment in layout.segments:
            order.append((segment.spec.name, segment.offset - end if order else 0))
            end = segment.offset + segment.spec.nbytes
        lead = layout.segments[0].offset if layout.segments else len(composed)
        spec = skeleton_spec(len(composed))
        view = memoryview(composed)
        blocks = (view[at : at + block_bytes(RAW)] for at in range(0, len(view), block_bytes(RAW)))
        ticket = self.encoder.add(spec, blocks)
        return _Frame(Skeleton(len(composed), lead, digest_of(composed), ()), order, ticket)

    def _skeleton(self, manifest: Manifest) -> bytes:
        fetch_missing(self.workspace, replace(manifest, stanzas=()))
        return read_skeleton(self.decoder, manifest)


@dataclass(frozen=True)
class _Frame:
    skeleton: Skeleton
    order: list[tuple[str, int]]
    recipe: Ticket | None = None


def _spec(decision: Decision) -> TensorSpec:
    found = decision.stanza or decision.ours
    if found is None:
        raise ThetaError("a decision without a tensor", tensor=decision.name)
    return found.spec


def _only(manifest: Manifest, names: set[str]) -> Manifest:
    return replace(manifest, stanzas=tuple(stanza for stanza in manifest.stanzas if stanza.spec.name in names))
