"""``git theta sparsify CHECKPOINT --base REV``."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import click

from gittheta.cli.console import open_workspace, repository_path, stop_progress
from gittheta.flows.edit.sparsify import METHODS, Options, SparsifyReport
from gittheta.flows.edit.sparsify import sparsify as run
from gittheta.runtime import keep_memory
from gittheta.wording import shown

if TYPE_CHECKING:
    from gittheta.flows.edit.task_vector import Loss

_SHOWN = 10


@click.command()
@click.argument("checkpoint")
@click.option("--base", required=True, metavar="REV", help="The revision to which the changes are relative.")
@click.option("--density", default=0.05, show_default=True, help="The fraction of the elements that is kept.")
@click.option("--method", type=click.Choice(METHODS), default="compeft", show_default=True)
@click.option("--alpha", default=1.0, show_default=True, help="compeft: scales the standard deviation.")
@click.option("--force", is_flag=True, help="Even if the values as they are now are stored nowhere else.")
@click.option("--json", "as_json", is_flag=True, help="For programs; with every tensor.")
def sparsify(checkpoint: str, as_json: bool, **chosen: Any) -> None:
    """Make an update cheap to publish: keep only the largest changes since REV. Lossy.

    The file of the work tree is replaced. compeft keeps the signs of the changes and one scalar; topk their values.
    """
    keep_memory()
    options = Options(**chosen)
    with open_workspace() as workspace:
        path = repository_path(workspace, checkpoint)
        report = run(workspace, path, options)
        stop_progress(workspace)
    if as_json:
        click.echo(json.dumps(_json(path, options, report), indent=1))
    else:
        _tell(path, options, report)


def _json(path: str, options: Options, report: SparsifyReport) -> dict[str, Any]:
    return {
        "path": path,
        "base": options.base,
        "method": options.method,
        "density": options.density,
        "alpha": options.alpha if report.scalar is not None else None,
        "scalar": report.scalar,
        "lossy": True,
        **_row(report.whole),
        "not_finite": report.not_finite,
        "tensors": [{"name": loss.name, **_row(loss)} for loss in report.tensors],
        "left_whole": report.left,
    }


def _row(loss: Loss) -> dict[str, Any]:
    error = loss.relative if math.isfinite(loss.relative) else None
    return {"elements": loss.elements, "kept": loss.kept, "relative_error": error}


def _tell(path: str, options: Options, report: SparsifyReport) -> None:
    whole = report.whole
    how = "with their values" if report.scalar is None else f"as signs of one scalar, {report.scalar:.6g}"
    click.echo(f"{shown(path)}: {whole.kept} of {whole.elements} changes since {options.base} kept, {how}")
    worst = sorted(report.tensors, key=lambda loss: -loss.relative)[:_SHOWN]
    width = max(len(shown(loss.name)) for loss in worst)
    for loss in worst:
        click.echo(
            f"  {shown(loss.name):<{width}}  relative error {loss.relative:6.4f}  {loss.kept} of {loss.elements} kept"
        )
    if len(report.tensors) > len(worst):
        click.echo(f"  and {len(report.tensors) - len(worst)} more tensors, which --json lists")
    for why, count in report.left.items():
        click.echo(f"{count} tensors left whole: {why}")
    if report.not_finite:
        click.echo(f"{report.not_finite} elements left as they are: not finite")
    click.echo(f"relative error in all: {whole.relative:.4f}")
    click.echo("This was lossy, as you asked: the file now holds other values. `git add` stores them.")
