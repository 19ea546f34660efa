"""Hooks by configuration, with a Git that has them: no file of a hook is touched, whatever `core.hooksPath` says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.checkpoints import model
from tests.support.hooks import HOOKS, by_settings, hooks_in, write_hook
from tests.support.world import Repo, World, objects_in

pytestmark = by_settings


@pytest.fixture
def repo(world: World) -> Repo:
    """A repository with a hub; hooks write a log."""
    repo = world.repo()
    repo.git("remote", "add", "origin", str(world.bare()))
    repo.env = repo.env | {"SPY_LOG": str(world.root / "log")}
    return repo


def _push(repo: Repo, seed: int) -> None:
    repo.commit(model(seed))
    repo.git("push", "-q", "origin", "HEAD:main")
    hub = Path(repo.git("remote", "get-url", "origin").strip())
    assert {path.name for path in repo.objects()} <= {path.name for path in objects_in(hub / "theta")}


@pytest.mark.parametrize("folder", [None, "tools/hooks", "/dev/null", "/nowhere"])
def test_hooks_are_settings(repo: Repo, folder: str | None) -> None:
    if folder:
        repo.git("config", "core.hooksPath", folder)
    else:
        write_hook(repo.git_dir / "hooks/pre-push")
    before = hooks_in(repo)
    _push(repo, 1)
    for name in HOOKS:
        assert f"gittheta-{name}" in repo.git("hook", "list", name)
    assert hooks_in(repo) == before
    assert (repo.attempt("git", "config", "core.hooksPath").stdout.strip() or None) == folder
    log = Path(repo.env["SPY_LOG"])
    assert log.exists() == (folder is None)


def test_they_are_set_once(repo: Repo) -> None:
    repo.commit(model(1))
    before = (repo.git_dir / "config").read_text()
    repo.commit(model(2))
    repo.git("theta", "install")
    assert (repo.git_dir / "config").read_text() == before


def test_large_files_come_by_them(repo: Repo) -> None:
    repo.git("config", "theta.smudgeLimit", "1")
    sha = repo.commit(model(1))
    repo.git("checkout", "-q", "-b", "empty", "HEAD^")
    repo.git("checkout", "-q", "main")
    assert repo.sha() == sha
    repo.healthy()


def test_a_copy_calls_its_own(repo: Repo, world: World) -> None:
    _push(repo, 1)
    shutil.copytree(repo.path, world.root / "copy", symlinks=True)
    copy = Repo(world.root / "copy", repo.env)
    shutil.rmtree(repo.path)
    copy.write("m.safetensors", model(2))
    copy.git("commit", "-q", "-a", "-m", "two")
    copy.git("push", "-q", "origin", "HEAD:main")
    hub = Path(copy.git("remote", "get-url", "origin").strip())
    assert {path.name for path in copy.objects()} <= {path.name for path in objects_in(hub / "theta")}


def test_install_takes_away_the_shims_that_an_older_git_needed(repo: Repo) -> None:
    write_hook(repo.git_dir / "hooks/pre-push", "#!/bin/sh\n# gittheta: handed over to `git theta hook`\n")
    write_hook(repo.git_dir / "hooks/pre-push.before-gittheta")
    repo.git("theta", "install")
    assert hooks_in(repo) == ["pre-push"]
    _push(repo, 1)
    assert "pre-push origin" in Path(repo.env["SPY_LOG"]).read_text()


def test_uninstall_leaves_no_trace(world: World) -> None:
    repo = world.repo("other", attributes="")
    before = (repo.git_dir / "config").read_text()
    repo.git("theta", "install")
    assert (repo.git_dir / "config").read_text() != before
    repo.git("theta", "uninstall")
    assert (repo.git_dir / "config").read_text() == before
