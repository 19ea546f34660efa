"""Whatever a stranger writes is read or refused, within the memory and the time that its size allows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured with Linux's means")

#: Cases of each kind, so that all of them together take less than a minute.
FEW = {"manifest": 80, "header": 40, "recipe": 60, "adapter": 100}


def problems(kind: str, first: int, count: int) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.child", kind, str(first), str(count)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr.decode()
    assert lines[-1] == {"ran": count}
    return [f"seed {line['seed']}: {line['problem']}" for line in lines[:-1]]


@pytest.mark.parametrize("kind", FEW)
def test_a_seeded_minute(kind: str) -> None:
    assert not problems(kind, 0, FEW[kind])


@pytest.mark.slow
@pytest.mark.parametrize("start", [1, *(pytest.param(start, marks=pytest.mark.soak) for start in range(2, 11))])
@pytest.mark.parametrize("kind", FEW)
def test_more_seeds(kind: str, start: int) -> None:
    assert not problems(kind, 1000 * start, 5 * FEW[kind])
