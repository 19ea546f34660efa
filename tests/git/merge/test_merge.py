"""`git merge` on two versions of a model, tensor by tensor; expected numbers are computed here, in NumPy."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import numpy as np
import pytest

from tests.support.checkpoints import (
    BITS,
    Raw,
    Tensors,
    bf16,
    checkpoint,
    from_bf16,
    metadata_of,
    normal,
    sha256,
    tensors_of,
)
from tests.support.world import Repo

M = "m.safetensors"
BASE: dict[str, np.ndarray | Raw] = {
    "a": normal(1, 40, 10),
    "b": normal(2, 40, 10),
    "c": normal(3, 40, 10),
    "n": np.arange(9),
}


def _diverge(repo: Repo, ours: bytes, theirs: bytes, base: bytes | None = None) -> None:
    """Commits base and ours on main, theirs on side; main is checked out."""
    repo.commit(checkpoint(BASE) if base is None else base)
    repo.branch("side", theirs)
    repo.git("checkout", "-q", "main")
    repo.commit(ours)


def _sides(repo: Repo, ours: Tensors, theirs: Tensors) -> None:
    _diverge(repo, checkpoint(BASE | dict(ours)), checkpoint(BASE | dict(theirs)))


def _conflicts(repo: Repo, *words: str) -> str:
    """Merge side; it must conflict, say so, and leave our version, whole. Returns what was said."""
    before = repo.read()
    done = repo.attempt("git", "merge", "--no-edit", "side")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert f"CONFLICT (content): Merge conflict in {M}" in done.stdout
    for word in words:
        assert word in done.stderr
    assert repo.read() == before
    assert repo.status() == f"UU {M}\n"
    assert [entry.split()[2] for entry in repo.git("ls-files", "-u").splitlines()] == ["1", "2", "3"]
    return done.stderr


@pytest.mark.slow
def test_disjoint_changes_are_composed(repo: Repo) -> None:
    _sides(repo, {"a": normal(11, 40, 10)}, {"c": normal(13, 40, 10)})
    message = repo.run("merge", "--no-edit", "side").stderr
    assert f"{M}: 2 unchanged, 1 taken from ours, 1 taken from theirs" in message
    assert repo.read() == checkpoint(BASE | {"a": normal(11, 40, 10), "c": normal(13, 40, 10)})
    assert len(repo.git("rev-list", "--parents", "-1", "HEAD").split()) == 3
    repo.healthy()


def test_disjoint_changes_read_no_tensor(repo: Repo) -> None:
    _sides(repo, {"a": normal(11, 40, 10)}, {"c": normal(13, 40, 10)})
    shutil.move(repo.store / "objects", repo.store / "away")
    tree = repo.git("merge-tree", "--write-tree", "main", "side").strip()
    shutil.rmtree(repo.store / "objects", ignore_errors=True)
    shutil.move(repo.store / "away", repo.store / "objects")
    repo.git("checkout", "-q", tree, "--", M)
    assert repo.read() == checkpoint(BASE | {"a": normal(11, 40, 10), "c": normal(13, 40, 10)})


def _mean(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return ((one.astype(np.float64) + other.astype(np.float64)) / 2).astype(np.float32)


def test_what_both_changed_becomes_the_mean(repo: Repo) -> None:
    ours, theirs, large = normal(11, 40, 10), normal(12, 40, 10), normal(13, 40, 10) * 100
    half, other_half = large.astype(np.float16), theirs.astype(np.float16)
    double, other_double = ours.astype(np.float64) * np.pi, theirs.astype(np.float64)
    base: dict[str, np.ndarray | Raw] = {"f": normal(1, 40, 10), "h": half * 2, "w": bf16(ours * 3), "d": double * 2}
    base["keep"] = normal(5, 9)
    mine = base | {"f": ours, "h": half, "w": bf16(ours), "d": double}
    yours = base | {"f": theirs, "h": other_half, "w": bf16(theirs), "d": other_double}
    _diverge(repo, checkpoint(mine), checkpoint(yours), checkpoint(base))
    message = repo.run("merge", "--no-edit", "side").stderr
    assert "4 merged by linear" in message
    assert "1 unchanged" in message
    rounded = bf16(_mean(from_bf16(bf16(ours)[2]), from_bf16(bf16(theirs)[2])).reshape(40, 10))
    expected: dict[str, np.ndarray | Raw] = base | {
        "f": _mean(ours, theirs),
        "h": _mean(half, other_half).astype(np.float16),
        "w": rounded,
        "d": (double + other_double) / 2,
    }
    assert repo.read() == checkpoint(expected)
    repo.healthy()


@pytest.mark.slow
def test_small_floats_and_complex_numbers_are_averaged(repo: Repo) -> None:
    complex_ours, complex_theirs = normal(1, 8), normal(2, 8)
    ones = {"F8_E4M3": 0x38, "F8_E5M2": 0x3C, "F8_E4M3FNUZ": 0x40, "F8_E5M2FNUZ": 0x40}
    base: dict[str, Raw] = {name: (name, (4,), bytes(4)) for name in ones}
    ours = {name: (name, (4,), bytes([one] * 4)) for name, one in ones.items()}
    theirs: dict[str, Raw] = {name: (name, (4,), bytes([0, one, 1, 1])) for name, one in ones.items()}
    base["C64"] = ("C64", (4,), bytes(32))
    ours["C64"] = ("C64", (4,), complex_ours.tobytes())
    theirs["C64"] = ("C64", (4,), complex_theirs.tobytes())
    _diverge(repo, checkpoint(ours), checkpoint(theirs), checkpoint(base))
    repo.git("merge", "-q", "--no-edit", "side")
    merged = tensors_of(repo.read())
    for name, one in ones.items():
        # The exponent of one half is one less than that of one; mantissas have 3 and 2 bits.
        assert merged[name][2][:2] == bytes([one - (8 if "E4M3" in name else 4), one]), name
    assert merged["C64"][2] == _mean(complex_ours, complex_theirs).tobytes()


@pytest.mark.slow
def test_changed_alike_on_both_sides(repo: Repo) -> None:
    same = {"a": normal(11, 40, 10)}
    _sides(repo, same | {"b": normal(12, 40, 10)}, same | {"c": normal(13, 40, 10)})
    assert "1 changed alike on both sides" in repo.run("merge", "--no-edit", "side").stderr
    assert repo.read() == checkpoint(BASE | same | {"b": normal(12, 40, 10), "c": normal(13, 40, 10)})
    repo.healthy()


@pytest.mark.slow
def test_large_tensors_are_merged_block_by_block(repo: Repo) -> None:
    base, ours, theirs = ({"w": normal(seed, 1500, 1000), "x": normal(seed, 3)} for seed in (1, 2, 3))
    _diverge(repo, checkpoint(ours), checkpoint(theirs), checkpoint(base))
    repo.git("merge", "-q", "--no-edit", "side")
    assert repo.read() == checkpoint({name: _mean(ours[name], theirs[name]) for name in ours})
    repo.healthy()


@dataclass(frozen=True)
class Case:
    """A conflict about the tensor ``b``: base, ours and theirs, and what is said."""

    versions: tuple[Tensors, Tensors, Tensors]
    reason: str


def _case(ours: Tensors, theirs: Tensors, reason: str) -> Case:
    return Case((BASE, BASE | dict(ours), BASE | dict(theirs)), reason)


def _exact(dtype: str) -> Case:
    base, ours, theirs = ({"b": (dtype, (8,), bytes([seed] * BITS[dtype]))} for seed in range(3))
    return Case((base, ours, theirs), dtype.lower())


_LESS = {name: value for name, value in BASE.items() if name != "b"}
_CHANGED = BASE | {"b": normal(5, 40, 10)}
_NAN = np.full((40, 10), np.nan, np.float32)
CONFLICTS: dict[str, Case] = {
    "deleted in ours": Case((BASE, _LESS, _CHANGED), "deleted in ours"),
    "deleted in theirs": Case((BASE, _CHANGED, _LESS), "deleted in theirs"),
    "reshape": _case({"b": normal(4, 20, 20)}, {"b": normal(5, 40, 10)}, "shape"),
    "same values in another shape": _case({"b": normal(2, 20, 20)}, {"b": normal(5, 40, 10)}, "shape"),
    "dtype": _case({"b": bf16(normal(4, 40, 10))}, {"b": normal(5, 40, 10)}, "dtype"),
    "both reshaped alike": _case({"b": normal(4, 20, 20)}, {"b": normal(5, 20, 20)}, "changed on both sides"),
    "nan": _case({"b": _NAN}, {"b": normal(5, 40, 10)}, "NaN"),
    "infinity": _case({"b": normal(5, 40, 10)}, {"b": -np.inf * abs(normal(5, 40, 10))}, "infinite"),
    "added on both sides": Case((_LESS, BASE, _CHANGED), "added on both sides"),
} | {dtype: _exact(dtype) for dtype in ("I64", "U16", "I8", "BOOL", "U8", "F4", "F8_E8M0")}


@pytest.mark.slow
def test_conflicts_name_file_tensor_and_reason(repo: Repo) -> None:
    for at, branch in enumerate(("main", "ours", "theirs")):
        repo.git("checkout", "-q", *(["-b", branch, "main"] if at else ["main"]))
        for name, case in CONFLICTS.items():
            repo.write(f"{name}.safetensors", checkpoint(case.versions[at]))
        repo.git("add", ".")
        repo.git("commit", "-q", "-m", branch)
    repo.git("checkout", "-q", "ours")
    done = repo.attempt("git", "merge", "--no-edit", "theirs")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for name, case in CONFLICTS.items():
        messages = [line for line in done.stderr.splitlines() if line.startswith(f"CONFLICT ({name}.safetensors): ")]
        assert len(messages) == 1, name
        assert "tensor 'b': " in messages[0]
        assert case.reason in messages[0], name
        assert f"Merge conflict in {name}.safetensors" in done.stdout
        assert repo.read(f"{name}.safetensors") == checkpoint(case.versions[1]), name
    assert sorted(repo.status().splitlines()) == sorted(
        f'UU "{name}.safetensors"' if " " in name else f"UU {name}.safetensors" for name in CONFLICTS
    )


@pytest.mark.slow
def test_ways_out_of_a_conflict(repo: Repo) -> None:
    _sides(repo, {"n": np.arange(9) + 1}, {"n": np.arange(9) + 2})
    ours, theirs = repo.sha(), sha256(checkpoint(BASE | {"n": np.arange(9) + 2}))
    message = _conflicts(repo)
    assert f"git theta resolve {M} take --from theirs" in message
    repo.git("merge", "--abort")
    assert repo.sha() == ours
    repo.healthy()
    _conflicts(repo)
    repo.git("checkout", "--theirs", "--", M)
    assert repo.sha() == theirs
    repo.git("checkout", "--ours", "--", M)
    assert repo.sha() == ours
    repo.git("checkout", "--merge", "--", M)
    assert repo.sha() == ours
    repo.git("checkout", "--theirs", "--", M)
    repo.git("add", M)
    repo.git("commit", "-q", "--no-edit")
    assert repo.sha() == theirs
    assert len(repo.git("rev-list", "--parents", "-1", "HEAD").split()) == 3
    repo.healthy()


@pytest.mark.slow
def test_a_conflict_can_be_resolved_by_hand(repo: Repo) -> None:
    _sides(repo, {"n": np.arange(9) + 1}, {"n": np.arange(9) + 2})
    _conflicts(repo)
    assert "[n]" in repo.git("diff", f":2:{M}", f":3:{M}")
    sha = repo.commit(checkpoint(BASE | {"n": np.arange(9) + 3}))
    assert repo.sha() == sha
    repo.healthy()


@pytest.mark.slow
@pytest.mark.everywhere
def test_a_tensor_deleted_on_one_side_and_kept_on_the_other_goes(repo: Repo) -> None:
    _diverge(repo, checkpoint(_LESS), checkpoint(BASE | {"a": normal(11, 40, 10)}))
    repo.git("merge", "-q", "--no-edit", "side")
    assert tensors_of(repo.read()) == tensors_of(checkpoint(_LESS | {"a": normal(11, 40, 10)}))
    repo.healthy()


@pytest.mark.slow
def test_tensors_and_metadata_of_both_sides_are_composed(repo: Repo) -> None:
    ours = checkpoint(BASE | {"mine": normal(4, 9)}, {"format": "pt", "ours": "1"})
    theirs = checkpoint(BASE | {"theirs": bf16(normal(5, 9))}, {"format": "pt", "theirs": "2"})
    _diverge(repo, ours, theirs, checkpoint(BASE, {"format": "pt"}))
    repo.git("merge", "-q", "--no-edit", "side")
    expected = BASE | {"mine": normal(4, 9), "theirs": bf16(normal(5, 9))}
    assert tensors_of(repo.read()) == tensors_of(checkpoint(expected))
    assert metadata_of(repo.read()) == {"format": "pt", "ours": "1", "theirs": "2"}
    repo.healthy()


@pytest.mark.slow
def test_metadata_that_clashes_is_a_conflict(repo: Repo) -> None:
    _diverge(repo, checkpoint(BASE, {"k": "1"}), checkpoint(BASE, {"k": "2"}), checkpoint(BASE, {"k": "0"}))
    assert "metadata" in _conflicts(repo)


@pytest.mark.slow
def test_metadata_of_one_side_is_taken(repo: Repo) -> None:
    _diverge(repo, checkpoint(BASE | {"a": normal(4, 40, 10)}), checkpoint(BASE, {"k": "2"}, padding=b" " * 99))
    repo.git("merge", "-q", "--no-edit", "side")
    assert repo.read() == checkpoint(BASE | {"a": normal(4, 40, 10)}, {"k": "2"}, padding=b" " * 99)
    repo.healthy()


@pytest.mark.slow
def test_add_add(repo: Repo) -> None:
    """The same file added on both sides: what agrees or is on one side only is composed, the rest conflicts."""
    repo.git("checkout", "-q", "-b", "side")
    repo.commit(checkpoint({"same": normal(1, 9), "theirs": normal(2, 9)}))
    repo.git("checkout", "-q", "main")
    repo.commit(checkpoint({"same": normal(1, 9), "ours": normal(3, 9)}))
    repo.git("merge", "-q", "--no-edit", "side")
    both = {"same": normal(1, 9), "ours": normal(3, 9), "theirs": normal(2, 9)}
    assert tensors_of(repo.read()) == tensors_of(checkpoint(both))
    repo.git("checkout", "-q", "side")
    repo.commit(checkpoint({"same": normal(7, 9)}), "n.safetensors")
    repo.git("checkout", "-q", "main")
    sha = repo.commit(checkpoint({"same": normal(8, 9)}), "n.safetensors")
    assert "tensor 'same': added on both sides" in repo.fails("merge", "--no-edit", "side", status=1)
    assert (repo.sha("n.safetensors"), repo.status()) == (sha, "AA n.safetensors\n")


@pytest.mark.slow
@pytest.mark.everywhere
def test_a_rename_on_one_side(repo: Repo) -> None:
    values = BASE | {f"more.{seed}": normal(seed, 9) for seed in range(20)}
    repo.commit(checkpoint(values))
    repo.branch("side", checkpoint(values | {"a": normal(4, 40, 10)}))
    repo.git("checkout", "-q", "main")
    repo.git("mv", M, "renamed.safetensors")
    repo.commit(checkpoint(values | {"b": normal(5, 40, 10)}), "renamed.safetensors")
    repo.git("merge", "-q", "--no-edit", "side")
    assert not (repo.path / M).exists()
    assert repo.read("renamed.safetensors") == checkpoint(values | {"a": normal(4, 40, 10), "b": normal(5, 40, 10)})
    repo.healthy()


@pytest.mark.slow
def test_a_file_deleted_on_one_side_is_git_s_own_conflict(repo: Repo) -> None:
    repo.commit(checkpoint(BASE))
    theirs = repo.branch("side", checkpoint(BASE | {"a": normal(4, 40, 10)}))
    repo.git("checkout", "-q", "main")
    repo.git("rm", "-q", M)
    repo.git("commit", "-q", "-m", "gone")
    repo.fails("merge", "--no-edit", "side", status=1)
    assert (repo.sha(), repo.status()) == (theirs, f"DU {M}\n")


@pytest.mark.slow
def test_criss_cross_merge(repo: Repo) -> None:
    _sides(repo, {"a": normal(11, 40, 10)}, {"b": normal(12, 40, 10)})
    repo.git("branch", "old", "side")
    repo.git("merge", "-q", "--no-edit", "side")
    repo.git("checkout", "-q", "side")
    repo.git("merge", "-q", "--no-edit", "main~1")
    repo.commit(checkpoint(BASE | {"a": normal(11, 40, 10), "b": normal(12, 40, 10), "c": normal(14, 40, 10)}))
    repo.git("checkout", "-q", "main")
    repo.git("merge", "-q", "--no-edit", "side")
    assert repo.read() == checkpoint(BASE | {"a": normal(11, 40, 10), "b": normal(12, 40, 10), "c": normal(14, 40, 10)})
    repo.healthy()


@pytest.mark.slow
def test_a_forge_without_the_driver_merges_lines(repo: Repo) -> None:
    values = {f"layer.{number}": normal(number, 9) for number in range(12)}
    changed = {name: normal(77 + at, 9) for at, name in enumerate(("layer.1", "layer.10"))}
    ours, theirs = (checkpoint(values | {name: value}) for name, value in changed.items())
    _diverge(repo, ours, theirs, checkpoint(values))
    repo.git("config", "--global", "--remove-section", "merge.theta")
    repo.git("merge", "-q", "--no-edit", "side")
    assert repo.read() == checkpoint(values | changed)
    repo.healthy()


@pytest.mark.slow
def test_a_merge_without_the_driver_conflicts_in_words(repo: Repo) -> None:
    """Conflict markers in a manifest make no manifest; it must be an ordinary conflict with a way out all the same."""
    _sides(repo, {"a": normal(11, 40, 10)}, {"a": normal(12, 40, 10)})
    ours = repo.sha()
    repo.git("config", "--global", "--remove-section", "merge.theta")
    message = repo.fails("merge", "--no-edit", "side", status=1)
    assert M in message
    assert "git theta install" in message
    assert repo.status() == f"UU {M}\n"
    repo.git("merge", "--abort")
    assert repo.sha() == ours
    repo.healthy()


@pytest.mark.slow
def test_a_missing_object_is_a_conflict_that_says_so(repo: Repo) -> None:
    _sides(repo, {"a": normal(11, 40, 10)}, {"a": normal(12, 40, 10)})
    shutil.move(repo.store / "objects", repo.store / "away")
    done = repo.attempt("git", "merge-tree", "--write-tree", "main", "side")
    shutil.rmtree(repo.store / "objects", ignore_errors=True)
    shutil.move(repo.store / "away", repo.store / "objects")
    assert done.returncode == 1
    assert "tensor 'a'" in done.stderr
    assert "not in the store" in done.stderr


@pytest.mark.slow
def test_a_merge_fetches_what_both_sides_changed(repo: Repo) -> None:
    _sides(repo, {"a": normal(11, 40, 10)}, {"a": normal(12, 40, 10)})
    repo.git("branch", "mine")
    copy = Repo(repo.path.parent / "copy", repo.env)
    repo.git("clone", "-q", str(repo.path), str(copy.path))
    copy.git("merge", "-q", "--no-edit", "origin/side")
    assert copy.read() == checkpoint(BASE | {"a": _mean(normal(11, 40, 10), normal(12, 40, 10))})
    copy.git("theta", "fetch", "--all")
    copy.healthy()
