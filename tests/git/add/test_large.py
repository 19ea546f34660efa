"""Files above theta.smudgeLimit: Git gets the manifest, a hook puts the checkpoint in place; nobody sees it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.checkpoints import checkpoint, model, normal
from tests.support.parameters import first_often
from tests.support.world import Repo, Template, World, two_branches

M = "m.safetensors"


@pytest.fixture
def world(world: World) -> World:
    """A machine on which every checkpoint is a large one."""
    world.place().git("config", "--global", "theta.smudgeLimit", "1k")
    return world


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, installed_home: Path) -> Template:
    """Two commits on main, one on side."""
    world = World(tmp_path_factory.mktemp("built"), installed_home)
    repo = world.repo()
    shas = {"main~1": repo.commit(model(1)), "main": repo.commit(model(2))}
    shas["side"] = repo.branch("side", model(3), "main~1")
    repo.git("checkout", "-q", "main")
    return Template(world.root, shas)


@pytest.fixture
def repo(world: World, built: Template) -> Repo:
    """The same in this test's world."""
    repo = built.copy_to(world)
    assert repo.status() == ""
    return repo


@pytest.fixture
def shas(built: Template) -> list[str]:
    """The SHA-256 of main~1, main and side."""
    return list(built.shas.values())


def _in_place(repo: Repo, sha: str, name: str = M) -> None:
    """The real checkpoint is there, and Git has nothing to say about it."""
    assert not repo.read(name).startswith(b"gittheta manifest"), "the manifest was left in the work tree"
    assert repo.sha(name) == sha
    assert repo.status() == ""
    assert not (repo.git_dir / "theta-pending").exists()
    assert list(repo.path.glob(".*.gittheta")) == []
    assert not list((repo.store / "tmp").glob("*"))


@pytest.mark.slow
def test_the_limit_is_in_force(repo: Repo, shas: list[str]) -> None:
    message = repo.run("checkout", "-q", "side", env={"GITTHETA_TRACE": "1"}).stderr
    assert "above theta.smudgeLimit" in message
    _in_place(repo, shas[2])


def test_checkout_switch_restore_reset(repo: Repo, shas: list[str]) -> None:
    repo.git("checkout", "-q", "main~1")
    _in_place(repo, shas[0])
    repo.git("switch", "-q", "side")
    _in_place(repo, shas[2])
    repo.git("reset", "-q", "--hard", "main")
    _in_place(repo, shas[1])
    repo.write(M, b"scribble")
    repo.git("reset", "-q", "--hard")
    _in_place(repo, shas[1])


@pytest.mark.slow
def test_checkout_of_a_path(repo: Repo, shas: list[str]) -> None:
    (repo.path / M).unlink()
    repo.git("checkout", "--", M)
    _in_place(repo, shas[1])


def test_checkout_of_a_path_from_a_commit(repo: Repo, shas: list[str]) -> None:
    repo.git("checkout", "main~1", "--", M)
    assert (repo.sha(), repo.status()) == (shas[0], f"M  {M}\n")


@pytest.mark.slow
def test_restore(repo: Repo, shas: list[str]) -> None:
    repo.write(M, b"scribble")
    repo.git("restore", M)
    _in_place(repo, shas[1])


@pytest.mark.slow
def test_restore_from_a_commit(repo: Repo, shas: list[str]) -> None:
    repo.git("restore", "--source=main~1", "--staged", "--worktree", M)
    assert (repo.sha(), repo.status()) == (shas[0], f"M  {M}\n")
    repo.git("restore", "--source=main~1", "--worktree", M)
    assert (repo.sha(), repo.status()) == (shas[0], f"M  {M}\n")


def test_restore_of_the_work_tree_alone_from_a_commit(repo: Repo, shas: list[str]) -> None:
    repo.git("restore", "--source=main~1", M)
    assert (repo.sha(), repo.status()) == (shas[0], f" M {M}\n")


@pytest.mark.slow
def test_stash(repo: Repo, shas: list[str]) -> None:
    changed = repo.write(M, model(7))
    repo.git("stash", "-q")
    _in_place(repo, shas[1])
    repo.git("stash", "pop", "-q")
    assert (repo.sha(), repo.status()) == (changed, f" M {M}\n")
    repo.git("stash", "-q")
    repo.git("stash", "apply", "-q", "--index")
    assert (repo.sha(), repo.status()) == (changed, f" M {M}\n")


BASE = {"a": normal(1, 90), "b": normal(2, 90), "c": normal(3, 90)}
OURS = BASE | {"a": normal(4, 90)}
THEIRS = BASE | {"b": normal(5, 90)}
BOTH = checkpoint(OURS | {"b": THEIRS["b"]})


@pytest.fixture(scope="module")
def two_sides(tmp_path_factory: pytest.TempPathFactory, installed_home: Path) -> Template:
    """Disjoint changes on main and side."""
    versions = map(checkpoint, (BASE, OURS, THEIRS))
    return two_branches(tmp_path_factory.mktemp("sides"), installed_home, *versions)


