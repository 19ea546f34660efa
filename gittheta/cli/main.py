"""Where ``git-theta`` begins, and the one place where errors become exit codes."""

import sys

from gittheta.cli.start import forget_current_folder

forget_current_folder()

from collections.abc import Callable  # noqa: E402

from gittheta.cli.sink import use_sinks  # noqa: E402
from gittheta.errors import StoreError, ThetaError  # noqa: E402
from gittheta.runtime import begin, collect_garbage  # noqa: E402

#: What Git calls: these never change the configuration that they were called by.
_PLUMBING = ("clean", "smudge", "merge-driver", "check-push")
#: These see to the configuration themselves.
_SETUP = ("install", "uninstall")


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
        run(_verb)


def _verb() -> None:
    from gittheta.cli.app import run_app

    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    if words and words[0] not in (*_PLUMBING, *_SETUP):
        from gittheta.cli.verbs.setup.install import renew_settings

        renew_settings()
    sys.exit(run_app(sys.argv[1:]))


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
