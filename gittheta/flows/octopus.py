"""`git merge -s theta`: any number of heads in one commit. Git merges everything but the checkpoints, head by head.

Nothing is touched before all is known. Checkpoints are merged from all sides at once; what Git makes of the rest and
what we make of them becomes one tree, and index and work tree go there in one step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from gittheta.errors import GitError, ManifestError, MergeError, ThetaError
from gittheta.flows.ancestry import common_tree
from gittheta.flows.contests import Contest, contests
from gittheta.flows.fold import (
    Merged,
    Message,
    commit_tree,
    composed,
    empty_tree,
    enter,
    merge_commits,
    relabelled,
    trees_of,
    write_blob,
)
from gittheta.flows.merge import Outcome, merge_versions
from gittheta.flows.plan import Action, Side, Versions, plan_merge
from gittheta.flows.record import record
from gittheta.flows.rules import read_policy
from gittheta.flows.smudge import read_manifest
from gittheta.flows.workspace import Workspace
from gittheta.git import Entry
from gittheta.manifest import MAX_TEXT, claims_to_be_manifest, format_manifest
from gittheta.merging.options import WEIGHT, weights_of
from gittheta.merging.policy import Policy, Verb
from gittheta.model import OPAQUE, Manifest


@dataclass(frozen=True)
class Request:
    """What Git asks of a merge strategy. Commits may be trees, where Git has no commit to name."""

    bases: tuple[str, ...]
    head: str
    heads: tuple[str, ...]
    #: What the user calls the heads.
    names: Mapping[str, str]
    verb: Verb
    #: Options of the command line.
    given: Mapping[str, str] = field(default_factory=dict)

    def name(self, head: str) -> str:
        """What the user calls a head; never the same for two."""
        name = self.names.get(head, "")
        unique = [self.names.get(other) for other in self.heads].count(name) == 1
        return name if name and unique and name != "HEAD" else head[:10]


@dataclass(frozen=True)
class Settled:
    """What becomes of one checkpoint."""

    contest: Contest
    #: The blob that comes into the work tree.
    blob: str
    #: Why a person is needed, line by line.
    problems: tuple[str, ...] = ()
    #: What was merged, and what came of it, where it came to that.
    versions: Versions | None = None
    outcome: Outcome | None = None

    @property
    def path(self) -> str:
        """Where it goes."""
        return self.contest.path


@dataclass(frozen=True)
class Report:
    """What was done."""

    #: What Git says of everything else.
    messages: tuple[Message, ...]
    settled: tuple[Settled, ...]
    #: Whether anything needs a person.
    conflicted: bool


def merge_heads(workspace: Workspace, request: Request) -> Report:
    """Merge into index and work tree.

    Raises a ThetaError if that is not possible at all; nothing has changed then.
    """
    head = workspace.repository.git.line("rev-parse", "--verify", request.head)  # Git says HEAD
    return _Octopus(workspace, replace(request, head=head)).run()


@dataclass
class _Octopus:
    workspace: Workspace
    request: Request

    def run(self) -> Report:
        repository = self.workspace.repository
        self._check_index()
        sides = [self.trees[commit] for _, commit in self.sides]
        found = contests(self.workspace, self._base_tree(), sides, self.request.verb is Verb.PICK)
        merged = self._fold({path for contest in found for path in contest.paths})
        self._check_files(found)
        self._check_weights()
        policy = read_policy(self.workspace, [contest.path for contest in found], self.request.given)
        settled = [each for contest in found if (each := self._settle(contest, policy))]
        unmerged = [*merged.unmerged, *(stage for each in settled if each.problems for stage in _stages(each.contest))]
        entries = [Entry(each.contest.mode, each.blob, each.path) for each in settled]
        gone = {path for each in settled for path in each.contest.paths}
        tree = composed(repository, merged.tree, entries, gone) if settled else merged.tree
        enter(repository, self.trees[self.request.head], tree, unmerged)
        for each in settled:
            if each.versions and each.outcome:
                record(self.workspace, each.versions, each.outcome, self._given(each.versions))
        return Report(merged.messages, tuple(settled), bool(unmerged))

    @cached_property
    def trees(self) -> dict[str, str]:
        """The tree of every head."""
        commits = [self.request.head, *self.request.heads]
        return dict(zip(commits, trees_of(self.workspace.repository.git, commits), strict=True))

    @cached_property
    def sides(self) -> list[tuple[str, str]]:
        """Labels and commits of those that are merged: the parents that a merge commit gets."""
        request = self.request
        if len(request.heads) == 1:
            named = [("ours", request.head), ("theirs", request.heads[0])]
        else:
            named = [("HEAD", request.head), *((request.name(head), head) for head in request.heads)]
        return named if request.verb is Verb.PICK or self._head_counts() else named[1:]

    def _head_counts(self) -> bool:
        """Whether anything happened on HEAD that is not part of a head that is merged."""
        request = self.request
        if request.head in request.bases:
            return False
        if len(request.heads) == 1:
            return True
        git = self.workspace.repository.git
        return request.head in git.run("merge-base", "--independent", request.head, *request.heads).decode().split()

    def _check_index(self) -> None:
        git = self.workspace.repository.git
        staged = git.run("diff-index", "--cached", "--name-only", self.request.head, "--").decode(errors="replace")
        if staged:
            raise GitError(
                f"changes are staged that the merge would lose: {', '.join(staged.splitlines())}",
                mend="commit them, or put them away: git stash",
            )

    def _check_files(self, found: Sequence[Contest]) -> None:
        """Before it takes long, look whether the work tree has changes where the results must go."""
        paths = [contest.path for contest in found]
        if not paths:
            return
        git = self.workspace.repository.git
        changed = git.run("--literal-pathspecs", "diff-files", "--name-only", "--", *paths).decode(errors="replace")
        if changed:
            raise GitError(
                f"the merge would overwrite local changes to {', '.join(changed.splitlines())}",
                mend="commit them, or put them away: git stash",
            )

    def _check_weights(self) -> None:
        if WEIGHT in self.request.given:
            weights_of(self.request.given[WEIGHT], tuple(label for label, _ in self.sides))

    def _base_tree(self) -> str:
        bases = self.request.bases
        return common_tree(self.workspace, bases) if bases else empty_tree(self.workspace.repository.git)

    def _fold(self, ours: set[str]) -> Merged:
        """Everything but some paths, as Git merges it, one head after the other."""
        git, request = self.workspace.repository.git, self.request
        current, *heads = self._commits()
        messages: list[Message] = []
        labels = {commit: request.name(head) for commit, head in zip(heads, request.heads, strict=True)}
        for at, head in enumerate(heads):
            labels[current] = "HEAD"
            merged = merge_commits(git, current, head).without(ours)
            messages += merged.messages
            if at + 1 < len(heads):
                self._check_fold(merged, at)
                current = commit_tree(git, merged.tree, current, head)
        return relabelled(self.workspace.repository, replace(merged, messages=tuple(messages)), labels)

    def _commits(self) -> list[str]:
        """What Git is to merge: the commits themselves, or if another base is meant than theirs, some that have it."""
        git, request = self.workspace.repository.git, self.request
        if request.verb is Verb.MERGE:
            return [request.head, *request.heads]
        base = commit_tree(git, self._base_tree())
        return [commit_tree(git, self.trees[commit], base) for commit in (request.head, *request.heads)]

    def _check_fold(self, merged: Merged, at: int) -> None:
        """A conflict in the last step can be shown; one before that cannot."""
        if merged.unmerged:
            paths = ", ".join(dict.fromkeys(entry.path for entry in merged.unmerged))
            names = [self.request.name(head) for head in self.request.heads]
            raise MergeError(
                f"{names[at]} conflicts with HEAD" + (f" or {', '.join(names[:at])}" if at else "") + f" in {paths}",
                mend=f"merge it first, alone: git merge -s theta {names[at]}; then the others",
            )

    def _given(self, versions: Versions) -> Mapping[str, str]:
        """The options of the command line, for a checkpoint that perhaps not every side has."""
        given = self.request.given
        labels = [label for label, _ in self.sides]
        weights = given.get(WEIGHT, self.workspace.repository.setting("theta.merge.weight") or "").split(",")
        if len(versions.sides) == len(labels) or len(weights) != len(labels):
            return given
        return {**given, WEIGHT: ",".join(weights[labels.index(label)] for label in versions.labels)}

    def _settle(self, contest: Contest, policy: Policy) -> Settled | None:
        """What becomes of a checkpoint; None where Git's idea of it is right."""
        problem = self._clash(contest)
        if problem:
            return Settled(contest, _shown(contest), (problem,))
        versions = self._versions(contest)
        given = self._given(versions)
        if given != self.request.given:
            policy = read_policy(self.workspace, [contest.path], given)
        try:
            if (contest.alike or len(contest.changed) == 1) and not self._computes(versions, policy):
                entry = contest.sides[contest.changed[0]]
                return Settled(contest, entry.oid) if entry else None
            outcome = merge_versions(self.workspace, versions, policy)
        except ThetaError as error:
            raise error.located(path=contest.path) from None
        if outcome.manifest is None:
            return Settled(contest, _shown(contest), outcome.conflicts, versions, outcome)
        blob = write_blob(self.workspace.repository.git, format_manifest(outcome.manifest))
        return Settled(contest, blob, (), versions, outcome)

    def _computes(self, versions: Versions, policy: Policy) -> bool:
        """Whether sides that changed a checkpoint alike, or the only one that did, are not simply the result."""
        if any(side.manifest.format == OPAQUE for side in versions.sides):
            return False
        plan = plan_merge(versions, policy, self.workspace.registry)
        return any(decision.action is Action.MERGE for decision in plan.decisions)

    def _clash(self, contest: Contest) -> str:
        """Why there are no manifests to merge."""
        label = [label for label, _ in self.sides]
        there = [(label[index], side) for index in contest.changed if (side := contest.sides[index])]
        gone = [label[index] for index in contest.changed if contest.sides[index] is None]
        if gone:
            return f"deleted in {_listed(gone)}, changed in {_listed([name for name, _ in there])}"
        kinds = {name: self._kind(side.oid) for name, side in there}
        stored = [name for name, kind in kinds.items() if not kind]
        others = [f"{kind} in {name}" for name, kind in kinds.items() if kind]
        return f"stored by gittheta in {_listed(stored)}, {_listed(others)}" if others else ""

    def _kind(self, oid: str) -> str:
        """What a blob is, if not a manifest."""
        text = self.workspace.blobs.read(oid, MAX_TEXT) or b""
        if claims_to_be_manifest(text):
            return ""
        return "a Git LFS pointer" if text.startswith(b"version https://git-lfs.github.com/spec/") else "a plain file"

    def _versions(self, contest: Contest) -> Versions:
        base = self._manifest(contest.path, contest.base, "the base")
        found = [
            (label, commit, self._manifest(contest.path, entry, label))
            for (label, commit), entry in zip(self.sides, contest.sides, strict=True)
        ]
        sides = tuple(Side(label, manifest, commit) for label, commit, manifest in found if manifest)
        return Versions(contest.path, base, sides, self.request.verb)

    def _manifest(self, path: str, entry: Entry | None, label: str) -> Manifest | None:
        text = self.workspace.blobs.read(entry.oid, MAX_TEXT) if entry else None
        if not text or not claims_to_be_manifest(text):
            return None
        try:
            return read_manifest(self.workspace, path, text)
        except ManifestError as error:
            error.what += f" (in {label})"
            raise


def _ours(contest: Contest) -> Entry | None:
    """The first side's; where only others have added the file, the first of these."""
    there = (contest.sides[index] for index in contest.changed)
    return contest.sides[0] or (None if contest.base else next(there))


def _theirs(contest: Contest) -> Entry | None:
    """Of the other sides the first that changed it, and in another way than ours."""
    ours = _ours(contest)
    others = (side for index in contest.changed if (side := contest.sides[index]))
    return next((side for side in others if not ours or side.oid != ours.oid), None)


def _shown(contest: Contest) -> str:
    """What stands in the work tree during a conflict: ours, unless it was deleted."""
    entry = _ours(contest) or _theirs(contest)
    return entry.oid if entry else ""


def _stages(contest: Contest) -> list[Entry]:
    staged = ((1, contest.base), (2, _ours(contest)), (3, _theirs(contest)))
    return [Entry(entry.mode, entry.oid, contest.path, stage) for stage, entry in staged if entry]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
