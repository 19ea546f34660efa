"""What a merge in progress has done so far, kept in the work tree's git directory until the merge is over.

Trailers of the merge commit are made from it, and conflicts are listed and settled with it. One file for each merged
checkpoint; those of another merge are put away when the next one begins.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gittheta.engine.policy import BOTH, CONFLICT, Rule, Verb
from gittheta.errors import ManifestError, MergeError
from gittheta.flows.merge.plan import Side, Versions
from gittheta.flows.merge.rules import read_policy
from gittheta.flows.resolve.trailers import trailers_of
from gittheta.flows.workspace import permissions_of
from gittheta.model import Manifest, RunningDigest
from gittheta.storage.files import write_all
from gittheta.storage.manifest import format_manifest

if TYPE_CHECKING:
    from gittheta.flows.merge.execute import Outcome
    from gittheta.flows.workspace import Workspace
    from gittheta.git.entries import Entry
    from gittheta.git.operation import Operation
    from gittheta.git.repository import Repository

#: What is done where nobody can tell what is meant.
ASK = Rule("nobody", CONFLICT, verbs=BOTH)
#: Where a rule comes from that somebody gave to settle a conflict, in the first of its words.
RESOLVED = "resolve"
_FOLDER = "theta-merge"


@dataclass(frozen=True)
class MergeState:
    """One checkpoint of a merge: what was merged, by which rules, and what came of it."""

    path: str
    verb: Verb
    #: The commit that was merged into, and those that were merged.
    head: str
    heads: tuple[str, ...]
    #: The blob of the base, if there is one.
    base: str | None
    #: What each side is called, its commit if that is known, and its blob.
    sides: tuple[tuple[str, str | None, str], ...]
    rules: tuple[Rule, ...]
    trailers: tuple[str, ...] = ()
    #: What stands in the way besides tensors.
    objections: tuple[str, ...] = ()
    #: Tensors that nobody could merge, and why; among them those of which that turned out when they were read.
    refused: tuple[tuple[str, str], ...] = ()
    #: A digest of what came of it; None as long as that is open.
    result: str | None = None
    #: The side whose metadata is taken; None: they are merged.
    metadata: str | None = None

    def versions(self, workspace: Workspace) -> Versions:
        """What there was to merge. Raises ManifestError if it is no longer there."""
        base = _manifest(workspace, self.path, self.base) if self.base else None
        sides = tuple(Side(label, _manifest(workspace, self.path, oid), commit) for label, commit, oid in self.sides)
        return Versions(self.path, base, sides, self.verb, self.metadata)


def of_several(repository: Repository, operation: Operation, path: str) -> MergeState | None:
    """What a merge of several heads began with, where Git, that is to do it again, has only two versions; else None.

    Raises MergeError if that is not known any more: with two of its sides the others would be lost.
    """
    if len(operation.heads) < 2:
        return None
    for made in merge_states(repository, operation):
        if made.path == path:
            rules = tuple(rule for rule in made.rules if rule.source.split(" ")[0] != RESOLVED)
            return replace(made, rules=rules, trailers=(), objections=(), refused=(), result=None, metadata=None)
    raise MergeError("it is not known any more what all the heads had here", path=path, hint=MERGE_AGAIN)


#: There is no other way to get at all sides.
MERGE_AGAIN = "git merge --abort, then merge once more"


def save_outcome(
    workspace: Workspace, operation: Operation, versions: Versions, outcome: Outcome, given: Mapping[str, str]
) -> None:
    """Keep what one merge of one checkpoint did; ``given`` are the options of the command line."""
    rules = read_policy(workspace, [versions.path], given).rules
    made = _begun(workspace.repository, operation, versions, rules)
    save(workspace.repository, concluded(made, versions, outcome))


def save_failure(workspace: Workspace, operation: Operation, versions: Versions, problem: str) -> None:
    """Keep that a checkpoint was not merged because its policy has no meaning, or a version cannot be read."""
    made = _begun(workspace.repository, operation, versions, (ASK,))
    save(workspace.repository, replace(made, objections=(problem,)))


def concluded(made: MergeState, versions: Versions, outcome: Outcome) -> MergeState:
    """The record, and what has come of it now."""
    if outcome.manifest is None:
        refused = tuple((decision.name, decision.reason) for decision in outcome.plan.conflicts)
        return replace(made, objections=outcome.objections, refused=refused)
    result = fingerprint(outcome.manifest)
    return replace(made, trailers=trailers_of(versions, outcome.plan), objections=(), refused=(), result=result)


def fingerprint(manifest: Manifest) -> str:
    """A digest of what a checkpoint holds, wherever and however that is stored."""
    hashed = RunningDigest()
    hashed.update(manifest.skeleton.digest)
    for stanza in manifest.stanzas:
        hashed.update(f"{stanza.spec!r} {stanza.digest!r}\n".encode("utf-8", "surrogateescape"))
    return hashed.digest().hex()


def _begun(repository: Repository, operation: Operation, versions: Versions, rules: tuple[Rule, ...]) -> MergeState:
    base, *blobs = (_blob(repository, version) for version in (versions.base, *(s.manifest for s in versions.sides)))
    sides = tuple((side.label, side.commit, blob or "") for side, blob in zip(versions.sides, blobs, strict=True))
    return MergeState(versions.path, versions.verb, operation.head, operation.heads, base, sides, rules)


def save(repository: Repository, made: MergeState) -> None:
    """Write a record; those of other merges go."""
    folder = repository.git_dir / _FOLDER
    permissions = permissions_of(repository)
    permissions.make_folders(folder)
    for path in folder.iterdir():
        other = _load(path)
        if other is None or (other.head, other.heads) != (made.head, made.heads):
            path.unlink(missing_ok=True)
    target = folder / f"{hashlib.sha256(os.fsencode(made.path)).hexdigest()}.json"
    with permissions.replacing(target) as descriptor:
        write_all(descriptor, json.dumps(_as_json(made), indent=1).encode())


def merge_states(repository: Repository, operation: Operation) -> Iterator[MergeState]:
    """What has been merged by the merge, pick or rebase that is going on, by path."""
    found = [_load(path) for path in _files(repository)]
    for made in sorted((made for made in found if made), key=lambda made: made.path):
        if made.head == operation.head and (made.verb is Verb.PICK or made.heads == operation.heads):
            yield made


def merge_trailers(workspace: Workspace, operation: Operation, staged: Iterable[Entry]) -> tuple[str, ...]:
    """The trailers of the merge that is going on: of the checkpoints that are staged as they were merged."""
    contents = {entry.path: entry.oid for entry in staged if not entry.stage}
    lines: list[str] = []
    for made in merge_states(workspace.repository, operation):
        if made.verb is not Verb.MERGE:
            continue
        manifest = workspace.try_manifest(contents[made.path]) if made.trailers and made.path in contents else None
        if manifest and fingerprint(manifest) == made.result:
            lines += made.trailers
    return tuple(dict.fromkeys(lines))


def _files(repository: Repository) -> list[Path]:
    folder = repository.git_dir / _FOLDER
    return list(folder.iterdir()) if folder.is_dir() else []


def _blob(repository: Repository, manifest: Manifest | None) -> str | None:
    return repository.git.write_blob(format_manifest(manifest)) if manifest else None


def _manifest(workspace: Workspace, path: str, oid: str) -> Manifest:
    found = workspace.read_manifest(oid)
    if found is None:
        raise ManifestError("a version that was merged is no longer there", path=path, hint="merge once more")
    return found


def _as_json(made: MergeState) -> dict[str, Any]:
    return {
        "path": made.path,
        "verb": made.verb.value,
        "head": made.head,
        "heads": made.heads,
        "base": made.base,
        "sides": made.sides,
        "rules": [_rule_json(rule) for rule in made.rules],
        "trailers": made.trailers,
        "objections": made.objections,
        "metadata": made.metadata,
        "refused": made.refused,
        "result": made.result,
    }


def _rule_json(rule: Rule) -> dict[str, Any]:
    return {
        "source": rule.source,
        "method": rule.method,
        "options": rule.options,
        "path": rule.path,
        "tensors": rule.tensors,
        "verbs": sorted(verb.value for verb in rule.verbs),
    }


def _load(path: Path) -> MergeState | None:
    """A record; None for a file that is none, as an interrupted command may leave it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return MergeState(
            found["path"],
            Verb(found["verb"]),
            found["head"],
            tuple(found["heads"]),
            found["base"],
            tuple((label, commit, oid) for label, commit, oid in found["sides"]),
            tuple(_rule(rule) for rule in found["rules"]),
            tuple(found["trailers"]),
            tuple(found["objections"]),
            tuple((name, reason) for name, reason in found["refused"]),
            found["result"],
            found["metadata"],
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _rule(found: dict[str, Any]) -> Rule:
    options = tuple((str(key), str(value)) for key, value in found["options"])
    verbs = frozenset(map(Verb, found["verbs"]))
    return Rule(found["source"], found["method"], options, found["path"], tuple(found["tensors"]), verbs)
