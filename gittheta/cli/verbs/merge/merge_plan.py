"""``git theta merge-plan``."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

import click

from gittheta.cli.console import open_workspace, stop_progress
from gittheta.cli.verbs.merge.resolve import pair
from gittheta.flows.merge.plan import Action, Decision
from gittheta.flows.resolve.replay import MergePreview, compare, preview, replay

if TYPE_CHECKING:
    from gittheta.engine.comparison import Comparison
    from gittheta.flows.workspace import Workspace


@click.command()
@click.argument("commits", nargs=-1)
@click.option("-X", "words", multiple=True, metavar="KEY=VALUE", help="As for git merge -s theta: method=ties, ...")
@click.option("--numbers/--no-numbers", default=True, help="Compare the changes with each other (reads the tensors).")
@click.option("--replay", "again", metavar="COMMIT", help="Whether a merge comes out the same to the bit again.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def merge_plan(
    commits: tuple[str, ...], words: tuple[str, ...], numbers: bool, again: str | None, as_json: bool
) -> None:
    """What `git merge COMMITS` would do with each tensor, and why. Nothing is changed.

    Of tensors that several sides changed: norm of each change, cosine and agreement in sign (the least of all pairs),
    and a hint which method suits.
    """
    given = dict(pair(word) for word in words)
    with open_workspace() as workspace:
        if again:
            if commits:
                raise click.UsageError("--replay takes the merge commit alone")
            _replay(workspace, again, as_json)
            return
        if not commits:
            raise click.UsageError("name what you want to merge, or --replay COMMIT")
        plans = [_described(workspace, each, numbers) for each in preview(workspace, commits, given)]
        stop_progress(workspace)
    if as_json:
        click.echo(json.dumps(plans, indent=1))
        return
    for plan in plans:
        _show(plan)
    if not plans:
        click.echo("no checkpoint would change")


def _described(workspace: Workspace, preview: MergePreview, numbers: bool) -> dict[str, Any]:
    compared = compare(workspace, preview) if numbers else {}
    tensors = [_tensor(decision, preview, compared.get(decision.name)) for decision in preview.plan.decisions]
    return {
        "path": preview.versions.path,
        "sides": list(preview.versions.labels),
        "summary": preview.plan.summary(),
        "tensors": tensors,
    }


def _tensor(decision: Decision, preview: MergePreview, compared: Comparison | None) -> dict[str, Any]:
    found: dict[str, Any] = {"name": decision.name, "action": decision.action.name.lower()}
    if decision.origin:
        found["from"] = decision.origin
    choice, recipes = decision.choice, preview.plan.methods
    if choice and decision.action is not Action.CONFLICT:
        found["method"] = choice.method
        found["options"] = recipes[choice].described() if choice in recipes else {"from": decision.origin}
        found["because"] = choice.source
    if decision.reason:
        found["reason"] = decision.reason
    if compared:
        found["sides"] = [preview.versions.labels[index] for index in decision.parts]
        found["norms"] = _known(compared.norms)
        found["cosines"] = _known(compared.cosines)
        found["sign_agreements"] = _known(compared.agreements)
        found["hint"] = compared.hint
    return found


def _known(values: tuple[float, ...]) -> list[float | None]:
    """JSON has no words for what is no number."""
    return [value if math.isfinite(value) else None for value in values]


def _show(plan: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    click.echo(f"{plan['path']}: {plan['summary']}")
    told = [tensor for tensor in plan["tensors"] if tensor["action"] != Action.UNCHANGED.name.lower()]
    if not told:
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("tensor", "what", "why", "norms", "cosine", "signs", "hint"):
        table.add_column(heading, no_wrap=True)
    for tensor in told:
        table.add_row(*_row(tensor))
    Console(width=None if sys.stdout.isatty() else 10_000, markup=False, highlight=False).print(table)


def _row(tensor: dict[str, Any]) -> tuple[str, ...]:
    what = tensor.get("method", tensor["action"])
    if "from" in tensor:
        what = f"from {tensor['from']}"
    why = tensor.get("reason") or tensor.get("because", "")
    norms = ", ".join("?" if norm is None else f"{norm:.3g}" for norm in tensor.get("norms", ()))
    return (
        tensor["name"],
        what,
        why,
        norms,
        _least(tensor, "cosines"),
        _least(tensor, "sign_agreements"),
        tensor.get("hint", ""),
    )


def _least(tensor: dict[str, Any], key: str) -> str:
    known = [value for value in tensor.get(key, ()) if value is not None]
    return f"{min(known):.2f}" if known else ""


def _replay(workspace: Workspace, commit: str, as_json: bool) -> None:
    found = list(replay(workspace, commit))
    stop_progress(workspace)
    if as_json:
        rows = [{"path": each.path, "different": each.different, "problem": each.problem} for each in found]
        click.echo(json.dumps(rows, indent=1))
    else:
        for each in found:
            if each.problem:
                click.echo(f"{each.path}: {each.problem}")
            elif each.different:
                click.echo(
                    f"{each.path}: {len(each.different)} tensors come out otherwise: {', '.join(each.different)}"
                )
            else:
                click.echo(f"{each.path}: reproduces to the bit")
    if any(each.problem or each.different for each in found):
        sys.exit(1)
