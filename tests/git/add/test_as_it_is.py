"""What the filter leaves as it is: short texts that no format claims, and pointers of Git LFS."""

from __future__ import annotations

import io
from pathlib import Path
from unittest import mock

import pytest

from gittheta.flows.add.clean import clean
from tests.support.checkpoints import model
from tests.support.repository import Repo as Flows
from tests.support.world import Repo

M = "m.safetensors"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"7" * 64 + b"\nsize 4294967296\n"
ALL = b"* filter=theta merge=theta diff=theta -text\n"
TOKENIZER = '{"vocab": {"é": 1}}\r\n'.encode()

TEXTS = {
    "json": TOKENIZER,
    "one letter": b"x",
    "just below the bound": b"x" * ((1 << 20) - 1),
}
NO_TEXTS = {
    "at the bound": b"x" * (1 << 20),
    "not UTF-8": b"\xff\xfe" + b"text",
    "a zero byte": b"text\0",
    "a control character late": b"x" * 9000 + b"\x1b[0m",
    "like a manifest": b"gittheta manifest of the last will\n",
    "metadata of the original Git-Theta": b'{"w": {"tensor_metadata": {}, "theta_metadata": {}}}',
}


@pytest.fixture
def flows(repo: Repo) -> Flows:
    """The same repository, without the command line."""
    return Flows(Path(repo.path))


@pytest.mark.parametrize("name", TEXTS)
def test_short_texts_stay_as_they_are(flows: Flows, name: str) -> None:
    assert flows.clean(TEXTS[name], "config.json") == TEXTS[name]
    assert flows.warnings == []
    assert flows.objects() == {}


@pytest.mark.parametrize("name", NO_TEXTS)
def test_everything_else_is_stored(flows: Flows, name: str) -> None:
    text = flows.clean(NO_TEXTS[name], "config.json")
    assert text.startswith(b"gittheta manifest 1: this")
    assert flows.smudge(text, "config.json") == NO_TEXTS[name]


def test_a_text_round_trips_through_git(repo: Repo) -> None:
    repo.write(".gitattributes", ALL)
    repo.git("config", "core.autocrlf", "true")
    sha = repo.commit(TOKENIZER, "tokenizer.json")
    assert repo.manifest("tokenizer.json").encode() == TOKENIZER
    (repo.path / "tokenizer.json").unlink()
    assert repo.run("checkout", "--", "tokenizer.json").stderr == ""
    assert repo.sha("tokenizer.json") == sha


@pytest.mark.slow
def test_a_text_that_was_stored_before_keeps_its_manifest(repo: Repo, flows: Flows) -> None:
    """A newer gittheta does not make a clean tree dirty; the next change makes a text of it."""
    repo.commit(ALL, ".gitattributes")
    stored = _manifest_of(flows, TOKENIZER)
    flows.stage(stored, "t.json")
    repo.git("commit", "-q", "-m", "by an older gittheta")
    repo.write("t.json", TOKENIZER)
    assert flows.clean(TOKENIZER, "t.json") == stored
    repo.git("add", "t.json")
    assert repo.git("diff", "--cached", "--name-only") == ""
    assert flows.clean(TOKENIZER + b"\n", "t.json") == TOKENIZER + b"\n"
    repo.commit(TOKENIZER + b"\n", "t.json")
    repo.git("checkout", "-q", "HEAD^")
    assert repo.read("t.json") == TOKENIZER
    repo.healthy()


def _manifest_of(flows: Flows, content: bytes) -> bytes:
    """The manifest that an older gittheta would have written for a short text."""
    with mock.patch("gittheta.flows.add.clean.left_as_it_is", return_value=None), flows.open() as workspace:
        return clean(workspace, "t.json", io.BytesIO(content))


@pytest.mark.slow
def test_texts_merge_as_texts(repo: Repo, flows: Flows) -> None:
    repo.commit(ALL, ".gitattributes")
    lines = [f"line {number}\n".encode() for number in range(12)]
    flows.stage(_manifest_of(flows, b"".join(lines)), "t.json")  # the base is of an older gittheta
    repo.git("commit", "-q", "-m", "base")
    repo.git("theta", "pull")
    repo.branch("side", b"".join([b"theirs\n", *lines[1:]]), file="t.json")
    repo.git("checkout", "-q", "main")
    repo.commit(b"".join([*lines[:-1], b"ours\n"]), "t.json")
    repo.git("merge", "-q", "--no-edit", "side")
    assert repo.read("t.json") == b"".join([b"theirs\n", *lines[1:-1], b"ours\n"])
    repo.branch("other", b"other\n", file="t.json")
    repo.git("checkout", "-q", "main")
    repo.commit(b"main\n", "t.json")
    repo.fails("merge", "--no-edit", "other", status=1)
    assert b"<<<<<<< ours\nmain\n=======\nother\n>>>>>>> theirs\n" in repo.read("t.json")


@pytest.mark.slow
def test_a_pointer_is_kept_and_the_commit_refused(repo: Repo) -> None:
    repo.write(M, POINTER)
    message = repo.run("add", ".").stderr
    assert message.count(M) == 1
    assert "git lfs pull" in message
    assert repo.run("status").stderr == ""
    assert repo.manifest().encode() == POINTER
    message = repo.fails("commit", "-q", "-m", "pointer", status=1)
    assert M in message
    assert "theta.allowLfsPointers" in message
    repo.write(M, model(1))
    repo.git("commit", "-q", "-a", "-m", "the model itself")
    assert not (repo.git_dir / "theta-pointers").exists()
    repo.healthy()


def test_pointers_are_committed_where_that_is_wanted(repo: Repo) -> None:
    repo.git("config", "theta.allowLfsPointers", "yes")
    repo.write(M, POINTER)
    assert repo.run("add", ".").stderr == ""
    repo.git("commit", "-q", "-m", "pointer")
    repo.git("config", "theta.allowLfsPointers", "false")
    repo.commit(b"text", "other.safetensors")  # what stands in HEAD already is not added
    repo.git("config", "theta.allowLfsPointers", "perhaps")
    repo.write("new.safetensors", POINTER)
    assert "neither true nor false" in repo.fails("add", ".")


@pytest.mark.slow
def test_a_commit_of_everything_is_looked_at(repo: Repo) -> None:
    """`git commit -a` has an index of its own."""
    repo.commit(model(1))
    repo.write(M, POINTER)
    assert "git lfs pull" in repo.fails("commit", "-q", "-a", "-m", "pointer", status=1)
    repo.git("checkout", "--", M)
    repo.commit(model(2))
