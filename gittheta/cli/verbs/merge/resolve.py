"""``git theta resolve PATH``."""

from __future__ import annotations

import click

from gittheta.cli.console import open_workspace, repository_path, stop_progress
from gittheta.engine.policy import CONFLICT, TAKE
from gittheta.flows.resolve.conflicts import Conflict
from gittheta.flows.resolve.conflicts import resolve as resolve_tensors
from gittheta.git.operation import Operation
from gittheta.wording import quoted, shell_word, shown

#: How many of the tensors that are still in conflict are named.
_NAMED = 5


@click.command()
@click.argument("path")
@click.argument("method", required=False)
@click.option("--tensors", multiple=True, metavar="GLOB", help="Only conflicting tensors of such names.")
@click.option("--method", "-m", "named", metavar="METHOD", help="How to merge them: linear, ties, ..., take.")
@click.option("--option", "-o", "pairs", multiple=True, metavar="KEY=VALUE", help="An option of the method.")
@click.option("--from", "origin", metavar="SIDE", help="With take: whose version, ours, theirs, base or a side's name.")
@click.option("--metadata", metavar="SIDE", help="Whose metadata to take where those clash.")
def resolve(
    path: str,
    method: str | None,
    tensors: tuple[str, ...],
    named: str | None,
    pairs: tuple[str, ...],
    origin: str | None,
    metadata: str | None,
) -> None:
    """Settle tensors that are in conflict; see `git theta conflicts`.

    Once none is left the merged checkpoint stands in the work tree. `git add` and `git commit` finish the merge.
    """
    chosen = named or method or (TAKE if origin else None)
    if named and method and named != method:
        raise click.UsageError(f"two methods: {method} and {named}")
    if chosen is None and metadata is None:
        raise click.UsageError("say how: --method linear, or take --from theirs")
    if chosen == CONFLICT:
        raise click.UsageError("that is what you have: name a method, or take --from theirs")
    options = dict(pair(word) for word in pairs)
    if origin:
        options["from"] = origin
    with open_workspace() as workspace:
        operation, name = Operation.read(workspace.repository), repository_path(workspace, path)
        settled = resolve_tensors(workspace, operation, name, tensors, chosen, options, metadata)
        stop_progress(workspace)
    _tell(settled)


def _tell(settled: Conflict) -> None:
    path, name = shown(settled.made.path), shell_word(settled.made.path)
    if settled.settled:
        click.echo(f"{path}: {settled.plan.summary()}" if settled.plan.decisions else f"{path}: taken as it is")
        click.echo(f"  all settled; to keep it: git add {name}")
        return
    for decision in settled.tensors[:_NAMED]:
        click.echo(f"{path}: {shown(decision.name)}: {decision.reason}")
    for objection in settled.objections:
        click.echo(f"{path}: {objection}")
    click.echo(
        f"{path}: {len(settled.tensors) + len(settled.objections)} still in conflict: git theta conflicts {name}"
    )


def pair(word: str) -> tuple[str, str]:
    """KEY=VALUE. Raises click's UsageError."""
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise click.UsageError(f"not of the form KEY=VALUE: {quoted(word)}")
    return key.lower(), value
