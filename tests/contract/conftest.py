"""The same repositories as in the tests of the parts."""

from __future__ import annotations

from tests.support.fixtures import own_home, repo

__all__ = ["own_home", "repo"]
