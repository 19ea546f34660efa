"""gc --remote: what no ref needs leaves a shared store, in two steps, whoever pushes meanwhile."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gittheta.errors import RemoteError, ThetaError
from gittheta.flows.maintain.gc import DAY
from gittheta.flows.maintain.gc_remote import RemoteCollected, collect_remote
from gittheta.flows.transfer.notes import write_list
from gittheta.flows.transfer.remotes import opened_remote
from gittheta.flows.workspace import Workspace
from tests.support.checkpoints import checkpoint
from tests.support.world import Place, Repo, World, objects_in

M = "m.safetensors"
NOW = 2_000_000_000.0


def model(seed: int) -> bytes:
    return checkpoint(
        {"w": np.random.default_rng(seed).normal(0, 0.02, (64, 64)).astype(np.float32)}, {"seed": str(seed)}
    )


def collect(repo: Repo, now: float, name: str = "origin") -> RemoteCollected:
    with Workspace.open(repo.path) as workspace:
        return collect_remote(workspace, name, workspace.repository.remotes().get(name, name), now)


def stored(store: Path) -> set[str]:
    return {path.name for path in objects_in(store)}


def objects_of(repo: Repo, revision: str = "HEAD") -> set[str]:
    """The objects that the model of a commit needs."""
    return set(re.findall(r"\b([0-9a-f]{64}):\d", repo.manifest(M, revision)))


@pytest.fixture
def shared(world: World, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """A repository that has pushed two unrelated models to a hub whose objects lie in a folder of their own."""
    for key in ("HOME", "GIT_CONFIG_NOSYSTEM"):
        monkeypatch.setenv(key, world.env[key])
    (world.root / "store").mkdir()
    world.place().git("config", "--global", "theta.url", str(world.root / "store"))
    repo = world.repo()
    repo.git("remote", "add", "origin", str(world.bare()))
    repo.commit(model(1))
    repo.git("push", "-q", "origin", "main")
    repo.git("checkout", "-q", "-b", "side")
    repo.commit(model(2))
    repo.git("push", "-q", "origin", "side")
    repo.git("checkout", "-q", "main")
    return repo


def store_of(repo: Repo) -> Path:
    """The store of the folder in which the hub's objects lie."""
    return repo.path.parent / "store/theta"


def test_two_steps(shared: Repo) -> None:
    needed, other = objects_of(shared, "main"), objects_of(shared, "side") - objects_of(shared, "main")
    store = store_of(shared)
    assert collect(shared, NOW).listed == {}
    shared.git("push", "-q", "origin", ":side")
    first = collect(shared, NOW)
    assert not first.deleted
    assert set(first.listed) == other
    assert first.earliest == NOW + 14 * DAY
    assert not collect(shared, NOW + 13 * DAY).deleted
    assert stored(store) == needed | other
    assert set(collect(shared, NOW + 14 * DAY).deleted) == other
    assert stored(store) == needed
    assert shared.git("for-each-ref", "refs/theta") == ""
    shared.git("theta", "fsck", "--remote", "origin")
    shared.git("push", "-q", "origin", "side")  # what was deleted is sent again
    assert stored(store) == needed | other


def test_a_push_takes_what_it_relies_on_off_the_list(shared: Repo) -> None:
    other = objects_of(shared, "side") - objects_of(shared, "main")
    shared.git("push", "-q", "origin", ":side")
    collect(shared, NOW)
    shared.git("theta", "push", "origin", "side")  # no ref has moved yet, as in the middle of a push
    assert not collect(shared, NOW + 15 * DAY).deleted
    assert other <= stored(store_of(shared))
    assert not collect(shared, NOW + 28 * DAY).deleted, "the days are counted anew"
    assert set(collect(shared, NOW + 29 * DAY).deleted) == other


