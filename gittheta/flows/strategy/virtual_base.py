"""What a merge starts from where its sides have several common ancestors: these are merged first, as Git does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gittheta.engine.policy import TAKE, Policy, Rule, literal
from gittheta.flows.merge.execute import merge_versions
from gittheta.flows.merge.plan import Side, Versions
from gittheta.git.entries import Entry
from gittheta.git.history import independent, merge_bases
from gittheta.git.trees import TreeChange, composed, empty_tree, tree_changes, trees_of
from gittheta.storage.manifest import format_manifest

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.model import Manifest

_SOURCE = "virtual base"
_FIRST = "the first"


def common_tree(workspace: Workspace, bases: Sequence[str]) -> str:
    """The tree of the only base, or of all bases merged; what conflicts is taken from the first."""
    git = workspace.repository.git
    first, *others = independent(git, bases)
    tree = trees_of(git, [first])[0]
    for other in others:
        older = merge_bases(git, first, other)
        old = common_tree(workspace, older) if older else empty_tree(git)
        tree = _merged(workspace, old, tree, trees_of(git, [other])[0])
    return tree


def _merged(workspace: Workspace, old: str, first: str, other: str) -> str:
    """File by file: what the other tree changed since the old one, unless the first changed it too."""
    git = workspace.repository.git
    changed = tree_changes(git, old, first)
    entries, gone = [], []
    for path, theirs in tree_changes(git, old, other).items():
        ours = changed.get(path)
        result = theirs.new if ours is None else _checkpoint(workspace, path, ours, theirs)
        if result:
            entries.append(result)
        else:
            gone.append(path)
    return composed(workspace.repository, first, entries, gone)


def _checkpoint(workspace: Workspace, path: str, ours: TreeChange, theirs: TreeChange) -> Entry | None:
    """A file that both changed: a mean of both, or what the first has."""
    base, one, other = (_manifest(workspace, entry) for entry in (ours.old, ours.new, theirs.new))
    if not (ours.new and one and other) or one == other:
        return ours.new
    versions = Versions(path, base, (Side(_FIRST, one), Side("the second", other)))
    policy = Policy((Rule(_SOURCE, "linear"),))
    outcome = merge_versions(workspace, versions, policy)
    if outcome.plan.conflicts:
        names = tuple(literal(decision.name) for decision in outcome.plan.conflicts)
        taken = Rule(_SOURCE, TAKE, (("from", _FIRST),), tensors=names)
        outcome = merge_versions(workspace, versions, policy.preceded_by(taken))
    if outcome.manifest is None:
        return ours.new
    blob = workspace.repository.git.write_blob(format_manifest(outcome.manifest))
    return Entry(ours.new.mode, blob, path)


def _manifest(workspace: Workspace, entry: Entry | None) -> Manifest | None:
    return workspace.try_manifest(entry.oid) if entry and entry.mode.startswith("100") else None
