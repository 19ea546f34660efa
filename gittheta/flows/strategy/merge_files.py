"""What becomes of a checkpoint that several sides changed: a merged manifest, one version, or a conflict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING

from gittheta.engine.options import WEIGHT, weights_of
from gittheta.errors import ManifestError, ThetaError
from gittheta.flows.add.whole import manifest_of_whole
from gittheta.flows.checkout.smudge import read_manifest
from gittheta.flows.merge.execute import Outcome, merge_versions
from gittheta.flows.merge.plan import Action, Side, Versions, plan_merge
from gittheta.flows.merge.rules import read_policy
from gittheta.git.entries import Entry
from gittheta.model import OPAQUE, Manifest
from gittheta.storage.manifest import MAX_TEXT, claims_to_be_manifest, format_manifest

if TYPE_CHECKING:
    from gittheta.engine.policy import Policy, Verb
    from gittheta.flows.strategy.candidates import MergeCandidate
    from gittheta.flows.workspace import Workspace


@dataclass(frozen=True)
class MergedFile:
    """What becomes of one checkpoint."""

    candidate: MergeCandidate
    #: The blob that comes into the work tree.
    blob: str
    #: Why a person is needed, line by line.
    problems: tuple[str, ...] = ()
    #: What was merged, and what came of it, where it came to that.
    versions: Versions | None = None
    outcome: Outcome | None = None
    #: The options of the command line, as they apply to it.
    given: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Where it goes."""
        return self.candidate.path


