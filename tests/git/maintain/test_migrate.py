"""migrate: history that holds raw checkpoints gets manifests, and goes back to the very commits that it was."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint, noise, sha256
from tests.support.processes import kill
from tests.support.world import Repo, World

M = "m.safetensors"


def model(seed: int, changed: int = 0) -> bytes:
    """A model of 256 KiB, of which some elements differ from the others of its seed."""
    weights = np.frombuffer(noise(seed, 1 << 18), np.uint16).copy()
    weights[: changed * 7 : 7] ^= 1
    return checkpoint({"w": ("BF16", (weights.size,), weights.tobytes()), "b": ("F32", (4,), noise(seed, 16))})


@pytest.fixture
def raw(world: World) -> Repo:
    """A repository whose models are plain files: two branches, a merge, a rename, a mode, an odd path, two tags."""
    repo = world.repo(attributes="")
    repo.write("README", b"read me\n")
    repo.write('notes/ü "q".txt', b"text\n")
    repo.git("add", ".")
    repo.commit(model(1), message="one")
    repo.commit(model(1, 50), message="two")
    repo.git("tag", "-a", "v1", "-m", "the first")
    repo.git("tag", "-a", "v1-too", "v1", "-m", "a tag of a tag")
    repo.git("tag", "light", "HEAD~1")
    repo.git("checkout", "-q", "-b", "side", "HEAD~1")
    repo.commit(model(1, 90), message="on side")
    repo.commit(model(2), "deep/other.safetensors", message="another model")
    repo.git("checkout", "-q", "main")
    repo.write("README", b"read this\n")
    repo.git("add", ".")
    repo.git("commit", "-q", "-m", "text\n\nwith a body\n")
    repo.git("merge", "-q", "-s", "ours", "--no-edit", "side")
    repo.git("mv", M, "renamed.safetensors")
    repo.git("update-index", "--chmod=+x", "renamed.safetensors")
    repo.git("commit", "-q", "-m", "renamed")
    repo.git("checkout", "-q", "-f", "main")
    return repo


def history(repo: Repo, *names: str) -> list[str]:
    return repo.git("log", "--format=%s|%an|%ae|%at|%ct|%b", "--topo-order", *names).splitlines()


def contents(repo: Repo, rev: str) -> dict[str, str]:
    """The SHA-256 of every file of a commit as it is checked out."""
    names = repo.git("-c", "core.quotePath=false", "ls-tree", "-r", "--name-only", "-z", rev).split("\0")[:-1]
    repo.git("checkout", "-q", "--detach", rev)
    found = {name: repo.sha(name) for name in names if name != ".gitattributes"}
    repo.git("checkout", "-q", "-")
    return found


def refs(repo: Repo) -> dict[str, str]:
    lines = repo.git("for-each-ref", "--format=%(refname) %(objectname)", "refs/heads", "refs/tags").splitlines()
    return dict(line.split(" ") for line in lines)


def test_there_and_back(raw: Repo) -> None:
    before, log = refs(raw), history(raw, "main", "side")
    files = {name: contents(raw, name) for name in ("main", "side", "v1", "light", "main~2")}

    shown = raw.git("theta", "migrate", "import")
    assert refs(raw) == before, "nothing moves without --yes"
    assert raw.status() == ""
    assert "nothing has moved yet" in shown
    assert raw.git("cat-file", "blob", "refs/theta/migrate/heads/main:renamed.safetensors").startswith(
        "gittheta manifest"
    )

    raw.git("theta", "migrate", "import", "--yes")
    assert raw.status() == ""
    assert history(raw, "main", "side") == log
    assert {name: contents(raw, name) for name in files} == files
    assert raw.manifest("renamed.safetensors", "main").startswith("gittheta manifest")
    assert raw.git("ls-tree", "main", "renamed.safetensors").startswith("100755")
    assert raw.git("for-each-ref", "refs/theta") == ""
    kept = raw.git("for-each-ref", "--format=%(refname) %(objectname)", "refs/original/theta").splitlines()
    assert dict(line.replace("original/theta/", "").split(" ") for line in kept) == before
    raw.healthy()

    delete = raw.git("for-each-ref", "--format=delete %(refname)", "refs/original/theta")
    raw.git("update-ref", "--stdin", stdin=delete)
    raw.git("theta", "migrate", "export", "--yes")
    assert refs(raw) == before, "the way back leads to the very commits"
    assert raw.status() == ""
    assert not (raw.path / ".gitattributes").exists()


def test_versions_are_told_from_each_other(raw: Repo) -> None:
    said = raw.git("theta", "migrate", "import", "--yes")
    first, side, second = (raw.manifest(M, name) for name in ("light", "side", "v1"))
    assert re.search(r"^dense", first, re.MULTILINE)
    for later in (second, side):
        assert re.search(r"^(sparse|delta)", later, re.MULTILINE)
    assert "lost" not in said
    assert "4 versions of 3 files" in said


def test_the_map_names_every_commit(raw: Repo) -> None:
    old = raw.git("rev-list", "--branches", "--tags").split()
    raw.git("theta", "migrate", "import", "--yes")
    lines = (raw.store / "migrate/commit-map").read_text().splitlines()[1:]
    pairs = dict(line.split(" ") for line in lines)
    assert sorted(pairs) == sorted(old)
    assert set(raw.git("rev-list", "--branches", "--tags").split()) == set(pairs.values())


def test_what_is_not_ready_is_refused(raw: Repo) -> None:
    raw.write("README", b"changed\n")
    assert "there are changes" in raw.fails("theta", "migrate", "import")
    raw.git("checkout", "README")
    raw.git("checkout", "-q", "--detach")
    assert "no branch is checked out" in raw.fails("theta", "migrate", "import")
    raw.git("checkout", "-q", "main")
    raw.git("theta", "migrate", "import", "--yes")
    assert "an earlier migration" in raw.fails("theta", "migrate", "export")


def test_files_of_attributes_in_folders(raw: Repo) -> None:
    """Files that a folder's attributes keep from the filter stay as they are, from the commit on that says so."""
    raw.commit(model(5), "kept/a.safetensors")
    raw.commit(b"*.safetensors -filter\n", "kept/.gitattributes")
    raw.git("rm", "-q", "kept/.gitattributes")
    raw.git("commit", "-q", "-m", "no more")
    raw.git("theta", "migrate", "import", "--yes")
    kinds = [raw.git("cat-file", "-s", f"{rev}:kept/a.safetensors").strip() for rev in ("main", "main~1", "main~2")]
    assert int(kinds[0]) < 2000 < int(kinds[1]) > int(kinds[2])
    raw.healthy()


