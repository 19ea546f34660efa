"""``git theta du [REV | RANGE] [PATH...]``."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from gittheta.cli.console import human, open_workspace, repository_path
from gittheta.errors import GitError
from gittheta.flows.history.usage import Usage, Version, lies_in
from gittheta.git.refs.names import known_names, nearest_path
from gittheta.wording import counted, quoted, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gittheta.flows.workspace import Workspace

_TITLES = ("commit", "date", "path", "file", "changed", "added", "of changed", "encodings")
#: The columns of numbers, which end at the same place.
_NUMBERS = range(3, 7)


@click.command()
@click.argument("words", nargs=-1, metavar="[REV | RANGE] [PATH...]")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def du(words: tuple[str, ...], as_json: bool) -> None:
    """Disk usage: what each version of the checkpoints added to the store, by encoding, oldest first.

    In the history of REV (HEAD), or in a RANGE such as v1..v2; what v1 has is there already. `changed` are the raw
    bytes of the tensors that differ from the version before.
    """
    with open_workspace() as workspace:
        revisions, names = _parse(workspace, words)
        paths = [repository_path(workspace, name) for name in names]
        versions = list(Usage(workspace).versions(revisions))
        rows = [row for row in versions if lies_in(row.path, paths)]
        for name, path in zip(names, paths, strict=True):
            if not any(lies_in(row.path, [path]) for row in versions):
                raise _unknown(workspace, name, path, versions, first=name == words[0])
    if as_json:
        click.echo(json.dumps([_json(row) for row in rows], indent=1))
    else:
        _show(rows)


def _parse(workspace: Workspace, words: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The revisions, and the paths: the first word is one or the other."""
    if words and (found := workspace.repository.revisions(words[0])):
        return found, list(words[1:])
    found = workspace.repository.revisions("HEAD")
    if not found:
        raise GitError("there is no commit yet", hint="commit something first, or name a revision")
    return found, list(words)


def _unknown(workspace: Workspace, name: str, path: str, versions: list[Version], *, first: bool) -> GitError:
    """The error for a word that is no checkpoint of these versions; the ``first`` word may be meant for a revision."""
    paths = list(dict.fromkeys(row.path for row in versions))
    otherwise = "`git theta ls-files` lists the checkpoints; to name both: git theta du REV PATH"
    if not first:
        return GitError(f"not a checkpoint in this history: {quoted(name)}", hint=nearest_path(path, paths, otherwise))
    names = [*paths, *known_names(workspace.repository)]
    return GitError(
        f"{quoted(name)} is neither a revision nor a checkpoint in the history of HEAD",
        hint=nearest_path(name if name not in paths else path, names, otherwise),
    )


def _json(row: Version) -> dict[str, Any]:
    return {
        "commit": row.commit,
        "date": row.date,
        "path": row.path,
        "bytes": row.file_size,
        "tensors": row.tensors,
        "tensors_changed": row.changed,
        "bytes_changed": row.changed_size,
        "bytes_added": row.added_size,
        "added": row.added,
    }


def _show(rows: list[Version]) -> None:
    for line in _table(rows):
        click.echo(line)


def _table(rows: list[Version]) -> Iterator[str]:
    """The lines of the table. A long history has thousands, so they are laid out by hand."""
    from rich.cells import cell_len

    lines: list[tuple[str, ...]] = [_TITLES]
    added: Counter[str] = Counter()
    for row in rows:
        begin = (row.commit[:10], row.date[:10], shown(row.path))
        lines.append((*begin, *_sizes(row.file_size, row.changed_size, row.added)))
        added.update(row.added)
    sums = (sum(row.file_size for row in rows), sum(row.changed_size for row in rows))
    lines.append(("total", "", counted(len(rows), "version"), *_sizes(*sums, dict(added))))
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = []
        for at, (width, cell) in enumerate(zip(widths, line, strict=True)):
            gap = " " * (width - cell_len(cell))
            cells.append(gap + cell if at in _NUMBERS else cell + gap)
        yield "  ".join(cells).rstrip()


def _sizes(file_size: int, changed: int, added: dict[str, int]) -> tuple[str, ...]:
    whole = sum(added.values())
    share = f"{100 * whole / changed:.1f} %" if changed else "-"
    encodings = ", ".join(f"{name} {human(size)}" for name, size in sorted(added.items(), key=lambda item: -item[1]))
    return human(file_size), human(changed), human(whole), share, encodings