@dataclass
class FileMerger:
    """How the sides of one merge come together."""

    workspace: Workspace
    #: Labels and commits.
    sides: Sequence[tuple[str, str]]
    verb: Verb
    #: Options of the command line.
    given: Mapping[str, str]
    #: What was stored for versions that are whole in Git, by blob.
    _whole: dict[str, Manifest | None] = field(default_factory=dict)

    def check_weights(self) -> None:
        """Raises MergeError if the command line has not one weight for each side."""
        if WEIGHT in self.given:
            weights_of(self.given[WEIGHT], tuple(label for label, _ in self.sides))

    def settle(self, found: Sequence[MergeCandidate]) -> Iterator[MergedFile]:
        """Everything but what Git has the right idea of already. Writes to the store only.

        Raises a ThetaError that names the checkpoint where the policy has no meaning or a tensor cannot be read.
        """
        policy = read_policy(self.workspace, [candidate.path for candidate in found], self.given)
        for candidate in found:
            try:
                settled = self._settle(candidate, policy)
            except ThetaError as error:
                raise error.located(path=candidate.path) from None
            if settled:
                yield settled

    def _settle(self, candidate: MergeCandidate, policy: Policy) -> MergedFile | None:
        problem = self._clash(candidate)
        if problem:
            return MergedFile(candidate, _shown(candidate), (problem,))
        versions = self._versions(candidate)
        given = self._given(versions)
        if given != self.given:
            policy = read_policy(self.workspace, [candidate.path], given)
        if (candidate.alike or len(candidate.changed) == 1) and not self._computes(versions, policy):
            entry = candidate.sides[candidate.changed[0]]
            return MergedFile(candidate, entry.oid) if entry else None
        outcome = merge_versions(self.workspace, versions, policy)
        if outcome.manifest is None:
            return MergedFile(candidate, _shown(candidate), outcome.conflicts, versions, outcome, given)
        blob = self.workspace.repository.git.write_blob(format_manifest(outcome.manifest))
        return MergedFile(candidate, blob, (), versions, outcome, given)

    def _computes(self, versions: Versions, policy: Policy) -> bool:
        """Whether sides that changed a checkpoint alike, or the only one that did, are not simply the result."""
        if any(side.manifest.format == OPAQUE for side in versions.sides):
            return False
        plan = plan_merge(versions, policy, self.workspace.tensors.registry)
        return any(decision.action is Action.MERGE for decision in plan.decisions)

    def _clash(self, candidate: MergeCandidate) -> str:
        """Why there are no manifests to merge."""
        label = [label for label, _ in self.sides]
        there = [(label[index], side) for index in candidate.changed if (side := candidate.sides[index])]
        gone = [label[index] for index in candidate.changed if candidate.sides[index] is None]
        if gone:
            return f"deleted in {_listed(gone)}, changed in {_listed([name for name, _ in there])}"
        kinds = {
            name: "" if self._manifest(candidate.path, side, name) else self._kind(side.oid) for name, side in there
        }
        stored = [name for name, kind in kinds.items() if not kind]
        others = [f"{kind} in {name}" for name, kind in kinds.items() if kind]
        return f"stored by gittheta in {_listed(stored)}, {_listed(others)}" if others else ""

    def _kind(self, oid: str) -> str:
        """What a blob is, if not a manifest."""
        text = self.workspace.blobs.read(oid, MAX_TEXT) or b""
        if claims_to_be_manifest(text):
            return ""
        return "a Git LFS pointer" if text.startswith(b"version https://git-lfs.github.com/spec/") else "a plain file"

    def _versions(self, candidate: MergeCandidate) -> Versions:
        base = self._manifest(candidate.path, candidate.base, "the base")
        found = [
            (label, commit, self._manifest(candidate.path, entry, label))
            for (label, commit), entry in zip(self.sides, candidate.sides, strict=True)
        ]
        sides = tuple(Side(label, manifest, commit) for label, commit, manifest in found if manifest)
        return Versions(candidate.path, base, sides, self.verb)

    def _manifest(self, path: str, entry: Entry | None, label: str) -> Manifest | None:
        if entry is None or not entry.mode.startswith("100"):
            return None
        text = self.workspace.blobs.read(entry.oid, MAX_TEXT)
        if text is not None and not claims_to_be_manifest(text):
            return self._stored(path, entry.oid, text, label)
        if not text:
            return None
        try:
            return read_manifest(self.workspace, path, text)
        except ManifestError as error:
            raise error.but(what=f"{error.what} (in {label})") from None

    def _stored(self, path: str, oid: str, content: bytes, label: str) -> Manifest | None:
        """The manifest of a version from before gittheta, which is whole in Git; stored once."""
        if oid not in self._whole:
            self._whole[oid] = manifest_of_whole(self.workspace, path, BytesIO(content), label) if content else None
        return self._whole[oid]

    def _given(self, versions: Versions) -> Mapping[str, str]:
        """The options of the command line, for a checkpoint that perhaps not every side has."""
        given = self.given
        labels = [label for label, _ in self.sides]
        weights = given.get(WEIGHT, self.workspace.repository.setting("theta.merge.weight") or "").split(",")
        if len(versions.sides) == len(labels) or len(weights) != len(labels):
            return given
        return {**given, WEIGHT: ",".join(weights[labels.index(label)] for label in versions.labels)}


def _ours(candidate: MergeCandidate) -> Entry | None:
    """The first side's; where only others have added the file, the first of these."""
    there = (candidate.sides[index] for index in candidate.changed)
    return candidate.sides[0] or (None if candidate.base else next(there))


def _theirs(candidate: MergeCandidate) -> Entry | None:
    """Of the other sides the first that changed it, and in another way than ours."""
    ours = _ours(candidate)
    others = (side for index in candidate.changed if (side := candidate.sides[index]))
    return next((side for side in others if not ours or side.oid != ours.oid), None)


def _shown(candidate: MergeCandidate) -> str:
    """What stands in the work tree during a conflict: ours, unless it was deleted."""
    entry = _ours(candidate) or _theirs(candidate)
    return entry.oid if entry else ""


def stages(candidate: MergeCandidate) -> list[Entry]:
    """What the index has of a conflict."""
    staged = ((1, candidate.base), (2, _ours(candidate)), (3, _theirs(candidate)))
    return [Entry(entry.mode, entry.oid, candidate.path, stage) for stage, entry in staged if entry]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
