"""Hooks of others in the repository's own folder: they run first, as Git runs them, and come back."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from gittheta.git.calling import files, script
from gittheta.git.calling.hooks import install_hooks
from gittheta.git.repository import Repository
from gittheta.storage.permissions import BY_UMASK
from tests.support.checkpoints import model
from tests.support.hooks import HOOKS, SPY, by_files, hooks_in, write_hook
from tests.support.world import Place, Repo, World, objects_in

SUFFIX = ".before-gittheta"
#: What an older version of gittheta wrote.
OLDER = """#!/bin/sh
# gittheta: handed over to `git theta hook`; see `git theta install --help`.
exec git theta hook {name} "$0" "$@"
"""

pytestmark = by_files


def _with_hub(world: World) -> tuple[Repo, Path]:
    """A repository whose hooks write a log, and a hub that has nothing yet."""
    hub, repo = world.bare(), world.repo()
    repo.git("remote", "add", "origin", str(hub))
    repo.git("theta", "uninstall", "--local")
    repo.env = repo.env | {"SPY_LOG": str(world.root / "log")}
    return repo, hub


def _heard(world: World) -> str:
    log = world.root / "log"
    heard = log.read_text() if log.exists() else ""
    log.unlink(missing_ok=True)
    return heard


def _arrived(repo: Repo, hub: Path) -> bool:
    return {path.name for path in repo.objects()} <= {path.name for path in objects_in(hub / "theta")}


@pytest.mark.slow
def test_foreign_hooks_are_called_first_and_put_back(world: World) -> None:
    repo = world.repo()
    world.place().git("clone", "-q", "--bare", "repo", "hub.git")
    repo.git("remote", "add", "origin", "../hub.git")
    repo.git("theta", "uninstall", "--local")
    before = {name: write_hook(repo.git_dir / "hooks" / name).read_bytes() for name in HOOKS}
    output = repo.git("theta", "install", "--local")
    assert output.count("called first") == len(HOOKS)
    assert hooks_in(repo) == sorted([*HOOKS, *(f"{name}{SUFFIX}" for name in HOOKS)])
    repo.env = repo.env | {"SPY_LOG": str(world.root / "log")}
    repo.commit(model(1))
    new = repo.git("rev-parse", "HEAD").strip()
    old = repo.git("rev-parse", "HEAD^").strip()
    _heard(world)
    repo.git("push", "-q", "origin", "main")
    heard = _heard(world).splitlines()
    assert f"pre-push{SUFFIX} origin ../hub.git" in heard
    assert f"refs/heads/main {new} refs/heads/main {old}" in heard
    repo.git("commit", "-q", "--amend", "-m", "amended")
    heard = _heard(world).splitlines()
    assert f"post-rewrite{SUFFIX} amend" in heard
    assert f"{new} {repo.git('rev-parse', 'HEAD').strip()}" in "\n".join(heard)
    repo.git("checkout", "-q", "-b", "side")
    assert f"post-checkout{SUFFIX} {repo.git('rev-parse', 'HEAD').strip()} " in _heard(world)
    repo.git("theta", "uninstall", "--local")
    assert {name: (repo.git_dir / "hooks" / name).read_bytes() for name in HOOKS} == before
    assert hooks_in(repo) == HOOKS


def test_a_foreign_hook_that_refuses_stops_the_push(world: World) -> None:
    repo, hub = _with_hub(world)
    write_hook(repo.git_dir / "hooks/pre-push")
    repo.git("theta", "install", "--local")
    repo.commit(model(1))
    repo.env = repo.env | {"SPY_STATUS": "3"}
    repo.fails("push", "origin", "main")
    assert Place(hub, world.env).git("for-each-ref") == ""


def test_a_foreign_hook_that_fails_afterwards_does_not_keep_large_files_from_their_place(world: World) -> None:
    repo, _ = _with_hub(world)
    write_hook(repo.git_dir / "hooks/post-checkout")
    repo.git("config", "theta.smudgeLimit", "1")
    sha = repo.commit(model(1))
    repo.git("checkout", "-q", "-b", "empty", "HEAD^")
    done = repo.attempt("git", "checkout", "-q", "main", env={"SPY_STATUS": "3"})
    assert done.returncode
    assert repo.sha() == sha


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", 'echo ran >>"$SPY_LOG"\n', "\n# only a remark\n"])
def test_a_hook_without_an_interpreter_runs_by_sh(world: World, text: str) -> None:
    repo, hub = _with_hub(world)
    for name in ("pre-push", "post-checkout", "prepare-commit-msg"):
        write_hook(repo.git_dir / "hooks" / name, text)
    repo.commit(model(1))
    repo.git("checkout", "-q", "-b", "side")
    repo.git("push", "-q", "origin", "side")
    assert _arrived(repo, hub)
    assert _heard(world).count("ran") == (3 if "ran" in text else 0)


def test_a_hook_that_may_not_be_run_is_not_run(world: World) -> None:
    repo, hub = _with_hub(world)
    write_hook(repo.git_dir / "hooks/pre-push").chmod(0o644)
    repo.commit(model(1))
    repo.git("push", "-q", "origin", "main")
    assert _heard(world) == ""
    assert _arrived(repo, hub)


def test_a_link_to_a_file_of_the_project_stays_a_link(world: World) -> None:
    """So that its newest version runs, and nothing of the project is written."""
    repo, hub = _with_hub(world)
    write_hook(repo.path / "scripts/pre-push")
    repo.git("add", "scripts")
    repo.git("commit", "-q", "-m", "scripts")
    (repo.git_dir / "hooks/pre-push").symlink_to("../../scripts/pre-push")
    repo.commit(model(1))
    assert repo.status() == ""
    write_hook(repo.path / "scripts/pre-push", SPY.replace("$*", "newer"))
    repo.git("push", "-q", "origin", "main")
    assert "newer" in _heard(world)
    assert _arrived(repo, hub)


@pytest.mark.slow
def test_a_hook_that_another_tool_writes_again_is_chained_again(world: World) -> None:
    repo, hub = _with_hub(world)
    hook = repo.git_dir / "hooks/pre-push"
    for number, tool in enumerate(["one", "one", "newer"]):
        write_hook(hook, SPY.replace("$*", f"{tool} lefthook"))
        repo.commit(model(number + 1))
        repo.git("push", "-q", "origin", "main")
        assert f"{tool} lefthook" in _heard(world)
        assert _arrived(repo, hub)
    assert [name for name in hooks_in(repo) if name.startswith("pre-push")] == ["pre-push", f"pre-push{SUFFIX}"]


def test_a_hook_that_is_replaced_by_another_is_kept_aside(world: World) -> None:
    """Nothing is lost, and what is no longer run is named."""
    repo, hub = _with_hub(world)
    hook = repo.git_dir / "hooks/pre-push"
    write_hook(hook, SPY.replace("$*", "first"))
    repo.commit(model(1))
    write_hook(hook, SPY.replace("$*", "second"))
    message = repo.git("theta", "install", "--local")
    assert f"pre-push{SUFFIX}.1" in message
    assert "first" in (repo.git_dir / f"hooks/pre-push{SUFFIX}.1").read_text()
    repo.git("push", "-q", "origin", "main")
    assert "second" in _heard(world)
    assert _arrived(repo, hub)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".old", ".legacy", ".bak"])
def test_a_shim_that_a_tool_has_moved_away_is_known_by_what_it_says(world: World, suffix: str) -> None:
    """The tool's hook may call it or not: after the next add each of both runs once."""
    repo, hub = _with_hub(world)
    repo.commit(model(1))
    hook = repo.git_dir / "hooks/pre-push"
    hook.rename(hook.with_name(hook.name + suffix))
    write_hook(hook)
    repo.commit(model(2))
    assert not hook.with_name(hook.name + suffix).exists()
    repo.git("push", "-q", "origin", "main")
    assert _heard(world).count("origin") == 1
    assert _arrived(repo, hub)


