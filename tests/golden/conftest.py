"""The same repositories as in the tests of the parts."""

from __future__ import annotations

from tests.unit.conftest import _own_home, repo, small_blocks

__all__ = ["_own_home", "repo", "small_blocks"]
