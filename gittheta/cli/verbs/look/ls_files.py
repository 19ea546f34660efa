"""``git theta ls-files``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from gittheta.cli.console import human, open_workspace
from gittheta.flows.checkout.materialise import manifest_text
from gittheta.wording import shown

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.git.entries import Entry


@dataclass(frozen=True)
class _Row:
    path: str
    format: str
    tensors: int
    bytes: int
    state: str


@click.command("ls-files")
@click.argument("revision", required=False)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def ls_files(revision: str | None, as_json: bool) -> None:
    """The checkpoints in the index, or in REVISION: format, tensors, size, and whether the file is in place."""
    with open_workspace() as workspace:
        entries = workspace.repository.tree(revision) if revision else workspace.repository.index()
        rows = [row for entry in entries if (row := _row(workspace, entry, in_work_tree=revision is None))]
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=1))
        return
    for row in rows:
        click.echo(
            f"{row.format:<12} {row.tensors:>7} tensors {human(row.bytes):>12}  {row.state:<15} {shown(row.path)}"
        )


def _row(workspace: Workspace, entry: Entry, in_work_tree: bool) -> _Row | None:
    if not entry.mode.startswith("100"):
        return None
    manifest = workspace.try_manifest(entry.oid)
    if manifest is None:
        return None
    missing = workspace.tensors.store.missing(manifest.objects())
    top = workspace.repository.top
    waiting = in_work_tree and top is not None and manifest_text(top / entry.path) is not None
    state = "not fetched" if missing else "manifest only" if waiting else "complete"
    return _Row(entry.path, manifest.format, len(manifest.stanzas), manifest.file_size, state)