@pytest.fixture
def diverged(world: World, two_sides: Template) -> Repo:
    """The same in this test's world."""
    repo = two_sides.copy_to(world)
    assert repo.status() == ""
    return repo


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    first_often(
        2,
        [
            ("merge", "-q", "--no-edit", "side"),
            ("rebase", "-q", "side"),
            ("cherry-pick", "side"),
            ("rebase", "-q", "--apply", "side"),
            ("pull", "-q", "--no-rebase", "--no-edit", ".", "side"),
            ("pull", "-q", "--rebase", ".", "side"),
        ],
    ),
    ids=" ".join,
)
def test_what_combines_two_versions(diverged: Repo, words: tuple[str, ...]) -> None:
    diverged.git(*words)
    assert not diverged.read().startswith(b"gittheta manifest"), "the manifest was left in the work tree"
    assert diverged.read() == BOTH
    assert diverged.status() == ""
    assert not (diverged.git_dir / "theta-pending").exists()


@pytest.mark.slow
@pytest.mark.parametrize("verb", first_often(1, ["rebase", "cherry-pick", "am", "revert"]))
def test_several_commits_at_once(diverged: Repo, verb: str) -> None:
    """Git keeps its index in memory from one step to the next."""
    diverged.git("checkout", "-q", "side")
    diverged.commit(checkpoint(THEIRS | {"c": normal(6, 90)}))
    diverged.git("format-patch", "-q", "-2", "-o", "../patches")
    diverged.git("checkout", "-q", "main" if verb != "rebase" else "side")
    both = checkpoint(OURS | {"b": THEIRS["b"], "c": normal(6, 90)})
    if verb == "am":
        done = diverged.attempt("sh", "-c", "git am -q --3way ../patches/*")
        assert done.returncode == 0, done.stderr
    else:
        diverged.git(*{"rebase": ("rebase", "-q", "main")}.get(verb, ("cherry-pick", "main..side")))
    assert (diverged.read(), diverged.status()) == (both, "")
    if verb == "revert":
        diverged.git("revert", "--no-edit", "HEAD~2..HEAD")
        assert (diverged.read(), diverged.status()) == (checkpoint(OURS), "")


@pytest.mark.slow
def test_squash_merge(diverged: Repo) -> None:
    diverged.git("merge", "-q", "--squash", "side")
    assert (diverged.read(), diverged.status()) == (BOTH, f"M  {M}\n")


@pytest.mark.slow
def test_fast_forward_merge_and_pull(repo: Repo, shas: list[str]) -> None:
    repo.git("checkout", "-q", "-b", "behind", "main~1")
    repo.git("merge", "-q", "--ff-only", "main")
    _in_place(repo, shas[1])
    repo.git("reset", "-q", "--hard", "main~1")
    repo.git("pull", "-q", "--ff-only", ".", "main")
    _in_place(repo, shas[1])


@pytest.mark.slow
def test_fast_forward_rebase(repo: Repo, shas: list[str]) -> None:
    repo.git("checkout", "-q", "-b", "behind", "main~1")
    repo.git("rebase", "-q", "main")
    _in_place(repo, shas[1])


def test_revert(repo: Repo, shas: list[str]) -> None:
    repo.git("revert", "--no-edit", "HEAD")
    _in_place(repo, shas[0])


@pytest.mark.slow
def test_interactive_rebase_and_amend(repo: Repo, shas: list[str]) -> None:
    repo.git("rebase", "-q", "-i", "--root", env={"GIT_SEQUENCE_EDITOR": "sed -i 3s/pick/fixup/"})
    _in_place(repo, shas[1])
    repo.write("readme", b"x")
    repo.git("add", ".")
    repo.git("commit", "-q", "--amend", "--no-edit")
    _in_place(repo, shas[1])


@pytest.mark.slow
def test_conflict_and_abort(repo: Repo, shas: list[str]) -> None:
    """The step of the model is an integer, which both sides changed."""
    repo.fails("merge", "--no-edit", "side", status=1)
    repo.git("merge", "--abort")
    _in_place(repo, shas[1])
    repo.fails("merge", "--no-edit", "side", status=1)
    assert repo.sha() == shas[1]
    repo.git("checkout", "--theirs", "--", M)
    assert repo.sha() == shas[2]
    repo.git("add", M)
    repo.git("commit", "-q", "--no-edit")
    _in_place(repo, shas[2])