def test_a_tool_in_front_that_calls_the_shim_does_not_run_its_older_hook_too(world: World) -> None:
    repo, hub = _with_hub(world)
    hook, text = repo.git_dir / "hooks/pre-push", SPY.replace("$*", "by pre-commit")
    write_hook(hook, text)
    repo.commit(model(1))
    hook.rename(hook.with_name("pre-push.legacy"))
    calling = text.replace("cat >>", 'tee -a "$SPY_LOG" | "$(dirname "$0")/pre-push.legacy" "$@" #')
    write_hook(hook, calling)
    repo.git("push", "-q", "origin", "main")
    assert _heard(world).count("by pre-commit") == 1
    assert _arrived(repo, hub)


def test_what_an_older_version_has_chained_is_taken_over(world: World) -> None:
    repo, hub = _with_hub(world)
    folder = repo.git_dir / "hooks"
    for name in HOOKS:
        write_hook(folder / name, OLDER.format(name=name).replace("exec", 'test -e "$0.legacy"; exec'))
        write_hook(folder / f"{name}.legacy")
    repo.commit(model(1))
    assert hooks_in(repo) == sorted([*HOOKS, *(f"{name}{SUFFIX}" for name in HOOKS)])
    _heard(world)
    repo.git("push", "-q", "origin", "main")
    assert f"pre-push{SUFFIX} origin" in _heard(world)
    assert _arrived(repo, hub)


