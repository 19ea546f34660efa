"""``git theta ls-files``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from gittheta.cli.console import displayed_path, human, open_workspace
from gittheta.flows.checkout.materialise import manifest_text
from gittheta.git.names import tree_of
from gittheta.wording import counted, shown

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.git.entries import Entry

#: The stage of our version of a file in conflict.
_OURS = 2


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
        if revision:
            entries = workspace.repository.tree(tree_of(workspace.repository, revision))
        else:
            entries = _once(workspace.repository.index())
        rows = [row for entry in entries if (row := _row(workspace, entry, in_work_tree=revision is None))]
        names = {row.path: displayed_path(workspace, row.path) for row in rows}
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=1))
        return
    for row in rows:
        count, size = counted(row.tensors, "tensor"), human(row.bytes)
        click.echo(f"{row.format:<12} {count:>15} {size:>12}  {row.state:<15} {shown(names[row.path])}")


def _once(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Each path once: of one in conflict, ours if it is there."""
    unmerged: dict[str, Entry] = {}
    for entry in entries:
        if not entry.stage:
            yield entry
        elif entry.path not in unmerged or entry.stage == _OURS:
            unmerged[entry.path] = entry
    yield from unmerged.values()


def _row(workspace: Workspace, entry: Entry, in_work_tree: bool) -> _Row | None:
    if not entry.mode.startswith("100"):
        return None
    manifest = workspace.try_manifest(entry.oid)
    if manifest is None:
        return None
    missing = workspace.tensors.store.missing(manifest.objects())
    top = workspace.repository.top
    waiting = in_work_tree and top is not None and manifest_text(top / entry.path) is not None
    state = "in conflict" if entry.stage else "not fetched" if missing else "manifest only" if waiting else "complete"
    return _Row(entry.path, manifest.format, len(manifest.stanzas), manifest.file_size, state)
