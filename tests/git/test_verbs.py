"""Every verb of Git on a checkpoint: the bytes of every version come back, and status stays quiet."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.checkpoints import checkpoint, model, normal, sha256
from tests.support.world import Repo, Template, World

M = "m.safetensors"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, installed_home: Path) -> Template:
    """Three commits on main."""
    world = World(tmp_path_factory.mktemp("built"), installed_home)
    repo = world.repo()
    return Template(world.root, {f"main~{3 - seed}": repo.commit(model(seed)) for seed in (1, 2, 3)})


@pytest.fixture
def repo(world: World, request: pytest.FixtureRequest) -> Repo:
    """A repository with the history, where a test asks for it; else a new one."""
    if "history" not in request.fixturenames:
        return world.repo()
    template: Template = request.getfixturevalue("built")
    return template.copy_to(world)


@pytest.fixture
def history(built: Template) -> list[str]:
    """The SHA-256 of each version on main, oldest first."""
    return list(built.shas.values())


@pytest.mark.slow
def test_status_is_quiet_after_add_commit_and_touch(repo: Repo) -> None:
    repo.write(M, model(1))
    repo.git("add", ".")
    assert repo.status() == f"A  {M}\n"
    repo.git("commit", "-q", "-m", "first")
    assert repo.status() == ""
    os.utime(repo.path / M, (1, 1))
    assert repo.status() == ""
    assert repo.git("diff") == ""
    repo.write(M, model(2))
    assert repo.status() == f" M {M}\n"
    repo.write(M, model(1))
    assert repo.status() == ""
    repo.healthy()


@pytest.mark.slow
def test_one_changed_bit_is_a_change(repo: Repo) -> None:
    content = bytearray(model(1))
    repo.commit(bytes(content))
    content[-1] ^= 1
    repo.write(M, bytes(content))
    assert repo.status() == f" M {M}\n"
    sha = repo.commit(bytes(content))
    repo.git("checkout", "-q", "HEAD^")
    repo.git("checkout", "-q", "main")
    assert repo.sha() == sha


def test_diff_names_the_tensor(repo: Repo, history: list[str]) -> None:
    repo.commit(model(3, layer__1=normal(9, 16, 16)))
    hunks = [line for line in repo.git("diff", "-U0", "HEAD^").splitlines() if line.startswith("@@")]
    assert [hunk.rpartition("@@ ")[2] for hunk in hunks[1:]] == ["layer.1"]
    shown = repo.git("diff", "HEAD^").splitlines()
    at = shown.index(" [layer.1]")
    assert shown[at + 1].startswith("-bf16 16x16 ")
    assert shown[at + 3].startswith("+f32 16x16 ")
    assert "Binary" not in repo.git("log", "-p")
    repo.write(M, model(4))
    assert "[embed]" in repo.git("diff")
    assert "[embed]" in repo.git("diff", "--no-ext-diff", "--stat", "-p")


@pytest.mark.slow
def test_checkout_of_every_old_commit(repo: Repo, history: list[str]) -> None:
    for back, sha in enumerate(reversed(history)):
        repo.git("checkout", "-q", f"main~{back}")
        assert repo.sha() == sha
        assert repo.status() == ""
    repo.git("checkout", "-q", "main")
    repo.git("checkout", "main~2", "--", M)
    assert (repo.sha(), repo.status()) == (history[0], f"M  {M}\n")
    repo.git("checkout", "-q", "-f", "main")
    repo.healthy()


@pytest.mark.slow
def test_bisect_visits_the_right_bytes(repo: Repo, history: list[str]) -> None:
    history += [repo.commit(model(seed)) for seed in (4, 5)]
    script = repo.path.parent / "is-good"
    script.write_text(f"#!/bin/sh\nsha256sum {M} | grep -q -v -e {history[3]} -e {history[4]}\n")
    script.chmod(0o755)
    bad = repo.git("rev-parse", "main~1").strip()
    repo.git("bisect", "start", "main", "main~4")
    assert f"{bad} is the first bad commit" in repo.git("bisect", "run", str(script))
    repo.git("bisect", "reset")
    assert repo.sha() == history[-1]
    repo.healthy()


@pytest.mark.slow
def test_restore(repo: Repo, history: list[str]) -> None:
    repo.write(M, b"scribble")
    repo.git("restore", M)
    assert repo.sha() == history[2]
    repo.git("restore", "--source=main~1", "--staged", "--worktree", M)
    assert (repo.sha(), repo.status()) == (history[1], f"M  {M}\n")
    repo.git("restore", "--staged", "--worktree", M)
    (repo.path / M).unlink()
    repo.git("restore", M)
    assert repo.sha() == history[2]
    repo.healthy()


@pytest.mark.slow
def test_switch_and_tags(repo: Repo, history: list[str]) -> None:
    repo.git("tag", "v1", "main~2")
    repo.git("tag", "-a", "v2", "-m", "two", "main~1")
    repo.git("switch", "-q", "-c", "side", "v1")
    assert repo.sha() == history[0]
    repo.git("switch", "-q", "--detach", "v2")
    assert repo.sha() == history[1]
    repo.git("switch", "-q", "main")
    assert repo.sha() == history[2]
    repo.healthy()


def test_stash(repo: Repo, history: list[str]) -> None:
    changed = repo.write(M, model(7))
    other = repo.write("new.safetensors", model(8))
    repo.git("stash", "-q", "--include-untracked")
    assert (repo.sha(), repo.status()) == (history[2], "")
    assert not (repo.path / "new.safetensors").exists()
    repo.git("theta", "fsck", "--deep")
    repo.git("stash", "pop", "-q")
    assert (repo.sha(), repo.sha("new.safetensors")) == (changed, other)
    repo.git("add", M)
    repo.git("stash", "-q")
    assert repo.sha() == history[2]
    repo.git("stash", "apply", "-q", "--index")
    assert (repo.sha(), repo.status()) == (changed, f"M  {M}\n?? new.safetensors\n")


@pytest.mark.slow
def test_reset(repo: Repo, history: list[str]) -> None:
    repo.write(M, b"scribble")
    repo.git("reset", "-q", "--hard", "main~1")
    assert (repo.sha(), repo.status()) == (history[1], "")
    repo.git("reset", "-q", "--soft", "main~1")
    assert (repo.sha(), repo.status()) == (history[1], f"M  {M}\n")
    repo.git("reset", "-q", "--mixed")
    assert repo.status() == f" M {M}\n"
    repo.git("reset", "-q", "--hard", "ORIG_HEAD")
    repo.git("reset", "-q", "--keep", "main")
    repo.healthy()


@pytest.mark.slow
def test_linked_worktree(repo: Repo, history: list[str], world: World) -> None:
    repo.git("worktree", "add", "-q", "../linked", "-b", "linked", "main~2")
    linked = Repo(world.root / "linked", repo.env)
    assert (linked.sha(), linked.store) == (history[0], repo.store)
    sha = linked.commit(model(11))
    linked.healthy()
    repo.git("merge", "-q", "-s", "ours", "linked")
    repo.git("checkout", "-q", "linked~1")
    repo.git("worktree", "remove", "--force", "../linked")
    repo.git("checkout", "-q", "linked")
    assert repo.sha() == sha
    repo.healthy()


def test_rebase(repo: Repo, history: list[str]) -> None:
    base = {"a": normal(1, 9), "b": normal(2, 9), "c": normal(3, 9)}
    repo.commit(checkpoint(base))
    repo.branch("side", checkpoint(base | {"a": normal(4, 9)}))
    repo.commit(checkpoint(base | {"a": normal(5, 9)}))
    repo.git("checkout", "-q", "main")
    repo.commit(checkpoint(base | {"c": normal(6, 9)}))
    repo.git("rebase", "-q", "main", "side")
    assert repo.read() == checkpoint({"a": normal(5, 9), "b": normal(2, 9), "c": normal(6, 9)})
    repo.healthy()
    repo.git("checkout", "-q", "side~1")
    assert repo.read() == checkpoint({"a": normal(4, 9), "b": normal(2, 9), "c": normal(6, 9)})
    repo.healthy()


def test_interactive_rebase_squashes_and_history_stays_whole(repo: Repo, history: list[str]) -> None:
    repo.git("rebase", "-q", "-i", "main~2", env={"GIT_SEQUENCE_EDITOR": "sed -i 2s/pick/squash/"})
    assert repo.git("rev-list", "--count", "main").strip() == "3"
    assert repo.sha() == history[2]
    repo.git("reflog", "expire", "--expire=now", "--all")
    repo.git("gc", "-q", "--prune=now")
    repo.git("checkout", "-q", "main~1")
    assert repo.sha() == history[0]
    repo.healthy()


def test_cherry_pick_and_revert(repo: Repo) -> None:
    base = {"a": normal(1, 9), "b": normal(2, 9)}
    repo.commit(checkpoint(base))
    repo.branch("side", checkpoint(base | {"a": normal(4, 9)}))
    repo.git("checkout", "-q", "main")
    mine = repo.commit(checkpoint(base | {"b": normal(5, 9)}))
    repo.git("cherry-pick", "side")
    both = checkpoint({"a": normal(4, 9), "b": normal(5, 9)})
    assert repo.read() == both
    repo.healthy()
    repo.git("revert", "--no-edit", "HEAD")
    assert repo.sha() == mine
    repo.git("revert", "--no-edit", "HEAD")
    assert repo.read() == both
    repo.healthy()


def test_amend(repo: Repo, history: list[str]) -> None:
    sha = repo.write(M, model(9))
    repo.git("commit", "-q", "-a", "--amend", "-m", "amended")
    repo.git("checkout", "-q", "main~1")
    assert repo.sha() == history[1]
    repo.git("checkout", "-q", "main")
    assert repo.sha() == sha
    repo.healthy()


@pytest.mark.slow
def test_squash_merge(repo: Repo, history: list[str]) -> None:
    repo.branch("side", model(4))
    sha = repo.commit(model(5))
    repo.git("checkout", "-q", "main")
    repo.git("merge", "-q", "--squash", "side")
    repo.git("commit", "-q", "-m", "squashed")
    repo.git("branch", "-q", "-D", "side")
    assert repo.sha() == sha
    repo.healthy()


def test_fast_forward(repo: Repo, history: list[str]) -> None:
    sha = repo.branch("side", model(4))
    repo.git("checkout", "-q", "main")
    repo.git("merge", "-q", "side")
    assert repo.sha() == sha
    repo.healthy()


def test_move_copy_and_remove(repo: Repo, history: list[str]) -> None:
    (repo.path / "sub").mkdir()
    repo.git("mv", M, "sub/renamed.safetensors")
    repo.write("copy.safetensors", repo.read("sub/renamed.safetensors"))
    before = repo.objects()
    repo.git("add", ".")
    repo.git("commit", "-q", "-m", "moved and copied")
    assert repo.objects() == before
    repo.git("rm", "-q", "copy.safetensors")
    repo.git("commit", "-q", "-m", "removed")
    assert repo.sha("sub/renamed.safetensors") == history[2]
    repo.healthy()


def test_archive_and_cat_file_give_the_checkpoint(repo: Repo, history: list[str], world: World) -> None:
    repo.git("archive", "--format=tar", "-o", "../out.tar", "main~1")
    world.place().attempt("tar", "xf", "out.tar")
    assert Repo(world.root, world.env).sha() == history[1]
    repo.git("config", "core.quotePath", "false")
    done = repo.attempt("sh", "-c", f"git cat-file --filters main~2:{M} | sha256sum | cut -c1-64")
    assert done.stdout.strip() == history[0]


@pytest.mark.slow
def test_format_patch_and_am(repo: Repo, history: list[str]) -> None:
    repo.git("format-patch", "-q", "-1", "-o", "../patches")
    repo.git("reset", "-q", "--hard", "main~1")
    done = repo.attempt("sh", "-c", "git am -q --3way ../patches/*")
    assert done.returncode == 0, done.stderr
    assert repo.sha() == history[2]
    repo.healthy()


@pytest.mark.slow
def test_crlf_settings_change_nothing(repo: Repo, history: list[str]) -> None:
    repo.git("config", "core.autocrlf", "true")
    repo.git("checkout", "-q", "main~1")
    assert repo.sha() == history[1]
    sha = repo.commit(model(6))
    repo.git("checkout", "-q", "HEAD^")
    repo.git("checkout", "-q", "-")
    assert repo.sha() == sha
    repo.healthy()


def test_add_intent_and_partial_commits(repo: Repo, history: list[str]) -> None:
    new = repo.write("new.safetensors", model(6))
    repo.git("add", "-N", "new.safetensors")
    assert repo.status() == " A new.safetensors\n"
    old = repo.write(M, model(7))
    repo.git("commit", "-q", "-m", "only one", "--", "new.safetensors")
    assert repo.status() == f" M {M}\n"
    repo.git("commit", "-q", "-a", "-m", "the other")
    assert (repo.sha("new.safetensors"), repo.sha()) == (new, old)
    repo.healthy()


def test_a_detached_git_dir(world: World) -> None:
    world.place().git("init", "-q", "--separate-git-dir", "elsewhere", "repo")
    repo = Repo(world.root / "repo", world.env)
    repo.write(".gitattributes", b"*.safetensors filter=theta merge=theta diff=theta -text\n")
    sha = repo.commit(model(1))
    assert repo.store == world.root / "elsewhere/theta"
    outside = world.place()
    outside.git("--git-dir", "elsewhere", "--work-tree", "repo", "rm", "-q", "--cached", M)
    outside.git("--git-dir", "elsewhere", "--work-tree", "repo", "checkout", "-q", "-f", "HEAD")
    assert repo.sha() == sha


ODD_PATHS = [
    "with space.safetensors",
    'quote".safetensors',
    "apostrophe'.safetensors",
    "größe/ß ü.safetensors",
    "back\\slash.safetensors",
    "tab\t.safetensors",
    "line\nend.safetensors",
    "-dash.safetensors",
    "--option.safetensors",
    "*star?.safetensors",
    "[bracket].safetensors",
    "$HOME `id`.safetensors",
    ":colon.safetensors",
    "deep/er/and/deep er/m.safetensors",
    "\udcff\udcfe.safetensors",
    "😀.safetensors",
    "%f %O %A.safetensors",
]


def _shas(repo: Repo) -> list[str]:
    """Without the names, which a failing test could not print."""
    return [repo.sha(name) for name in ODD_PATHS]


@pytest.mark.slow
def test_odd_paths(repo: Repo, world: World) -> None:
    first = [repo.write(name, model(seed)) for seed, name in enumerate(ODD_PATHS)]
    repo.git("add", ".")
    repo.git("commit", "-q", "-m", "first")
    repo.healthy()
    second = [repo.write(name, model(seed + 50)) for seed, name in enumerate(ODD_PATHS)]
    repo.git("commit", "-q", "-a", "-m", "second")
    repo.healthy()
    repo.git("checkout", "-q", "HEAD^")
    assert _shas(repo) == first
    repo.healthy()
    clone = world.clone(repo.path, "a clone's ü", "-b", "main")
    assert _shas(clone) == second
    assert clone.status() == ""


@pytest.mark.slow
def test_merge_with_odd_paths(repo: Repo) -> None:
    values = [{"a": normal(seed, 9), "b": normal(seed + 1, 9)} for seed in range(len(ODD_PATHS))]
    for name, value in zip(ODD_PATHS, values, strict=True):
        repo.write(name, checkpoint(value))
    repo.git("add", ".")
    repo.git("commit", "-q", "-m", "base")
    for branch, tensor in (("ours", "a"), ("theirs", "b")):
        repo.git("checkout", "-q", "-b", branch, "main")
        for name, value in zip(ODD_PATHS, values, strict=True):
            repo.write(name, checkpoint(value | {tensor: normal(99, 9)}))
        repo.git("commit", "-q", "-a", "-m", branch)
    repo.git("merge", "-q", "--no-edit", "ours")
    assert set(_shas(repo)) == {sha256(checkpoint({"a": normal(99, 9), "b": normal(99, 9)}))}
    repo.healthy()


@pytest.mark.slow
def test_commands_from_a_subdirectory(repo: Repo) -> None:
    sha = repo.commit(model(1), "sub/deeper/m.safetensors")
    below = Repo(repo.path / "sub", repo.env)
    changed = below.commit(model(2), "deeper/m.safetensors")
    below.git("checkout", "-q", "HEAD^", "--", "deeper/m.safetensors")
    assert below.sha("deeper/m.safetensors") == sha
    below.git("restore", "--staged", "--worktree", ".")
    assert below.sha("deeper/m.safetensors") == changed
    repo.healthy()