def test_a_push_while_something_is_deleted_fails(shared: Repo) -> None:
    doomed = sorted(objects_of(shared, "side") - objects_of(shared, "main"))
    shared.git("push", "-q", "origin", ":side")
    note = store_of(shared) / "notes" / f"deleting-{NOW:.0f}-abc"
    note.write_text("gittheta note 1\n" + "".join(f"{name}\n" for name in doomed))
    message = shared.fails("push", "origin", "side")
    assert "garbage is being collected there" in message
    assert "side" not in shared.git("ls-remote", "origin")
    with pytest.raises(RemoteError, match="another collection"):
        collect(shared, NOW + 3600)
    collect(shared, NOW + 3 * 3600)  # that one was cut short
    shared.git("push", "-q", "origin", "side")


def test_a_collection_that_began_later_deletes_nothing(shared: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """A push between the look at the notes and the deletion is seen."""
    shared.git("push", "-q", "origin", ":side")
    collect(shared, NOW)

    def write(*words: object) -> str:
        if words[1] == "deleting-":
            shared.git("theta", "push", "origin", "side")
        return write_list(*words)  # type: ignore[arg-type]

    monkeypatch.setattr("gittheta.flows.maintain.gc_remote.write_list", write)
    assert not collect(shared, NOW + 15 * DAY).deleted
    shared.git("push", "-q", "origin", "side")
    assert not collect(shared, NOW + 16 * DAY).deleted


def test_a_repository_that_is_not_known_stops_it(world: World, shared: Repo) -> None:
    other = world.repo("other")
    other.git("remote", "add", "origin", str(world.bare("second.git")))
    other.commit(model(3))
    other.git("push", "-q", "origin", "main")
    shared.git("push", "-q", "origin", ":side")
    with pytest.raises(RemoteError, match=r"second\.git pushes there too") as error:
        collect(shared, NOW)
    assert "git remote add NAME" in str(error.value)
    shared.git("remote", "add", "second", str(world.root / "second.git"))
    collect(shared, NOW)
    deleted = collect(shared, NOW + 15 * DAY).deleted
    assert set(deleted) == objects_of(shared, "side") - objects_of(shared, "main")
    assert objects_of(other) <= stored(store_of(shared))
    shared.git("remote", "remove", "second")
    message = shared.fails("theta", "gc", "--remote", "origin", "--dry-run")
    assert "pushes there too" in message
    shared.git("theta", "gc", "--remote", "origin", "--forget", str(world.root / "second.git"))
    # That put them on the list, at the true time.
    assert set(collect(shared, NOW + 40 * DAY).deleted) == objects_of(other) - objects_of(shared, "main")


def test_a_repository_that_cannot_be_fetched_stops_it(world: World, shared: Repo) -> None:
    (world.root / "hub.git/HEAD").rename(world.root / "hub.git/gone")
    with pytest.raises(ThetaError, match="cannot be fetched"):
        collect(shared, NOW)
    assert shared.git("for-each-ref", "refs/theta") == ""


def test_refs_of_any_kind_and_shallow_clones(world: World, shared: Repo) -> None:
    hub = Place(world.root / "hub.git", world.env)
    hub.git("update-ref", "refs/pull/1/head", "refs/heads/side")
    shared.git("push", "-q", "origin", ":side")
    assert collect(shared, NOW).listed == {}
    shallow = world.clone(f"file://{hub.path}", "shallow", "--depth", "1")
    with pytest.raises(ThetaError, match="shallow"):
        collect(shallow, NOW)


def test_the_store_of_a_repository(world: World) -> None:
    """Of a bare one; not of one with a work tree, whose index no ref shows, nor of one that others borrow from."""
    world.place().git("config", "--global", "receive.denyCurrentBranch", "ignore")
    repo = world.repo()
    repo.commit(model(1))
    bare, full = world.bare(), world.repo("full")
    for name, place in (("origin", bare), ("full", full.path)):
        repo.git("remote", "add", name, str(place))
        repo.git("push", "-q", "-f", name, "main")
    assert "0 of" in repo.git("theta", "gc", "--remote", "origin")
    assert list((bare / "theta/notes").glob("pusher-*")) == []
    assert "has a work tree" in repo.fails("theta", "gc", "--remote", "full")
    borrowing = world.clone(bare, "borrowing", "--shared")
    borrowing.git("theta", "fsck")
    assert "borrows objects from here" in repo.fails("theta", "gc", "--remote", "origin")


@pytest.mark.slow
def test_killed_while_it_deletes(shared: Repo) -> None:
    """What is left goes with the next collection; a push meanwhile loses nothing."""
    for seed in range(10, 16):
        shared.git("checkout", "-q", "-B", "side", "main")
        shared.commit(model(seed))
        shared.git("push", "-q", "-f", "origin", "side")
    shared.git("push", "-q", "origin", ":side")
    collect(shared, NOW)
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from gittheta.flows.workspace import Workspace\n"
        "from gittheta.flows.maintain.gc_remote import collect_remote\n"
        "from gittheta.remotes.managed import PatientManager\n"
        "remove, count = PatientManager.remove, [0]\n"
        "def removing(self, name):\n"
        "    count[0] += 1\n"
        "    if count[0] == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    remove(self, name)\n"
        "PatientManager.remove = removing\n"
        "with Workspace.open(Path.cwd()) as workspace:\n"
        "    collect_remote(workspace, 'origin', workspace.repository.remotes()['origin'], float(sys.argv[1]))\n"
    )
    later = NOW + 15 * DAY
    killed = subprocess.run(
        [sys.executable, "-c", code, str(later)], cwd=shared.path, env=shared.env, capture_output=True, check=False
    )
    assert killed.returncode == -9, killed.stderr
    assert shared.git("theta", "fsck") or True
    with pytest.raises(RemoteError, match="another collection"):
        collect(shared, later + 60)
    collect(shared, later + 3 * 3600)
    assert stored(store_of(shared)) == objects_of(shared, "main")
    assert [path.name.split("-")[0] for path in (store_of(shared) / "notes").iterdir()].count("deleting") == 0
    shared.git("push", "-q", "origin", "side")
    shared.git("theta", "fsck", "--remote", "origin")


