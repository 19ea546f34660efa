"""``git theta apply ADAPTER CHECKPOINT``."""

from __future__ import annotations

from pathlib import Path

import click

from gittheta.cli.console import open_workspace, repository_path, stop_progress
from gittheta.flows.edit.apply import apply as apply_adapter
from gittheta.wording import shown


@click.command()
@click.argument("adapter", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("checkpoint", type=click.Path(exists=True, dir_okay=False))
def apply(adapter: Path, checkpoint: str) -> None:
    """Fold a PEFT adapter into a checkpoint of the work tree.

    ADAPTER is the directory in which peft saved it: LoRA, DoRA, AdaLoRA, LoHa, LoKr or (IA)3. On any error the
    checkpoint stays as it is.
    """
    with open_workspace() as workspace:
        done = apply_adapter(workspace, adapter, Path(checkpoint), repository_path(workspace, checkpoint))
        stop_progress(workspace)
    click.echo(f"{shown(checkpoint)}: {done.changed} of {done.tensors} tensors changed")
