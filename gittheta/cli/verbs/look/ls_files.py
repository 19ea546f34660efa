"""``git theta ls-files``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from gittheta.cli.console import displayed_path, human, open_workspace
from gittheta.files.kinds import Kind
from gittheta.flows.checkout.materialise import manifest_text
from gittheta.flows.maintain.status import blob_kind
from gittheta.git.index import blob_sizes
from gittheta.git.refs.names import tree_of
from gittheta.wording import counted, shown

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.git.entries import Entry

#: The stage of our version of a file in conflict.
_OURS = 2


@dataclass(frozen=True)
class _Row:
    path: str
    #: None where there is no manifest.
    format: str | None
    tensors: int | None
    bytes: int
    state: str


@click.command("ls-files")
@click.argument("revision", required=False)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def ls_files(revision: str | None, as_json: bool) -> None:
    """The checkpoints in the index, or in REVISION: format, tensors, size, and whether the file is in place.

    Files that match a tracked pattern and are not stored as checkpoints are listed too, with what they are instead.
    """
    with open_workspace() as workspace:
        if revision:
            entries = list(workspace.repository.tree(tree_of(workspace.repository, revision)))
        else:
            entries = list(_once(workspace.repository.index()))
        rows = _rows(workspace, entries, in_work_tree=revision is None)
        names = {row.path: displayed_path(workspace, row.path) for row in rows}
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=1))
        return
    for row in rows:
        count = counted(row.tensors, "tensor") if row.tensors is not None else ""
        path = shown(names[row.path])
        click.echo(f"{row.format or '-':<12} {count:>15} {human(row.bytes):>12}  {row.state:<15} {path}")
    if any(row.state == Kind.WHOLE.value for row in rows):
        click.echo("whole in Git: git add --renormalize . lets gittheta store it from the next commit on", err=True)


def _once(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Each path once: of one in conflict, ours if it is there."""
    unmerged: dict[str, Entry] = {}
    for entry in entries:
        if not entry.stage:
            yield entry
        elif entry.path not in unmerged or entry.stage == _OURS:
            unmerged[entry.path] = entry
    yield from unmerged.values()


def _rows(workspace: Workspace, entries: list[Entry], *, in_work_tree: bool) -> list[_Row]:
    entries = [entry for entry in entries if entry.mode.startswith("100")]
    sizes = blob_sizes(workspace.repository.git, (entry.oid for entry in entries))
    filters = workspace.repository.attributes(["filter"], dict.fromkeys(entry.path for entry in entries))
    rows = []
    for entry in entries:
        size = sizes.get(entry.oid, 0)
        kind = blob_kind(workspace, entry.oid, size)
        row = _row(workspace, entry, in_work_tree=in_work_tree) if kind is Kind.MANIFEST else None
        if row is None and filters[entry.path]["filter"] == "theta":
            state = "broken" if kind is Kind.MANIFEST else kind.value
            row = _Row(entry.path, None, None, size, state)
        rows += [row] if row else []
    return rows


def _row(workspace: Workspace, entry: Entry, *, in_work_tree: bool) -> _Row | None:
    manifest = workspace.try_manifest(entry.oid)
    if manifest is None:
        return None
    missing = workspace.tensors.store.missing(manifest.objects())
    top = workspace.repository.top
    waiting = in_work_tree and top is not None and manifest_text(top / entry.path) is not None
    state = "in conflict" if entry.stage else "not fetched" if missing else "manifest only" if waiting else "complete"
    return _Row(entry.path, manifest.format, len(manifest.stanzas), manifest.file_size, state)
