"""Models above theta.smudgeLimit after commands that call no hook: the model comes back, or one line says how."""

from __future__ import annotations

import pytest

from tests.support.checkpoints import model, sha256
from tests.support.world import Repo

M = "m.safetensors"
FIRST, SECOND = model(1), model(2)


@pytest.fixture
def repo(repo: Repo) -> Repo:
    """A repository in which every model is above the limit."""
    repo.git("config", "theta.smudgeLimit", "1k")
    repo.commit(FIRST)
    return repo


@pytest.mark.slow
def test_stash_with_untracked_files(repo: Repo) -> None:
    repo.write(M, SECOND)
    repo.write("new.safetensors", model(3))
    repo.git("stash", "-u")
    assert repo.read() == FIRST
    assert not (repo.path / "new.safetensors").exists()
    repo.git("stash", "pop")
    assert (repo.read(), repo.read("new.safetensors")) == (SECOND, model(3))
    assert repo.status() == f" M {M}\n?? new.safetensors\n"


@pytest.mark.slow
def test_stash_with_ignored_files(repo: Repo) -> None:
    repo.write(".git/info/exclude", b"new.safetensors\n")
    repo.write("new.safetensors", model(3))
    repo.git("stash", "-a")
    repo.git("stash", "pop")
    assert repo.read("new.safetensors") == model(3)


@pytest.mark.slow
def test_stash_of_single_hunks(repo: Repo) -> None:
    repo.write(M, SECOND)
    repo.git("stash", "-p", stdin=b"a\n")
    assert repo.read() == FIRST
    assert repo.status() == ""
    repo.git("stash", "pop")
    assert repo.read() == SECOND


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--index",), ("--3way",)])
def test_apply(repo: Repo, options: tuple[str, ...]) -> None:
    """As tools do that put changes aside for a while."""
    repo.write(M, SECOND)
    patch = repo.git("diff", "--binary")
    repo.git("checkout", "--", ".")
    assert repo.read() == FIRST
    assert repo.status() == ""  # `git apply --index` itself never looks whether a file is what the index says
    repo.git("apply", *options, "-", stdin=patch)
    assert repo.read() == SECOND
    repo.git("add", M)
    repo.git("commit", "-q", "-m", "second")
    repo.healthy()


def test_checkout_index(repo: Repo) -> None:
    (repo.path / M).unlink()
    repo.git("checkout-index", M)
    assert repo.sha() == sha256(FIRST)
    repo.healthy()


def test_checkout_index_to_another_place(repo: Repo) -> None:
    message = repo.run("checkout-index", "--prefix=out/", M).stderr
    assert message.count("git theta pull") == 1
    assert M in message
    assert repo.git("theta", "pull") == f"out/{M}\n"
    assert repo.read(f"out/{M}") == FIRST


@pytest.mark.slow
def test_commands_with_hooks_say_nothing(repo: Repo) -> None:
    repo.commit(SECOND)
    for words in (("checkout", "-q", "HEAD^"), ("checkout", "-q", "main"), ("reset", "-q", "--hard", "HEAD^")):
        assert repo.run(*words).stderr == ""
    assert repo.read() == FIRST
    repo.healthy()


@pytest.mark.slow
def test_without_hooks_all_the_same(repo: Repo) -> None:
    repo.commit(SECOND)
    repo.git("-c", "core.hooksPath=/dev/null", "checkout", "-q", "HEAD^")
    assert repo.read() == FIRST
    repo.healthy()


def test_an_object_that_is_nowhere(repo: Repo) -> None:
    (repo.path / M).unlink()
    for file in repo.objects():
        file.unlink()
    message = repo.run("checkout-index", M).stderr
    assert M in message
    assert "git theta pull" in message
    assert repo.read().startswith(b"gittheta manifest ")


def test_while_a_rebase_is_under_way(repo: Repo) -> None:
    """Git has more to do, and would take the model for a change."""
    (repo.git_dir / "rebase-merge").mkdir()
    repo.git("config", "theta.smudgeLimit", "1k")
    (repo.path / M).unlink()
    repo.git("checkout-index", M)
    assert repo.read() == FIRST  # through Git's memory
