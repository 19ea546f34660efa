"""Content never decides whether a repository works: texts like a manifest, and manifests that are only text."""

from __future__ import annotations

import pytest

from tests.support.checkpoints import model
from tests.support.world import ATTRIBUTES, Place, Repo, World, objects_in

M = "m.safetensors"
NOTES = "gittheta manifest files: how we use them in this project\n"


@pytest.fixture
def hub(world: World, repo: Repo) -> Place:
    """`origin` of a repository with one model; nothing was pushed yet."""
    repo.git("remote", "add", "origin", str(world.bare()))
    repo.commit(model(1))
    return Place(world.root / "hub.git", world.env)


def _put(repo: Repo, **texts: str) -> None:
    """Commit some files, and take them away again."""
    for name, text in texts.items():
        repo.write(name, text.encode())
    repo.git("add", ".")
    repo.git("commit", "-q", "-m", "texts")
    repo.git("rm", "-q", *texts)
    repo.git("commit", "-q", "-m", "without them")


def test_texts_that_begin_like_a_manifest_are_one_warning(world: World, hub: Place, repo: Repo) -> None:
    first = repo.manifest().partition("\n")[0]
    _put(repo, notes=NOTES, quoted=f"{first}\nquoted\n", later=first.replace("manifest 1", "manifest 999") + "\n")
    done = repo.run("push", "origin", "main")
    assert done.stderr.count("gittheta: warning: ") == 1
    assert all(name in done.stderr for name in ("notes", "quoted", "later"))
    for words in (("push", "--all"), ("fsck",), ("fetch", "--all"), ("du",)):
        assert "notes" in repo.run("theta", *words).stderr
    clone = world.clone(hub.path)
    clone.git("theta", "fetch", "--all")
    clone.git("push", "-q", "origin", "HEAD:refs/heads/again")
    clone.healthy()


def test_a_manifest_counts_at_every_path(world: World, hub: Place, repo: Repo) -> None:
    """It was renamed and its attributes went: its objects are sent and kept all the same."""
    text = repo.manifest()
    (repo.path / M).unlink()
    repo.write(".gitattributes", b"")
    repo.write("renamed", text.encode())
    repo.git("add", "-A")
    repo.git("commit", "-q", "-m", "renamed")
    tree = repo.git("commit-tree", "HEAD^{tree}", "-m", "alone").strip()
    repo.git("push", "-q", "origin", f"{tree}:refs/heads/alone")
    assert [path.name for path in objects_in(hub.path / "theta")] == [path.name for path in repo.objects()]


@pytest.mark.slow
def test_a_manifest_without_objects_stops_a_push_only_under_the_filter(world: World, hub: Place, repo: Repo) -> None:
    text = repo.manifest().replace("\ndense ", "\ndense 00", 1)
    start = text.index("\ndense 00") + len("\ndense ")
    text = text[: start + 64] + text[start + 66 :]
    repo.write("example.txt", text.encode())
    repo.git("add", ".")
    repo.git("commit", "-q", "-m", "an example")
    assert "example.txt" in repo.run("push", "origin", "main").stderr
    for words in (("push", "--all"), ("fsck",), ("fetch", "--all")):
        assert "example.txt" in repo.run("theta", *words).stderr
    refs = hub.git("for-each-ref")
    repo.write(".gitattributes", ATTRIBUTES.encode() + b"example.txt filter=theta\n")
    repo.git("add", ".gitattributes")
    repo.git("commit", "-q", "-m", "now it stands for a model")
    assert "example.txt" in repo.fails("push", "origin", "main")
    assert hub.git("for-each-ref") == refs
    for words in (("push", "--all"), ("fsck",), ("fetch", "--all")):
        assert "example.txt" in repo.fails("theta", *words, status=21)


def test_the_attributes_of_the_commit_itself_count(hub: Place, repo: Repo) -> None:
    """That later commits gave the filter away does not help the one that has the model."""
    repo.objects()[0].unlink()
    (repo.path / M).unlink()
    repo.write(".gitattributes", b"")
    repo.git("commit", "-q", "-a", "-m", "no models any more")
    assert M in repo.fails("push", "origin", "main")
    assert hub.git("for-each-ref") == ""
    bare = Place(repo.store.parent, repo.env)
    bare.git("config", "core.bare", "true")
    assert M in bare.fails("theta", "fsck", status=21)
