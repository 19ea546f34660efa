"""Tensors too large to be held: changed in every way, cut short, and what happens when the disk or the pipe fails."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gittheta.codec import spool
from gittheta.codec.choose import MAX_CHAIN
from gittheta.errors import StoreError
from gittheta.flows.add.clean import clean
from gittheta.storage.manifest import parse_manifest
from gittheta.storage.packs import PackWriter
from tests.support.command import git
from tests.support.repository import Repo
from tests.support.safetensors_file import safetensors
from tests.support.versions import commit, few, file_of, names, weights

pytestmark = pytest.mark.once


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("shape", [(10, 20), (20, 20), (400, 2), (2000,)])
def test_large_tensors_are_derived_from_their_bases(repo: Repo, shape: tuple[int, ...]) -> None:
    """Above WHOLE block by block on all workers, above HOLD from a spool."""
    values = weights(1, shape)
    commit(repo, file_of(values))
    assert names(commit(repo, file_of(few(values, 2, 3)))) in (["sparse", "dense"], ["ternary", "dense"])
    for at in range(12):
        values = few(values, at, 1)
        assert len(commit(repo, file_of(values), look=at % 4 == 0)) <= MAX_CHAIN


LARGE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rows appended": lambda old: np.concatenate([old, weights(9, (16, 64))]),
    "rows trimmed": lambda old: old[:-40],
    "rows permuted": lambda old: old[np.random.default_rng(3).permutation(len(old))],
    "columns appended": lambda old: np.concatenate([old, weights(9, (len(old), 8))], 1),
    "rows appended, some elements changed": lambda old: few(np.concatenate([old, weights(9, (16, 64))]), 4, 5),
    "rows scaled": lambda old: old * (1 + weights(8, (len(old), 1), 0.1)),
    "low rank": lambda old: old + weights(7, (len(old), 2), 0.05) @ weights(6, (2, 64), 0.05),
    "full fine-tune": lambda old: old + weights(5, old.shape, 0.0001),
    "all others": lambda old: weights(5, old.shape),
}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("change", LARGE)
def test_large_tensors_changed_in_every_way(repo: Repo, change: str) -> None:
    """Predicted and corrected block by block, though the blocks lie across rows."""
    old = weights(1, (128, 64))
    commit(repo, file_of(old))
    for values in (LARGE[change](old), few(LARGE[change](old), 2, 3), old):
        commit(repo, file_of(values))


@pytest.mark.usefixtures("small_blocks")
def test_a_large_changed_file_cut_short_is_opaque(repo: Repo) -> None:
    values = weights(1, (60, 20))
    commit(repo, file_of(values))
    whole = file_of(few(values, 2, 3))
    for cut in (1, 3, 100, 512, 513, 1300, 2399):
        text = repo.check_fixed_point(whole[:-cut])
        assert parse_manifest(text).format == "opaque"
    repo.check_fixed_point(whole + b"x")
    assert repo.warnings


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("after", [1100, 1500, 2300])
def test_a_full_disk_while_a_large_tensor_is_spooled(repo: Repo, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    values = weights(1, (60, 20))
    commit(repo, file_of(values))
    before, new = set(repo.objects()), file_of(few(values, 2, 3))
    written = 0

    def full(descriptor: int, data: bytes | memoryview) -> None:
        nonlocal written
        written += len(data)
        if written > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.write(descriptor, data)

    monkeypatch.setattr(spool, "write_all", full)
    opened = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    with pytest.raises(StoreError, match="No space left") as caught:
        repo.clean(new)
    assert caught.value.hint
    assert set(repo.objects()) == before
    assert not repo.temporaries()
    if opened:
        assert len(os.listdir("/proc/self/fd")) <= opened
    monkeypatch.undo()
    commit(repo, new)


@pytest.mark.usefixtures("small_blocks")
def test_a_pipe_that_breaks_while_a_large_tensor_is_spooled(repo: Repo) -> None:
    class Gone(Exception): ...

    class Pipe(io.RawIOBase):
        def __init__(self, data: bytes) -> None:
            self.left = memoryview(data)

        def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
            if not self.left:
                raise Gone
            count = min(len(buffer), 100, len(self.left))
            buffer[:count] = self.left[:count]
            self.left = self.left[count:]
            return count

    values = weights(1, (60, 20))
    commit(repo, file_of(values))
    before, new = set(repo.objects()), file_of(few(values, 2, 3))
    with repo.open() as workspace, pytest.raises(Gone):
        clean(workspace, "m.safetensors", Pipe(new[:-500]))
    assert set(repo.objects()) == before
    assert not repo.temporaries()


@pytest.mark.usefixtures("small_blocks")
def test_the_store_gives_up_while_a_large_tensor_is_encoded(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    values = weights(1, (60, 20))
    commit(repo, file_of(values))
    before, new = set(repo.objects()), file_of(few(values, 2, 3))

    def full(self: object, parts: object) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr(PackWriter, "append", full)
    with pytest.raises(StoreError, match="disk full"):
        repo.clean(new)
    assert set(repo.objects()) == before
    assert not repo.temporaries()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("after", [0, 300])
def test_a_disk_that_is_full_before_a_large_tensor_is_spooled(
    repo: Repo, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    values = weights(1, (60, 20))
    commit(repo, file_of(values))
    written = 0

    def full(descriptor: int, data: bytes | memoryview) -> None:
        nonlocal written
        written += len(data)
        if written > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.write(descriptor, data)

    monkeypatch.setattr(spool, "write_all", full)
    with pytest.raises(StoreError, match="No space left"):
        repo.clean(file_of(few(values, 2, 3)))


@pytest.mark.usefixtures("small_blocks")
def test_a_damaged_block_of_a_large_tensor_is_named(repo: Repo) -> None:
    values = weights(1, (60, 40))
    (link,) = commit(repo, file_of(values))
    place = link.places[0]
    path: Path = repo.objects()[place.object]
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[: place.offset + 70] + bytes([whole[place.offset + 70] ^ 1]) + whole[place.offset + 71 :])
    changed = values.copy()
    changed[-1] += 1
    try:
        text = repo.clean(file_of(changed))
    except Exception as error:
        assert getattr(error, "tensor", None) == "w"  # noqa: PT017
        assert getattr(error, "hint", None)  # noqa: PT017
    else:
        assert repo.smudge(text) == file_of(changed)


@pytest.mark.parametrize("broken", ["cut short", "too long"])
def test_a_broken_file_shares_tensors_that_were_derived_from_others(repo: Repo, broken: str) -> None:
    """Pieces of an opaque file may be derived by predictors, which need to know the shape."""
    rng = np.random.default_rng(5)
    old = rng.normal(0, 0.02, (256, 256)).astype(np.float32)
    factors = rng.normal(0, 0.05, (256, 2)), rng.normal(0, 0.05, (2, 256))
    values = {"low": (old + factors[0] @ factors[1]).astype(np.float32), "scaled": old * np.float32(1.5)}
    values["grown"] = np.concatenate([old, old[:8] + np.float32(1)])
    entries = [(name, "F32", value.shape, value.tobytes()) for name, value in values.items()]
    last = ("last", "F32", (64,), bytes(256))
    commit(repo, safetensors([*((name, "F32", old.shape, old.tobytes()) for name in values), last]))
    whole = safetensors([*entries, last])
    recipes = {stanza.spec.name: stanza.recipe for stanza in parse_manifest(repo.add(whole)).stanzas}
    assert {recipes[name][1].encoding for name in values} == {"lowrank", "scale", "resize"}
    git(repo.top, "commit", "-q", "-m", "changed")
    data = whole[:-100] if broken == "cut short" else whole + b"?"
    assert repo.smudge(repo.clean(data)) == data
