"""torch as the engine runs it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in the engine; and several workers of a test run do not wait for each other."""
    import torch  # not above: without torch, too, this module is imported

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
