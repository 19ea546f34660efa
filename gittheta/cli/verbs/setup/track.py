"""``git theta track`` and ``untrack``: lines of ``.gitattributes``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gittheta.cli.console import open_workspace
from gittheta.storage.manifest import MAX_TEXT, claims_to_be_manifest

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace

ATTRIBUTES = "filter=theta merge=theta diff=theta -text"
_FILE = ".gitattributes"


@click.command()
@click.argument("patterns", nargs=-1)
def track(patterns: tuple[str, ...]) -> None:
    """Let gittheta store the files that match PATTERNS, below this folder. Without patterns: list them."""
    file = Path(_FILE)
    lines = _lines(file)
    if not patterns:
        for line in lines:
            if ATTRIBUTES in line:
                click.echo(_unquoted(line.removesuffix(ATTRIBUTES).strip()))
        return
    for pattern in patterns:
        if pattern.startswith("!"):
            raise click.BadParameter(f"git has no negative patterns in attributes: '{pattern}'")
    with open_workspace() as workspace:
        for pattern in patterns:
            line = f"{_quoted(pattern)} {ATTRIBUTES}"
            if line in lines:
                click.echo(f"'{pattern}' is tracked already")
                continue
            lines.append(line)
            click.echo(f"tracking '{pattern}'")
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
        if workspace.repository.setting("filter.theta.process") is None:
            workspace.reporter.warn("git does not know gittheta here yet; run `git theta install`")
        _warn_of_raw(workspace)


@click.command()
@click.argument("patterns", nargs=-1, required=True)
def untrack(patterns: tuple[str, ...]) -> None:
    """Undo `git theta track`. Files stay as they are; `git add --renormalize` then stores them whole in Git."""
    file = Path(_FILE)
    lines = _lines(file)
    unwanted = {f"{_quoted(pattern)} {ATTRIBUTES}": pattern for pattern in patterns}
    for line, pattern in unwanted.items():
        click.echo(f"no longer tracking '{pattern}'" if line in lines else f"'{pattern}' was not tracked")
    kept = [line for line in lines if line not in unwanted]
    if kept != lines:
        # Written even if it is empty: `git add --renormalize` trips over a tracked file that is gone.
        file.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8", newline="\n")


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def _quoted(pattern: str) -> str:
    """A pattern as gitattributes wants it."""
    if re.search(r'[\s"]', pattern) or pattern.startswith("#"):
        return '"' + pattern.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return pattern


def _unquoted(text: str) -> str:
    return re.sub(r'\\(["\\])', r"\1", text[1:-1]) if text.startswith('"') else text


def _warn_of_raw(workspace: Workspace) -> None:
    """Name the files that are in Git whole although they now match."""
    repository = workspace.repository
    entries = [entry for entry in repository.index() if entry.mode.startswith("100") and not entry.stage]
    filters = repository.attributes(["filter"], (entry.path for entry in entries))
    raw = []
    for entry in entries:
        if filters.get(entry.path, {}).get("filter") == "theta":
            text = workspace.blobs.read(entry.oid, MAX_TEXT)
            if text is None or (text and not claims_to_be_manifest(text)):
                raw.append(entry.path)
    if raw:
        named = "\n".join(f"    {path}" for path in raw[:10]) + ("\n    ..." if len(raw) > 10 else "")
        workspace.reporter.warn(
            f"{len(raw)} files are committed whole already:\n{named}\n"
            "  to let gittheta store them from now on:\n"
            "    git add .gitattributes && git add --renormalize . && git commit\n"
            "  (older commits keep them whole)"
        )
