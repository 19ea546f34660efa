"""`make demo-collab`: what contributors make of parts of the data is merged to more than any of them has."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.world import environment

DEMO = Path(__file__).parents[1] / "docs/demo/collab.py"


def rows(folder: Path, *words: str) -> dict[str, list[float]]:
    """Run the demo: of each method and round the accuracies in the table, and what was pushed."""
    done = subprocess.run(
        [sys.executable, str(DEMO), str(folder), *words],
        env=environment(folder.parent),
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = re.findall(r"^ +(linear|ties|fisher) +(\d) +(.*?) kB *$", done.stdout, re.MULTILINE)
    return {
        f"{method} {number}": [float(each.strip("%").replace(",", "")) for each in cells.split()]
        for method, number, cells in result
    }


@pytest.mark.slow
def test_one_round_is_better_than_each_contributor_and_can_be_repeated(tmp_path: Path) -> None:
    table = rows(tmp_path / "demo", "--rounds", "1", "--methods", "ties")
    assert list(table) == ["ties 1"]
    *single, best, merged, pushed = table["ties 1"]
    assert len(single) == 4
    assert max(single) == best < merged
    assert pushed < 5 * 340  # five versions of a file of 340 kB
    env = environment(tmp_path, GIT_CONFIG_GLOBAL=str(tmp_path / "demo/gitconfig"))
    main = tmp_path / "demo/ties/maintainer"
    again = subprocess.run(["git", "theta", "merge-plan", "--replay", "main"], cwd=main, env=env, capture_output=True)
    assert again.stdout == b"model.safetensors: reproduces to the bit\n"
    parents = subprocess.run(["git", "show", "-s", "--format=%p"], cwd=main, env=env, capture_output=True)
    assert len(parents.stdout.split()) == 4


@pytest.mark.slow
def test_the_merged_model_gets_better_round_by_round(tmp_path: Path) -> None:
    table = rows(tmp_path / "demo")
    assert list(table) == [f"{method} {number}" for method in ("linear", "ties", "fisher") for number in range(1, 6)]
    for method in ("linear", "ties", "fisher"):
        merged = [table[f"{method} {number}"][-2] for number in range(1, 6)]
        assert merged[-1] > merged[0] + 2
        assert all(after > before - 2 for before, after in pairwise(merged))
