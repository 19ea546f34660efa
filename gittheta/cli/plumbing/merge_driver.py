"""``git theta merge-driver``: called by Git with the three manifests of a file that both sides changed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gittheta.cli.console import open_workspace, stop_progress
from gittheta.cli.plumbing.outcomes import tell_conflicts, tell_failure, tell_merged
from gittheta.cli.plumbing.text_merge import merge_as_text
from gittheta.engine.policy import Policy, Verb
from gittheta.errors import PayloadError, RemoteError, StoreError, ThetaError
from gittheta.files.detect import SNIFF
from gittheta.files.kinds import is_pointer
from gittheta.flows.add.whole import manifest_of_whole
from gittheta.flows.checkout.smudge import read_manifest
from gittheta.flows.merge.execute import merge_versions
from gittheta.flows.merge.plan import Side, Versions
from gittheta.flows.merge.rules import read_policy
from gittheta.flows.resolve.state import concluded, of_several, save, save_failure, save_outcome
from gittheta.git.operation import Operation
from gittheta.runtime import keep_memory
from gittheta.storage.files import translated
from gittheta.storage.manifest import claims_to_be_manifest, format_manifest, is_foreign_manifest
from gittheta.wording import shown

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.git.repository import Repository
    from gittheta.model import Manifest


#: A version cannot be read, or the result not written. Git 2.42 and later give the merge up for a status above 128,
#: earlier ones take it for a conflict.
_FAILED = 129


@click.command(hidden=True)
@click.argument("base")
@click.argument("ours")
@click.argument("theirs")
@click.argument("marker_size")
@click.argument("path")
def merge_driver(base: str, ours: str, theirs: str, marker_size: str, path: str) -> None:
    """Merge THEIRS into OURS. Exits 1 on a conflict, and then OURS stays as it is, valid."""
    keep_memory()
    with open_workspace() as workspace:
        _leave_texts_to_git(workspace, path, [base, ours, theirs], marker_size)
        named = {"the base": base, "ours": ours, "theirs": theirs}
        manifests = [_read(workspace, path, name, label) for label, name in named.items()]
        if manifests[1] is None or manifests[2] is None:
            problem = "not a checkpoint on both sides, so it cannot be merged"
            click.echo(f"CONFLICT ({shown(path)}): {problem}", err=True)
            sys.exit(1)
        inner = _makes_a_base(workspace.repository, path, marker_size)
        operation = Operation.read(workspace.repository)
        verb = Verb.MERGE if operation.heads else Verb.PICK
        other = operation.heads[0] if len(operation.heads) == 1 else None
        sides = (Side("ours", manifests[1], "HEAD"), Side("theirs", manifests[2], other))
        versions = Versions(path, manifests[0], sides, verb)
        again = None if operation.is_running_merge else of_several(workspace.repository, operation, path)
        if again:
            versions = again.versions(workspace)
        try:
            policy = Policy(again.rules) if again else read_policy(workspace, [path])
            outcome = merge_versions(workspace, versions, policy)
            stop_progress(workspace)
            if again:
                save(workspace.repository, concluded(again, versions, outcome))
            elif not inner:
                save_outcome(workspace, operation, versions, outcome, {})
            if outcome.manifest:
                _put(Path(ours), format_manifest(outcome.manifest))
        except ThetaError as error:
            reason = str(error.but(path=None))  # the path is said already
            if not inner:
                save_failure(workspace, operation, versions, reason)
            if isinstance(error, (StoreError, RemoteError, PayloadError)):
                tell_failure(path, reason)
                sys.exit(_FAILED)
            # Git counts any status up to 128 as a conflict: the file stays ours, and the reason is said.
            tell_conflicts(path, [reason])
            sys.exit(1)
        if outcome.manifest is None:
            tell_conflicts(path, outcome.conflicts)
            sys.exit(1)
        tell_merged(path, outcome.plan)


def _put(ours: Path, text: bytes) -> None:
    """Replace a file in one step. Raises StoreError; Git would take half a file for ours in a conflict."""
    temporary = ours.with_name(f"{ours.name}.new")
    with translated(ours):
        try:
            temporary.write_bytes(text)
            os.replace(temporary, ours)
        finally:
            temporary.unlink(missing_ok=True)


def _makes_a_base(repository: Repository, path: str, marker_size: str) -> bool:
    """Whether two common ancestors are merged, to start from that (`merge.theta.recursive` is `theta`)."""
    usual = repository.attributes(["conflict-marker-size"], [path])[path]["conflict-marker-size"]
    # One more where a file was renamed on both sides, two more for each level of ancestors.
    return marker_size.isdigit() and int(marker_size) > (int(usual) if usual.isdigit() else 7) + 1


def _leave_texts_to_git(workspace: Workspace, path: str, names: list[str], marker_size: str) -> None:
    """If all versions are texts, merge them as Git does, and end as a driver must."""
    clean = merge_as_text(workspace, path, [Path(name) for name in names], marker_size)
    if clean is not None:
        sys.exit(0 if clean else 1)


def _read(workspace: Workspace, path: str, name: str, label: str) -> Manifest | None:
    """The manifest of one side, read from a file; a version from before gittheta is stored for it."""
    with open(name, "rb", buffering=0) as file:
        head = file.read(SNIFF) or b""
        file.seek(0)
        if head and not (claims_to_be_manifest(head) or is_foreign_manifest(head) or is_pointer(head)):
            return manifest_of_whole(workspace, path, file, label)
        return read_manifest(workspace, path, file.readall() or b"") if head else None
