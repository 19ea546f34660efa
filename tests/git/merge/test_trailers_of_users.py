"""A merge can be repeated from its message whatever the user's settings say of trailers and comments."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint
from tests.support.parameters import first_often
from tests.support.world import Repo, World

BASE = np.zeros((4, 4), np.float32)


@pytest.fixture
def sides(world: World) -> Repo:
    repo = world.repo()
    repo.commit(checkpoint({"w\n": BASE}))
    for name, value in (("theirs", 1), ("ours", 2)):
        repo.git("switch", "-q", "-c", name, "main")
        repo.commit(checkpoint({"w\n": BASE + value}))
    return repo


SETTINGS = [
    ("trailer.ifmissing", "doNothing"),
    ("trailer.separators", "="),
    ("trailer.x.key", "Theta-Merge-By"),
    ("core.commentChar", "auto"),
    ("core.commentChar", ";"),
    ("i18n.commitEncoding", "latin-1"),
    ("commit.cleanup", "scissors"),
]


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("setting", first_often(2, SETTINGS))
def test_a_setting_changes_nothing(sides: Repo, setting: tuple[str, str]) -> None:
    sides.git("config", *setting)
    sides.git("-c", "theta.merge.method=ties", "merge", "-q", "--no-edit", "theirs")
    assert "Theta-Merge: m.safetensors ties" in sides.git("log", "-1", "--format=%B")
    assert sides.git("theta", "merge-plan", "--replay", "HEAD") == "m.safetensors: reproduces to the bit\n"
