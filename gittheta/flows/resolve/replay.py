"""Looking at merges without making them: what one would do, and whether one that was made can be repeated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gittheta.engine.policy import Policy, Verb
from gittheta.errors import GitError, ManifestError
from gittheta.flows.merge.execute import compare_versions, digests_of
from gittheta.flows.merge.plan import MergePlan, Side, Versions, plan_merge
from gittheta.flows.merge.rules import read_policy
from gittheta.flows.resolve.trailers import MERGE, SIDES, parse_trailers
from gittheta.git.history import independent, octopus_bases, parents
from gittheta.git.messages import trailer_lines
from gittheta.git.refs.names import commit_of
from gittheta.git.trees import follows_renames, tree_renames

if TYPE_CHECKING:
    from gittheta.engine.comparison import Comparison
    from gittheta.flows.workspace import Workspace
    from gittheta.model import Manifest


@dataclass(frozen=True)
class MergePreview:
    """What a merge would do with one checkpoint."""

    versions: Versions
    plan: MergePlan
    policy: Policy
    #: Why it cannot be merged tensor by tensor.
    problem: str = ""


def preview(workspace: Workspace, names: Sequence[str], given: Mapping[str, str]) -> Iterator[MergePreview]:
    """The plan of `git merge NAMES`, for each checkpoint that two sides or more have changed or that differs.

    Raises GitError for a name that is not a commit's, and what a policy without meaning raises.
    """
    heads = [commit_of(workspace.repository, name) for name in ("HEAD", *names)]
    labels = ("ours", "theirs") if len(names) == 1 else ("HEAD", *names)
    yield from _plans(workspace, heads, labels, given)


def _plans(
    workspace: Workspace, heads: list[str], labels: Sequence[str], given: Mapping[str, str]
) -> Iterator[MergePreview]:
    base = merge_base(workspace, heads)
    counting = independent(workspace.repository.git, heads)
    labelled = dict(zip(reversed(heads), reversed(labels), strict=True))  # each once, by its first name
    sides = [(labelled[head], head) for head in dict.fromkeys(heads) if head in counting]
    if [head for _, head in sides] == heads[:1]:  # all is merged already
        return
    trees = [_checkpoints(workspace, commit) if commit else {} for commit in (base, *(head for _, head in sides))]
    files = _files(workspace, base, sides, trees)
    policy = read_policy(workspace, [file.path for file in files], given)
    for file in files:
        versions = _versions(workspace, file, base, sides)
        if versions is None:
            continue
        if len(versions.sides) == len(sides):
            yield MergePreview(versions, plan_merge(versions, policy, workspace.tensors.registry), policy)
        elif file.before is not None and (problem := _clash(file, trees, sides)):
            yield MergePreview(versions, MergePlan(()), policy, problem)


@dataclass(frozen=True)
class _File:
    """A checkpoint that the versions do not agree on: where it goes, and its names in the base and on the sides."""

    path: str
    before: str | None
    names: tuple[str | None, ...]


def _files(
    workspace: Workspace, base: str | None, sides: list[tuple[str, str]], trees: list[dict[str, str]]
) -> list[_File]:
    """The checkpoints that differ, by path; one that a side has renamed is followed, as the merge follows it."""
    there, *others = trees
    moved = [_renames(workspace, base, head, there, tree) for (_, head), tree in zip(sides, others, strict=True)]
    came = {new for renames in moved for new in renames.values()}
    files = []
    for path in sorted({path for tree in trees for path in tree} - came):
        named = zip(moved, others, strict=True)
        names = tuple(renames.get(path, path if path in tree else None) for renames, tree in named)
        blobs = {tree.get(name) if name else None for name, tree in zip((path, *names), trees, strict=True)}
        renamed = sorted({name for name in names if name and name != path})
        if len(blobs) > 1 or renamed:
            files.append(_File(renamed[0] if renamed else path, path if path in there else None, names))
    return files


def _renames(
    workspace: Workspace, base: str | None, head: str, before: dict[str, str], after: dict[str, str]
) -> dict[str, str]:
    """Where the checkpoints are that a side no longer has where they were."""
    if base is None or before.keys() <= after.keys() or not follows_renames(workspace.repository):
        return {}
    renames = tree_renames(workspace.repository.git, base, head)
    return {old: change.new.path for old, change in renames.items() if old in before and change.new}


def _clash(file: _File, trees: list[dict[str, str]], sides: list[tuple[str, str]]) -> str:
    """Why a person is needed where a side has deleted what another one changed; empty if none has changed it."""
    before, *others = trees
    gone = [label for (label, _), name in zip(sides, file.names, strict=True) if name is None]
    changed = [
        label
        for (label, _), name, tree in zip(sides, file.names, others, strict=True)
        if name is not None and tree.get(name) != before.get(file.before or "")
    ]
    return f"in conflict: deleted in {', '.join(gone)}, changed in {', '.join(changed)}" if changed else ""


def compare(workspace: Workspace, preview: MergePreview) -> dict[str, Comparison]:
    """For each tensor that would be merged, a Comparison of the task vectors."""
    return compare_versions(workspace, preview.versions, preview.plan)


@dataclass(frozen=True)
class Replayed:
    """Whether one checkpoint of a merge commit came out the same again."""

    path: str
    #: Tensors that came out otherwise; ``(metadata)`` for all that is no tensor.
    different: tuple[str, ...] = ()
    #: Why it could not be merged again.
    problem: str = ""


def replay(workspace: Workspace, revision: str) -> Iterator[Replayed]:
    """Merge once more what a merge commit merged, by what its trailers say. Nothing is stored.

    Raises GitError unless the commit is a merge with trailers.
    """
    git = workspace.repository.git
    commit = commit_of(workspace.repository, revision)
    merged_commits = parents(git, commit)
    parsed = parse_trailers(trailer_lines(git, commit, (MERGE, SIDES)))
    if len(merged_commits) < 2 or not parsed.paths:
        raise GitError(
            f"not a merge in which tensors were computed: {revision}",
            hint="only merge commits with Theta-Merge trailers can be replayed: git log --merges --grep=Theta-Merge",
        )
    bases = octopus_bases(git, merged_commits)
    base = bases[0] if bases else None
    counting = independent(git, merged_commits)
    heads = [parent for parent in merged_commits if parent in counting]  # --no-ff: a parent that others have in them
    labels = parsed.labels
    if len(labels) != len(heads):
        labels = ("ours", "theirs") if len(heads) == 2 else tuple(f"parent {n}" for n in range(1, len(heads) + 1))
    sides = list(zip(labels, heads, strict=True))
    for path in parsed.paths:
        versions = _versions(workspace, _File(path, path, (path,) * len(sides)), base, sides)
        merged = workspace.read_manifest(f"{commit}:{path}")
        if versions is None or merged is None or len(versions.sides) < 2:
            yield Replayed(path, problem="it does not stand under this name in all parents and in the commit")
            continue
        found = _compared(workspace, versions, parsed.policy, merged)
        if found.different and len(bases) > 1:
            found = Replayed(path, problem=f"cannot be repeated: its sides have {len(bases)} merge bases (criss-cross)")
        yield found


def _compared(workspace: Workspace, versions: Versions, policy: Policy, merged: Manifest) -> Replayed:
    again = digests_of(workspace, versions, policy)
    if isinstance(again, tuple):
        return Replayed(versions.path, problem="; ".join(again))
    then = {stanza.spec.name: stanza.digest for stanza in merged.stanzas}
    names = [name for name in {**then, **again} if then.get(name) != again.get(name)]
    return Replayed(versions.path, tuple(names))


def merge_base(workspace: Workspace, heads: Sequence[str]) -> str | None:
    """The best common ancestor of all heads; None if there is none."""
    bases = octopus_bases(workspace.repository.git, heads)
    return bases[0] if bases else None


def _versions(workspace: Workspace, file: _File, base: str | None, sides: list[tuple[str, str]]) -> Versions | None:
    named = zip(sides, file.names, strict=True)
    found = [(label, commit, _manifest(workspace, commit, name)) for (label, commit), name in named if name]
    there = tuple(Side(label, manifest, commit) for label, commit, manifest in found if manifest)
    if not there:
        return None
    before = _manifest(workspace, base, file.before) if base and file.before else None
    return Versions(file.path, before, there, Verb.MERGE)


def _manifest(workspace: Workspace, commit: str, path: str) -> Manifest | None:
    try:
        return workspace.read_manifest(f"{commit}:{path}")
    except ManifestError as error:
        raise error.located(path=path) from None


def _checkpoints(workspace: Workspace, commit: str) -> dict[str, str]:
    """Blobs of files that may be checkpoints, by path."""
    entries = list(workspace.repository.tree(commit))
    filters = workspace.repository.attributes(["filter"], [entry.path for entry in entries])
    return {entry.path: entry.oid for entry in entries if filters.get(entry.path, {}).get("filter") == "theta"}
