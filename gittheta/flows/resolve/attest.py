"""attest: what a merge commit says of itself, as an in-toto statement that can be signed.

The predicate is specified in ``docs/spec/attestation.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gittheta.engine.policy import path_fits
from gittheta.errors import GitError
from gittheta.flows.maintain.verify import Version, hashed, manifest_of
from gittheta.flows.resolve.trailers import MERGE, SIDES, ParsedTrailers, parse_trailers
from gittheta.git.history import octopus_bases, parents
from gittheta.git.messages import trailer_lines
from gittheta.git.refs.names import commit_of

if TYPE_CHECKING:
    from gittheta.engine.policy import Rule
    from gittheta.flows.workspace import Workspace

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://github.com/gittheta/gittheta/docs/spec/attestation/v1"


def attest(workspace: Workspace, revision: str) -> dict[str, Any]:
    """The statement of a merge commit, ready to be written as JSON. Raises GitError for any other commit."""
    git = workspace.repository.git
    commit = commit_of(workspace.repository, revision)
    merged = parents(git, commit)
    parsed = parse_trailers(trailer_lines(git, commit, (MERGE, SIDES)))
    if len(merged) < 2 or not parsed.paths:
        raise GitError(
            f"not a merge in which tensors were computed: {revision}",
            hint="only merge commits with Theta-Merge trailers: git log --merges --grep=Theta-Merge",
        )
    bases = octopus_bases(git, merged)
    labels = parsed.labels if len(parsed.labels) == len(merged) else ()
    return {
        "_type": STATEMENT,
        "subject": [_subject(workspace, commit, path) for path in parsed.paths],
        "predicateType": PREDICATE,
        "predicate": {
            "commit": commit,
            "parents": [_parent(workspace, at, oid, labels, parsed.paths) for at, oid in enumerate(merged)],
            "mergeBases": [{"commit": base, "files": _files(workspace, base, parsed.paths)} for base in bases],
            "merges": [_merge(path, parsed) for path in parsed.paths],
        },
    }


def _subject(workspace: Workspace, commit: str, path: str) -> dict[str, Any]:
    version = _version(workspace, commit, path)
    if version is None:
        raise GitError("the commit has no such file", path=path, hint="its message speaks of another history")
    manifest = manifest_of(workspace, version)
    tensors = {stanza.spec.name: f"b3:{stanza.digest.hex()}" for stanza in manifest.stanzas} if manifest else {}
    digest = {"sha256": hashed(workspace, version), "gitBlob": version.oid}
    return {"name": path, "digest": digest, "annotations": {"tensors": tensors}}


def _parent(workspace: Workspace, at: int, oid: str, labels: Sequence[str], paths: Sequence[str]) -> dict[str, Any]:
    label = {"label": labels[at]} if labels else {}
    return {"commit": oid, **label, "files": _files(workspace, oid, paths)}


def _files(workspace: Workspace, commit: str, paths: Sequence[str]) -> dict[str, Any]:
    versions = {path: _version(workspace, commit, path) for path in paths}
    return {path: {"sha256": hashed(workspace, version)} for path, version in versions.items() if version}


def _merge(path: str, parsed: ParsedTrailers) -> dict[str, Any]:
    return {"path": path, "rules": [_rule(rule) for rule in parsed.policy.rules if path_fits(rule.path, path)]}


def _rule(rule: Rule) -> dict[str, Any]:
    return {"tensors": list(rule.tensors), "method": rule.method, "options": dict(rule.options)}


def _version(workspace: Workspace, commit: str, path: str) -> Version | None:
    oid = workspace.repository.object_of(f"{commit}:{path}")
    return Version(path, oid) if oid else None
