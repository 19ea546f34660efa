"""For every test: what needs torch is skipped where torch is not installed; at the end, what was skipped and why."""

from __future__ import annotations

import re
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

HAS_TORCH = find_spec("torch") is not None
_IMPORTS_TORCH = re.compile(r"^(import|from) torch\b", re.MULTILINE)


class _NeedsTorch(pytest.Module):
    """A module that cannot even be imported."""

    def collect(self) -> list[pytest.Item]:
        pytest.skip("torch is not installed", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Leave out modules that import torch, rather than fail."""
    if HAS_TORCH or not _IMPORTS_TORCH.search(module_path.read_text()):
        return None
    module: pytest.Module = _NeedsTorch.from_parent(parent, path=module_path)
    return module


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that are marked."""
    if not HAS_TORCH and item.get_closest_marker("torch"):
        pytest.skip("torch is not installed")


_skipped: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count what is skipped."""
    _count(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Count modules that are skipped whole."""
    _count(report)


def _count(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple) and not hasattr(report, "wasxfail"):
        _skipped[report.longrepr[2].removeprefix("Skipped: ")] += 1


def pytest_unconfigure(config: pytest.Config) -> None:
    """The last line of a run. A worker of pytest-xdist leaves it to the process that started it."""
    if _skipped and not hasattr(config, "workerinput"):
        print("skipped: " + "; ".join(f"{count} times: {reason}" for reason, count in sorted(_skipped.items())))