def test_include(raw: Repo) -> None:
    raw.git("theta", "migrate", "import", "--include", "deep/*.safetensors", "--yes")
    assert not raw.git("cat-file", "blob", "main:renamed.safetensors").startswith("gittheta")
    assert raw.manifest("deep/other.safetensors", "side").startswith("gittheta")
    raw.healthy()


def test_signatures_are_named(raw: Repo) -> None:
    commit = raw.git("cat-file", "commit", "main").replace(
        "\n\n", "\ngpgsig -----BEGIN PGP SIGNATURE-----\n abc\n\n", 1
    )
    raw.git(
        "update-ref", "refs/heads/main", raw.git("hash-object", "-t", "commit", "-w", "--stdin", stdin=commit).strip()
    )
    tag = raw.git("cat-file", "tag", "v1") + "-----BEGIN PGP SIGNATURE-----\nabc\n-----END PGP SIGNATURE-----\n"
    raw.git("update-ref", "refs/tags/v1", raw.git("hash-object", "-t", "tag", "-w", "--stdin", stdin=tag).strip())
    blob = raw.git("hash-object", "-w", "--stdin", stdin="x").strip()
    raw.git("tag", "of-a-blob", blob)
    said = raw.git("theta", "migrate", "import", "--yes")
    assert f"lost: the signature of commit {raw.git('rev-parse', 'refs/original/theta/heads/main')[:12]}" in said
    assert "lost: the signature of the tag v1" in said
    assert "left as they are: refs/tags/of-a-blob" in said
    assert "PGP" not in raw.git("cat-file", "tag", "v1")
    assert raw.git("cat-file", "tag", "v1").endswith("\n\nthe first\n")


