"""``git-merge-theta``: what Git runs for ``git merge -s theta``, and for rebase and cherry-pick with that strategy.

It is called as ``git-merge-theta --method=ties ... BASE... -- HEAD REMOTE...`` at the top of the work tree. Its exit
status tells Git: 0 merged, 1 conflicts are left to the user, 2 nothing was done.
"""

from __future__ import annotations

import sys

from gittheta.cli.start import forget_current_folder

forget_current_folder()

import traceback  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

from gittheta.cli.sink import use_sinks  # noqa: E402
from gittheta.errors import ConfigError, ThetaError  # noqa: E402
from gittheta.runtime import begin  # noqa: E402
from gittheta.wording import shown  # noqa: E402

if TYPE_CHECKING:
    from gittheta.flows.strategy.octopus import StrategyReport


def main() -> None:
    """Merge, and end with the status that Git wants."""
    begin()
    use_sinks()
    try:
        status = _merge(sys.argv[1:])
    except (ThetaError, OSError) as error:
        sys.stderr.write(f"gittheta: {error}\n")
        status = 2
    except KeyboardInterrupt:
        status = 130
    except BaseException:  # noqa: BLE001 - whatever it is, a plugin that tries to end the process too
        # Python's own status would be 1, which Git takes for a conflict.
        traceback.print_exc()
        status = 2
    sys.exit(status)


def _merge(words: Sequence[str]) -> int:
    from gittheta.cli.console import open_workspace, stop_progress
    from gittheta.flows.strategy.octopus import StrategyRequest, merge_heads
    from gittheta.git.operation import Operation
    from gittheta.runtime import collect_garbage, keep_memory

    collect_garbage()
    given, bases, heads = _parsed(words)
    keep_memory()
    with open_workspace() as workspace:
        operation = Operation.read(workspace.repository)
        report = merge_heads(workspace, StrategyRequest(tuple(bases), heads[0], tuple(heads[1:]), operation, given))
        stop_progress(workspace)
    _tell(report)
    return int(report.conflicted)


def _parsed(words: Sequence[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Options, bases, and the heads, ours first."""
    if "--" not in words[:-2]:
        raise ConfigError("git-merge-theta is called by Git", hint="use: git merge -s theta BRANCH...")
    at = words.index("--")
    given = {}
    for word in words[:at]:
        if word.startswith("--"):
            key, separator, value = word[2:].partition("=")
            if not separator:
                raise ConfigError(
                    f"-X {key} means nothing to the strategy theta",
                    hint="options are -X method=NAME and those of the method: git theta plugins",
                )
            given[key] = value
    return given, [word for word in words[:at] if not word.startswith("--")], list(words[at + 1 :])


def _tell(report: StrategyReport) -> None:
    from gittheta.cli.plumbing.outcomes import tell_clash, tell_conflicts, tell_merged

    for message in report.messages:
        print(message.text)
    for each in report.settled:
        if each.problems:
            kind = "content" if None not in each.candidate.sides else "modify/delete"
            print(f"CONFLICT ({kind}): Merge conflict in {shown(each.path)}", flush=True)
        if each.problems and each.outcome:
            tell_conflicts(each.path, each.problems)
        elif each.problems:
            tell_clash(each.path, each.problems[0])
        elif each.outcome:
            tell_merged(each.path, each.outcome.plan)
