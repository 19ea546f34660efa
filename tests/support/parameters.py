"""Parameters of tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def first_often(count: int, values: Iterable[Any]) -> list[Any]:
    """Parameters of which only the first ones are tried each time, and the others with the slow tests."""
    return [value if at < count else pytest.param(value, marks=pytest.mark.slow) for at, value in enumerate(values)]
