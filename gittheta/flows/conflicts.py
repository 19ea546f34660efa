"""Conflicts of a merge: which tensors need a person, and settling them one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from gittheta.errors import GitError, MergeError, StoreError
from gittheta.flows.materialise import manifest_text, replace_checkpoint
from gittheta.flows.merge import merge_versions
from gittheta.flows.plan import Decision, MergePlan, Versions, plan_merge
from gittheta.flows.record import Record, records, save
from gittheta.flows.rules import read_policy
from gittheta.flows.trailers import trailers_of
from gittheta.flows.workfile import WorkFile
from gittheta.flows.workspace import Workspace
from gittheta.manifest import format_manifest
from gittheta.merging.policy import Policy, Rule, Verb, literal, literal_path
from gittheta.model import Manifest

_ALL = frozenset(Verb)


@dataclass(frozen=True)
class Conflict:
    """A checkpoint in conflict: the tensors that are to be settled, and what else stands in the way."""

    made: Record
    versions: Versions
    plan: MergePlan

    @property
    def tensors(self) -> tuple[Decision, ...]:
        """Those that nobody has settled yet."""
        return self.plan.conflicts

    @property
    def objections(self) -> tuple[str, ...]:
        """What is no matter of one tensor."""
        return self.made.objections


def conflicts(workspace: Workspace, paths: Sequence[str] = ()) -> Iterator[Conflict]:
    """Every checkpoint whose index entries are unmerged, by path."""
    known = {made.path: made for made in records(workspace.repository)}
    stages: dict[str, dict[int, str]] = {}
    for entry in workspace.repository.index():
        if entry.stage and (not paths or entry.path in paths):
            stages.setdefault(entry.path, {})[entry.stage] = entry.oid
    for path, oids in sorted(stages.items()):
        made = known.get(path) or _from_stages(workspace, path, oids)
        if made:
            versions = made.versions(workspace)
            yield Conflict(made, versions, plan_merge(versions, Policy(made.rules), workspace.registry))


def _from_stages(workspace: Workspace, path: str, oids: dict[int, str]) -> Record | None:
    """What the index tells of a conflict that gittheta has not seen: one version deleted, another changed."""
    if not (2 in oids and 3 in oids) or any(workspace.try_manifest(oid) is None for oid in oids.values()):
        return None
    merging = (workspace.repository.git_dir / "MERGE_HEAD").exists()
    rules = read_policy(workspace, [path]).rules
    head = workspace.repository.revisions("HEAD")[0]
    sides = (("ours", "HEAD", oids[2]), ("theirs", None, oids[3]))
    return Record(path, Verb.MERGE if merging else Verb.PICK, head, (), oids.get(1), sides, rules, ())


def settle(
    workspace: Workspace,
    path: str,
    globs: Sequence[str],
    method: str | None,
    options: dict[str, str],
    metadata: str | None = None,
) -> Conflict:
    """Settle tensors of a conflict by a method; once none is left, the merged checkpoint is put into the work tree.

    Returns what is still open. Raises MergeError if the method cannot settle them; nothing has changed then.
    """
    found = next(conflicts(workspace, [path]), None)
    if found is None:
        raise MergeError("no checkpoint in conflict", path=path, mend="`git theta conflicts` lists those that are")
    made = replace(found.made, metadata=_side(found.versions, metadata) if metadata else found.made.metadata)
    if method is not None:
        names = [decision.name for decision in found.tensors]
        chosen = [name for name in names if any(fnmatchcase(name, glob) for glob in globs or ["*"])]
        if not chosen and (globs or not made.objections):
            raise MergeError(
                f"no tensor in conflict fits {' '.join(globs)}", path=path, mend="see `git theta conflicts`"
            )
        tensors = tuple(map(literal, chosen)) or ("*",)
        pairs = tuple(sorted(options.items()))
        rule = Rule(f"resolve {method}", method, pairs, literal_path(path), tensors, _ALL)
        made = replace(made, rules=(rule, *made.rules))
    settled = _planned(workspace, made)
    _check_settled(settled, {decision.name for decision in found.tensors}, made.rules[0])
    if not settled.tensors:
        settled = _finish(workspace, settled)
    save(workspace.repository, settled.made)
    return settled


def _planned(workspace: Workspace, made: Record) -> Conflict:
    versions = made.versions(workspace)
    return Conflict(made, versions, plan_merge(versions, Policy(made.rules), workspace.registry))


def _check_settled(settled: Conflict, before: set[str], rule: Rule) -> None:
    for decision in settled.tensors:
        if rule.source.startswith("resolve") and rule.fits(settled.made.path, decision.name, Verb.MERGE):
            raise MergeError(
                f"{rule.method} cannot settle this: {decision.reason}",
                path=settled.made.path,
                tensor=decision.name,
                mend="take one version: --method take --from ours (or theirs, base)",
            )


def _finish(workspace: Workspace, settled: Conflict) -> Conflict:
    outcome = merge_versions(workspace, settled.versions, Policy(settled.made.rules))
    if outcome.manifest is None:
        raise MergeError("; ".join(outcome.conflicts), path=settled.made.path, mend=_METADATA)
    _put(workspace, settled, outcome.manifest)
    trailers = trailers_of(settled.versions, outcome.plan)
    return replace(settled, made=replace(settled.made, trailers=trailers, objections=()))


def _put(workspace: Workspace, settled: Conflict, merged: Manifest) -> None:
    """The merged checkpoint into the work tree, where ours stands. Raises StoreError if something else stands there."""
    path = settled.made.path
    top = workspace.repository.top
    if top is None:
        raise GitError("there is no work tree")
    target, ours = top / path, settled.versions.sides[0].manifest
    if manifest_text(target) != format_manifest(ours):
        with WorkFile.opened(workspace, target) as file:
            if not file.is_of(ours):
                raise StoreError(
                    "the file in the work tree is not ours any more",
                    path=path,
                    mend=f"`git add` it if that is the result, or start again: git checkout --merge -- {path}",
                )
    replace_checkpoint(workspace, target, path, merged, lambda: True)


_METADATA = "if it is the metadata: --metadata ours (or theirs)"


def _side(versions: Versions, wanted: str) -> str:
    if wanted not in versions.labels:
        raise MergeError(f"there is no side '{wanted}'", path=versions.path, mend=f"{', '.join(versions.labels)}")
    return wanted
