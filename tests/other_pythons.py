"""Runs a share of the tests on every other Python of this machine, without torch: ``python -m tests.other_pythons``.

That is the proof that torch is optional, and that shared state is safe where ``functools.cached_property`` has no lock
(Python 3.12 and later). Interpreters are looked for on PATH and among pyenv's. Each gets an environment of its own,
``.venv-3.12`` and so on, which is kept.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
OLDEST, NEWEST = 12, 19
#: All tests of these rooms, but those of sources and numbers only; of the tests that drive Git those that are marked.
_FOLDERS = ["tests/unit", "tests/contract", "tests/golden", "tests/git"]
_MARKS = "everywhere or not (slow or torch or gpu or once or drives_git)"


def interpreters() -> Iterator[tuple[str, Path]]:
    """The other Pythons: one of each version, by version."""
    for minor in range(OLDEST, NEWEST + 1):
        if sys.version_info[:2] == (3, minor):
            continue
        result = (shutil.which(f"python3.{minor}", path=folder) for folder in _folders(minor))
        python = next((each for each in result if each and _runs(each, minor)), None)
        if python:
            yield f"3.{minor}", Path(python)


def _folders(minor: int) -> list[str]:
    """Where programs lie: on PATH, and pyenv's of one version, the newest first."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    pyenv = sorted(versions.glob(f"3.{minor}.*/bin"), key=lambda each: int("0" + each.parent.name.split(".")[2]))
    return [*os.environ["PATH"].split(os.pathsep), *map(str, reversed(pyenv))]


def _runs(python: str, minor: int) -> bool:
    """Whether it is what its name says: pyenv puts programs on PATH that only explain how to choose a version."""
    message = subprocess.run(
        [python, "-c", "import sys, venv, sqlite3; print(sys.version_info[1])"], capture_output=True, check=False
    )
    return message.returncode == 0 and message.stdout.strip() == str(minor).encode()


def environment(version: str, python: Path) -> Path:
    """The programs of an environment of that Python in which everything but torch is installed."""
    folder = ROOT / f".venv-{version}"
    ready = folder / ".ready"
    sources = [ROOT / "pyproject.toml", ROOT / "constraints.txt"]
    if not ready.exists() or ready.stat().st_mtime < max(source.stat().st_mtime for source in sources):
        subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--constraint", "constraints.txt", "--editable", ".[test-core]"], cwd=ROOT, check=True)
        ready.touch()
    return folder / "bin"


def main() -> int:
    """The worst exit status."""
    worst = 0
    others = list(interpreters())
    if not others:
        print("other Pythons: none from 3.12 up was found on PATH or among pyenv's, so torch was always there")
    for version, python in others:
        programs = environment(version, python)
        print(f"Python {version}, without torch", flush=True)
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        command = [str(programs / "python"), "-m", "pytest", "-n", "auto", "--dist", "worksteal", "-m", _MARKS]
        done = subprocess.run([*command, *_FOLDERS], cwd=ROOT, env={**os.environ, "PATH": path}, check=False)
        worst = max(worst, done.returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main())
