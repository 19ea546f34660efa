"""The same repositories as in the tests of the parts."""

from __future__ import annotations

from tests.support.fixtures import own_home, repo, small_blocks

__all__ = ["own_home", "repo", "small_blocks"]