def _race(world: World, shared: Repo, rounds: int, versions: int) -> None:
    """Two clones push what others have just let go, and one collects, all at once."""
    rng = random.Random(rounds)
    clones = [world.clone(world.root / "hub.git", f"clone{at}") for at in range(2)]
    for clone in clones:
        for seed in range(versions):  # each has all versions, on branches of its own
            clone.git("checkout", "-q", "-B", f"v{seed}", "origin/main")
            clone.commit(model(seed + 100))
    failed = 0
    for number in range(rounds):
        now = NOW + number * 15 * DAY
        pushes = [
            subprocess.Popen(
                ["git", "push", "-q", "-f", "origin", f"v{rng.randrange(versions)}:refs/heads/of{at}"],
                cwd=clone.path,
                env=clone.env,
                stderr=subprocess.PIPE,
            )
            for at, clone in enumerate(clones)
        ]
        time.sleep(rng.uniform(0, 0.5))
        try:
            collect(shared, now)
        except RemoteError as error:
            assert "begun to use" in str(error)  # noqa: PT017 - all else is wrong
        for push in pushes:
            message = push.communicate()[1].decode()
            assert "Traceback" not in message, message
            if push.returncode:
                failed += 1
                assert "push again" in message or "did not arrive" in message, message
        shared.git("fetch", "-q", "--prune", "origin")
        needed = set()
        for ref in shared.git("for-each-ref", "--format=%(refname)", "refs/remotes/origin").split():
            if ref.endswith("/HEAD"):
                continue
            needed |= objects_of(shared, ref)
        assert needed <= stored(store_of(shared)), f"round {number}"
    assert failed < rounds


def test_two_push_and_one_collects(world: World, shared: Repo) -> None:
    _race(world, shared, 4, 2)


@pytest.mark.slow
def test_two_push_and_one_collects_a_hundred_times(world: World, shared: Repo) -> None:
    _race(world, shared, 100, 6)


def test_what_cannot_be_deleted_from(world: World, shared: Repo) -> None:
    with Workspace.open(shared.path) as workspace, opened_remote(workspace, "origin", "x") as remote:
        from gittheta.remotes.managed import managed

        assert managed(remote) is not None
    shared.git("config", "--global", "theta.url", "https://127.0.0.1:1/models")
    assert "nothing can be deleted" in shared.fails("theta", "gc", "--remote", "origin")
