"""The verbs of `git theta` that only look, and what the filter costs."""

from __future__ import annotations

import json
import os
import re
import sys

import pytest

from tests.support.checkpoints import checkpoint, model, normal
from tests.support.world import Place, Repo, World

M = "m.safetensors"


def test_version_and_help(bare_world: World) -> None:
    assert re.fullmatch(r"gittheta \d+\.\d+.*\n", bare_world.place().git("theta", "--version"))
    shown = bare_world.place().git("theta", "-h")
    for verb in (
        "install",
        "uninstall",
        "track",
        "untrack",
        "ls-files",
        "show",
        "fsck",
        "plugins",
        "push",
        "fetch",
        "pull",
    ):
        assert f"\n  {verb} " in shown


def test_a_wrong_command_line_exits_2(bare_world: World) -> None:
    assert bare_world.place().attempt("git-theta", "frobnicate").returncode == 2
    assert bare_world.place().attempt("git-theta", "show").returncode == 2


@pytest.mark.parametrize("words", [("ls-files",), ("fsck",), ("show", "x"), ("pull",), ("fetch",), ("push",)])
def test_outside_of_a_repository(bare_world: World, words: tuple[str, ...]) -> None:
    message = bare_world.place().fails("theta", *words, status=50)
    assert "no git repository here" in message


def test_plugins(bare_world: World) -> None:
    lines = [line.split()[:3] for line in bare_world.place().git("theta", "plugins").splitlines()]
    for kind, name in (
        ("formats", "safetensors"),
        ("encodings", "dense"),
        ("merges", "linear"),
        ("remotes", "directory"),
    ):
        assert [kind, name, "gittheta"] in lines


@pytest.mark.slow
def test_ls_files(repo: Repo, world: World) -> None:
    first = repo.commit(checkpoint({"a": normal(1, 10)}), "sub/ü m.safetensors")
    repo.commit(b"\0junk", "junk.safetensors")
    repo.commit(b"text", "readme")
    rows = json.loads(repo.git("theta", "ls-files", "--json"))
    assert [(row["path"], row["format"], row["tensors"], row["state"]) for row in rows] == [
        ("junk.safetensors", "opaque", 1, "complete"),
        ("sub/ü m.safetensors", "safetensors", 1, "complete"),
    ]
    assert rows[1]["bytes"] == len(repo.read("sub/ü m.safetensors"))
    assert "sub/ü m.safetensors" in repo.git("theta", "ls-files")
    assert [row["path"] for row in json.loads(repo.git("theta", "ls-files", "--json", "HEAD~2"))] == [
        "sub/ü m.safetensors"
    ]
    clone = world.clone(repo.path, "clone", "--no-checkout")
    clone.git("read-tree", "HEAD")
    states = {row["path"]: row["state"] for row in json.loads(clone.git("theta", "ls-files", "--json"))}
    assert set(states.values()) == {"not fetched"}
    below = Repo(repo.path / "sub", repo.env)
    assert "ü m.safetensors" in below.git("theta", "ls-files")
    assert first == repo.sha("sub/ü m.safetensors")


@pytest.mark.slow
def test_show(repo: Repo) -> None:
    repo.commit(checkpoint({"layer.weight": normal(1, 40, 10), "scalar": normal(2)}), "sub/m.safetensors")
    repo.commit(checkpoint({"layer.weight": normal(3, 40, 10)}), "sub/m.safetensors")
    below = Repo(repo.path / "sub", repo.env)
    for place, name in ((repo, "sub/m.safetensors"), (below, M), (below, f"HEAD:{M}"), (below, "../sub/m.safetensors")):
        shown = place.git("theta", "show", name)
        assert re.search(r"^layer\.weight +f32 +40x10 +b3:[0-9a-f]+ +dense +.* of +1\.6 KiB$", shown, re.M), shown
        assert shown.splitlines()[-1].startswith("1 tensor, ")
    old = json.loads(repo.git("theta", "show", "--json", "HEAD^:sub/m.safetensors"))
    assert [(tensor["name"], tensor["dtype"], tensor["shape"]) for tensor in old["tensors"]] == [
        ("layer.weight", "f32", [40, 10]),
        ("scalar", "f32", []),
    ]
    manifest = repo.manifest("sub/m.safetensors", "HEAD^")
    assert all(tensor["digest"] in manifest for tensor in old["tensors"])
    assert old["tensors"][0]["bytes"] == 1600
    assert 0 < old["tensors"][0]["stored_bytes"] < 1700


def test_show_of_what_is_not_a_checkpoint(repo: Repo) -> None:
    repo.commit(b"text", "readme")
    for name in ("readme", "HEAD:readme", "nothing"):
        assert "git theta ls-files" in repo.fails("theta", "show", name)
    assert "not a revision: 'nobody'" in repo.fails("theta", "show", "nobody:m.safetensors")


