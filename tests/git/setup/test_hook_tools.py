"""The tools that write hooks themselves, in each order: their hooks and ours run, models arrive, nobody is blocked.

Skipped, with a word, where a tool is not installed. pre-commit and lefthook come with the extra `slow`; git-lfs and npm
are programs of the machine, and husky is installed by npm.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.checkpoints import model
from tests.support.world import Place, Repo, World, objects_in, search_path

pytestmark = pytest.mark.slow

PRE_COMMIT = """\
default_install_hook_types: [pre-commit, pre-push, post-checkout, prepare-commit-msg]
repos:
- repo: local
  hooks:
  - id: look
    name: look
    entry: sh -c 'echo ran >>"$SPY_LOG"'
    language: system
    stages: [pre-push]
    always_run: true
    pass_filenames: false
"""
LEFTHOOK = """\
pre-push: {commands: {look: {run: 'echo ran >>"$SPY_LOG"'}}}
prepare-commit-msg: {commands: {nothing: {run: "true"}}}
post-checkout: {commands: {nothing: {run: "true"}}}
"""


@dataclass(frozen=True)
class Tool:
    """A tool that installs hooks."""

    #: Writes its configuration into the project.
    prepare: Callable[[Repo], None]
    #: Installs its hooks, for the first time or once more.
    install: Callable[[Repo], None]
    #: Whether its own hook ran at the last push.
    ran: Callable[[Repo, Path], bool]


def _run(repo: Repo, *words: str) -> None:
    done = repo.attempt(*words)
    assert done.returncode == 0, f"{words}:\n{done.stdout}\n{done.stderr}"


def _needing(program: str) -> None:
    if not shutil.which(program, path=search_path()):
        pytest.skip(f"{program} is not installed")


def _logged(repo: Repo, hub: Path) -> bool:
    log = Path(repo.env["SPY_LOG"])
    ran = log.exists()
    log.unlink(missing_ok=True)
    return ran


@pytest.fixture
def pre_commit() -> Tool:
    _needing("pre-commit")
    return Tool(
        lambda repo: _written(repo, ".pre-commit-config.yaml", PRE_COMMIT),
        lambda repo: _run(repo, "pre-commit", "install"),
        _logged,
    )


@pytest.fixture
def pre_commit_by_force(pre_commit: Tool) -> Tool:
    return Tool(pre_commit.prepare, lambda repo: _run(repo, "pre-commit", "install", "-f"), _logged)


@pytest.fixture
def lefthook() -> Tool:
    _needing("lefthook")
    return Tool(
        lambda repo: _written(repo, "lefthook.yml", LEFTHOOK),
        lambda repo: _run(repo, "lefthook", "install"),
        _logged,
    )


@pytest.fixture
def husky(tmp_path_factory: pytest.TempPathFactory) -> Tool:
    _needing("npm")
    folder = tmp_path_factory.mktemp("npm")
    done = subprocess.run(["npm", "install", "--silent", "husky@9"], cwd=folder, capture_output=True, check=False)
    program = folder / "node_modules/.bin/husky"
    if done.returncode or not program.exists():
        pytest.skip("npm cannot install husky")
    return Tool(
        lambda repo: _written(repo, ".husky/pre-push", 'echo ran >>"$SPY_LOG"\n'),
        lambda repo: _run(repo, str(program)),
        _logged,
    )


@pytest.fixture
def git_lfs() -> Tool:
    _needing("git-lfs")

    def install(repo: Repo) -> None:
        if repo.attempt("git", "lfs", "install", "--local").returncode:
            _run(repo, "git", "lfs", "update", "--force")

    def prepare(repo: Repo) -> None:
        attributes = (repo.path / ".gitattributes").read_text()
        _written(repo, ".gitattributes", attributes + "*.big filter=lfs diff=lfs merge=lfs -text\n")

    def ran(repo: Repo, hub: Path) -> bool:
        there = {path.name for path in (repo.git_dir / "lfs/objects").rglob("*") if path.is_file()}
        return there == {path.name for path in (hub / "lfs/objects").rglob("*") if path.is_file()}

    return Tool(prepare, install, ran)


def _written(repo: Repo, name: str, text: str) -> None:
    repo.write(name, text.encode())


def _work(repo: Repo, hub: Path, tool: Tool, seed: int) -> None:
    """What people do all day, and what must come of it."""
    repo.write("m.safetensors", model(seed))
    repo.write("x.big", bytes([seed]) * 1000)
    added = repo.run("add", ".").stderr
    assert "hook" not in added
    repo.git("commit", "-q", "-m", f"version {seed}")
    repo.git("switch", "-q", "-c", f"topic-{seed}")
    tool.ran(repo, hub)
    repo.git("push", "-q", "origin", f"topic-{seed}")
    assert tool.ran(repo, hub)
    assert {path.name for path in repo.objects()} <= {path.name for path in objects_in(hub / "theta")}


@pytest.fixture
def repo(world: World) -> Repo:
    repo = world.repo()
    repo.env = repo.env | {"SPY_LOG": str(world.root / "log"), "CI": "true", "PRE_COMMIT_HOME": str(world.root / "pc")}
    repo.git("remote", "add", "origin", str(world.bare()))
    return repo


@pytest.fixture(params=["pre_commit", "pre_commit_by_force", "lefthook", "husky", "git_lfs"])
def tool(request: pytest.FixtureRequest) -> Tool:
    found: Tool = request.getfixturevalue(request.param)
    return found


def _hub(repo: Repo) -> Path:
    return Path(repo.git("remote", "get-url", "origin").strip())


def test_the_tool_first(repo: Repo, tool: Tool) -> None:
    tool.prepare(repo)
    tool.install(repo)
    _work(repo, _hub(repo), tool, 1)
    repo.git("theta", "install")
    _work(repo, _hub(repo), tool, 2)


def test_gittheta_first(repo: Repo, tool: Tool) -> None:
    repo.commit(model(9))
    tool.prepare(repo)
    tool.install(repo)
    _work(repo, _hub(repo), tool, 1)


def test_the_tool_again_and_again(repo: Repo, tool: Tool) -> None:
    tool.prepare(repo)
    for seed in (1, 2, 3):
        tool.install(repo)
        repo.git("commit", "-q", "--allow-empty", "-m", "nobody is blocked before the next add either")
        repo.git("push", "-q", "origin", f"HEAD:refs/heads/before-{seed}")
        _work(repo, _hub(repo), tool, seed)


def test_all_of_them_at_once(repo: Repo, pre_commit: Tool, lefthook: Tool) -> None:
    """Whoever writes last has its hook run; none takes ours away."""
    for tool in (pre_commit, lefthook):
        tool.prepare(repo)
        tool.install(repo)
    _work(repo, _hub(repo), lefthook, 1)
    pre_commit.install(repo)
    _work(repo, _hub(repo), pre_commit, 2)
    assert Place(_hub(repo), repo.env).git("for-each-ref").count("\n") == 2
