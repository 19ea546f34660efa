"""`git merge -s theta`: many heads, one commit; expected numbers are computed here, in NumPy."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint, normal
from tests.support.octopus import (
    BASE,
    LINES,
    SHAPE,
    M,
    close,
    commits,
    mean,
    merge,
    model,
    parents,
    tensor,
    text,
    together,
    unmerged,
)
from tests.support.world import Repo, World


def test_three_heads_one_commit(branches: Repo) -> None:
    heads = commits(branches, "main", "a", "one", "two")
    message = merge(branches, "a", "one", "two")
    assert f"{M}: 3 unchanged, 1 taken from HEAD, 2 merged by linear" in message
    expected = together("main") | {"w": mean("w", "a", "one", "two"), "y": mean("y", "one", "two")}
    close(branches.read(), expected)
    assert branches.read("t.txt").decode() == text("main", "a", "one", "two")
    assert parents(branches) == heads
    branches.healthy()


@pytest.mark.slow
def test_plain_merge_of_several_branches(branches: Repo) -> None:
    message = branches.run("merge", "--no-edit", "a", "b").stderr
    assert f"{M}: 3 unchanged, 1 taken from HEAD, 1 taken from a, 1 taken from b" in message
    assert len(parents(branches)) == 3
    assert branches.read() == checkpoint(together("main", "a", "b"))
    assert branches.read("t.txt").decode() == text("main", "a", "b")
    branches.healthy()


@pytest.mark.slow
def test_sides_are_the_parents_and_weights_are_theirs(branches: Repo) -> None:
    before = branches.sha()
    message = branches.fails("merge", "--no-edit", "-s", "theta", "-X", "weight=1,2", "a", "one", status=2)
    assert "2 weights for 3 sides" in message
    assert "HEAD, a, one" in message
    assert (branches.sha(), branches.status()) == (before, "")
    merge(branches, "-X", "weight=0.5,0.3,0.2", "a", "one")
    assert f"{M} linear weight=0.5,0.3,0.2" in branches.git("log", "-1", "--format=%B")
    close(branches.read(), together("main", "one") | {"w": mean("w", "a", "one", weights=(3, 2))})
    branches.git("checkout", "-q", "start")
    heads = commits(branches, "a", "one")
    merge(branches, "-X", "weight=1,3", "a", "one")
    assert parents(branches) == heads
    close(branches.read(), together("one") | {"w": mean("w", "a", "one", weights=(1, 3))})


def delta(name: str, branch: str) -> np.ndarray:
    """What a branch changed of a tensor."""
    changed: np.ndarray = model(branch)[name].astype(np.float64) - BASE[name]
    return changed


def trimmed(values: np.ndarray, density: float) -> np.ndarray:
    """The given share of largest magnitudes, the others zero."""
    least = np.sort(abs(values).ravel())[-int(np.ceil(density * values.size))]
    return np.where(abs(values) >= least, values, 0)


@pytest.mark.slow
def test_methods_compute_what_their_papers_say(branches: Repo) -> None:
    deltas = [delta("w", name) for name in ("a", "one", "two")]
    merge(branches, "-X", "method=task_arithmetic", "-X", "lambda=0.5", "a", "one", "two")
    np.testing.assert_allclose(tensor(branches, "w"), BASE["w"] + 0.5 * sum(deltas), rtol=3e-7, atol=1e-7)
    branches.git("reset", "-q", "--hard", "HEAD^1")
    merge(branches, "-X", "method=ties", "-X", "density=0.25", "-X", "lambda=1", "a", "one", "two")
    kept = np.array([trimmed(each, 0.25) for each in deltas])
    sign = np.sign(kept.sum(0))
    agreed = np.where(np.sign(kept) == sign, kept, 0)
    expected = BASE["w"] + agreed.sum(0) / np.maximum((agreed != 0).sum(0), 1)
    np.testing.assert_allclose(tensor(branches, "w"), expected, rtol=3e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["method=nonsense"], "nonsense"),
        (["method=linear", "lambd=1"], "lambd"),
        (["weight=1,x,1"], "weight"),
        (["ours"], "-X ours means nothing"),
        pytest.param(["density=7", "method=ties"], "density", marks=pytest.mark.slow),
    ],
)
def test_what_makes_no_sense_changes_nothing(branches: Repo, options: list[str], message: str) -> None:
    before = branches.sha()
    words = [word for option in options for word in ("-X", option)]
    assert message in branches.fails("merge", "--no-edit", "-s", "theta", *words, "one", "two", status=2)
    assert (branches.sha(), branches.status()) == (before, "")
    assert not (branches.git_dir / "MERGE_HEAD").exists()


@pytest.mark.slow
def test_one_head(branches: Repo) -> None:
    branches.git("checkout", "-q", "one")
    message = merge(branches, "two")
    assert f"{M}: 4 unchanged, 2 merged by linear" in message
    close(branches.read(), BASE | {"w": mean("w", "one", "two"), "y": mean("y", "one", "two")})
    assert branches.read("t.txt").decode() == text("one", "two")
    branches.git("reset", "-q", "--hard", "HEAD^")
    merge(branches, "-X", "method=take", "-X", "from=theirs", "two")
    assert branches.read() == checkpoint(model("two"))


@pytest.mark.slow
def test_changed_alike_is_added_up_where_the_method_adds(branches: Repo) -> None:
    branches.branch("twin", checkpoint(model("a")), "start")
    branches.git("checkout", "-q", "a")
    merge(branches, "twin")
    assert branches.read() == checkpoint(model("a"))
    branches.git("reset", "-q", "--hard", "HEAD^")
    merge(branches, "-X", "method=task_arithmetic", "-X", "lambda=1", "twin")
    np.testing.assert_allclose(tensor(branches, "w"), BASE["w"] + 2 * delta("w", "a"), rtol=3e-7, atol=1e-6)


@pytest.mark.slow
def test_a_conflict_is_ours_until_it_is_resolved(branches: Repo) -> None:
    theirs = branches.branch("d", checkpoint(BASE | {"n": np.arange(9) + 1}), "start")
    branches.git("checkout", "-q", "main")
    ours = branches.commit(checkpoint(model("main") | {"n": np.arange(9) + 2}))
    heads = commits(branches, "main", "a", "d")
    done = branches.attempt("git", "merge", "--no-edit", "-s", "theta", "a", "d")
    assert done.returncode == 1
    assert f"CONFLICT (content): Merge conflict in {M}" in done.stdout
    assert f"CONFLICT ({M}): tensor 'n': i64 values changed differently on both sides" in done.stderr
    assert unmerged(branches) == [("1", M), ("2", M), ("3", M)]
    assert branches.sha() == ours
    assert sorted(branches.status().splitlines()) == ["M  t.txt", f"UU {M}"]
    branches.git("merge", "--abort")
    assert (branches.sha(), branches.status()) == (ours, "")
    branches.attempt("git", "merge", "--no-edit", "-s", "theta", "d", "a")
    branches.git("checkout", "--theirs", "--", M)
    assert branches.sha() == theirs
    branches.git("add", M)
    branches.git("commit", "-q", "--no-edit")
    assert parents(branches) == [heads[0], heads[2], heads[1]]
    assert branches.read("t.txt").decode() == text("main", "a")
    branches.healthy()


@pytest.mark.slow
def test_a_conflict_is_resolved_by_a_method(branches: Repo) -> None:
    branches.git("config", "theta.merge.method", "conflict")
    assert branches.attempt("git", "merge", "--no-edit", "-s", "theta", "one", "two").returncode == 1
    listed = branches.git("theta", "conflicts")
    assert M in listed
    branches.git("theta", "resolve", M, "--method", "linear")
    branches.git("add", M)
    branches.git("commit", "-q", "--no-edit")
    assert len(parents(branches)) == 3
    close(branches.read(), together("main") | {"w": mean("w", "one", "two"), "y": mean("y", "one", "two")})
    branches.healthy()


@pytest.mark.slow
def test_criss_cross(branches: Repo) -> None:
    """What both sides have merged already is not taken for a change."""
    branches.git("checkout", "-q", "a")
    merge(branches, "b")
    branches.git("checkout", "-q", "b")
    merge(branches, "a~1")
    branches.commit(checkpoint(together("a", "b") | {"v": normal(55, *SHAPE)}))
    branches.git("checkout", "-q", "a")
    branches.commit(checkpoint(together("a", "b") | {"w": normal(66, *SHAPE)}))
    assert len(branches.git("merge-base", "--all", "a", "b").split()) == 2
    merge(branches, "b")
    assert branches.read() == checkpoint(together("b") | {"w": normal(66, *SHAPE), "v": normal(55, *SHAPE)})
    branches.healthy()


@pytest.mark.slow
def test_criss_cross_of_what_both_changed(branches: Repo) -> None:
    """The bases are merged first, to their mean."""
    branches.git("checkout", "-q", "one")
    merge(branches, "two")
    merged = branches.read()
    close(merged, BASE | {name: mean(name, "one", "two") for name in "wy"})
    branches.git("checkout", "-q", "two")
    merge(branches, "one~1")
    assert branches.read() == merged
    result = BASE | {name: tensor(branches, name) for name in "wy"}
    branches.commit(checkpoint(result | {"v": normal(55, *SHAPE)}))
    branches.git("checkout", "-q", "one")
    branches.commit(checkpoint(result | {"x": normal(66, *SHAPE)}))
    assert "4 unchanged" in merge(branches, "two")
    assert branches.read() == checkpoint(result | {"v": normal(55, *SHAPE), "x": normal(66, *SHAPE)})
    branches.healthy()


@pytest.mark.slow
def test_from_a_subdirectory_and_a_linked_worktree(branches: Repo, world: World) -> None:
    branches.git("worktree", "add", "-q", "../linked", "start")
    (world.root / "linked/sub").mkdir()
    merge(Repo(world.root / "linked/sub", branches.env), "a", "b")
    linked = Repo(world.root / "linked", branches.env)
    assert linked.read() == checkpoint(together("a", "b"))
    linked.healthy()
    branches.healthy()


@pytest.mark.slow
def test_without_attributes(branches: Repo) -> None:
    """The strategy knows a checkpoint by its manifest."""
    branches.git("rm", "-q", ".gitattributes")
    branches.git("commit", "-q", "-m", "no attributes")
    (branches.path / M).unlink()
    branches.git("checkout", "-q", "--", M)
    message = merge(branches, "a", "b")
    assert "1 taken from HEAD, 1 taken from a, 1 taken from b" in message
    branches.git("checkout", "-q", "start", "--", ".gitattributes")
    (branches.path / M).unlink()
    branches.git("checkout", "-q", "--", M)
    assert branches.read() == checkpoint(together("main", "a", "b"))


@pytest.mark.slow
def test_pull(branches: Repo, world: World) -> None:
    clone = world.clone(branches.path)
    clone.git("pull", "-q", "--no-rebase", "--no-edit", "-s", "theta", "origin", "a")
    assert clone.read() == checkpoint(together("main", "a"))
    clone.git("reset", "-q", "--hard", "origin/main")
    clone.git("pull", "-q", "--no-rebase", "--no-edit", "origin", "a", "b")
    assert len(parents(clone)) == 3
    assert clone.read() == checkpoint(together("main", "a", "b"))
    assert clone.read("t.txt").decode() == text("main", "a", "b")
    clone.healthy()


@pytest.mark.slow
def test_unrelated_histories(branches: Repo) -> None:
    branches.git("checkout", "-q", "--orphan", "other")
    branches.git("rm", "-q", "--cached", "t.txt")
    (branches.path / "t.txt").unlink()
    branches.commit(checkpoint(model("one")))
    message = branches.fails("merge", "--no-edit", "-s", "theta", "main")
    assert "refusing to merge unrelated histories" in message
    merge(branches, "--allow-unrelated-histories", "-X", "method=linear", "two")
    close(branches.read(), BASE | {name: mean(name, "one", "two") for name in "wy"})
    assert branches.read("t.txt").decode() == text("two")


KILLER = """#!/bin/sh
$STRATEGY "$@" & sleep $DELAY
kill -9 $!
wait $!
"""


@pytest.mark.slow
def test_a_killed_merge_leaves_all_as_it_was(branches: Repo, world: World) -> None:
    before = branches.sha()
    branches.git("merge", "-q", "--no-edit", "-s", "theta", "one", "two")
    merged = branches.sha()
    branches.git("reset", "-q", "--hard", "HEAD^1")
    script = world.home / "bin/git-merge-theta"
    script.parent.mkdir()
    script.write_text(KILLER)
    script.chmod(0o755)
    path = f"{script.parent}:{branches.env['PATH']}"
    strategy = str(Path(sys.executable).with_name("git-merge-theta"))
    for delay in (0.1, 0.3, 0.6, 1, 2):
        words = ("git", "merge", "--no-edit", "-s", "theta", "one", "two")
        branches.attempt(*words, env={"PATH": path, "DELAY": str(delay), "STRATEGY": strategy})
        if len(parents(branches)) > 1:
            branches.git("reset", "-q", "--hard", "HEAD^1")
        elif branches.sha() != before:  # the blow fell when all was written, and before Git was told
            assert branches.sha() == merged
            branches.git("reset", "-q", "--hard")
        assert (branches.sha(), branches.status()) == (before, "")
        branches.healthy()


def test_without_any_model(world: World) -> None:
    repo = world.repo("texts", attributes="")
    repo.commit("".join(LINES).encode(), "t.txt")
    repo.commit(b"old", "gone.txt")
    repo.git("branch", "start")
    for name in ("a", "b"):
        repo.git("checkout", "-q", "-b", name, "start")
        repo.write(f"{name}.txt", name.encode())
        repo.git("add", ".")
        repo.commit(text(name).encode(), "t.txt")
    repo.git("rm", "-q", "gone.txt")
    repo.git("commit", "-q", "-m", "gone")
    repo.git("checkout", "-q", "main")
    repo.commit(text("main").encode(), "t.txt")
    repo.git("merge", "-q", "--no-edit", "a", "b")
    assert sorted(path.name for path in repo.path.iterdir()) == [".git", "a.txt", "b.txt", "t.txt"]
    assert repo.read("t.txt").decode() == text("main", "a", "b")
    assert len(parents(repo)) == 3
    assert repo.status() == ""
