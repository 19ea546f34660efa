"""Base plus compressed task vector: what exactly is kept, what it becomes, and what is never touched."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gittheta.errors import ConfigError, FormatError, GitError, ManifestError, StoreError, ThetaError
from gittheta.flows.edit.sparsify import METHODS, Options, SparsifyReport, sparsify
from gittheta.model import DTYPES
from gittheta.numerics.floats import from_float64, to_float64
from tests.support.command import git
from tests.support.dtypes import ARITHMETIC
from tests.support.repository import Repo
from tests.support.safetensors_file import Entry, safetensors

pytestmark = pytest.mark.once

M = "m.safetensors"
HEAD = Options(base="HEAD")


def _f32(name: str, *values: float) -> Entry:
    return name, "F32", (len(values),), np.array(values, "<f4").tobytes()


def _versions(repo: Repo, base: bytes, new: bytes) -> None:
    """The base committed, the new version in the work tree and staged."""
    repo.add(base)
    git(repo.top, "commit", "-q", "--allow-empty", "-m", "base")
    repo.add(new)
    (repo.top / M).write_bytes(new)


def _run(repo: Repo, options: Options) -> SparsifyReport:
    with repo.open() as workspace:
        return sparsify(workspace, M, options)


def _result(repo: Repo) -> bytes:
    return (repo.top / M).read_bytes()


def _values(repo: Repo, count: int, dtype: str = "<f4") -> np.ndarray:
    return np.frombuffer(_result(repo)[-count * np.dtype(dtype).itemsize :], dtype)


def _noise(seed: int, count: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(count) * scale).astype(np.float32)


def _expected(base: np.ndarray, new: np.ndarray, density: float, scalar: float | None) -> np.ndarray:
    """The definition, all at once and without a histogram."""
    tau = new.astype(np.float64) - base.astype(np.float64)
    order = np.argsort(-np.abs(tau).astype(np.float32), kind="stable")[: round(density * len(tau))]
    result = base.copy()
    result[order] = new[order] if scalar is None else (base[order] + np.sign(tau[order]) * scalar).astype(np.float32)
    return result


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("density", [0.001, 0.05, 0.5, 1.0])
def test_the_definition(repo: Repo, method: str, density: float) -> None:
    base, change = _noise(1, 6000), _noise(2, 6000, 0.01)
    new = base + change
    _versions(repo, safetensors([_f32("a", *base)]), safetensors([_f32("a", *new)]))
    report = _run(repo, Options("HEAD", density, method))
    tau = new.astype(np.float64) - base.astype(np.float64)
    scalar = float(np.float32(tau.std())) if method == "compeft" else None
    expected = _expected(base, new, density, scalar)
    assert _values(repo, 6000).tobytes() == expected.tobytes()
    assert (report.whole.kept, report.whole.elements) == (round(density * 6000), 6000)
    assert report.scalar == scalar
    error = np.linalg.norm(expected.astype(np.float64) - new) / np.linalg.norm(tau)
    assert report.whole.relative == pytest.approx(error, abs=1e-12)
    assert report.whole.relative == report.tensors[0].relative


def test_a_known_answer(repo: Repo) -> None:
    """Changes of 3, -1, 0, 2: mean 1, deviation √2.5."""
    _versions(repo, safetensors([_f32("a", 10, 20, 30, 40)]), safetensors([_f32("a", 13, 19, 30, 42)]))
    report = _run(repo, Options("HEAD", 0.5, alpha=2))
    scalar = np.float32(2 * math.sqrt(2.5))
    assert report.scalar == float(scalar)
    assert _values(repo, 4).tolist() == [np.float32(10 + scalar), 20, 30, np.float32(40 + scalar)]
    errors = (3 - float(scalar)) ** 2 + 1 + (2 - float(scalar)) ** 2
    assert report.whole.relative == pytest.approx(math.sqrt(errors / 14), rel=1e-6)


def test_the_largest_of_the_whole_file_are_kept(repo: Repo) -> None:
    """Not of each tensor: changes (10, 9, 8, 7) and (1, .9, .8, .7), half of them."""
    zeros = safetensors([_f32("a", 0, 0, 0, 0), _f32("b", 0, 0, 0, 0)])
    _versions(repo, zeros, safetensors([_f32("a", 10, 9, 8, 7), _f32("b", 1, 0.9, 0.8, 0.7)]))
    report = _run(repo, Options("HEAD", 0.5, "topk"))
    assert _values(repo, 8).tolist() == [10, 9, 8, 7, 0, 0, 0, 0]
    assert [(loss.name, loss.kept, loss.relative) for loss in report.tensors] == [("a", 4, 0), ("b", 0, 1)]


def test_among_equals_the_first_in_the_file_are_kept(repo: Repo) -> None:
    """Exactly as many as asked for, whatever the order in the header."""
    names = ("b", "a")
    base = safetensors([_f32(name, *[0] * 100) for name in names], order=(1, 0))
    _versions(repo, base, safetensors([_f32(name, *[1, -1] * 50) for name in names], order=(1, 0)))
    report = _run(repo, Options("HEAD", 0.6, "topk"))
    assert _values(repo, 200).tolist() == [1, -1] * 60 + [0] * 80
    assert [(loss.name, loss.kept) for loss in report.tensors] == [("b", 100), ("a", 20)]


def test_magnitudes_that_differ_in_their_last_bit(repo: Repo) -> None:
    """The threshold is exact, not that of a class of the histogram."""
    bits = np.random.default_rng(3).permutation(np.arange(0x3F800000, 0x3F800000 + 1000, dtype=np.uint32))
    values = bits.view(np.float32)
    _versions(repo, safetensors([_f32("a", *[0] * 1000)]), safetensors([_f32("a", *values)]))
    _run(repo, Options("HEAD", 0.3, "topk"))
    assert np.array_equal(_values(repo, 1000), np.where(bits >= 0x3F800000 + 700, values, 0))


def test_infinities_and_nans_keep_their_bits(repo: Repo) -> None:
    """On either side; they count neither as elements nor as kept."""
    odd = np.array([0x7FC00001, 0xFF800000, 0x7F800000, 0xFFFFFFFF], "<u4")
    plain = np.array([1, 2, 3, 4], "<f4").view("<u4")
    zeros = np.zeros(4, "<u4")
    base = np.concatenate([odd, zeros, zeros, odd])
    new = np.concatenate([odd[::-1], plain, odd, plain])
    for method in METHODS:
        _versions(repo, *(safetensors([("a", "F32", (16,), bits.tobytes())]) for bits in (base, new)))
        report = _run(repo, Options("HEAD", 0.5, method))
        assert (report.not_finite, report.whole.elements, report.whole.kept) == (12, 4, 2)
        back = _values(repo, 16, "<u4")
        assert back[[*range(4), *range(8, 16)]].tolist() == new[[*range(4), *range(8, 16)]].tolist()
        assert back[4:6].tolist() == [0, 0]
        assert (back[6:8].view("<f4") > 0).all()


def test_signed_zeros_of_the_base_stay(repo: Repo) -> None:
    """What did not move is not moved by nothing either."""
    base, new = _f32("a", -0.0, -0.0, 0.0, 1.0), _f32("a", 0.0, -0.0, -0.0, 1.0)
    for method in METHODS:
        _versions(repo, safetensors([base]), safetensors([new]))
        assert _run(repo, Options("HEAD", 1.0, method)).whole.relative == 0
        assert _result(repo) == safetensors([base if method == "compeft" else new])


@pytest.mark.parametrize("dtype", sorted(ARITHMETIC))
@pytest.mark.parametrize("method", METHODS)
def test_every_dtype_with_arithmetic(repo: Repo, dtype: str, method: str) -> None:
    kind = DTYPES[dtype]
    base = from_float64(_noise(4, 512).astype(np.float64), kind)
    new = from_float64(_noise(4, 512).astype(np.float64) + _noise(5, 512, 0.5), kind)
    entries = [[("a", dtype.upper(), (512,), bytes(data))] for data in (base, new)]
    _versions(repo, *map(safetensors, entries))
    report = _run(repo, Options("HEAD", 0.25, method))
    assert (report.whole.kept, report.whole.elements) == (128, 512)
    back, was = to_float64(memoryview(_result(repo))[-len(base) :], kind), to_float64(base, kind)
    tau = to_float64(new, kind) - was
    smallest = np.sort(np.abs(tau).astype(np.float32))[-128]
    assert np.array_equal(back[np.abs(tau) < smallest], was[np.abs(tau) < smallest])
    moved = back != was
    if method == "topk":
        assert np.array_equal(back[moved], to_float64(new, kind)[moved])
    else:
        expected = from_float64(was[moved] + np.sign(tau[moved]) * report.scalar, kind)
        assert np.array_equal(back[moved], to_float64(expected, kind))


def test_other_tensors_are_left_whole_and_counted(repo: Repo) -> None:
    same = _f32("same", 1, 2)
    step = ("step", "I64", (1,), bytes(8))
    old = [same, _f32("shape", 1, 2), ("type", "F16", (1,), b"ab"), step, _f32("gone", 1)]
    new = [_f32("same", 2, 2), _f32("shape", 3), ("type", "BF16", (1,), b"cd"), ("step", "I64", (1,), b"12345678")]
    new.append(_f32("fresh", 9))
    _versions(repo, safetensors(old), safetensors(new, metadata={"format": "pt"}))
    report = _run(repo, Options("HEAD", 0.5, "topk"))
    assert report.left == {"not in the base": 1, "of another dtype or shape in the base": 2, "not of floats": 1}
    assert [loss.name for loss in report.tensors] == ["same"]
    assert _result(repo) == safetensors(new, metadata={"format": "pt"})


def test_blocks_do_not_matter(repo: Repo, monkeypatch: pytest.MonkeyPatch, small_blocks: None) -> None:
    """Tensors of many blocks, larger than what is held at once; ties are counted across all of them."""
    base, change = _noise(6, 3000), np.round(_noise(7, 3000), 1)
    parts = [(0, 1000), (1000, 1001), (1001, 3000)]
    versions = [
        safetensors([_f32(str(begin), *array[begin:end]) for begin, end in parts]) for array in (base, base + change)
    ]
    _versions(repo, *versions)
    report = _run(repo, Options("HEAD", 0.1, "topk"))
    assert _values(repo, 3000).tobytes() == _expected(base, base + change, 0.1, None).tobytes()
    (repo.top / M).write_bytes(versions[1])
    compressed = _run(repo, Options("HEAD", 0.1))
    assert _values(repo, 3000).tobytes() == _expected(base, base + change, 0.1, compressed.scalar).tobytes()
    assert sum(loss.kept for loss in report.tensors) == 300


def test_what_is_added_afterwards_is_small_and_exact(repo: Repo) -> None:
    base = _noise(8, 50_000)
    new = base + _noise(9, 50_000, 0.01)
    _versions(repo, safetensors([_f32("a", *base)]), safetensors([_f32("a", *new)]))
    _run(repo, HEAD)
    repo.check_fixed_point(_result(repo))


def test_permissions_stay_and_nothing_is_left_behind(repo: Repo) -> None:
    _versions(repo, safetensors([_f32("a", 0, 0)]), safetensors([_f32("a", 1, 2)]))
    os.chmod(repo.top / M, 0o640)
    _run(repo, HEAD)
    assert (repo.top / M).stat().st_mode & 0o777 == 0o640
    assert os.listdir(repo.top) == [".git", M] or os.listdir(repo.top) == [M, ".git"]
    assert not repo.temporaries()


def test_values_that_are_stored_nowhere_else_need_force(repo: Repo) -> None:
    versions = [safetensors([_f32("a", *values)]) for values in ((0, 0), (1, 2), (1, 3))]
    _versions(repo, *versions[:2])
    (repo.top / M).write_bytes(versions[2])
    with pytest.raises(StoreError, match="nowhere else") as raised:
        _run(repo, HEAD)
    assert "git add" in str(raised.value)
    assert "--force" in str(raised.value)
    assert _result(repo) == versions[2]
    _run(repo, Options("HEAD", 0.5, "topk", force=True))
    assert _values(repo, 2).tolist() == [0, 3]
    assert any("nowhere else" in warning for warning in repo.warnings)


def test_values_that_a_commit_holds_need_no_force(repo: Repo) -> None:
    versions = [safetensors([_f32("a", *values)]) for values in ((0, 0), (1, 2), (1, 3))]
    _versions(repo, *versions[:2])
    git(repo.top, "commit", "-q", "-m", "new")
    repo.add(versions[2])
    _run(repo, Options("HEAD^", 0.5, "topk"))
    assert _values(repo, 2).tolist() == [0, 2]
    assert not repo.warnings


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (Options("nowhere"), GitError, "not a commit"),
        (Options("--all"), GitError, "not a commit"),
        (Options("HEAD~1"), ManifestError, "git theta ls-files HEAD~1"),
        (Options("HEAD", 0), ConfigError, "--density"),
        (Options("HEAD", 1.01), ConfigError, "--density"),
        (Options("HEAD", math.nan), ConfigError, "--density"),
        (Options("HEAD", alpha=0), ConfigError, "--alpha"),
        (Options("HEAD", alpha=math.inf), ConfigError, "--alpha"),
        (Options("HEAD", alpha=1e300), FormatError, "--method topk"),
        (Options("HEAD", method="magic"), ConfigError, "compeft, topk"),
    ],
)
def test_options_without_meaning(repo: Repo, options: Options, error: type[ThetaError], words: str) -> None:
    git(repo.top, "commit", "-q", "--allow-empty", "-m", "empty")
    _versions(repo, safetensors([_f32("a", 0, 0)]), safetensors([_f32("a", 1, 2)]))
    before = _result(repo)
    with pytest.raises(error) as raised:
        _run(repo, options)
    assert words in str(raised.value)
    assert _result(repo) == before


def _contents() -> Sequence[tuple[bytes | None, type[ThetaError], str]]:
    good = safetensors([_f32("a", 1, 2)])
    return [
        (None, StoreError, "cannot read"),
        (b"", FormatError, "known format"),
        (b"text", FormatError, "known format"),
        (good[:-1], FormatError, "promises"),
        (good + b"x", FormatError, "promises"),
        (safetensors([_f32("b", 1, 2)]), FormatError, "--base"),
        (safetensors([]), FormatError, "--base"),
    ]


@pytest.mark.parametrize(("content", "error", "words"), _contents())
def test_files_that_cannot_be_made_sparse(
    repo: Repo, content: bytes | None, error: type[ThetaError], words: str
) -> None:
    _versions(repo, safetensors([_f32("a", 0, 0)]), safetensors([_f32("a", 1, 2)]))
    file = repo.top / M
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(error, match=words) as raised:
        _run(repo, HEAD)
    assert M in str(raised.value)
    assert (file.read_bytes() if file.exists() else None) == content


def test_a_manifest_in_the_work_tree(repo: Repo) -> None:
    _versions(repo, safetensors([_f32("a", 0, 0)]), safetensors([_f32("a", 1, 2)]))
    text = repo.clean(_result(repo))
    (repo.top / M).write_bytes(text)
    with pytest.raises(ManifestError, match="git theta pull"):
        _run(repo, HEAD)
    assert _result(repo) == text


def test_a_link_is_left_alone(repo: Repo, tmp_path: Path) -> None:
    _versions(repo, safetensors([_f32("a", 0, 0)]), safetensors([_f32("a", 1, 2)]))
    (repo.top / M).rename(repo.top / "real")
    (repo.top / M).symlink_to("real")
    with pytest.raises(StoreError, match="link"):
        _run(repo, HEAD)
    assert (repo.top / M).is_symlink()


def test_an_object_that_is_damaged(repo: Repo) -> None:
    """A base that cannot be decoded leaves the file as it was."""
    base, new = _noise(10, 1000), _noise(11, 1000)
    _versions(repo, safetensors([_f32("a", *base)]), safetensors([_f32("a", *new)]))
    before = _result(repo)
    for file in repo.objects().values():
        damaged = bytearray(file.read_bytes())
        damaged[-3000:-2000] = bytes(1000)
        file.chmod(0o644)
        file.write_bytes(damaged)
    with pytest.raises(ThetaError):
        _run(repo, HEAD)
    assert _result(repo) == before
    assert not repo.temporaries()


def test_a_file_that_changes_meanwhile(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's newer file is not overwritten."""
    _versions(repo, safetensors([_f32("a", 0, 0)]), safetensors([_f32("a", 1, 2)]))
    fresh = safetensors([_f32("a", 7, 8)])
    chmod = os.chmod

    def intrude(path: Path, mode: int, **options: bool) -> None:
        (repo.top / M).write_bytes(fresh)
        os.utime(repo.top / M, (1, 1))
        chmod(path, mode, **options)

    monkeypatch.setattr("gittheta.flows.edit.workfile.os.chmod", intrude)
    with pytest.raises(StoreError, match="meantime"):
        _run(repo, HEAD)
    assert _result(repo) == fresh
