"""What the user sees: warnings, progress and traces, all on stderr."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING

from gittheta.cli import TRACE
from gittheta.cli.sink import fitting, terminal
from gittheta.flows.workspace import Workspace
from gittheta.wording import shown, visible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Seconds after which a user wants to know how far a piece of work is.
PATIENCE = 2.0


class Console:
    """A reporter for people: progress after two seconds if stderr is a terminal, traces if GITTHETA_TRACE is set.

    Safe to use from several threads: one lock orders all that is shown, and there is one progress bar at most.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        """Work shorter than ``patience`` seconds shows no progress."""
        self._patience = patience
        #: Taken again by a method that calls another.
        self._lock = RLock()
        self._tracing = os.environ.get(TRACE, "0").lower() not in ("", "0", "false", "no")
        self._terminal = sys.stderr.isatty()
        self._began = self._started = time.monotonic()
        self._what = ""
        self._total = 0
        #: Bytes of the present piece of work that are done.
        self.done = 0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def warn(self, message: str) -> None:
        """Something the user should know."""
        self._write(f"gittheta: warning: {message}\n")

    def trace(self, message: str) -> None:
        """Something a developer may want to know."""
        if self._tracing:
            self._write(f"gittheta: {time.monotonic() - self._began:7.3f} s  {message}\n")

    def say(self, message: str) -> None:
        """What was done, in one line."""
        self._write(f"{message}\n")

    def start(self, what: str, total: int) -> None:
        """A piece of work begins."""
        with self._lock:
            self.stop()
            self._what, self._total, self.done = what, total, 0
            self._started = time.monotonic()

    def advance(self, amount: int) -> None:
        """``amount`` bytes more are done."""
        with self._lock:
            self.done += amount
            if not self._terminal or not self._what or time.monotonic() - self._started < self._patience:
                return
            if self._bar is None:
                self._show()
            if self._bar is not None and self._task is not None:
                self._bar.update(self._task, completed=self.done)

    def stop(self) -> None:
        """Put the progress bar away."""
        with self._lock:
            bar, self._bar, self._what = self._bar, None, ""
            if bar is not None:
                bar.stop()

    def _show(self) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        what = TextColumn("{task.description}", markup=False)
        console = RichConsole(file=terminal(sys.stderr))
        # What others print goes through a sink: rich must not put a stream of its own in that one's place.
        self._bar = Progress(
            what,
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task(self._fitting(shown(self._what)), total=self._total or None)
        self._bar.start()

    def _write(self, text: str) -> None:
        with self._lock:
            if self._bar is not None:
                self._bar.console.print(self._fitting(visible(text)), end="", markup=False, highlight=False)
            else:
                sys.stderr.write(text)
                sys.stderr.flush()

    def _fitting(self, text: str) -> str:
        """A text that the terminal can show."""
        return fitting(text, terminal(sys.stderr).encoding or "ascii")


def open_workspace() -> Workspace:
    """The workspace around the current directory, reporting to the terminal."""
    return Workspace.open(Path.cwd(), Console())


def stop_progress(workspace: Workspace) -> None:
    """Put the progress bar away before something is printed."""
    if isinstance(workspace.reporter, Console):
        workspace.reporter.stop()


def repository_path(workspace: Workspace, path: str) -> str:
    """A path as the user gave it, seen from the top of the work tree."""
    top = workspace.repository.top
    if top is None:
        return path
    relative = os.path.relpath(os.path.join(os.path.realpath(Path.cwd()), path), os.path.realpath(top))
    return relative.replace(os.sep, "/")


def displayed_path(workspace: Workspace, path: str) -> str:
    """A path of the repository as it is typed in the current folder."""
    top = workspace.repository.top
    if top is None:
        return path
    return os.path.relpath(os.path.join(os.path.realpath(top), path), os.path.realpath(Path.cwd())).replace(os.sep, "/")


def human(size: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
