"""`git merge -s theta`: any number of heads in one commit. Git merges everything but the checkpoints, head by head.

Nothing is touched before all is known. Checkpoints are merged from all sides at once; what Git makes of the rest and
what we make of them becomes one tree, and index and work tree go there in one step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from gittheta.engine.policy import Verb
from gittheta.errors import GitError, MergeError
from gittheta.flows.resolve.state import save_outcome
from gittheta.flows.strategy.candidates import MergeCandidate, candidates
from gittheta.flows.strategy.merge_files import FileMerger, MergedFile, stages
from gittheta.flows.strategy.virtual_base import common_tree
from gittheta.git.entries import Entry
from gittheta.git.history import independent
from gittheta.git.index import changed_files, staged_changes
from gittheta.git.trees import (
    MergedTrees,
    Message,
    commit_tree,
    composed,
    empty_tree,
    enter,
    merge_commits,
    relabelled,
    trees_of,
)

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.git.operation import Operation


@dataclass(frozen=True)
class StrategyRequest:
    """What Git asks of a merge strategy. Commits may be trees, where Git has no commit to name."""

    bases: tuple[str, ...]
    head: str
    heads: tuple[str, ...]
    operation: Operation
    #: Options of the command line.
    given: Mapping[str, str] = field(default_factory=dict)

    @property
    def verb(self) -> Verb:
        """Only `git merge` merges; everything else that comes with a strategy picks."""
        return Verb.MERGE if self.operation.is_running_merge else Verb.PICK

    def name(self, head: str) -> str:
        """What the user calls a head; never the same for two."""
        name = self.operation.names.get(head, "")
        unique = [self.operation.names.get(other) for other in self.heads].count(name) == 1
        return name if name and unique and name != "HEAD" else head[:10]


@dataclass(frozen=True)
class StrategyReport:
    """What was done."""

    #: What Git says of everything else.
    messages: tuple[Message, ...]
    settled: tuple[MergedFile, ...]
    #: Whether anything needs a person.
    conflicted: bool


def merge_heads(workspace: Workspace, request: StrategyRequest) -> StrategyReport:
    """Merge into index and work tree.

    Raises a ThetaError if that is not possible at all; nothing has changed then.
    """
    repository = workspace.repository
    # Git says HEAD; the tree of the index for a pick onto what is staged.
    head = repository.commit(request.head) or repository.tree_of(request.head)
    if head is None:
        raise GitError(f"not a commit: '{request.head}'", hint="this is for Git to call: git merge -s theta BRANCH")
    return _Octopus(workspace, replace(request, head=head)).run()


@dataclass
class _Octopus:
    workspace: Workspace
    request: StrategyRequest

    def run(self) -> StrategyReport:
        repository = self.workspace.repository
        self._check_index()
        sides = [self.trees[commit] for _, commit in self.sides]
        found = candidates(self.workspace, self._base_tree(), sides, picked=self.request.verb is Verb.PICK)
        merged = self._fold({path for candidate in found for path in candidate.paths})
        self._check_files(found)
        settling = FileMerger(self.workspace, self.sides, self.request.verb, self.request.given)
        settling.check_weights()
        settled = list(settling.settle(found))
        unmerged = [*merged.unmerged, *(stage for each in settled if each.problems for stage in stages(each.candidate))]
        entries = [Entry(each.candidate.mode, each.blob, each.path) for each in settled]
        gone = {path for each in settled for path in each.candidate.paths}
        tree = composed(repository, merged.tree, entries, gone) if settled else merged.tree
        enter(repository, self.trees[self.request.head], tree, unmerged)
        for each in settled:
            if each.versions and each.outcome:
                save_outcome(self.workspace, self.request.operation, each.versions, each.outcome, each.given)
        return StrategyReport(merged.messages, tuple(settled), bool(unmerged))

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
        return request.head in independent(git, (request.head, *request.heads))

    def _check_index(self) -> None:
        staged = staged_changes(self.workspace.repository.git, self.request.head)
        if staged:
            raise GitError(
                f"changes are staged that the merge would lose: {', '.join(staged)}",
                hint="commit them, or put them away: git stash",
            )

    def _check_files(self, found: Sequence[MergeCandidate]) -> None:
        """Before it takes long, look whether the work tree has changes where the results must go."""
        paths = [candidate.path for candidate in found]
        if not paths:
            return
        changed = changed_files(self.workspace.repository.git, paths)
        if changed:
            raise GitError(
                f"the merge would overwrite local changes to {', '.join(changed)}",
                hint="commit them, or put them away: git stash",
            )

    def _base_tree(self) -> str:
        bases = self.request.bases
        return common_tree(self.workspace, bases) if bases else empty_tree(self.workspace.repository.git)

    def _fold(self, ours: set[str]) -> MergedTrees:
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

    def _check_fold(self, merged: MergedTrees, at: int) -> None:
        """A conflict in the last step can be shown; one before that cannot."""
        if merged.unmerged:
            paths = ", ".join(dict.fromkeys(entry.path for entry in merged.unmerged))
            names = [self.request.name(head) for head in self.request.heads]
            raise MergeError(
                f"{names[at]} conflicts with HEAD" + (f" or {', '.join(names[:at])}" if at else "") + f" in {paths}",
                hint=f"merge it first, alone: git merge -s theta {names[at]}; then the others",
            )
