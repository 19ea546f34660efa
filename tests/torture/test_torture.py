"""2,000 git operations of two people, with kills, full and failing disks and flipped bits among them.

Nothing is lost, nothing is wrong, nothing ends in a traceback.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint
from tests.support.hooks import write_hook
from tests.support.world import ATTRIBUTES, Place, Repo, World
from tests.torture.faults import Faults
from tests.torture.operations import NAMES, People

SHARES = 8
STEPS = 250
MORE = range(SHARES, 4 * SHARES)


@pytest.fixture(scope="session")
def failing_io(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """The library that lets calls fail, if it can be compiled here."""
    library = tmp_path_factory.mktemp("failing") / "failing_io.so"
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    source = Path(__file__).with_name("failing_io.c")
    subprocess.run([compiler, "-std=c2x", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path | None]:
    """A small file system, if one may be mounted here."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", str(folder)]
    mounted = subprocess.run(words, capture_output=True, check=False).returncode == 0
    yield folder if mounted else None
    if mounted:
        subprocess.run(["umount", "-l", folder], check=True)


def _other_tools(one: Repo, two: Repo) -> None:
    """Hooks of other tools, which were there first, in a way of their own in each clone."""
    if find_spec("pre_commit"):
        (one.git_dir / "info" / "exclude").write_text(".pre-commit-config.yaml\n")
        one.write(".pre-commit-config.yaml", b"repos: []\n")
        command = [
            sys.executable,
            "-m",
            "pre_commit",
            "install",
            "-t",
            "pre-commit",
            "-t",
            "pre-push",
            "-t",
            "post-checkout",
        ]
        one.attempt(*command)
    else:
        for name in ("pre-commit", "pre-push", "post-checkout"):
            write_hook(one.git_dir / "hooks" / name, "#!/bin/sh\nexit 0\n")
    for name in ("pre-push", "post-checkout", "post-merge"):
        write_hook(two.path / ".husky" / name, "#!/bin/sh\ncat >/dev/null </dev/null\n")
    two.git("config", "core.hooksPath", ".husky")
    (two.git_dir / "info" / "exclude").write_text(".husky/\n")


def _people(world: World, seed: int, disk: Path | None, library: Path | None) -> People:
    inside = f"{disk.relative_to(world.root)}/" if disk else ""
    # In a file of the user's own, because a revert may take that of the repository away.
    (world.home / "attributes").write_text(ATTRIBUTES)
    world.place().git("config", "--global", "core.attributesFile", str(world.home / "attributes"))
    hub = Place(world.bare(f"{inside}hub.git"), world.env)
    first = world.repo(f"{inside}first")
    first.commit(checkpoint({"a": np.arange(6.0), "step": np.array([1])}), NAMES[0])
    first.git("push", "-q", str(hub.path), "main")
    one, two = (world.clone(hub.path, f"{inside}{name}") for name in ("one", "two"))
    _other_tools(one, two)
    two.git("config", "theta.smudgeLimit", "1k")
    for clone in (one, two):
        clone.git("theta", "install")
    luck = random.Random(seed)
    return People(luck, hub, (one, two), Faults(luck, disk, library))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(SHARES), *(pytest.param(seed, marks=pytest.mark.soak) for seed in MORE)])
def test_nothing_is_lost_and_nothing_is_wrong(
    world: World, seed: int, disk: Path | None, failing_io: Path | None
) -> None:
    _torture(_people(world, seed, disk, failing_io), STEPS)
    _everything_can_be_cloned(world)


def test_a_short_while_of_it(world: World, failing_io: Path | None) -> None:
    _torture(_people(world, 1000, None, failing_io), 12)
    _everything_can_be_cloned(world)


def _torture(people: People, steps: int) -> None:
    for number in range(steps):
        people.step()
        if number % 25 == 24:
            people.check_all()
    for repo in people.clones:
        repo.healthy()
        repo.git("push", "-q", "--force", "origin", "--all")
    people.check_all()


def _everything_can_be_cloned(world: World) -> None:
    """Of whatever the hub has, a new clone gets every model."""
    hub = next(path for path in world.root.rglob("hub.git"))
    clone = world.clone(hub, "last")
    for branch in clone.git("for-each-ref", "--format=%(refname)", "refs/remotes/origin").split():
        clone.git("checkout", "-q", "--detach", branch)
        clone.healthy()
