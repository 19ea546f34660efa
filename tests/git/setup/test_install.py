"""install and uninstall: what they set, and that they leave no trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checkpoints import model
from tests.support.world import Place, Repo, World

HOOKS = ["post-checkout", "post-index-change", "post-merge", "post-rewrite", "pre-push", "prepare-commit-msg"]
#: A hook that writes down how it was called.
SPY = """#!/bin/sh
echo "$(basename "$0") $*" >>"$SPY_LOG"
cat >>"$SPY_LOG"
exit ${SPY_STATUS:-0}
"""


def _bare_repo(world: World) -> Repo:
    return world.repo(attributes="")


def _hooks(repo: Repo) -> list[str]:
    folder = repo.git_dir / "hooks"
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".sample")


def _spy(file: Path) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(SPY)
    file.chmod(0o755)
    return file


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
    before, hooks = config.read_text(), _hooks(repo)
    output = repo.git("theta", "install", scope)
    once = config.read_text()
    for key in ("filter.theta.process", "filter.theta.required", "merge.theta.driver", "diff.theta.xfuncname"):
        assert f"{key} '{repo.git('config', scope, key).strip()}'" in output
    assert repo.git("config", scope, "filter.theta.required").strip() == "true"
    for hook in HOOKS:
        assert hook in output
    assert _hooks(repo) == sorted([*hooks, *HOOKS])
    repo.git("theta", "install", scope)
    assert config.read_text() == once
    assert _hooks(repo) == sorted([*hooks, *HOOKS])
    output = repo.git("theta", "uninstall", scope)
    assert "filter.theta.process" in output
    assert config.read_text() == before
    assert _hooks(repo) == hooks
    repo.git("theta", "uninstall", scope)
    assert config.read_text() == before


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


def test_foreign_hooks_are_called_first_and_put_back(world: World) -> None:
    repo = world.repo()
    world.place().git("clone", "-q", "--bare", "repo", "hub.git")
    repo.git("remote", "add", "origin", "../hub.git")
    repo.git("theta", "uninstall", "--local")
    before = {name: _spy(repo.git_dir / "hooks" / name).read_bytes() for name in HOOKS}
    output = repo.git("theta", "install", "--local")
    assert output.count("called first") == len(HOOKS)
    assert _hooks(repo) == sorted([*HOOKS, *(f"{name}.legacy" for name in HOOKS)])
    log = world.root / "log"
    repo.env = repo.env | {"SPY_LOG": str(log)}
    repo.commit(model(1))
    new = repo.git("rev-parse", "HEAD").strip()
    old = repo.git("rev-parse", "HEAD^").strip()
    log.unlink()
    repo.git("push", "-q", "origin", "main")
    heard = log.read_text().splitlines()
    assert "pre-push.legacy origin ../hub.git" in heard
    assert f"refs/heads/main {new} refs/heads/main {old}" in heard
    repo.git("commit", "-q", "--amend", "-m", "amended")
    assert "post-rewrite.legacy amend" in log.read_text()
    assert f"{new} {repo.git('rev-parse', 'HEAD').strip()}" in log.read_text()
    repo.git("checkout", "-q", "-b", "side")
    assert f"post-checkout.legacy {repo.git('rev-parse', 'HEAD').strip()} " in log.read_text()
    repo.git("theta", "uninstall", "--local")
    assert {name: (repo.git_dir / "hooks" / name).read_bytes() for name in HOOKS} == before
    assert _hooks(repo) == HOOKS


def test_a_foreign_hook_that_refuses_stops_the_push(world: World) -> None:
    hub = world.bare()
    repo = world.repo()
    repo.git("remote", "add", "origin", str(hub))
    repo.commit(model(1))
    repo.git("theta", "uninstall", "--local")
    _spy(repo.git_dir / "hooks/pre-push")
    repo.git("theta", "install", "--local")
    repo.env = repo.env | {"SPY_LOG": str(world.root / "log"), "SPY_STATUS": "3"}
    repo.fails("push", "origin", "main")
    assert Place(hub, world.env).git("for-each-ref") == ""


def test_two_hooks_already_is_an_error(bare_world: World) -> None:
    repo = _bare_repo(bare_world)
    first = _spy(repo.git_dir / "hooks/pre-push").read_bytes()
    (repo.git_dir / "hooks/pre-push.legacy").write_text("#!/bin/sh\n")
    message = repo.fails("theta", "install", "--local")
    assert "pre-push" in message
    assert (repo.git_dir / "hooks/pre-push").read_bytes() == first
    assert (repo.git_dir / "hooks/pre-push.legacy").read_text() == "#!/bin/sh\n"


def test_hooks_path_is_honoured(bare_world: World) -> None:
    repo = _bare_repo(bare_world)
    repo.git("config", "core.hooksPath", "my hooks")
    _spy(repo.path / "my hooks/pre-push")
    before = _hooks(repo)
    repo.git("theta", "install", "--local")
    assert _hooks(repo) == before
    result = sorted(path.name for path in (repo.path / "my hooks").iterdir())
    assert result == sorted([*HOOKS, "pre-push.legacy"])
    repo.git("theta", "uninstall", "--local")
    assert (repo.path / "my hooks/pre-push").read_text() == SPY


def test_hooks_of_a_linked_worktree_are_the_repository_s(world: World) -> None:
    repo = world.repo()
    repo.git("worktree", "add", "-q", "../linked", "-b", "linked")
    Repo(world.root / "linked", world.env).git("theta", "install", "--local")
    assert set(HOOKS) <= set(_hooks(repo))


def test_the_filter_sets_up_the_hooks_of_a_clone(world: World) -> None:
    repo = world.repo()
    repo.commit(model(1))
    clone = world.clone(repo.path)
    assert set(HOOKS) <= set(_hooks(clone))


def test_a_foreign_hook_in_a_clone_is_chained_by_the_filter(world: World) -> None:
    repo = world.repo()
    _spy(repo.git_dir / "hooks/pre-push")
    repo.commit(model(1))
    assert (repo.git_dir / "hooks/pre-push.legacy").read_text() == SPY


def test_the_filter_never_writes_into_a_shared_hooks_folder(world: World) -> None:
    shared = world.root / "shared"
    _spy(shared / "pre-push")
    repo = world.repo()
    repo.git("config", "core.hooksPath", str(shared))
    repo.write("m.safetensors", model(1))
    message = repo.run("add", ".").stderr
    assert "git theta install" in message
    assert [path.name for path in shared.iterdir()] == ["pre-push"]


def test_settings_of_the_repository_that_are_in_the_way_are_told(bare_world: World) -> None:
    repo = _bare_repo(bare_world)
    repo.git("config", "filter.theta.required", "false")
    assert "filter.theta.required" in repo.run("theta", "install", "--global").stderr
    assert repo.run("theta", "install", "--local").stderr == ""
