"""The same worlds as those of the tests that drive Git."""

from tests.git.conftest import installed_home, world

__all__ = ["installed_home", "world"]
