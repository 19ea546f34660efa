"""Clones that fetch blobs or trees when they are asked for: walks over history ask once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import model
from tests.support.stores import object_files
from tests.support.world import Place, Repo, World

VERSIONS = 6


@pytest.fixture
def hub(world: World, repo: Repo) -> Place:
    """A hub that serves partial clones."""
    hub = Place(world.bare(), world.env)
    hub.git("config", "uploadpack.allowFilter", "true")
    hub.git("config", "uploadpack.allowAnySHA1InWant", "true")
    repo.git("remote", "add", "origin", str(hub.path))
    for seed in range(VERSIONS):
        repo.commit(model(seed))
    repo.git("push", "-q", "origin", "main")
    return hub


def _asked(clone: Repo, trace: Path, *words: str) -> int:
    """How often a verb asks the hub for Git objects."""
    trace.unlink(missing_ok=True)
    clone.run("theta", *words, env={"GIT_TRACE": str(trace)})
    text = trace.read_text() if trace.exists() else ""
    return len(re.findall(r"built-in: git fetch .*--filter=blob:none", text))


def _verbs() -> Iterator[object]:
    for kind in ("blob:none", "tree:0"):
        for words in (("fsck",), ("du",), ("fetch", "--all")):
            often = (kind, words) in {("blob:none", ("fsck",)), ("tree:0", ("du",))}
            yield pytest.param(kind, words, marks=[] if often else pytest.mark.slow, id=f"{kind}-{words[0]}")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "words"), list(_verbs()))
def test_walks_ask_for_everything_at_once(world: World, hub: Place, kind: str, words: tuple[str, ...]) -> None:
    clone = world.clone(f"file://{hub.path}", "clone", f"--filter={kind}")
    assert 1 <= _asked(clone, world.root / "trace", *words) <= 2
    assert _asked(clone, world.root / "trace", *words) == 0


@pytest.mark.slow
def test_a_push_back_to_where_blobs_come_from_asks_for_nothing(world: World, hub: Place) -> None:
    clone = world.clone(f"file://{hub.path}", "clone", "--filter=blob:none")
    assert _asked(clone, world.root / "trace", "push", "--all", "origin") == 0
    two = world.bare("two.git")
    assert _asked(clone, world.root / "trace", "push", "--all", str(two)) == 1
    assert len(object_files(two / "theta")) == VERSIONS


@pytest.mark.slow
def test_what_is_promised_and_cannot_be_had_is_an_error_in_words(world: World, hub: Place) -> None:
    clone = world.clone(f"file://{hub.path}", "clone", "--filter=blob:none")
    hub.path.rename(world.root / "gone")
    message = clone.fails("theta", "fsck", status=50)
    assert "Git objects are not here" in message
    assert "git fsck" in message