@pytest.mark.slow
def test_linked_worktree(repo: Repo, shas: list[str], world: World) -> None:
    repo.git("worktree", "add", "-q", "../linked", "side")
    linked = Repo(world.root / "linked", world.env)
    _in_place(linked, shas[2])
    linked.git("checkout", "-q", "--detach", "main")
    _in_place(linked, shas[1])
    linked.git("checkout", "--", M)
    (linked.path / M).unlink()
    linked.git("checkout", "--", M)
    _in_place(linked, shas[1])
    _in_place(repo, shas[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [(), ("--shared",), ("--depth=1", "--no-local")], ids=lambda options: " ".join(options)
)
def test_clone(repo: Repo, shas: list[str], world: World, options: tuple[str, ...]) -> None:
    clone = world.clone(repo.path, "clone", *options)
    _in_place(clone, shas[1])


@pytest.mark.slow
def test_pull_from_elsewhere(repo: Repo, shas: list[str], world: World) -> None:
    clone = world.clone(repo.path)
    sha = repo.commit(model(8))
    clone.git("pull", "-q", "--ff-only")
    _in_place(clone, sha)


@pytest.mark.slow
def test_submodule(repo: Repo, shas: list[str], world: World) -> None:
    allow = ("-c", "protocol.file.allow=always")
    above = world.repo("above", attributes="")
    above.git(*allow, "submodule", "--quiet", "add", str(repo.path), "models")
    inner = Repo(above.path / "models", world.env)
    _in_place(inner, shas[1])
    above.git("commit", "-q", "-m", "with models")
    inner.git("checkout", "-q", "origin/side")
    _in_place(inner, shas[2])
    above.git(*allow, "submodule", "--quiet", "update")
    _in_place(inner, shas[1])
    world.place().git(*allow, "clone", "-q", "--recurse-submodules", str(above.path), "whole")
    _in_place(Repo(world.root / "whole/models", world.env), shas[1])


@pytest.mark.slow
def test_sparse_checkout(repo: Repo, shas: list[str]) -> None:
    sha = repo.commit(model(8), "far/m.safetensors")
    repo.git("sparse-checkout", "set", "near")
    assert not (repo.path / "far").exists()
    repo.git("sparse-checkout", "set", "far")
    _in_place(repo, sha, "far/m.safetensors")
    repo.git("sparse-checkout", "disable")
    _in_place(repo, shas[1])


@pytest.mark.slow
def test_bisect_and_am(repo: Repo, shas: list[str]) -> None:
    repo.git("format-patch", "-q", "-1", "-o", "../patches")
    repo.git("reset", "-q", "--hard", "main~1")
    done = repo.attempt("sh", "-c", "git am -q ../patches/*")
    assert done.returncode == 0, done.stderr
    assert (repo.sha(), repo.status()) == (shas[1], "")
    assert repo.git("theta", "pull") == ""  # nothing is left to do but to forget that there was
    _in_place(repo, shas[1])
    repo.commit(model(8))
    repo.git("bisect", "start", "main", "main~2")
    _in_place(repo, shas[1])
    repo.git("bisect", "reset")


def test_theta_pull_puts_left_files_in_place(repo: Repo, shas: list[str]) -> None:
    """As after a hook that was killed: one command mends it, untracked and ignored files too."""
    manifest = repo.manifest().encode()
    repo.write(".git/info/exclude", b"ignored.safetensors")
    names = [M, "copy.safetensors", "ignored.safetensors"]
    for name in names:
        repo.write(name, manifest)
    assert sorted(repo.git("theta", "pull").splitlines()) == sorted(names)
    assert {repo.sha(name) for name in names} == {shas[1]}
    (repo.path / "copy.safetensors").unlink()
    _in_place(repo, shas[1])


@pytest.mark.slow
def test_many_files_in_folders(repo: Repo) -> None:
    names = ["a b.safetensors", "sub/x.safetensors", "sub/er/y.safetensors", 'q".safetensors', "ü/l\ne.safetensors"]
    first = [repo.write(name, model(seed)) for seed, name in enumerate(names)]
    repo.git("add", ".")
    repo.git("commit", "-q", "-m", "first")
    for seed, name in enumerate(names):
        repo.write(name, model(seed + 20))
    repo.git("commit", "-q", "-a", "-m", "second")
    repo.git("checkout", "-q", "HEAD^")
    for name, sha in zip(names, first, strict=True):
        _in_place(repo, sha, name)


@pytest.mark.slow
def test_modes_are_kept(repo: Repo, shas: list[str]) -> None:
    (repo.path / M).chmod(0o755)
    repo.git("commit", "-q", "-a", "-m", "executable")
    repo.git("checkout", "-q", "main~1")
    assert (repo.path / M).stat().st_mode & 0o111 == 0
    repo.git("checkout", "-q", "main")
    assert (repo.path / M).stat().st_mode & 0o111 == 0o111
    _in_place(repo, shas[1])


@pytest.mark.slow
def test_a_missing_object_leaves_the_manifest_and_says_so(repo: Repo, shas: list[str]) -> None:
    mine, others = (set(re.findall("[0-9a-f]{64}(?=:)", repo.manifest(M, name))) for name in ("main", "side"))
    lost = next(file for file in repo.objects() if file.name in others - mine)
    away = lost.rename(repo.store / "away")
    done = repo.attempt("git", "checkout", "-q", "side")
    assert "is not in the store" in done.stderr
    assert M in done.stderr
    assert "Traceback" not in done.stderr
    assert repo.read().startswith(b"gittheta manifest")
    away.rename(lost)
    repo.git("theta", "pull")
    _in_place(repo, shas[2])