def test_killed_anywhere(raw: Repo) -> None:
    for at in range(6):
        raw.commit(model(10 + at), f"many/{at}.safetensors")
    files = contents(raw, "main")
    for delay in (0.4, 0.7, 1.0, 1.3, 1.6, 1.9):
        kill(raw, ("theta", "migrate", "import", "--yes"), delay, "all")
        for lock in raw.git_dir.rglob("*.lock"):
            lock.unlink()
        raw.git("cat-file", "-e", "main")
        if "refs/original" in raw.git("for-each-ref"):
            break
    if (raw.store / "migrate/moving").exists() or "refs/original" not in raw.git("for-each-ref"):
        raw.attempt("git", "theta", "migrate", "import", "--yes")
    assert contents(raw, "main") == files
    raw.healthy()
    assert raw.manifest("many/3.safetensors", "main").startswith("gittheta")


def test_a_move_that_was_cut_short_is_finished(raw: Repo) -> None:
    """As if it had been killed after the first ref."""
    raw.git("theta", "migrate", "import")
    copies = raw.git("for-each-ref", "--format=%(refname) %(objectname)", "refs/theta/migrate").splitlines()
    import json

    moves = [[name.replace("theta/migrate/", ""), "", new] for name, new in (line.split(" ") for line in copies)]
    present = refs(raw)
    moves = [[name, present[name], new] for name, _, new in moves]
    lines = (raw.store / "migrate/commit-map").read_text().splitlines()[1:]
    note = {"moves": moves, "commits": dict(line.split(" ") for line in lines)}
    (raw.store / "migrate/moving").write_text(json.dumps(note))
    name, old, new = moves[0]
    raw.git("update-ref", f"refs/original/theta/{name.removeprefix('refs/')}", old)
    raw.git("update-ref", name, new, old)
    raw.fails("theta", "migrate", "import")  # there is an earlier migration by then
    assert refs(raw) == {name: new for name, _, new in moves}
    raw.healthy()


# -- Git LFS: without the program, the pointers and the store as it writes them


def pointer(content: bytes) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(content)}\nsize {len(content)}\n".encode()


def lfs_repo(world: World) -> tuple[Repo, list[bytes]]:
    repo = world.repo(attributes="")
    versions = [model(1), model(1, 40), model(3)]
    repo.commit(
        b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.png filter=lfs diff=lfs merge=lfs -text\n",
        ".gitattributes",
    )
    for content in versions:
        name = sha256(content)
        repo.write(f".git/lfs/objects/{name[:2]}/{name[2:4]}/{name}", content)
        repo.commit(pointer(content))
    repo.commit(pointer(b"a picture"), "a.png")
    return repo, versions


def test_from_lfs(world: World) -> None:
    repo, versions = lfs_repo(world)
    assert "--from-lfs" in repo.fails("theta", "migrate", "import")
    repo.git("theta", "migrate", "import", "--from-lfs", "--yes")
    assert repo.status() == ""
    assert repo.read() == versions[-1]
    for at, content in enumerate(reversed(versions)):
        repo.git("checkout", "-q", f"main~{at + 1}")
        assert repo.read() == content
    repo.git("checkout", "-q", "main")
    attributes = repo.read(".gitattributes").decode()
    assert "*.png filter=lfs diff=lfs merge=lfs -text\n" in attributes
    assert "*.safetensors filter=lfs" not in attributes
    repo.healthy()


def test_objects_of_lfs_that_are_not_here(world: World) -> None:
    repo, versions = lfs_repo(world)
    name = sha256(versions[1])
    file = repo.git_dir / f"lfs/objects/{name[:2]}/{name[2:4]}/{name}"
    file.unlink()
    message = repo.fails("theta", "migrate", "import", "--from-lfs", "--yes", status=21)
    assert name in message
    assert "git lfs fetch --all" in message
    file.write_bytes(versions[0])
    assert "not what its name says" in repo.fails("theta", "migrate", "import", "--from-lfs", "--yes", status=22)
    assert "refs/original" not in repo.git("for-each-ref")
    assert os.listdir(repo.store / "tmp") == []
