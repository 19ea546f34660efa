"""Hooks that lie in a folder of the project or of others: it is not written to, its hooks run, and so do ours."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.checkpoints import model
from tests.support.hooks import SPY, by_files, hooks_in, write_hook
from tests.support.world import Repo, World, objects_in

pytestmark = by_files

#: Finds its own name and what lies beside it, as the hooks of some tools do.
BY_NAME = '#!/bin/sh\n. "$(dirname "$0")/common" "$@"\n'


@pytest.fixture
def repo(world: World) -> Repo:
    """A repository with a hub; hooks write a log."""
    repo = world.repo()
    repo.git("remote", "add", "origin", str(world.bare()))
    repo.env = repo.env | {"SPY_LOG": str(world.root / "log")}
    return repo


def _heard(repo: Repo) -> str:
    log = Path(repo.env["SPY_LOG"])
    heard = log.read_text() if log.exists() else ""
    log.unlink(missing_ok=True)
    return heard


def _push(repo: Repo, seed: int) -> None:
    """Commit a model and push it; its objects have arrived."""
    repo.commit(model(seed))
    repo.git("push", "-q", "origin", "HEAD:main")
    hub = Path(repo.git("remote", "get-url", "origin").strip())
    assert {path.name for path in repo.objects()} <= {path.name for path in objects_in(hub / "theta")}


def _tracked_folder(repo: Repo) -> Path:
    """A folder of hooks in the project: known ones, and a program that they share."""
    folder = repo.path / "tools/hooks"
    for name in ("pre-push", "commit-msg", "common"):
        write_hook(folder / name, BY_NAME if name != "common" else SPY)
    repo.git("add", ".")
    repo.git("commit", "-q", "-m", "hooks of the project")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("how", ["setting", "absolute setting", "link", "setting of the user"])
def test_the_project_s_hooks_run_and_are_not_written_to(repo: Repo, how: str) -> None:
    folder = _tracked_folder(repo)
    if how == "link":
        shutil.rmtree(repo.git_dir / "hooks")
        (repo.git_dir / "hooks").symlink_to("../tools/hooks")
    else:
        scope = "--global" if "user" in how else "--local"
        repo.git("config", scope, "core.hooksPath", str(folder) if "absolute" in how else "tools/hooks")
    _push(repo, 1)
    assert repo.status() == ""
    heard = _heard(repo)
    assert "commit-msg .git/COMMIT_EDITMSG" in heard
    assert "pre-push origin" in heard


def test_a_hook_that_is_added_to_the_project_later_runs_at_once(repo: Repo) -> None:
    folder = _tracked_folder(repo)
    repo.git("config", "core.hooksPath", "tools/hooks")
    _push(repo, 1)
    write_hook(folder / "pre-commit")
    _heard(repo)
    repo.git("commit", "-q", "--allow-empty", "-m", "two")
    assert "pre-commit" in _heard(repo)


def test_hooks_of_unusual_names_run_from_the_next_add_on(repo: Repo) -> None:
    folder = _tracked_folder(repo)
    write_hook(folder / "reference-transaction")
    repo.git("config", "core.hooksPath", "tools/hooks")
    _push(repo, 1)
    _heard(repo)
    repo.git("branch", "new")
    assert "reference-transaction committed" in _heard(repo)


def test_a_hook_of_the_project_that_refuses_is_heard(repo: Repo) -> None:
    folder = _tracked_folder(repo)
    repo.git("config", "core.hooksPath", "tools/hooks")
    _push(repo, 1)
    write_hook(folder / "commit-msg", "exit 1\n")
    repo.fails("commit", "--allow-empty", "-m", "no")
    write_hook(folder / "commit-msg", "")
    repo.git("commit", "-q", "--allow-empty", "-m", "yes")


@pytest.mark.slow
def test_a_setting_that_another_tool_makes_again_is_mended_by_the_next_add(repo: Repo) -> None:
    _tracked_folder(repo)
    for seed in (1, 2, 3):
        repo.git("config", "core.hooksPath", "tools/hooks")
        _push(repo, seed)
        assert repo.git("config", "core.hooksPath").strip().endswith(".git/theta/hooks")
    write_hook(repo.path / "others/pre-push", SPY.replace("$*", "others"))
    repo.git("config", "core.hooksPath", "others")
    _push(repo, 4)
    assert "others" in _heard(repo)


@pytest.mark.slow
def test_uninstall_puts_the_setting_back(repo: Repo) -> None:
    _tracked_folder(repo)
    before = (repo.git_dir / "config").read_text()
    repo.git("config", "core.hooksPath", "tools/hooks")
    with_path = (repo.git_dir / "config").read_text()
    repo.commit(model(1))
    repo.git("theta", "uninstall", "--local")
    assert (repo.git_dir / "config").read_text() == with_path
    repo.git("config", "--unset", "core.hooksPath")
    repo.git("config", "--global", "core.hooksPath", "tools/hooks")
    repo.commit(model(2))
    repo.git("theta", "uninstall", "--local")
    assert (repo.git_dir / "config").read_text() == before


@pytest.mark.slow
def test_hooks_move_into_the_own_folder_once_nothing_points_elsewhere(repo: Repo) -> None:
    _tracked_folder(repo)
    repo.git("config", "core.hooksPath", "tools/hooks")
    _push(repo, 1)
    repo.git("config", "--unset", "core.hooksPath")
    _push(repo, 2)
    assert "pre-push" in hooks_in(repo)
    assert repo.attempt("git", "config", "core.hooksPath").returncode == 1


@pytest.mark.slow
def test_a_copy_and_a_moved_repository_have_their_own_shims_after_the_next_add(repo: Repo, world: World) -> None:
    _tracked_folder(repo)
    repo.git("config", "core.hooksPath", "tools/hooks")
    _push(repo, 1)
    shutil.copytree(repo.path, world.root / "copy", symlinks=True)
    copy = Repo(world.root / "copy", repo.env)
    shutil.rmtree(repo.path)
    _push(copy, 2)
    assert copy.git("config", "core.hooksPath").strip() == str(copy.git_dir / "theta/hooks")
    assert "pre-push origin" in _heard(copy)


def test_a_shared_folder_is_never_written_to(repo: Repo, world: World) -> None:
    shared = world.root / "shared"
    write_hook(shared / "pre-push")
    repo.git("config", "--global", "core.hooksPath", str(shared))
    _push(repo, 1)
    repo.git("theta", "install")
    assert [path.name for path in shared.iterdir()] == ["pre-push"]
    assert "pre-push origin" in _heard(repo)


def test_a_setting_for_one_command_is_not_made_a_setting_for_ever(repo: Repo) -> None:
    repo.write("m.safetensors", model(1))
    repo.git("-c", "core.hooksPath=/dev/null", "add", ".")
    assert repo.attempt("git", "config", "core.hooksPath").returncode == 1
    assert "pre-push" in hooks_in(repo)


def test_a_work_tree_with_a_setting_of_its_own(repo: Repo, world: World) -> None:
    _tracked_folder(repo)
    repo.git("config", "extensions.worktreeConfig", "true")
    repo.git("worktree", "add", "-q", "../linked")
    linked = Repo(world.root / "linked", repo.env)
    linked.git("config", "--worktree", "core.hooksPath", "tools/hooks")
    _push(linked, 1)
    assert "pre-push origin" in _heard(linked)
    linked.git("theta", "uninstall", "--local")
    assert linked.git("config", "core.hooksPath").strip() == "tools/hooks"
