"""install and uninstall: what they set, by which program, and that they leave no trace."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.checkpoints import model
from tests.support.hooks import HOOKS, hooks_in
from tests.support.world import ATTRIBUTES, Repo, World, objects_in, search_path


def _bare_repo(world: World) -> Repo:
    return world.repo(attributes="")


def _config(world: World, scope: str) -> Path:
    where = {"--local": world.root / "repo/.git/config", "--global": world.home / ".gitconfig"}
    return where.get(scope, world.root / "system")


@pytest.mark.parametrize("scope", ["--local", "--global", "--system"])
def test_install_is_idempotent_and_uninstall_symmetrical(bare_world: World, scope: str) -> None:
    bare_world.env |= {"GIT_CONFIG_SYSTEM": str(bare_world.root / "system")}
    del bare_world.env["GIT_CONFIG_NOSYSTEM"]
    repo = _bare_repo(bare_world)
    config = _config(bare_world, scope)
    config.touch()
    config.write_text(config.read_text() + "[alias]\n\tst = status\n")
    before, hooks = config.read_text(), hooks_in(repo)
    output = repo.git("theta", "install", scope)
    once = config.read_text()
    for key in ("filter.theta.process", "filter.theta.required", "merge.theta.driver", "diff.theta.xfuncname"):
        assert f"{key} '{repo.git('config', scope, key).strip()}'" in output
    assert repo.git("config", scope, "filter.theta.required").strip() == "true"
    for hook in HOOKS:
        assert hook in output
    installed = hooks_in(repo)
    repo.git("theta", "install", scope)
    assert config.read_text() == once
    assert hooks_in(repo) == installed
    output = repo.git("theta", "uninstall", scope)
    assert "filter.theta.process" in output
    assert config.read_text() == before
    assert hooks_in(repo) == hooks
    repo.git("theta", "uninstall", scope)
    assert config.read_text() == before
    assert not (repo.store / "hooks").exists()
    assert not (repo.store / "hook-events").exists()


def test_global_is_the_default(bare_world: World) -> None:
    bare_world.place().git("theta", "install")
    assert '[filter "theta"]' in (bare_world.home / ".gitconfig").read_text()


def test_local_needs_a_repository(bare_world: World) -> None:
    message = bare_world.place().fails("theta", "install", "--local")
    assert "repository" in message


def test_uninstall_leaves_what_the_user_has_changed(bare_world: World) -> None:
    repo = _bare_repo(bare_world)
    repo.git("theta", "install", "--local")
    repo.git("config", "filter.theta.clean", "my own")
    repo.git("theta", "uninstall", "--local")
    assert repo.git("config", "filter.theta.clean").strip() == "my own"
    assert repo.attempt("git", "config", "filter.theta.process").returncode == 1


def test_what_the_user_says_of_octopus_merges_stays(bare_world: World) -> None:
    place = bare_world.place()
    place.git("config", "--global", "pull.octopus", "resolve")
    assert "pull.octopus stays 'resolve'" in place.git("theta", "install")
    assert place.git("config", "--global", "pull.octopus").strip() == "resolve"
    place.git("theta", "uninstall")
    assert place.git("config", "--global", "pull.octopus").strip() == "resolve"


# -- the program that Git calls ----------------------------------------------------------------------------------------


def test_git_finds_the_program_where_its_environment_is_not_active(world: World) -> None:
    git = shutil.which("git", path=search_path())
    assert git
    bare = {**world.env, "PATH": os.pathsep.join([str(Path(git).parent), "/usr/bin", "/bin"])}
    assert not shutil.which("git-theta", path=bare["PATH"])
    hub, repo = world.bare(), Repo(world.root / "repo", bare)
    world.place().git("init", "-q", "repo")
    repo.write(".gitattributes", ATTRIBUTES.encode())
    repo.git("remote", "add", "origin", str(hub))
    repo.write("m.safetensors", model(1))
    repo.git("add", ".")
    repo.git("commit", "-q", "-m", "one")
    repo.git("push", "-q", "origin", "main")
    assert len(objects_in(hub / "theta")) == len(repo.objects()) > 0


MODULES = ("blake3", "zstandard", "numpy", "click", "gittheta", "sitecustomize", "runpy")


PYTHON_PATHS = [":/nowhere", *(pytest.param(path, marks=pytest.mark.slow) for path in ("/nowhere:", ".", "modules"))]


@pytest.mark.parametrize("python_path", PYTHON_PATHS)
def test_nothing_of_a_repository_is_imported_by_git(world: World, python_path: str) -> None:
    """Whatever PYTHONPATH says: an empty or relative part of it is the repository."""
    up, ran = world.repo("up"), world.root / "ran"
    up.commit(model(1))
    for name in MODULES:
        for folder in ("", "modules/"):
            up.write(f"{folder}{name}.py", f"open({str(ran)!r}, 'a').write({name!r})\nraise ImportError".encode())
    up.git("add", ".")
    up.git("commit", "-q", "-m", "modules of its own")
    env = {"PYTHONPATH": python_path}
    world.place().git("clone", "-q", "up", "clone", env=env)
    clone = Repo(world.root / "clone", world.env)
    assert clone.sha() == up.sha()
    clone.write("m.safetensors", model(2))
    for words in (["status"], ["add", "."], ["commit", "-q", "-m", "two"], ["push", "-q", "origin", "main:other"]):
        clone.git(*words, env=env)
    assert not ran.exists(), ran.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("python_path", PYTHON_PATHS)
def test_nothing_of_a_repository_is_imported_by_a_verb(world: World, python_path: str) -> None:
    """But for what Python itself looks for as it begins, which no program can keep it from."""
    repo, ran = world.repo(), world.root / "ran"
    repo.commit(model(1))
    for name in ("blake3", "zstandard", "numpy", "click", "rich", "subprocess"):
        for folder in ("", "modules/"):
            repo.write(f"{folder}{name}.py", f"open({str(ran)!r}, 'a').write({name!r})\nraise ImportError".encode())
    for words in (["theta", "fsck"], ["theta", "show", "m.safetensors"], ["theta", "ls-files"]):
        repo.git(*words, env={"PYTHONPATH": python_path})
    assert not ran.exists(), ran.read_text()


def test_a_program_that_has_moved_is_named_anew_by_the_next_verb(world: World) -> None:
    repo = world.repo()
    gone = "'/no where/bin/python' -E -P -m gittheta"
    repo.git("config", "--global", "filter.theta.process", f"{gone} filter-process")
    repo.git("config", "--local", "merge.theta.driver", f"{gone} merge-driver -- %O %A %B %L %P")
    repo.write("m.safetensors", model(1))
    repo.fails("add", ".")
    message = repo.run("theta", "ls-files").stderr
    assert "/no where/bin/python" in message
    assert sys.executable in message
    expected = f"{sys.executable} -E -P -m gittheta filter-process"
    assert repo.git("config", "--global", "filter.theta.process").strip() == expected
    assert repo.git("config", "--local", "merge.theta.driver").startswith(sys.executable)
    repo.git("add", ".")
    assert repo.run("theta", "ls-files").stderr == ""


def test_what_an_older_version_has_set_is_named_by_its_path(world: World) -> None:
    repo = world.repo()
    repo.git("config", "--global", "filter.theta.clean", "git-theta clean -- %f")
    repo.git("theta", "plugins")
    expected = f"{sys.executable} -E -P -m gittheta clean -- %f"
    assert repo.git("config", "--global", "filter.theta.clean").strip() == expected


def test_a_program_of_the_user_is_left_alone(world: World) -> None:
    repo = world.repo()
    repo.git("config", "filter.theta.clean", "my-wrapper clean %f")
    assert repo.run("theta", "plugins").stderr == ""
    assert repo.git("config", "filter.theta.clean").strip() == "my-wrapper clean %f"


@pytest.mark.slow
def test_variables_that_git_means_for_itself_are_not_handed_on(world: World) -> None:
    repo = world.repo()
    repo.commit(model(1), "[a].safetensors")
    for name, value in (
        ("GIT_INTERNAL_SUPER_PREFIX", "models/"),
        ("GIT_LITERAL_PATHSPECS", "1"),
        ("GIT_ICASE_PATHSPECS", "1"),
        ("GIT_INDEX_FILE", "/nowhere/index"),
        ("GIT_PREFIX", "sub/"),
    ):
        assert "[a].safetensors" in repo.attempt("git-theta", "ls-files", env={name: value}).stdout, name


def test_settings_of_the_repository_that_are_in_the_way_are_told(bare_world: World) -> None:
    repo = _bare_repo(bare_world)
    repo.git("config", "filter.theta.required", "false")
    assert "filter.theta.required" in repo.run("theta", "install", "--global").stderr
    assert repo.run("theta", "install", "--local").stderr == ""
