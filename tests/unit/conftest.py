"""What every test of a part may ask for."""

from __future__ import annotations

from tests.support.fixtures import own_home, repo, small_blocks, tensors

__all__ = ["own_home", "repo", "small_blocks", "tensors"]
