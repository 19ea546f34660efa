"""`git merge -s theta` where files are renamed, deleted, added, replaced, untracked or large."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint, normal, sha256, tensors_of
from tests.support.octopus import M, merge, model, parents, tensor, text, together, unmerged
from tests.support.world import Repo


@pytest.mark.slow
def test_local_changes_are_never_lost(branches: Repo) -> None:
    before = branches.sha()
    changed = branches.write(M, checkpoint(model("b")))
    branches.fails("merge", "--no-edit", "-s", "theta", "a", "b", status=2)
    assert (branches.sha(), branches.status()) == (changed, f" M {M}\n")
    branches.git("checkout", "--", M)
    branches.write("t.txt", b"mine")
    branches.fails("merge", "--no-edit", "-s", "theta", "a", "b", status=2)
    assert (branches.read("t.txt"), branches.sha(), branches.status()) == (b"mine", before, " M t.txt\n")
    branches.git("add", "t.txt")
    message = branches.fails("merge", "--no-edit", "-s", "theta", "a", "b", status=2)
    assert "t.txt" in message
    assert (branches.read("t.txt"), branches.sha(), branches.status()) == (b"mine", before, "M  t.txt\n")
    branches.git("reset", "-q", "--hard")
    branches.write("untracked", b"mine")
    merge(branches, "a", "b")
    assert branches.read("untracked") == b"mine"


@pytest.mark.slow
def test_an_untracked_file_in_the_way(branches: Repo) -> None:
    branches.branch("d", b"theirs", "start", "new.txt")
    branches.git("checkout", "-q", "main")
    branches.write("new.txt", b"mine")
    assert "new.txt" in branches.fails("merge", "--no-edit", "-s", "theta", "a", "d", status=2)
    assert (branches.read("new.txt"), branches.sha()) == (b"mine", sha256(checkpoint(model("main"))))


@pytest.mark.slow
def test_a_conflict_in_a_text(branches: Repo) -> None:
    branches.branch("d", text("a").replace("by a", "by d").encode(), "start", "t.txt")
    branches.git("checkout", "-q", "main")
    done = branches.attempt("git", "merge", "--no-edit", "-s", "theta", "a", "d")
    assert done.returncode == 1
    assert "CONFLICT (content): Merge conflict in t.txt" in done.stdout
    assert "<<<<<<< HEAD\nby a\n=======\nby d\n>>>>>>> d\n" in branches.read("t.txt").decode()
    assert unmerged(branches) == [("1", "t.txt"), ("2", "t.txt"), ("3", "t.txt")]
    assert branches.read() == checkpoint(together("main", "a"))
    branches.git("merge", "--abort")
    assert branches.status() == ""
    message = branches.fails("merge", "--no-edit", "-s", "theta", "a", "d", "b", status=2)
    assert "d conflicts with HEAD or a in t.txt" in message
    assert "git merge -s theta d" in message
    assert branches.status() == ""


@pytest.mark.slow
def test_renamed_on_one_side(branches: Repo) -> None:
    branches.git("checkout", "-q", "-b", "d", "a")
    branches.git("mv", M, "größer als.safetensors")
    branches.git("commit", "-q", "-m", "renamed")
    branches.git("checkout", "-q", "main")
    merge(branches, "b", "d")
    assert not (branches.path / M).exists()
    assert branches.read("größer als.safetensors") == checkpoint(together("main", "a", "b"))
    branches.healthy()


@pytest.mark.slow
def test_renamed_to_two_names_is_a_conflict(branches: Repo) -> None:
    for branch, name in (("main", "1.safetensors"), ("a", "2.safetensors")):
        branches.git("checkout", "-q", branch)
        branches.git("mv", M, name)
        branches.git("commit", "-q", "-m", "renamed")
    branches.git("checkout", "-q", "main")
    done = branches.attempt("git", "merge", "--no-edit", "-s", "theta", "a")
    assert done.returncode == 1
    assert "CONFLICT (rename/rename)" in done.stdout
    assert unmerged(branches) == [("2", "1.safetensors"), ("3", "2.safetensors"), ("1", M)]
    branches.git("merge", "--abort")
    assert branches.status() == ""


def delete(repo: Repo, branch: str) -> None:
    """A branch from start on which the model is gone."""
    repo.git("checkout", "-q", "-b", branch, "start")
    repo.git("rm", "-q", M)
    repo.git("commit", "-q", "-m", "gone")


@pytest.mark.slow
def test_deleted_on_one_side(branches: Repo) -> None:
    delete(branches, "d")
    branches.git("checkout", "-q", "main")
    ours = branches.sha()
    done = branches.attempt("git", "merge", "--no-edit", "-s", "theta", "a", "d", "b")
    assert done.returncode == 1
    assert f"CONFLICT ({M}): deleted in d, changed in HEAD, a and b" in done.stderr
    assert unmerged(branches) == [("1", M), ("2", M), ("3", M)]
    assert branches.sha() == ours
    branches.git("rm", "-q", M)
    branches.git("commit", "-q", "--no-edit")
    assert len(parents(branches)) == 4
    branches.git("checkout", "-q", "d")
    done = branches.attempt("git", "merge", "--no-edit", "-s", "theta", "a")
    assert done.returncode == 1
    assert f"CONFLICT ({M}): deleted in ours, changed in theirs" in done.stderr
    assert unmerged(branches) == [("1", M), ("3", M)]
    assert branches.sha() == sha256(checkpoint(model("a")))


@pytest.mark.slow
def test_deleted_where_nobody_else_changed_it(branches: Repo) -> None:
    delete(branches, "d")
    branches.git("checkout", "-q", "-b", "e", "start")
    branches.commit(b"text", "e.txt")
    merge(branches, "d")
    assert not (branches.path / M).exists()
    assert branches.read("e.txt") == b"text"


@pytest.mark.slow
def test_added_on_several_sides(branches: Repo) -> None:
    name = "neu ü.safetensors"
    values = {branch: {"same": normal(1, 9), branch: normal(seed, 9)} for seed, branch in enumerate("ab", 5)}
    for branch, value in values.items():
        branches.git("checkout", "-q", branch)
        branches.commit(checkpoint(value), name)
    branches.git("checkout", "-q", "main")
    merge(branches, "-X", "weight=3,2,1", "a", "b")
    assert tensors_of(branches.read(name)) == tensors_of(checkpoint(values["a"] | values["b"]))
    branches.healthy()
    branches.git("checkout", "-q", "-b", "d", "start")
    branches.commit(checkpoint({"same": normal(7, 9)}), name)
    done = branches.attempt("git", "merge", "--no-edit", "-s", "theta", "a")
    assert done.returncode == 1
    assert "tensor 'same': added on both sides with different values" in done.stderr
    branches.git("merge", "--abort")
    branches.git("checkout", "-q", "main~0")
    branches.git("reset", "-q", "--hard", "main^1")
    merge(branches, "-X", "method=linear", "-X", "weight=5,1,3", "a", "d")
    added = (values["a"]["same"].astype(np.float64) + 3 * normal(7, 9)) / 4
    np.testing.assert_allclose(tensor(branches, "same", name), added, rtol=3e-7, atol=1e-7)


@pytest.mark.slow
def test_a_plain_file_on_one_side(branches: Repo) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 0\n"
    branches.git("checkout", "-q", "-b", "d", "start")
    oid = branches.git("hash-object", "-w", "--stdin", "--no-filters", stdin=pointer).strip()
    branches.git("update-index", "--cacheinfo", f"100644,{oid},{M}")
    branches.git("commit", "-q", "-m", "by Git LFS")
    branches.git("checkout", "-q", "-f", "main")
    ours = branches.sha()
    done = branches.attempt("git", "merge", "--no-edit", "-s", "theta", "a", "d")
    assert done.returncode == 1
    assert f"CONFLICT ({M}): stored by gittheta in HEAD and a, a Git LFS pointer in d" in done.stderr
    assert branches.sha() == ours


@pytest.mark.slow
def test_large_files_are_written_past_git(branches: Repo) -> None:
    branches.git("config", "theta.smudgeLimit", "1000")
    merge(branches, "a", "b")
    assert branches.read() == checkpoint(together("main", "a", "b"))
    branches.healthy()
    branches.git("reset", "-q", "--hard", "HEAD^1")
    delete(branches, "d")
    branches.git("checkout", "-q", "main")
    assert branches.attempt("git", "merge", "--no-edit", "-s", "theta", "a", "d").returncode == 1
    assert branches.sha() == sha256(checkpoint(model("main")))
    branches.git("merge", "--abort")
    branches.healthy()
