"""Git's verbs are arithmetic on models: merge averages, pick and rebase add a change, revert takes it back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint, normal, tensors_of
from tests.support.parameters import first_often
from tests.support.world import Repo, Template, World

BASE = {"w": normal(1, 40, 10), "still": normal(2, 9)}
#: What each expert has learned; `third` learned it in three steps.
LEARNED = {"first": normal(11, 40, 10, scale=0.1), "second": normal(12, 40, 10, scale=0.1)}
STEPS = [normal(seed, 40, 10, scale=0.1) for seed in (21, 22, 23)]


def learned(*deltas: np.ndarray) -> bytes:
    """The base with what was learned."""
    return checkpoint(BASE | {"w": BASE["w"] + sum(deltas, np.zeros((40, 10), np.float32))})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, installed_home: Path) -> Template:
    """A base on main and, from there, branches that have learned something."""
    world = World(tmp_path_factory.mktemp("built"), installed_home)
    repo = world.repo()
    repo.commit(checkpoint(BASE))
    for name, delta in LEARNED.items():
        repo.branch(name, learned(delta))
    repo.git("checkout", "-q", "-b", "third", "main")
    for at in range(len(STEPS)):
        repo.commit(learned(*STEPS[: at + 1]), message=f"step {at}")
    repo.git("checkout", "-q", "first")
    return Template(world.root, {})


@pytest.fixture
def experts(world: World, built: Template) -> Repo:
    """The repository; the first expert is checked out."""
    return built.copy_to(world)


def found(repo: Repo) -> np.ndarray:
    """The tensor in the work tree."""
    return np.frombuffer(tensors_of(repo.read())["w"][2], np.float32).reshape(40, 10)


def expect(repo: Repo, *deltas: np.ndarray) -> None:
    """The base and these changes, but for roundings; all else is as it was, and the repository is well."""
    np.testing.assert_allclose(found(repo), BASE["w"] + sum(deltas, np.zeros((40, 10))), rtol=0, atol=2e-6)
    assert tensors_of(repo.read())["still"] == tensors_of(checkpoint(BASE))["still"]
    assert repo.status() == ""


FIRST, SECOND = LEARNED.values()
BOTH_WAYS = pytest.mark.parametrize("words", [[], ["--strategy=theta"]], ids=["driver", "strategy"])


@BOTH_WAYS
def test_pick_adds_and_revert_takes_back(experts: Repo, words: list[str]) -> None:
    before = found(experts)
    experts.git("cherry-pick", *words, "second")
    expect(experts, FIRST, SECOND)
    if not words:
        experts.git("revert", "--no-edit", "HEAD")
        expect(experts, FIRST)
        np.testing.assert_allclose(found(experts), before, rtol=0, atol=5e-7)
    experts.healthy()


@pytest.mark.slow
def test_reverting_what_others_have_built_on(experts: Repo) -> None:
    experts.git("checkout", "-q", "third")
    experts.git("revert", "--no-edit", "HEAD~1")
    expect(experts, STEPS[0], STEPS[2])


@pytest.mark.slow
@BOTH_WAYS
def test_rebase_adds_commit_by_commit(experts: Repo, words: list[str]) -> None:
    experts.git("config", "theta.merge.method", "ties")
    experts.git("rebase", "-q", *words, "first", "third")
    for at in range(3):
        expect(experts, FIRST, *STEPS[: 3 - at])
        experts.git("checkout", "-q", "HEAD^")
    expect(experts, FIRST)
    experts.healthy()


@pytest.mark.slow
def test_stash_pop_adds(experts: Repo) -> None:
    experts.write("m.safetensors", learned(FIRST, STEPS[0]))
    experts.git("stash", "-q")
    experts.commit(learned(FIRST, SECOND))
    experts.git("stash", "pop", "-q")
    experts.git("commit", "-q", "-a", "-m", "popped")
    expect(experts, FIRST, SECOND, STEPS[0])


@pytest.mark.parametrize("words", first_often(1, [["-s", "theta"], []]), ids=["strategy", "driver"])
def test_merge_averages(experts: Repo, words: list[str]) -> None:
    experts.git("merge", "-q", "--no-edit", *words, "second")
    expect(experts, FIRST / 2, SECOND / 2)


@pytest.mark.slow
def test_part_of_a_change(experts: Repo) -> None:
    experts.git("-c", "theta.merge.lambda=0.5", "cherry-pick", "second")
    expect(experts, FIRST, SECOND / 2)
    experts.git("reset", "-q", "--hard", "first~0")
    experts.git("reset", "-q", "--hard", "HEAD^")
    experts.git("cherry-pick", "--strategy=theta", "-X", "lambda=0.25", "second")
    expect(experts, FIRST, SECOND / 4)
    experts.healthy()


@pytest.mark.slow
def test_part_of_a_change_where_nothing_else_happened(experts: Repo) -> None:
    """No merge driver is called then; the strategy scales all the same."""
    experts.git("checkout", "-q", "main")
    experts.commit(b"text", "t.txt")
    experts.git("cherry-pick", "--strategy=theta", "-X", "lambda=0.5", "second")
    expect(experts, SECOND / 2)


@pytest.mark.slow
def test_what_is_set_for_merges_changes_no_pick(experts: Repo) -> None:
    experts.git("config", "theta.merge.method", "ties")
    experts.git("config", "theta.merge.density", "0.1")
    experts.git("cherry-pick", "second")
    expect(experts, FIRST, SECOND)
    experts.git("reset", "-q", "--hard", "HEAD^")
    experts.git("-c", "theta.merge.method=linear", "cherry-pick", "second")
    expect(experts, FIRST / 2, SECOND / 2)


@pytest.mark.slow
def test_a_pick_onto_what_is_staged(experts: Repo) -> None:
    experts.git("cherry-pick", "--no-commit", "--strategy=theta", "second")
    experts.git("cherry-pick", "--no-commit", "--strategy=theta", "third~2")
    experts.git("commit", "-q", "-m", "both")
    expect(experts, FIRST, SECOND, STEPS[0])


@pytest.mark.slow
def test_a_conflicted_pick(experts: Repo) -> None:
    experts.git("config", "theta.pick.method", "conflict")
    before = experts.sha()
    done = experts.attempt("git", "cherry-pick", "--strategy=theta", "second")
    assert done.returncode == 1
    assert "CONFLICT (m.safetensors): tensor 'w'" in done.stderr
    assert (experts.sha(), experts.status()) == (before, "UU m.safetensors\n")
    experts.git("cherry-pick", "--abort")
    assert (experts.sha(), experts.status()) == (before, "")
    experts.attempt("git", "cherry-pick", "--strategy=theta", "second")
    experts.git("checkout", "--theirs", "--", "m.safetensors")
    experts.git("add", "m.safetensors")
    experts.git("cherry-pick", "--continue")
    expect(experts, SECOND)
    assert len(experts.git("rev-list", "--parents", "-1", "HEAD").split()) == 2
