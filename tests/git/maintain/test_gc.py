"""`git theta gc`: what nobody needs leaves the store, and nothing else does, whoever needs it and from where."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gittheta.flows.maintain.gc import DAY
from tests.support.checkpoints import checkpoint
from tests.support.world import Repo, World

M = "m.safetensors"


def model(seed: int) -> bytes:
    return checkpoint({"w": np.random.default_rng(seed).normal(0, 0.02, (64, 64)).astype(np.float32)})


def age(repo: Repo, days: float, *names: str) -> None:
    """Make objects, all of them if none are named, look as if they had been written or used that long ago."""
    for path in repo.objects():
        if not names or path.name in names:
            os.utime(path, (time.time() - days * DAY,) * 2)


def names(repo: Repo) -> set[str]:
    return {path.name for path in repo.objects()}


def looked_at(repo: Repo, seed: int) -> set[str]:
    """Objects that only `git status` has stored."""
    before, content = names(repo), repo.read()
    repo.write(M, model(seed))
    assert repo.status() == f" M {M}\n"
    repo.write(M, content)
    return names(repo) - before


@pytest.mark.slow
def test_what_was_only_looked_at_goes_after_a_day(repo: Repo) -> None:
    repo.commit(model(1))
    committed = names(repo)
    extra = looked_at(repo, 2)
    assert extra
    assert "0 unused objects deleted" in repo.git("theta", "gc")
    age(repo, 1.1)
    assert "would be deleted" in repo.git("theta", "gc", "--dry-run")
    assert names(repo) == committed | extra
    repo.git("theta", "gc")
    assert names(repo) == committed
    repo.healthy()


def test_what_git_still_has_a_manifest_of_stays_however_old(repo: Repo) -> None:
    repo.commit(model(1))
    for seed, way in ((2, "add"), (3, "stash"), (4, "amend")):
        repo.write(M, model(seed))
        repo.git("add", M)
        if way == "stash":
            repo.git("stash", "-q")
        if way == "amend":
            repo.git("commit", "-q", "--amend", "-m", "another")
        if way == "add":
            repo.git("reset", "-q", "--hard")
    everything = names(repo)
    age(repo, 400)
    repo.git("theta", "gc", "--prune=now")
    assert names(repo) == everything
    repo.git("checkout", "-q", "stash@{0}", "--", M)
    assert repo.read() == model(3)


@pytest.mark.slow
def test_an_add_that_was_taken_back_goes_14_days_after_its_last_use(repo: Repo) -> None:
    repo.commit(model(1))
    committed = names(repo)
    repo.write(M, model(2))
    repo.git("add", M)
    age(repo, 2)
    repo.git("theta", "gc")  # which sees that a manifest names it
    repo.git("reset", "-q", "--hard")
    repo.git("prune", "--expire=now")
    repo.git("theta", "gc")
    assert names(repo) > committed
    age(repo, 15)
    repo.write(M, model(2))
    assert repo.status() == f" M {M}\n"  # uses what is stored
    repo.git("checkout", "-q", M)
    repo.git("theta", "gc")
    assert names(repo) > committed
    age(repo, 15)
    repo.git("theta", "gc")
    assert names(repo) == committed
    repo.healthy()


@pytest.mark.slow
def test_other_work_trees_and_files_that_are_still_manifests_keep_theirs(world: World, repo: Repo) -> None:
    repo.commit(model(1))
    repo.git("worktree", "add", "-q", str(world.root / "second"))
    second = Repo(world.root / "second", repo.env)
    second.write(M, model(2))
    second.git("add", M)
    staged = second.manifest(revision="")
    age(repo, 30)
    repo.git("theta", "gc", "--prune=now")
    second.git("commit", "-q", "-m", "second")
    second.healthy()
    # The only trace of a version may be the text in a work tree, of a large model that waits.
    second.git("reset", "-q", "--hard", "HEAD~1")
    second.git("reflog", "expire", "--expire=now", "--all")
    second.write("waits.safetensors", staged.encode())
    repo.git("prune", "--expire=now")
    age(repo, 30)
    repo.git("theta", "gc", "--prune=now")
    second.git("theta", "pull")
    second.git("add", "waits.safetensors")
    second.git("commit", "-q", "-m", "waits")
    second.git("theta", "fsck", "--deep")


@pytest.mark.slow
def test_a_lender_keeps_what_its_borrowers_need(world: World, repo: Repo) -> None:
    repo.commit(model(1))
    repo.git("checkout", "-q", "-b", "side")
    repo.commit(model(2))
    repo.git("checkout", "-q", "main")
    Repo(world.root, repo.env).git("clone", "-q", "--shared", "-b", "side", str(repo.path), "borrower")
    borrower = Repo(world.root / "borrower", repo.env)
    repo.git("branch", "-q", "-D", "side")
    repo.git("reflog", "expire", "--expire=now", "--all")
    tree = borrower.git("rev-parse", "HEAD").strip()
    pack = borrower.git("pack-objects", "--all", ".git/objects/pack/pack", stdin="")
    assert tree
    assert pack
    repo.git("prune", "--expire=now")
    age(repo, 30)
    repo.git("theta", "gc", "--prune=now")
    borrower.git("theta", "fsck", "--deep")
    # As long as a borrower cannot be asked, nothing goes.
    (world.root / "borrower").rename(world.root / "moved")
    extra = looked_at(repo, 3)
    said = repo.fails("theta", "gc", "--prune=now")
    assert "--forget" in said
    assert extra < names(repo)
    repo.git("theta", "gc", "--prune=now", "--forget", str(world.root / "borrower"))
    assert not extra & names(repo)


def test_a_store_into_which_others_push_is_left_alone(world: World, repo: Repo) -> None:
    repo.commit(model(1))
    hub = world.root / "hub"
    Repo(world.root, repo.env).git("init", "-q", "--bare", str(hub))
    repo.git("push", "-q", str(hub), "main")
    assert "others push" in Repo(hub, repo.env).fails("theta", "gc", "--prune=now")


@pytest.mark.slow
def test_it_runs_by_itself_once_a_day_unless_that_is_switched_off(repo: Repo) -> None:
    repo.commit(model(1))
    committed = names(repo)
    extra = looked_at(repo, 2)
    age(repo, 2)
    stamp = repo.store / "collected"
    os.utime(stamp, (time.time() - 2 * DAY,) * 2)
    repo.git("config", "theta.autoGc", "false")
    looked_at(repo, 2)
    assert extra < names(repo)
    age(repo, 2)
    os.utime(stamp, (time.time() - 2 * DAY,) * 2)
    repo.git("config", "theta.autoGc", "true")
    repo.commit(model(3))
    assert not extra & names(repo)
    assert committed < names(repo)
    repo.healthy()


def test_what_a_living_process_uses_stays_whatever_is_asked_for(repo: Repo) -> None:
    repo.commit(model(1))
    code = (
        "import sys, time; from pathlib import Path; from gittheta.storage.objects import ObjectStore\n"
        "store = ObjectStore(Path(sys.argv[1])); store.reusable(sys.argv[2]); print('used', flush=True); time.sleep(60)"
    )
    (extra,) = looked_at(repo, 2)
    age(repo, 30)
    words = [sys.executable, "-c", code, str(repo.store), extra]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=repo.env) as user:
        try:
            assert user.stdout
            assert user.stdout.readline() == b"used\n"
            user.send_signal(signal.SIGSTOP)
            repo.git("theta", "gc", "--prune=now")
            assert extra in names(repo)
        finally:
            user.kill()
    repo.git("theta", "gc", "--prune=now")
    assert extra not in names(repo)


def test_what_a_killed_run_has_moved_away_comes_back(repo: Repo) -> None:
    repo.commit(model(1))
    (path,) = repo.objects()
    (repo.store / "tmp").mkdir(exist_ok=True)
    aside = Path(repo.store / "tmp" / f"{'0' * 32}-{path.name}")
    path.rename(aside)
    os.utime(aside, (1, 1))
    repo.git("theta", "gc")
    assert repo.objects() == [path]
    repo.healthy()
