"""A patch leads from one file to another, byte for byte, and from no other file to anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gittheta.api import NullReporter
from gittheta.codec.tensor_store import TensorStore
from gittheta.errors import FormatError, StoreError, ThetaError
from gittheta.flows.patch import in_place
from gittheta.flows.patch.apply import apply_patch
from gittheta.flows.patch.apply_flat import apply_flat, is_flat
from gittheta.flows.patch.flat import write_flat
from gittheta.flows.patch.in_place import apply_in_place, journal_of, undo
from gittheta.flows.patch.make import Made, make_patch
from gittheta.flows.patch.sides import file_side
from gittheta.storage.files import write_all
from tests.support.checkpoints import BITS, Tensors, checkpoint

QUIET = NullReporter()


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def weights(seed: int, *shape: int) -> np.ndarray:
    return random(seed).normal(0, 0.02, shape).astype(np.float32)


W = weights(1, 64, 64)
FEW = np.where(random(2).random(W.shape) < 0.01, W * 2, W).astype(np.float32)
LOW = (W + weights(3, 64, 2) @ weights(4, 2, 64)).astype(np.float32)
ZEROS = np.zeros((8, 8), np.float32)
OLD: Tensors = {"a": W, "b": weights(5, 30), "zeros": ZEROS, "flat": ZEROS.reshape(64), "none": np.zeros(0, np.float32)}

NEW: dict[str, bytes] = {
    "few": checkpoint(dict(OLD) | {"a": FEW}),
    "low rank": checkpoint(dict(OLD) | {"a": LOW}),
    "equal": checkpoint(OLD),
    "metadata": checkpoint(OLD, {"step": "2"}),
    "one more": checkpoint(dict(OLD) | {"c": weights(6, 9, 9)}),
    "one less": checkpoint({"a": W}),
    "renamed": checkpoint({"z": W, "b": OLD["b"]}),
    "another order": checkpoint({"b": OLD["b"], "a": W}),
    "grown": checkpoint(dict(OLD) | {"a": np.concatenate([W, weights(7, 5, 64)])}),
    "another dtype": checkpoint(dict(OLD) | {"a": W.astype(np.float16)}),
    "zeros changed": checkpoint(dict(OLD) | {"zeros": ZEROS + 1, "flat": FEW[0]}),
    "twice the same": checkpoint(dict(OLD) | {"c": FEW, "d": FEW}),
    "nothing": checkpoint({}),
    "every dtype": checkpoint({name: (name, (8,), random(8).bytes(bits)) for name, bits in BITS.items()}),
}


def written_anew(patch: Path, target: Path) -> bool:
    return apply_patch(patch, target, target, QUIET)


def where_it_lies(patch: Path, target: Path) -> bool:
    return apply_in_place(patch, target, QUIET)


WAYS = (written_anew, where_it_lies)
#: Those whose tensors stay where they are.
IN_PLACE = ("few", "low rank", "equal", "zeros changed")


@pytest.fixture
def tensors(tmp_path: Path) -> Iterator[TensorStore]:
    with TensorStore.at(tmp_path / "none") as tensors:
        yield tensors


def made(tensors: TensorStore, folder: Path, old: bytes, new: bytes) -> Made:
    (folder / "old").write_bytes(old)
    (folder / "new").write_bytes(new)
    with file_side(tensors, folder / "old") as before, file_side(tensors, folder / "new") as after:
        return make_patch(tensors, before, after, folder / "patch")


@pytest.mark.parametrize("name", NEW)
def test_there(tensors: TensorStore, tmp_path: Path, name: str) -> None:
    made(tensors, tmp_path, checkpoint(OLD), NEW[name])
    (tmp_path / "old").chmod(0o640)
    apply_patch(tmp_path / "patch", tmp_path / "old", tmp_path / "result", QUIET)
    assert (tmp_path / "result").read_bytes() == NEW[name]
    assert (tmp_path / "result").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "old").read_bytes() == checkpoint(OLD)
    assert apply_patch(tmp_path / "patch", tmp_path / "old", tmp_path / "old", QUIET) == (name != "equal")
    assert (tmp_path / "old").read_bytes() == NEW[name]
    assert not apply_patch(tmp_path / "patch", tmp_path / "old", tmp_path / "old", QUIET)
    assert {path.name for path in tmp_path.iterdir()} <= {"old", "new", "patch", "result", "none"}


@pytest.mark.parametrize("name", NEW)
def test_in_place(tensors: TensorStore, tmp_path: Path, name: str) -> None:
    made(tensors, tmp_path, checkpoint(OLD), NEW[name])
    target = tmp_path / "old"
    before = target.stat().st_ino
    if name in IN_PLACE:
        assert apply_in_place(tmp_path / "patch", target, QUIET) == (name != "equal")
        assert target.read_bytes() == NEW[name]
        assert target.stat().st_ino == before
        assert not apply_in_place(tmp_path / "patch", target, QUIET)
    else:
        with pytest.raises(FormatError, match="would have to move"):
            apply_in_place(tmp_path / "patch", target, QUIET)
        assert target.read_bytes() == checkpoint(OLD)
    assert not journal_of(target).exists()


def test_a_changed_header_of_the_same_length_in_place(tensors: TensorStore, tmp_path: Path) -> None:
    old, new = checkpoint(OLD, {"step": "1"}), checkpoint(dict(OLD) | {"a": LOW}, {"step": "2"})
    made(tensors, tmp_path, old, new)
    assert apply_in_place(tmp_path / "patch", tmp_path / "old", QUIET)
    assert (tmp_path / "old").read_bytes() == new


def test_it_is_small(tensors: TensorStore, tmp_path: Path) -> None:
    same = weights(1, 500, 500)
    done = made(tensors, tmp_path, checkpoint({"a": same, "b": W}), checkpoint({"a": same, "b": FEW}))
    assert (done.changed, done.tensors) == (1, 2)
    assert done.nbytes == (tmp_path / "patch").stat().st_size < 1500


def test_another_version_is_refused(tensors: TensorStore, tmp_path: Path) -> None:
    made(tensors, tmp_path, checkpoint(OLD), NEW["few"])
    others = {"a": checkpoint(dict(OLD) | {"a": LOW}), "b": checkpoint(dict(OLD) | {"b": weights(9, 30)})}
    for name, other in others.items():
        (tmp_path / "old").write_bytes(other)
        for apply in WAYS:
            with pytest.raises(FormatError, match="not the version that this patch was made from") as caught:
                apply(tmp_path / "patch", tmp_path / "old")
            assert caught.value.tensor == name
            assert (tmp_path / "old").read_bytes() == other
    assert not journal_of(tmp_path / "old").exists()


def test_damage_never_leads_anywhere(tensors: TensorStore, tmp_path: Path) -> None:
    made(tensors, tmp_path, checkpoint(OLD), NEW["few"])
    whole, target = (tmp_path / "patch").read_bytes(), tmp_path / "old"
    damaged = [whole[:at] for at in range(0, len(whole), 97)]
    damaged += [whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in range(0, len(whole), 13)]
    for content in (*damaged, whole + b"x", b""):
        (tmp_path / "patch").write_bytes(content)
        for apply in WAYS:
            try:
                apply(tmp_path / "patch", target)
            except ThetaError:
                assert target.read_bytes() == checkpoint(OLD)
            else:  # a bit that means nothing, in the place of the link `from`
                assert target.read_bytes() == NEW["few"]
                target.write_bytes(checkpoint(OLD))


@pytest.mark.parametrize("name", ["few", "zeros changed"])
def test_cut_short_anywhere_in_place(
    tensors: TensorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """After each write that never came, the same command completes it, and undo restores it."""
    made(tensors, tmp_path, checkpoint(OLD), NEW[name])
    target, real = tmp_path / "old", write_all
    for again in (True, False):
        for limit in range(30):
            left = [limit]

            def failing(descriptor: int, data: bytes | memoryview, left: list[int] = left) -> None:
                if not left[0]:
                    raise KeyboardInterrupt
                left[0] -= 1
                real(descriptor, data)

            monkeypatch.setattr(in_place, "write_all", failing)
            try:
                apply_in_place(tmp_path / "patch", target, QUIET)
            except KeyboardInterrupt:
                monkeypatch.setattr(in_place, "write_all", real)
                if again:
                    assert apply_in_place(tmp_path / "patch", target, QUIET)
                    assert target.read_bytes() == NEW[name]
                elif journal_of(target).exists():
                    undo(target)
                    assert target.read_bytes() == checkpoint(OLD)
            else:
                assert limit > 5, "the writes are not those that this test counts"
                monkeypatch.setattr(in_place, "write_all", real)
            assert not journal_of(target).exists()
            target.write_bytes(checkpoint(OLD))


def test_a_journal_that_is_not_whole_means_that_nothing_changed(tensors: TensorStore, tmp_path: Path) -> None:
    target = tmp_path / "m.safetensors"
    target.write_bytes(checkpoint(OLD))
    with pytest.raises(StoreError, match="nothing to undo"):
        undo(target)
    for content in (b"", bytes(16), b"\xff" * 8 + bytes(8), b"\xff" * 8 + bytes(40), b"\xff" * 70):
        journal_of(target).write_bytes(b"gittheta journal 1\n" + content)
        assert not undo(target)
        assert target.read_bytes() == checkpoint(OLD)
        assert not journal_of(target).exists()


@pytest.mark.parametrize("bits", [32, 64])
def test_flat_indices(tensors: TensorStore, tmp_path: Path, bits: int) -> None:
    from safetensors.numpy import load_file

    (tmp_path / "old").write_bytes(checkpoint(OLD))
    (tmp_path / "new").write_bytes(NEW["zeros changed"])
    with file_side(tensors, tmp_path / "old") as old, file_side(tensors, tmp_path / "new") as new:
        assert write_flat(old, new, tmp_path / "flat", bits) == 128
    patch, model = load_file(tmp_path / "flat"), load_file(tmp_path / "old")
    assert {name.rpartition(".")[0] for name in patch} == {"zeros", "flat"}
    for name in ("zeros", "flat"):
        assert patch[f"{name}.indices"].dtype == (np.int32 if bits == 32 else np.int64)
        model[name].reshape(-1)[patch[f"{name}.indices"]] = patch[f"{name}.values"]
        assert np.array_equal(model[name], load_file(tmp_path / "new")[name])


@pytest.mark.parametrize(("name", "tensor"), [("one more", "c"), ("grown", "a"), ("another dtype", "a")])
def test_what_flat_indices_cannot_tell(tensors: TensorStore, tmp_path: Path, name: str, tensor: str) -> None:
    (tmp_path / "old").write_bytes(checkpoint(OLD))
    (tmp_path / "new").write_bytes(NEW[name])
    sides = file_side(tensors, tmp_path / "old"), file_side(tensors, tmp_path / "new")
    with sides[0] as old, sides[1] as new, pytest.raises(FormatError) as caught:
        write_flat(old, new, tmp_path / "flat")
    assert caught.value.tensor == tensor
    assert not (tmp_path / "flat").exists()


@pytest.mark.parametrize("bits", [32, 64])
def test_flat_indices_put_in(tensors: TensorStore, tmp_path: Path, bits: int) -> None:
    new = checkpoint(dict(OLD) | {"a": FEW, "zeros": ZEROS + 1})
    (tmp_path / "old").write_bytes(checkpoint(OLD))
    (tmp_path / "new").write_bytes(new)
    with file_side(tensors, tmp_path / "old") as old, file_side(tensors, tmp_path / "new") as after:
        count = write_flat(old, after, tmp_path / "flat", bits)
    assert is_flat(tensors, tmp_path / "flat")
    assert not is_flat(tensors, tmp_path / "old")
    assert apply_flat(tensors, tmp_path / "flat", tmp_path / "old", tmp_path / "result") == count
    assert (tmp_path / "result").read_bytes() == new


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def pair(name: str, at: np.ndarray, values: np.ndarray) -> bytes:
    return checkpoint({f"{name}.indices": at, f"{name}.values": values})


def test_indices_in_any_order(tensors: TensorStore, tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(checkpoint(OLD))
    (tmp_path / "flat").write_bytes(pair("a", np.array([4095, 0, 7], np.uint32), floats(1, 2, 3)))
    assert apply_flat(tensors, tmp_path / "flat", tmp_path / "old", tmp_path / "old") == 3
    expected = W.copy()
    expected.reshape(-1)[[4095, 0, 7]] = [1, 2, 3]
    assert (tmp_path / "old").read_bytes() == checkpoint(dict(OLD) | {"a": expected})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pair("q", np.arange(1), floats(1)), "does not have it"),
        (pair("a", np.array([4096]), floats(1)), "beyond its elements"),
        (pair("a", np.array([-1]), floats(1)), "beyond its elements"),
        (pair("a", np.array([5, 5]), floats(1, 2)), "the same one twice"),
        (pair("a", np.array([5, 6]), floats(1)), "2 indices for 1 values"),
        (pair("a", np.array([5]), np.array([1.0])), "the values are f64, the tensor is f32"),
        (pair("a", floats(5), floats(1)), "of a kind"),
    ],
)
def test_updates_that_do_not_fit(tensors: TensorStore, tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "old").write_bytes(checkpoint(OLD))
    (tmp_path / "flat").write_bytes(content)
    with pytest.raises(FormatError, match=words):
        apply_flat(tensors, tmp_path / "flat", tmp_path / "old", tmp_path / "old")
    assert (tmp_path / "old").read_bytes() == checkpoint(OLD)
