"""``git theta merge-plan``."""

from __future__ import annotations

import json
import math
import sys
import textwrap
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

import click

from gittheta.cli.console import open_workspace, stop_progress
from gittheta.cli.verbs.merge.resolve import pair
from gittheta.flows.merge.plan import Action, Decision
from gittheta.flows.resolve.replay import MergePreview, compare, preview, replay
from gittheta.runtime import import_when_used
from gittheta.wording import counted, shown

if TYPE_CHECKING:
    from gittheta.engine.comparison import Comparison
    from gittheta.flows.workspace import Workspace

#: The width of a line where the output is no terminal, and of the column of names.
_COLUMNS, _NAME = 80, 40


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
    import_when_used("torch")  # the methods are looked at, but not all plans need numbers
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
        "summary": preview.problem or preview.plan.summary(),
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
    click.echo(f"{shown(plan['path'])}: {plan['summary']}")
    told = [tensor for tensor in plan["tensors"] if tensor["action"] != Action.UNCHANGED.name.lower()]
    names = [shown(tensor["name"]) for tensor in told]
    width = min(_NAME, max(map(len, names), default=0))
    for name, tensor in zip(names, told, strict=True):
        click.echo(_fitted(f"{name:<{width}}  {_what(tensor):<16}", _why(tensor)))
        if numbers := _numbers(tensor):
            click.echo(_fitted(" " * 2, numbers))


def _fitted(begin: str, rest: str) -> str:
    """A line, or several if it does not fit the terminal; names are never broken."""
    columns = get_terminal_size((_COLUMNS, 0)).columns if sys.stdout.isatty() else _COLUMNS
    if len(begin) + 2 + len(rest) <= columns:
        return f"{begin}  {rest}".rstrip()
    indent = " " * 4
    below = textwrap.fill(
        rest, columns, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return f"{begin.rstrip()}\n{below}" if begin.strip() else below


def _what(tensor: dict[str, Any]) -> str:
    return f"from {shown(tensor['from'])}" if "from" in tensor else str(tensor.get("method", tensor["action"]))


def _why(tensor: dict[str, Any]) -> str:
    return shown(tensor.get("reason") or tensor.get("because", ""))


def _numbers(tensor: dict[str, Any]) -> str:
    """Norms of the changes, the least of cosines and of agreements in sign, and which method suits."""
    norms = ", ".join("?" if norm is None else f"{norm:.3g}" for norm in tensor.get("norms", ()))
    parts = (("norms", norms), ("cosine", _least(tensor, "cosines")), ("signs", _least(tensor, "sign_agreements")))
    told = [f"{what} {value}" for what, value in parts if value]
    return ", ".join(told) + (f"; {tensor['hint']}" if tensor.get("hint") else "")


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
                click.echo(f"{shown(each.path)}: {shown(each.problem)}")
            elif each.different:
                names = ", ".join(map(shown, each.different))
                verb = "comes" if len(each.different) == 1 else "come"
                count = counted(len(each.different), "tensor")
                click.echo(f"{shown(each.path)}: {count} {verb} out otherwise: {names}")
            else:
                click.echo(f"{shown(each.path)}: reproduces to the bit")
    if any(each.problem or each.different for each in found):
        sys.exit(1)
