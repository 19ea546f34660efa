"""track and untrack: lines of .gitattributes."""

from __future__ import annotations

import pytest

from gittheta.wording import shown
from tests.support.checkpoints import model
from tests.support.world import Repo, World

LINE = "filter=theta merge=theta diff=theta -text"


@pytest.fixture
def fresh(world: World) -> Repo:
    """A repository that tracks nothing."""
    return world.repo(attributes="")


def test_track_writes_attributes_once(fresh: Repo) -> None:
    fresh.write(".gitattributes", b"*.png binary\n")
    assert "*.safetensors" in fresh.git("theta", "track", "*.safetensors", "*.bin")
    assert "already" in fresh.git("theta", "track", "*.bin")
    assert (fresh.path / ".gitattributes").read_text() == f"*.png binary\n*.safetensors {LINE}\n*.bin {LINE}\n"
    assert fresh.git("theta", "track").splitlines() == ["*.safetensors", "*.bin"]
    fresh.git("theta", "untrack", "*.safetensors", "*.bin")
    assert (fresh.path / ".gitattributes").read_text() == "*.png binary\n"
    assert "was not tracked" in fresh.git("theta", "untrack", "*.bin")


def test_untracking_everything_leaves_an_empty_file(fresh: Repo) -> None:
    """A tracked file that is gone would stop `git add --renormalize`."""
    fresh.git("theta", "track", "*.bin")
    fresh.git("theta", "untrack", "*.bin")
    assert (fresh.path / ".gitattributes").read_bytes() == b""


def test_a_last_line_without_an_end_is_kept(fresh: Repo) -> None:
    fresh.write(".gitattributes", b"*.png binary")
    fresh.git("theta", "track", "*.bin")
    assert (fresh.path / ".gitattributes").read_text() == f"*.png binary\n*.bin {LINE}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "file"),
    [
        ("my model.safetensors", "my model.safetensors"),
        ("sub dir/*.safetensors", "sub dir/m.safetensors"),
        ('a"b.safetensors', 'a"b.safetensors'),
        ("größe.safetensors", "größe.safetensors"),
        ("#hash.safetensors", "#hash.safetensors"),
        ("models/**", "models/deep/er/m.safetensors"),
        ("tab\there.safetensors", "tab\there.safetensors"),
        ("back\\\\slash.safetensors", "back\\slash.safetensors"),
    ],
)
def test_odd_patterns_match(fresh: Repo, pattern: str, file: str) -> None:
    done = fresh.attempt("git", "theta", "track", pattern)
    assert done.returncode == 0, done.stderr
    assert fresh.git("theta", "track").splitlines() == [shown(pattern)]
    asked = fresh.git("check-attr", "-z", "filter", "--", file)
    assert asked.split("\0")[2] == "theta", (fresh.path / ".gitattributes").read_text()
    fresh.git("theta", "untrack", pattern)
    assert (fresh.path / ".gitattributes").read_bytes() == b""


def test_a_negative_pattern_is_refused(fresh: Repo) -> None:
    """Git knows none in attributes, and would ignore the line."""
    message = fresh.fails("theta", "track", "!bang.safetensors")
    assert "!bang.safetensors" in message
    assert not (fresh.path / ".gitattributes").exists()


def test_track_in_a_subdirectory(fresh: Repo) -> None:
    (fresh.path / "sub").mkdir()
    below = Repo(fresh.path / "sub", fresh.env)
    below.git("theta", "track", "*.safetensors")
    assert (fresh.path / "sub/.gitattributes").exists()
    fresh.commit(model(1), "sub/m.safetensors")
    assert fresh.manifest("sub/m.safetensors").startswith("gittheta manifest ")


def test_track_warns_of_files_that_are_committed_whole(fresh: Repo) -> None:
    names = ["a b.safetensors", "sub/m.safetensors"]
    for name in names:
        fresh.commit(model(1), name)
    assert fresh.manifest(names[0])[8:9] == "{"
    message = fresh.run("theta", "track", "*.safetensors").stderr
    assert all(name in message for name in names)
    assert "git add --renormalize" in message
    fresh.git("add", "--renormalize", ".")
    fresh.git("add", ".gitattributes")
    fresh.git("commit", "-q", "-m", "renormalised")
    assert fresh.manifest(names[0]).startswith("gittheta manifest ")
    fresh.healthy()
    assert "renormalize" not in fresh.run("theta", "track", "*.bin").stderr
    assert fresh.sha("sub/m.safetensors") == fresh.sha(names[0])


def test_track_warns_without_the_filter(bare_world: World) -> None:
    repo = bare_world.repo(attributes="")
    assert "git theta install" in repo.run("theta", "track", "*.safetensors").stderr


def test_untracked_files_become_plain_again(repo: Repo) -> None:
    whole = model(1)
    repo.commit(whole)
    repo.git("theta", "untrack", "*.safetensors")
    repo.git("add", ".gitattributes")
    repo.git("add", "--renormalize", ".")
    repo.git("commit", "-q", "-m", "plain")
    assert repo.git("cat-file", "-s", "HEAD:m.safetensors").strip() == str(len(whole))
    assert repo.status() == ""
