"""Conflicts of a merge: which tensors need a person, and settling them one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gittheta.engine.options import ConfiguredMethod
from gittheta.engine.policy import BOTH, TAKE, Policy, Rule, Verb, glob_fits, literal, literal_path
from gittheta.errors import MergeError, ThetaError
from gittheta.flows.edit.replace_ours import replace_ours
from gittheta.flows.merge.execute import Outcome, merge_versions
from gittheta.flows.merge.plan import Decision, MergePlan, Versions, plan_merge
from gittheta.flows.merge.rules import read_policy
from gittheta.flows.resolve.state import (
    ASK,
    MERGE_AGAIN,
    RESOLVED,
    MergeState,
    concluded,
    merge_states,
    save,
)
from gittheta.model import OPAQUE, Manifest

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.git.operation import Operation
    from gittheta.registry import Registry


@dataclass(frozen=True)
class Conflict:
    """A checkpoint in conflict: the tensors that are to be settled, and what else stands in the way."""

    made: MergeState
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

    @property
    def settled(self) -> bool:
        """Whether the merged checkpoint was put into the work tree."""
        return self.made.result is not None


def conflicts(workspace: Workspace, operation: Operation, paths: Sequence[str] = ()) -> Iterator[Conflict]:
    """Every checkpoint whose index entries are unmerged, by path: those of these names, or in folders of such."""
    known = {made.path: made for made in merge_states(workspace.repository, operation)}
    stages: dict[str, dict[int, str]] = {}
    for entry in workspace.repository.index():
        if entry.stage and (not paths or any(_is_within(entry.path, path) for path in paths)):
            stages.setdefault(entry.path, {})[entry.stage] = entry.oid
    for path, oids in sorted(stages.items()):
        made = known.get(path)
        if made is None or not _is_about(made, oids):
            made = _from_stages(workspace, operation, path, oids)
        if made:
            yield _looked_at(workspace, made)


def _is_within(path: str, name: str) -> bool:
    return name in (".", path) or path.startswith(f"{name.rstrip('/')}/")


def _is_about(made: MergeState, oids: dict[int, str]) -> bool:
    """Whether a record is of this very conflict, and not of an earlier one that was given up."""
    blobs = {made.base, *(oid for _, _, oid in made.sides)}
    return {2, 3} <= oids.keys() and blobs >= set(oids.values())


def _from_stages(workspace: Workspace, operation: Operation, path: str, oids: dict[int, str]) -> MergeState | None:
    """What the index tells of a conflict that gittheta has no record of; None if it is none of a checkpoint."""
    names = {1: "base", 2: "ours", 3: "theirs"}
    if not oids.keys() & {2, 3} or any(workspace.try_manifest(oid) is None for oid in oids.values()):
        return None
    heads = operation.heads
    if len(heads) > 1:  # the index has two of the sides; to merge these would lose the others
        lost = f"it is not known any more what all the heads had here: {MERGE_AGAIN}"
        return MergeState(path, Verb.MERGE, "", heads, None, (), (ASK,), objections=(lost,))
    commits = {2: "HEAD", 3: heads[0] if len(heads) == 1 else None}
    sides = tuple((names[stage], commits[stage], oids[stage]) for stage in (2, 3) if stage in oids)
    verb = Verb.MERGE if heads else Verb.PICK
    made = MergeState(path, verb, operation.head, heads, oids.get(1), sides, (ASK,))
    if len(sides) < 2:
        gone = "ours" if 2 not in oids else "theirs"
        reason = f"deleted in {gone}, changed in {sides[0][0]}" if 1 in oids else f"only in {sides[0][0]}"
        return replace(made, objections=(reason,))
    try:
        return replace(made, rules=read_policy(workspace, [path]).rules)
    except ThetaError as error:
        return replace(made, objections=(str(error),))


def _looked_at(workspace: Workspace, made: MergeState) -> Conflict:
    """A conflict as it stands. Rules that have no meaning are passed over: the user is asked."""
    try:
        return _planned(workspace, made)
    except ThetaError as error:
        return _planned(workspace, replace(made, rules=(ASK,), objections=(str(error),)))


def _planned(workspace: Workspace, made: MergeState) -> Conflict:
    versions = made.versions(workspace)
    if _is_whole(versions):
        return Conflict(made, versions, MergePlan(()))
    plan = plan_merge(versions, Policy(made.rules), workspace.tensors.registry)
    return Conflict(made, versions, plan.refused(dict(made.refused)))


def _is_whole(versions: Versions) -> bool:
    """Whether one version can only be taken as it is: there are no tensors, or nothing to merge them with."""
    formats = {side.manifest.format for side in versions.sides}
    return OPAQUE in formats or len(formats) > 1 or len(versions.sides) < 2


def resolve(
    workspace: Workspace,
    operation: Operation,
    path: str,
    globs: Sequence[str],
    method: str | None,
    options: dict[str, str],
    metadata: str | None = None,
) -> Conflict:
    """Settle tensors of a conflict by a method; once none is left, the merged checkpoint is put into the work tree.

    Returns what is still open. Raises MergeError if the method cannot settle them, StoreError if the file in the work
    tree is not ours any more; nothing has changed then.
    """
    found = next((each for each in conflicts(workspace, operation, [path]) if each.made.path == path), None)
    if found is None:
        raise MergeError("no checkpoint in conflict", path=path, hint="`git theta conflicts` lists those that are")
    if found.settled:
        again = f"to keep it: git add {path}; to start again: git checkout --merge -- {path}"
        raise MergeError("all is settled already", path=path, hint=again)
    if _is_whole(found.versions):
        return _take_whole(workspace, found, globs, method, options)
    made = found.made
    if metadata is not None:
        made = replace(made, metadata=_side(found.versions, metadata))
    if method is not None:
        made = _ruled(workspace.tensors.registry, found, made, globs, method, options)
    settled = _planned(workspace, made)
    if method is not None:
        _check_settled(settled, made.rules[0])
    if not settled.tensors:
        settled = _finish(workspace, settled, made.rules[0] if method is not None else None)
    save(workspace.repository, settled.made)
    return settled


def _ruled(
    registry: Registry, found: Conflict, made: MergeState, globs: Sequence[str], method: str, options: dict[str, str]
) -> MergeState:
    """The record with one more rule: for the tensors in conflict that were named, or that were settled like this."""
    names = [decision.name for decision in found.tensors if _is_named(decision, globs)]
    if globs:
        before = [each for each in found.plan.decisions if each.choice and each.choice.source.startswith(RESOLVED)]
        names += [decision.name for decision in before if _is_named(decision, globs) and decision.name not in names]
        if not names:
            raise MergeError(
                f"no tensor in conflict fits {' '.join(globs)}", path=made.path, hint="see `git theta conflicts`"
            )
    if method != TAKE:  # a word without meaning is not to be taken for one that cannot settle this
        ConfiguredMethod.make(registry, method, options)
    tensors = tuple(map(literal, names)) or ("*",)
    pairs = tuple(sorted(options.items()))
    rule = Rule(f"{RESOLVED} {method}", method, pairs, literal_path(made.path), tensors, BOTH)
    refused = tuple((name, reason) for name, reason in made.refused if name not in names)
    return replace(made, rules=(rule, *made.rules), refused=refused)


def _is_named(decision: Decision, globs: Sequence[str]) -> bool:
    return not globs or any(glob_fits(glob, decision.name) for glob in globs)


def _check_settled(settled: Conflict, rule: Rule) -> None:
    for decision in settled.tensors:
        if rule.is_about(decision.name):
            raise _cannot(settled, rule, decision)


def _cannot(settled: Conflict, rule: Rule, decision: Decision) -> MergeError:
    return MergeError(
        f"{rule.method} cannot settle this: {decision.reason}",
        path=settled.made.path,
        tensor=decision.name,
        hint="take one version: --method take --from ours (or theirs, base)",
    )


def _finish(workspace: Workspace, settled: Conflict, rule: Rule | None) -> Conflict:
    """Merge, if nothing else turns out to be in the way."""
    outcome = merge_versions(workspace, settled.versions, Policy(settled.made.rules))
    made = concluded(settled.made, settled.versions, outcome)
    if outcome.manifest is None:
        left = Conflict(made, settled.versions, outcome.plan)
        if rule:
            _check_settled(left, rule)
        return left
    replace_ours(workspace, made.path, settled.versions.sides[0].manifest, outcome.manifest)
    return Conflict(made, settled.versions, outcome.plan)


def _take_whole(
    workspace: Workspace, found: Conflict, globs: Sequence[str], method: str | None, options: dict[str, str]
) -> Conflict:
    path, versions = found.made.path, found.versions
    if len(versions.sides) < 2:
        raise MergeError(found.objections[0], path=path, hint=f"to keep it: git add {path}; otherwise: git rm {path}")
    named: dict[str, Manifest | None] = {side.label: side.manifest for side in versions.sides}
    named["base"] = versions.base
    wanted = named.get(options.get("from", ""))
    if method != TAKE or globs or wanted is None:
        raise MergeError(
            "it can only be taken whole",
            path=path,
            hint=f"git theta resolve {path} take --from {', or '.join(name for name in named if named[name])}",
        )
    replace_ours(workspace, path, versions.sides[0].manifest, wanted)
    outcome = Outcome(MergePlan(()), wanted)
    settled = replace(found, made=concluded(found.made, versions, outcome))
    save(workspace.repository, settled.made)
    return settled


def _side(versions: Versions, wanted: str) -> str:
    if wanted not in versions.labels:
        raise MergeError(f"there is no side '{wanted}'", path=versions.path, hint=f"{', '.join(versions.labels)}")
    return wanted
