"""Walks over a long history: a second of work for a thousand commits, at most."""

from __future__ import annotations

import resource
import shutil

import pytest

from tests.bench.histories import write_history
from tests.support.world import Place, World

COMMITS = 2000


@pytest.mark.slow
def test_verbs_that_walk_take_a_second_for_a_thousand_commits(world: World) -> None:
    write_history(world.root / "long.git", COMMITS, 60)
    world.bare()
    shutil.copytree(world.root / "long.git/theta", world.root / "hub.git/theta")
    place = Place(world.root / "long.git", world.env)
    took = {}
    for words in (("fsck",), ("du",), ("push", "--all", "../hub.git"), ("fetch", "--all")):
        before = _seconds()
        place.git("theta", *words)
        took[words[0]] = (_seconds() - before) / COMMITS * 1000
    assert all(seconds <= 1 for seconds in took.values()), took


def _seconds() -> float:
    """Of all processors together, in child processes: other work of the machine does not count."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
