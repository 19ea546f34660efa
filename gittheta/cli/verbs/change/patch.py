"""``git theta patch`` and ``apply-patch``: a version made from another, wherever that lies."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gittheta.cli.console import Console, human, open_workspace
from gittheta.codec.tensor_store import TensorStore
from gittheta.errors import GitError
from gittheta.flows.maintain.verify import manifest_of, versions_of
from gittheta.flows.patch.apply import apply_patch as write_patched
from gittheta.flows.patch.apply_flat import apply_flat, is_flat
from gittheta.flows.patch.flat import write_flat
from gittheta.flows.patch.in_place import apply_in_place, undo
from gittheta.flows.patch.make import make_patch
from gittheta.flows.patch.sides import Side, file_side, revision_side
from gittheta.runtime import keep_memory
from gittheta.storage.objects import ObjectStore
from gittheta.wording import counted, quoted, shown

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("old", metavar="A")
@click.argument("new", metavar="B")
@click.argument("path", required=False)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The patch.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["gittheta", "indices", "vllm"]),
    default="gittheta",
    help="What it is written as: for apply-patch, or flat indices and new values in safetensors (vllm: of 32 bits).",
)
def patch(old: str, new: str, path: str | None, output: Path, kind: str) -> None:
    """Write just what turns the checkpoint A into B.

    A and B are files, REV:PATH, or revisions with PATH. The patch is complete: whoever has A needs no repository.
    """
    keep_memory()
    with ExitStack() as stack:
        sides = _Sides(stack)
        before, after = sides.opened(old, path), sides.opened(new, path)
        if kind != "gittheta":
            changed = write_flat(before, after, output, index_bits=32 if kind == "vllm" else 64)
            sides.console.stop()
            click.echo(f"{shown(str(output))}: {counted(changed, 'element')} changed, {human(output.stat().st_size)}")
            return
        made = make_patch(sides.tensors, before, after, output)
        sides.console.stop()
    share = f"{human(made.nbytes)}, {made.nbytes / max(1, made.new_bytes):.4f} of the new version"
    click.echo(f"{shown(str(output))}: {made.changed} of {counted(made.tensors, 'tensor')} changed, {share}")


@click.command("apply-patch")
@click.argument("file", metavar="PATCH", type=_FILE, required=False)
@click.argument("checkpoint", type=_FILE, required=False)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write there; CHECKPOINT stays.")
@click.option("--in-place", is_flag=True, help="Change the file where it lies, with a journal beside it.")
@click.option("--undo", "back", metavar="CHECKPOINT", type=_FILE, help="Take back a change in place.")
def apply_patch(
    file: Path | None, checkpoint: Path | None, output: Path | None, in_place: bool, back: Path | None
) -> None:
    """Turn CHECKPOINT into the version that PATCH leads to. Both ends are compared with their digests.

    PATCH may also be an update of flat indices and values, as trainers send them: then nothing can be compared.

    By default the new version is written beside the file and then takes its name. After a change in place that was
    cut short, the same command again completes it.
    """
    keep_memory()
    if back is not None and file is None:
        done = undo(back)
        click.echo(f"{shown(str(back))}: {'as it was before' if done else 'nothing had been changed'}")
        return
    if file is None or checkpoint is None or back is not None or (in_place and output):
        raise click.UsageError("say PATCH CHECKPOINT, or --undo CHECKPOINT; --in-place has no --output")
    console = Console()
    if _is_update(file, checkpoint, output, console, in_place=in_place):
        return
    change = apply_in_place(file, checkpoint, console) if in_place else None
    if change is None:
        change = write_patched(file, checkpoint, output or checkpoint, console)
    console.stop()
    click.echo(f"{shown(str(output or checkpoint))}: {'the new version' if change else 'was the new version already'}")


def _is_update(file: Path, checkpoint: Path, output: Path | None, console: Console, *, in_place: bool) -> bool:
    """Put in flat indices and values, if it is these that the patch has."""
    with TensorStore(ObjectStore(Path(os.devnull) / "none"), reporter=console) as tensors:
        if not is_flat(tensors, file):
            return False
        if in_place:
            raise click.UsageError("indices and values cannot be put in in place: nothing would say whether they fit")
        count = apply_flat(tensors, file, checkpoint, output or checkpoint)
    console.stop()
    click.echo(f"{shown(str(output or checkpoint))}: {counted(count, 'element')} set, and nothing was compared")
    return True


class _Sides:
    """What a user calls a version, opened. A repository is looked for only where one is meant."""

    def __init__(self, stack: ExitStack) -> None:
        self.console = Console()
        self._stack = stack
        self._workspace: Workspace | None = None
        self._tensors: TensorStore | None = None

    @property
    def tensors(self) -> TensorStore:
        """Plugins, limits and threads: of the repository if there is one."""
        if self._workspace is not None:
            return self._workspace.tensors
        if self._tensors is None:
            self._tensors = TensorStore(ObjectStore(Path(os.devnull) / "none"), reporter=self.console)
            self._stack.enter_context(self._tensors)
        return self._tensors

    def opened(self, word: str, path: str | None) -> Side:
        if path is None and os.path.isfile(word):
            return self._stack.enter_context(file_side(self.tensors, Path(word)))
        if self._workspace is None:
            self._workspace = self._stack.enter_context(open_workspace())
        return self._revision(self._workspace, word if path is None else f"{word}:{path}")

    def _revision(self, workspace: Workspace, name: str) -> Side:
        version = versions_of(workspace, name).get(".")
        manifest = manifest_of(workspace, version) if version else None
        if manifest is None:
            raise GitError(
                f"not a checkpoint that gittheta stores: {quoted(name)}", hint="`git theta ls-files` lists them"
            )
        return revision_side(workspace, manifest)