@pytest.mark.slow
def test_fsck_counts(repo: Repo) -> None:
    assert repo.git("theta", "fsck") == "0 manifests, 0 objects, 0 problems\n"
    repo.commit(model(1))
    repo.commit(model(2))
    repo.write(M, model(3))
    repo.git("add", ".")
    assert repo.git("theta", "fsck", "--deep") == "3 manifests, 3 objects, 0 problems\n"


@pytest.mark.slow
def test_fsck_sees_the_index_stashes_and_tags(repo: Repo) -> None:
    repo.commit(model(1))
    repo.write(M, model(2))
    repo.git("stash", "-q")
    repo.objects()
    for file in repo.objects():
        file.rename(file.with_suffix(".away"))
    message = repo.fails("theta", "fsck", status=21)
    assert message.count("is not in the store") == 2


def test_trace(repo: Repo) -> None:
    repo.write(M, model(1))
    message = repo.run("add", ".", env={"GITTHETA_TRACE": "1"}).stderr
    assert f"clean {M}" in message
    assert re.search(r"\d+\.\d+ m?s", message)
    repo.git("commit", "-q", "-m", "x")
    (repo.path / M).unlink()
    assert f"smudge {M}" in repo.run("checkout", "--", M, env={"GITTHETA_TRACE": "1"}).stderr
    os.utime(repo.path / M, (1, 1))
    assert repo.run("status", env={"GITTHETA_TRACE": "0"}).stderr == ""


def test_quiet_when_stderr_is_not_a_terminal(repo: Repo) -> None:
    repo.write(M, checkpoint({"a": normal(1, 1000, 1000)}))
    done = repo.run("add", ".")
    assert (done.stdout, done.stderr) == ("", "")
    repo.git("commit", "-q", "-m", "x")
    (repo.path / M).unlink()
    assert repo.run("checkout", "-q", "--", M).stderr == ""


def test_settings_without_meaning(repo: Repo) -> None:
    repo.git("config", "theta.smudgeLimit", "lots")
    repo.write(M, model(1))
    message = repo.fails("add", ".")
    assert "theta.smudgeLimit" in message
    repo.git("config", "theta.smudgeLimit", "1g")
    repo.git("config", "theta.threads", "1")
    repo.commit(model(1))
    repo.healthy()


SITE = """
import atexit, os, sys
def tell():
    if "gittheta.cli.plumbing.filter_process" in sys.modules:
        with open(os.environ["IMPORT_LOG"], "a") as log:
            print(*sorted({name.partition(".")[0] for name in sys.modules}), file=log)
atexit.register(tell)
"""


@pytest.fixture
def watched(world: World, repo: Repo) -> Repo:
    """A repository whose filter processes write down which modules they have imported."""
    (world.root / "site").mkdir()
    (world.root / "site/sitecustomize.py").write_text(SITE)
    world.heed_python_path(str(world.root / "site"))
    repo.env |= {"IMPORT_LOG": str(world.root / "imports")}
    return repo


def _imports(repo: Repo) -> list[set[str]]:
    """What each filter process since the last call has imported."""
    log = repo.path.parent / "imports"
    result = [set(line.split()) for line in log.read_text().splitlines()] if log.exists() else []
    log.unlink(missing_ok=True)
    return result


def test_the_filter_never_imports_torch(watched: Repo) -> None:
    watched.commit(model(1))
    added = _imports(watched)
    assert added
    os.utime(watched.path / M, (1, 1))
    watched.status()
    touched = _imports(watched)
    assert len(touched) == 1
    (watched.path / M).unlink()
    watched.git("checkout", "--", M)
    written = _imports(watched)
    assert written
    heavy = {"torch", "click", "rich", "asyncio"}
    for modules in (*added, *touched, *written):
        assert not modules & heavy
    assert "numpy" not in touched[0]


def test_the_filter_is_not_started_without_checkpoints(watched: Repo) -> None:
    watched.commit(b"text", "readme")
    os.utime(watched.path / "readme", (1, 1))
    watched.status()
    watched.git("checkout", "-q", "-b", "other")
    assert _imports(watched) == []


def test_status_of_unchanged_checkpoints_starts_no_filter(watched: Repo) -> None:
    watched.commit(model(1))
    os.utime(watched.path / M, (1, 1))
    watched.status()
    _imports(watched)
    watched.status()
    assert _imports(watched) == []


def test_programs_are_installed() -> None:
    folder = os.path.dirname(sys.executable)
    for name in ("git-theta", "git-merge-theta"):
        assert os.access(os.path.join(folder, name), os.X_OK)


def test_python_dash_m(repo: Repo) -> None:
    done = Place(repo.path, repo.env).attempt(sys.executable, "-m", "gittheta", "--version")
    assert (done.returncode, done.stdout[:9]) == (0, "gittheta ")