def test_a_shim_of_an_older_version_still_works(world: World) -> None:
    """Before an add has renewed it."""
    repo, hub = _with_hub(world)
    repo.commit(model(1))
    folder = repo.git_dir / "hooks"
    write_hook(folder / "pre-push", OLDER.format(name="pre-push"))
    write_hook(folder / "pre-push.legacy", SPY.removeprefix("#!/bin/sh\n"))
    repo.git("push", "-q", "origin", "main")
    assert "pre-push.legacy origin" in _heard(world)
    assert _arrived(repo, hub)


def test_a_script_of_the_user_that_calls_gittheta_is_left_alone(world: World) -> None:
    repo, hub = _with_hub(world)
    text = '#!/bin/sh\necho mine >>"$SPY_LOG"\nexec git theta hook pre-push - "$@"\n'
    hook = write_hook(repo.git_dir / "hooks/pre-push", text)
    repo.commit(model(1))
    assert hook.read_text() == text
    repo.git("push", "-q", "origin", "main")
    assert "mine" in _heard(world)
    assert _arrived(repo, hub)


def test_each_hook_is_installed_by_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that cannot be written is named, and stops no other."""
    repo, _ = _with_hub(world)

    def write(path: Path, text: bytes, modes: script.Modes) -> None:
        if path.name == "post-checkout":
            raise PermissionError(13, "Permission denied", str(path))
        script.write_shim(path, text, modes)

    monkeypatch.setattr(files, "write_shim", write)
    report = install_hooks(Repository.discover(repo.path), BY_UMASK)
    assert len(report.problems) == 1
    assert "post-checkout" in report.problems[0]
    assert set(hooks_in(repo)) == set(HOOKS) - {"post-checkout"}


def test_hooks_of_a_linked_worktree_are_the_repository_s(world: World) -> None:
    repo = world.repo()
    repo.git("worktree", "add", "-q", "../linked", "-b", "linked")
    Repo(world.root / "linked", world.env).git("theta", "install", "--local")
    assert set(HOOKS) <= set(hooks_in(repo))


def test_the_filter_sets_up_the_hooks_of_a_clone(world: World) -> None:
    repo = world.repo()
    repo.commit(model(1))
    clone = world.clone(repo.path)
    assert set(HOOKS) <= set(hooks_in(clone))


# -- the program is missing --------------------------------------------------------------------------------------------


def _without_program(world: World, repo: Repo) -> dict[str, str]:
    """The hooks name a Python that is gone, and PATH has no gittheta."""
    for name in HOOKS:
        hook = repo.git_dir / "hooks" / name
        lines = hook.read_text().splitlines(keepends=True)
        hook.write_text("".join("python=/gone/python\n" if line.startswith("python=") else line for line in lines))
    folder = world.root / "programs"
    folder.mkdir()
    git = shutil.which("git", path=repo.env["PATH"])
    assert git
    (folder / "git").symlink_to(git)
    return {"PATH": os.pathsep.join([str(folder), "/usr/bin", "/bin"])}


def test_hooks_without_their_program_say_so_and_stop_the_push_of_models(world: World) -> None:
    repo, hub = _with_hub(world)
    repo.commit(model(1))
    env = _without_program(world, repo)
    done = repo.attempt("git", "push", "origin", "main", env=env)
    assert done.returncode
    assert "/gone/python" in done.stderr
    assert "git theta install" in done.stderr
    assert Place(hub, world.env).git("for-each-ref") == ""


def test_hooks_without_their_program_stop_nobody_who_tracks_no_models(world: World) -> None:
    repo, hub = _with_hub(world)
    repo.commit(model(1))
    repo.git("rm", "-q", "m.safetensors")
    repo.git("commit", "-q", "-m", "no models")
    env = _without_program(world, repo)
    done = repo.attempt("git", "push", "origin", "main", env=env)
    assert done.returncode == 0, done.stderr
    assert "gittheta" not in done.stderr
    assert Place(hub, world.env).git("for-each-ref")


@pytest.mark.slow
def test_a_hook_whose_python_is_gone_takes_gittheta_from_path(world: World) -> None:
    repo, hub = _with_hub(world)
    repo.commit(model(1))
    _without_program(world, repo)
    repo.git("push", "-q", "origin", "main")
    assert _arrived(repo, hub)
    repo.commit(model(2))
    assert "/gone/python" not in (repo.git_dir / "hooks/pre-push").read_text()
