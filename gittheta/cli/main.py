"""Where ``git-theta`` begins, and the one place where errors become exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable

from gittheta.cli.sink import use_sinks
from gittheta.errors import StoreError, ThetaError
from gittheta.runtime import begin, collect_garbage


def main() -> None:
    """Run a verb. What Git itself starts, time and again, goes around the argument parser."""
    begin()
    use_sinks()
    if sys.argv[1:] == ["filter-process"]:
        from gittheta.cli.plumbing.filter_process import serve

        run(serve)
    elif sys.argv[1:2] == ["hook"] and len(sys.argv) > 3:
        from gittheta.cli.plumbing.hook import call_hook

        run(lambda: call_hook(*sys.argv[2:]))
    else:
        from gittheta.cli.app import run_app

        run(lambda: sys.exit(run_app(sys.argv[1:])))


def run(action: Callable[[], object]) -> None:
    """Do something; a failure becomes a message on stderr and its documented exit code."""
    collect_garbage()
    try:
        action()
    except ThetaError as error:
        sys.stderr.write(f"gittheta: {error}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        sys.stderr.write(f"gittheta: {error}\n")
        sys.exit(StoreError.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
