"""`git theta du`: what each version added to the store."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint, model, normal
from tests.support.world import Place, Repo, World

M = "m.safetensors"


def _du(place: Place, *words: str) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = json.loads(place.git("theta", "du", "--json", *words))
    return result


def _two_layers(first: int, second: int) -> bytes:
    return checkpoint({"a": normal(first, 40, 25), "b": normal(second, 80, 25)})


@pytest.mark.slow
def test_a_chain_of_versions(repo: Repo) -> None:
    """Oldest first; only what a version brings counts, and all of that together is what lies in the store."""
    for message, content in (("one", _two_layers(1, 2)), ("two", _two_layers(1, 3)), ("back", _two_layers(1, 2))):
        repo.commit(content, message=message)
    one, two, back = _du(repo)
    assert [row["commit"] for row in (one, two, back)] == [
        repo.git("rev-parse", name).strip() for name in ("HEAD~2", "HEAD~1", "HEAD")
    ]
    assert {row["path"] for row in (one, two, back)} == {M}
    assert one["date"] == repo.git("log", "-1", "--format=%cI", "HEAD~2").strip()
    assert [(row["tensors"], row["tensors_changed"], row["bytes_changed"]) for row in (one, two, back)] == [
        (2, 2, 12_000),
        (2, 1, 8_000),
        (2, 1, 8_000),
    ]
    assert {row["bytes"] for row in (one, two, back)} == {len(_two_layers(1, 2))}
    assert one["bytes_added"] > two["bytes_added"] > 0
    assert (back["bytes_added"], back["added"]) == (0, {})
    for row in (one, two):
        assert sum(row["added"].values()) == row["bytes_added"]
    objects = repo.objects()
    stored = sum(file.stat().st_size for file in objects)
    assert 0 <= stored - one["bytes_added"] - two["bytes_added"] < 64 * len(objects)


def test_by_encoding(repo: Repo) -> None:
    """Each row names the encodings of the links that were new in it."""
    values = normal(1, 200, 100)
    repo.commit(checkpoint({"a": values}))
    values = values.copy()
    values[::50, 3] += 1
    repo.commit(checkpoint({"a": values}))
    for row, revision in zip(_du(repo), ("HEAD^", "HEAD"), strict=True):
        names = {name for line in repo.manifest(revision=revision).splitlines() if ":" in line and "+" in line
                 for name in line.split()[:1]}  # fmt: skip
        assert set(row["added"]) <= names
        assert row["added"]


@pytest.mark.slow
def test_a_range_counts_what_was_there_before(repo: Repo) -> None:
    repo.commit(_two_layers(1, 2))
    repo.commit(_two_layers(3, 4))
    repo.git("tag", "v1")
    repo.commit(_two_layers(1, 5))
    repo.commit(_two_layers(3, 5))
    whole = _du(repo, "HEAD")
    assert _du(repo, "v1..") == whole[2:]
    assert [row["tensors_changed"] for row in whole] == [2, 2, 2, 1]
    assert whole[3]["bytes_added"] == 0
    assert _du(repo, "v1") == whole[:2]
    assert _du(repo, "HEAD..v1") == []
    assert _du(repo, "v1...HEAD") == whole[2:]


@pytest.mark.slow
def test_merges_are_compared_with_all_parents(repo: Repo) -> None:
    repo.commit(_two_layers(1, 2))
    repo.branch("side", _two_layers(3, 2))
    repo.git("checkout", "-q", "main")
    repo.commit(_two_layers(1, 4))
    repo.git("merge", "-q", "--no-edit", "side")
    rows = _du(repo)
    assert len(rows) == 4
    merge = next(row for row in rows if row["commit"] == repo.git("rev-parse", "HEAD").strip())
    assert rows[-1] == merge
    assert (merge["tensors_changed"], merge["bytes_added"]) == (0, 0)
    assert [row["tensors_changed"] for row in rows] == [2, 1, 1, 0]


@pytest.mark.slow
def test_a_merge_that_takes_one_side_is_not_a_version(repo: Repo) -> None:
    repo.commit(_two_layers(1, 2))
    repo.branch("side", _two_layers(3, 2))
    repo.git("checkout", "-q", "main")
    repo.commit(b"text", "readme")
    repo.git("merge", "-q", "--no-edit", "side")
    assert [row["tensors_changed"] for row in _du(repo)] == [2, 1]


@pytest.mark.slow
def test_paths(repo: Repo) -> None:
    """Several files; what one of them has costs the other nothing, whichever is asked about."""
    repo.commit(_two_layers(1, 2), "sub/ü a.safetensors")
    repo.commit(_two_layers(1, 2), "b.safetensors")
    repo.commit(_two_layers(1, 3), "sub/c/d.safetensors")
    repo.commit(b"text", "readme")
    whole = {row["path"]: row for row in _du(repo)}
    assert list(whole) == ["sub/ü a.safetensors", "b.safetensors", "sub/c/d.safetensors"]
    assert whole["b.safetensors"]["bytes_added"] == 0
    assert whole["b.safetensors"]["tensors_changed"] == 2
    assert 0 < whole["sub/c/d.safetensors"]["bytes_added"] < whole["sub/ü a.safetensors"]["bytes_added"]
    below = Repo(repo.path / "sub", repo.env)
    for place, words, names in (
        (repo, ("HEAD", "b.safetensors", "sub"), list(whole)),
        (repo, (".",), list(whole)),
        (below, ("c", "ü a.safetensors"), ["sub/ü a.safetensors", "sub/c/d.safetensors"]),
        (below, ("../b.safetensors",), ["b.safetensors"]),
        (below, ("HEAD~3..", "."), ["sub/c/d.safetensors"]),
    ):
        assert _du(place, *words) == [whole[name] for name in names], words


@pytest.mark.slow
def test_a_renamed_file_costs_nothing(repo: Repo) -> None:
    repo.commit(model(1))
    repo.git("mv", M, "n.safetensors")
    repo.git("commit", "-q", "-m", "rename")
    repo.git("update-index", "--chmod=+x", "n.safetensors")
    repo.git("commit", "-q", "-m", "mode")
    repo.git("rm", "-q", "-f", "n.safetensors")
    repo.git("commit", "-q", "-m", "gone")
    assert [(row["path"], row["bytes_added"] > 0) for row in _du(repo)] == [(M, True), ("n.safetensors", False)]


@pytest.mark.slow
def test_versions_that_were_committed_whole(world: World) -> None:
    """From before the file was tracked: they are not versions of ours, and everything is new in the first that is."""
    repo = world.repo(attributes="")
    repo.commit(_two_layers(1, 2))
    repo.git("theta", "track", "*.safetensors")
    repo.git("add", ".gitattributes")
    repo.commit(_two_layers(1, 3))
    (row,) = _du(repo)
    assert (row["tensors_changed"], row["bytes_changed"]) == (2, 12_000)


@pytest.mark.slow
def test_the_table(repo: Repo) -> None:
    repo.commit(_two_layers(1, 2), "[bold]m.safetensors")
    repo.commit(_two_layers(1, 3), "[bold]m.safetensors")
    header, first, second, total = (line.split() for line in repo.git("theta", "du").splitlines())
    assert header == ["commit", "date", "path", "file", "changed", "added", "of", "changed", "encodings"]
    rows = _du(repo)
    for line, row in ((first, rows[0]), (second, rows[1])):
        assert row["commit"].startswith(line[0])
        assert line[1:3] == [row["date"][:10], "[bold]m.safetensors"]
        assert line[5:7] == [f"{row['bytes_changed'] / 1024:.1f}", "KiB"]
        assert line[7:9] == [f"{row['bytes_added'] / 1024:.1f}", "KiB"]
        assert line[9] == f"{100 * row['bytes_added'] / row['bytes_changed']:.1f}"
        assert line[11] == max(row["added"], key=row["added"].__getitem__)
    assert total[:5] == ["total", "2", "versions", f"{2 * len(_two_layers(1, 2)) / 1024:.1f}", "KiB"]
    assert total[5:7] == [f"{20_000 / 1024:.1f}", "KiB"]
    assert total[7:9] == [f"{sum(row['bytes_added'] for row in rows) / 1024:.1f}", "KiB"]


@pytest.mark.slow
def test_metadata_alone(repo: Repo) -> None:
    """A new header costs its bytes, and no tensor changed."""
    values = {"a": normal(1, 40, 25)}
    repo.commit(checkpoint(values))
    repo.commit(checkpoint(values, {"epoch": "2"}))
    row = _du(repo)[1]
    assert (row["tensors_changed"], row["bytes_changed"]) == (0, 0)
    assert 0 < row["bytes_added"] < 200
    assert repo.git("theta", "du").splitlines()[2].split()[9] == "-"


def test_a_tensor_that_is_there_twice_counts_once(repo: Repo) -> None:
    values = np.random.default_rng(1).standard_normal((50, 40)).astype(np.float32)
    repo.commit(checkpoint({"a": values, "b": values}))
    (row,) = _du(repo)
    assert row["bytes_changed"] == 16_000
    assert row["bytes_added"] < 8_500


def test_a_bare_repository(repo: Repo, world: World) -> None:
    repo.commit(model(1), "sub/m.safetensors")
    world.place().git("clone", "-q", "--bare", str(repo.path), "bare.git")
    assert _du(world.place("bare.git"), "main", "sub/m.safetensors") == _du(repo)


def test_a_broken_manifest_is_left_out(repo: Repo) -> None:
    repo.commit(model(1))
    text = repo.manifest().replace("safetensors", "SAFE")
    oid = repo.git("hash-object", "-w", "--stdin", stdin=text).strip()
    repo.git("update-index", "--cacheinfo", f"100644,{oid},{M}")
    repo.git("commit", "-q", "-m", "broken")
    repo.git("update-index", "--cacheinfo", f"100644,{repo.git('rev-parse', f'HEAD^:{M}').strip()},{M}")
    repo.git("commit", "-q", "-m", "mended")
    done = repo.run("theta", "du", "--json")
    assert [(row["tensors_changed"], row["bytes_added"] > 0) for row in json.loads(done.stdout)] == [
        (4, True),
        (4, False),
    ]
    assert "left out" in done.stderr


@pytest.mark.slow
def test_neither_a_revision_nor_a_checkpoint(repo: Repo) -> None:
    repo.commit(model(1))
    for word in ("nothing", "nothing..HEAD", "..", "readme"):
        assert "neither a revision nor a checkpoint" in repo.fails("theta", "du", word, status=50)


def test_nothing_yet(world: World) -> None:
    empty = world.repo(attributes="")
    assert "no commit yet" in empty.fails("theta", "du", status=50)
    empty.commit(b"text", "readme")
    assert _du(empty) == []
    assert empty.git("theta", "du").splitlines()[-1].split()[:3] == ["total", "0", "versions"]
