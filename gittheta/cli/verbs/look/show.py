"""``git theta show [REV:]PATH``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from gittheta.cli.console import human, open_workspace, repository_path
from gittheta.errors import ManifestError
from gittheta.flows.maintain.status import why_not_stored
from gittheta.git.refs.names import nearest_path, tree_of
from gittheta.model import Manifest, Stanza, stored_bytes
from gittheta.wording import counted, shown

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace


@click.command()
@click.argument("what", metavar="[REV:]PATH")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def show(what: str, as_json: bool) -> None:
    """The tensors of a checkpoint: name, dtype, shape, digest, how each is stored, and in how many bytes."""
    with open_workspace() as workspace:
        manifest = _manifest(workspace, what)
    rows = [_row(stanza) for stanza in manifest.stanzas]
    if as_json:
        summary = {"format": manifest.format, "bytes": manifest.file_size, "tensors": rows}
        click.echo(json.dumps(summary, indent=1))
        return
    names = [shown(row["name"]) for row in rows]
    width = max(map(len, names), default=0)
    for name, row in zip(names, rows, strict=True):
        shape = "x".join(map(str, row["shape"])) or "scalar"
        click.echo(
            f"{name:<{width}}  {row['dtype']:<8} {shape:<16} {row['digest'][:15]}  "
            f"{'+'.join(row['stored']):<12} {human(row['stored_bytes']):>10} of {human(row['bytes']):>10}"
        )
    stored = sum(row["stored_bytes"] for row in rows)
    click.echo(
        f"{counted(len(rows), 'tensor')}, {human(manifest.file_size)} as {manifest.format}, stored in {human(stored)}"
    )


def _row(stanza: Stanza) -> dict[str, Any]:
    return {
        "name": stanza.spec.name,
        "dtype": stanza.spec.dtype.name,
        "shape": list(stanza.spec.shape),
        "digest": f"b3:{stanza.digest.hex()}",
        "stored": [link.encoding for link in stanza.recipe],
        "bytes": stanza.spec.nbytes,
        "stored_bytes": stored_bytes(stanza.recipe),
    }


def _manifest(workspace: Workspace, what: str) -> Manifest:
    revision, colon, path = what.partition(":")
    if not colon:
        revision, path = "", what
    elif revision:
        tree_of(workspace.repository, revision)
    try:
        # As Git has it: with a revision from the top of the work tree, otherwise from this folder. Either is meant.
        for name in (repository_path(workspace, path), path):
            if found := workspace.read_manifest(f"{revision}:{name}"):
                return found
    except ManifestError as error:
        raise error.located(path=path) from None
    told = why_not_stored(workspace, f"{revision}:{path}", repository_path(workspace, path))
    if told:
        raise ManifestError(told[0], path=path, hint=told[1])
    entries = workspace.repository.tree(revision) if revision else workspace.repository.index()
    otherwise = f"`git theta ls-files{f' {shown(revision)}' if revision else ''}` lists them"
    where = f"in {shown(revision)}" if revision else "in the index"
    hint = nearest_path(repository_path(workspace, path), [entry.path for entry in entries], otherwise)
    raise ManifestError(f"there is no checkpoint of that name {where}", path=path, hint=hint)
