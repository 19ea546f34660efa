"""Which way a changed tensor is stored: the smallest of those that are allowed, whatever a plugin does."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from gittheta.codec import encode, spool
from gittheta.codec.choose import MAX_CHAIN
from gittheta.errors import ConfigError, PayloadError, StoreError
from gittheta.flows.add.clean import clean
from gittheta.model import Recipe
from gittheta.storage.manifest import parse_manifest
from tests.support.command import git
from tests.support.repository import Repo
from tests.support.safetensors_file import safetensors

SHAPE = (100, 100)
#: More than is looked at before a choice.
LARGER = (300, 100)


def weights(seed: int, shape: tuple[int, ...] = SHAPE, scale: float = 0.02) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def bf16(values: np.ndarray) -> bytes:
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()


def file_of(values: np.ndarray, name: str = "w") -> bytes:
    return safetensors([(name, "BF16", values.shape, bf16(values))])


def few(values: np.ndarray, seed: int, count: int = 20) -> np.ndarray:
    """A few elements are others."""
    changed = values.copy()
    chance = np.random.default_rng(seed)
    changed.flat[chance.choice(values.size, count, replace=False)] += chance.standard_normal(count).astype(np.float32)
    return changed


def commit(repo: Repo, data: bytes, path: str = "m.safetensors", look: bool = True) -> Recipe:
    """Add and commit; how the first tensor is stored."""
    text = repo.add(data, path)
    git(repo.top, "commit", "-q", "-m", "version")
    if look:
        assert repo.smudge(text, path) == data
        assert repo.clean(data, path) == text
        assert not repo.temporaries()
    return parse_manifest(text).stanzas[0].recipe


def sevenfold(data: bytes) -> bytes:
    """Far from what it was, but for the predictor below."""
    return (np.frombuffer(data, np.uint8) * np.uint8(7)).tobytes()


def names(recipe: Recipe) -> list[str]:
    return [link.encoding for link in recipe]


def size(recipe: Recipe) -> int:
    return sum(place.length for link in recipe for place in link.places)


def setting(repo: Repo, text: str) -> None:
    git(repo.top, "config", "theta.encodings", text)


def test_thirty_small_changes_keep_the_chain_short(repo: Repo) -> None:
    values = weights(1)
    whole = size(commit(repo, file_of(values)))
    lengths = []
    for at in range(30):
        values = few(values, at)
        recipe = commit(repo, file_of(values), look=at % 8 == 0)
        lengths.append(len(recipe))
        assert size(recipe[:1]) < whole / 10
        assert size(recipe) < 2 * whole
        assert recipe[-1].encoding == "dense"
    assert max(lengths) <= MAX_CHAIN
    assert sum(later < before for before, later in pairwise(lengths)) >= 2, "it was told from an older one now and then"
    stored = sum(path.stat().st_size for path in repo.objects().values())
    assert stored < 2 * whole


def test_thirty_full_fine_tunes_are_anchored_anew(repo: Repo) -> None:
    """The links of a chain never weigh more than the tensor stored by itself."""
    values = weights(1)
    alone = size(commit(repo, file_of(values)))
    for at in range(30):
        values = values + weights(50 + at, scale=0.0004)
        recipe = commit(repo, file_of(values), look=at % 8 == 0)
        assert len(recipe) <= MAX_CHAIN
        assert size(recipe[:-1]) <= 1.1 * alone
        assert size(recipe[:1]) <= 1.01 * alone


def test_a_version_that_has_nothing_to_do_with_the_one_before(repo: Repo) -> None:
    commit(repo, file_of(weights(1)))
    assert names(commit(repo, file_of(weights(2)))) == ["dense"]


def test_back_to_an_older_version_costs_nothing(repo: Repo) -> None:
    first, second = file_of(weights(1)), file_of(few(weights(1), 2))
    recipe = commit(repo, first)
    commit(repo, second)
    before = set(repo.objects())
    assert commit(repo, first) == recipe
    assert set(repo.objects()) == before


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        ("dense", ["dense"]),
        ("sparse dense", ["sparse", "dense"]),
        ("delta", ["delta", "dense"]),
        (" dense,\n sparse ", ["sparse", "dense"]),
        ("dense dense", ["dense"]),
        ("scale", ["dense"]),
        ("resize,scale", ["dense"]),
        ("lowrank", ["dense"]),
        ("delta sparse", ["sparse", "dense"]),
    ],
)
def test_only_what_is_allowed_is_tried(repo: Repo, allowed: str, expected: list[str]) -> None:
    commit(repo, file_of(weights(1)))
    setting(repo, allowed)
    assert names(commit(repo, file_of(few(weights(1), 2)))) == expected


def test_what_is_no_longer_allowed_can_still_be_read(repo: Repo) -> None:
    old, new = file_of(weights(1)), file_of(few(weights(1), 2))
    commit(repo, old)
    text = repo.add(new)
    setting(repo, "dense")
    assert repo.smudge(text) == new
    assert repo.clean(new) == text


def test_an_unknown_name_is_a_warning_with_a_mend_and_only_where_something_changed(repo: Repo) -> None:
    """An encoding that is not installed must not keep `git status` from working."""
    first, second = file_of(weights(1)), file_of(few(weights(1), 2))
    commit(repo, first)
    text = repo.add(first)
    setting(repo, "dense psychic")
    assert repo.clean(first) == text
    assert repo.smudge(text) == first
    assert not repo.warnings
    assert repo.smudge(repo.clean(second)) == second
    (warning,) = repo.warnings
    assert "theta.encodings" in warning
    assert "'psychic'" in warning
    assert "git theta plugins" in warning


@pytest.mark.parametrize("text", ["", " , ", "Dense", "sparse;dense", "../x", "sparse dense!"])
def test_a_setting_that_is_no_list_of_names(repo: Repo, text: str) -> None:
    setting(repo, text)
    with pytest.raises(ConfigError, match=r"theta\.encodings") as caught:
        repo.clean(file_of(weights(1)))
    assert "git config theta.encodings" in (caught.value.hint or "")


PLUGINS = '''
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gittheta.api import DTYPES, Finding, PayloadError, Tensor, TensorSpec


def _xor(one, other):
    return bytes(a ^ b for a, b in zip(bytes(one), bytes(other), strict=True))


@dataclass(frozen=True)
class Coder:
    encoding: object
    base: object

    def encode(self, new):
        return self.encoding.encode(new, self.base)

    def decode(self, payload, spec):
        return self.encoding.decode(payload, spec, self.base)


@dataclass(frozen=True)
class Good:
    """Nothing but the last byte of a block changed."""
    name: ClassVar[str] = "mine"
    kind: ClassVar[str] = "blockwise"
    api_version: ClassVar[int] = 2
    needs_base: ClassVar[bool] = True

    def over(self, base):
        return Coder(self, base)

    def encode(self, new, base):
        if base is None or bytes(new.data[:-1]) != bytes(base.data[:-1]):
            return None
        return bytes(new.data[-1:])

    def decode(self, payload, spec, base):
        if base is None or len(payload) != 1:
            raise PayloadError("not one byte")
        return Tensor(spec, memoryview(bytes(base.data[:-1]) + bytes(payload)))


@dataclass(frozen=True)
class Raising(Good):
    def encode(self, new, base):
        raise ZeroDivisionError("encode")


@dataclass(frozen=True)
class RaisingLate(Good):
    """Raises for whole blocks, after the samples went well."""
    def encode(self, new, base):
        if len(new.data) > LIMIT:
            raise IndexError("late")
        return b""


@dataclass(frozen=True)
class Stumbling(Good):
    def encode(self, new, base):
        return b""

    def decode(self, payload, spec, base):
        raise KeyError("decode")


@dataclass(frozen=True)
class Lying(Good):
    def encode(self, new, base):
        return b""

    def decode(self, payload, spec, base):
        return Tensor(spec, base.data)


@dataclass(frozen=True)
class Short(Good):
    def encode(self, new, base):
        return b""

    def decode(self, payload, spec, base):
        return Tensor(spec, base.data[:-1])


@dataclass(frozen=True)
class Text(Good):
    def encode(self, new, base):
        return "no bytes"


@dataclass(frozen=True)
class Sometimes(Good):
    """Applies to samples and to some blocks only."""
    def encode(self, new, base):
        return _xor(new.data, base.data).rstrip(b"\\0") if hash(bytes(new.data)) % 2 else None


@dataclass(frozen=True)
class NotTheLast(Good):
    """Applies to every sample, and to no block that is larger than one."""
    def encode(self, new, base):
        return b"" if len(new.data) <= LIMIT else None


@dataclass(frozen=True)
class Larger(Good):
    """Cheap samples, dear blocks."""
    def encode(self, new, base):
        return b"x" if len(new.data) <= LIMIT else bytes(new.data) + b"x"

    def decode(self, payload, spec, base):
        return Tensor(spec, payload[: spec.nbytes]) if len(payload) > 1 else Tensor(spec, bytes(spec.nbytes))


@dataclass(frozen=True)
class Bloated(Good):
    """More than any frame may hold."""
    def encode(self, new, base):
        return bytes(len(new.data) + (1 << 17))


@dataclass(frozen=True)
class Alone(Good):
    """Needs no base, and says nothing."""
    needs_base: ClassVar[bool] = False

    def encode(self, new, base):
        return None


@dataclass(frozen=True)
class AloneLying(Good):
    needs_base: ClassVar[bool] = False

    def encode(self, new, base):
        return b""

    def decode(self, payload, spec, base):
        return Tensor(spec, memoryview(bytes(spec.nbytes)))


@dataclass(frozen=True)
class Predicting:
    """Tells seven times each byte of the base."""
    name: ClassVar[str] = "mine"
    kind: ClassVar[str] = "predictor"
    api_version: ClassVar[int] = 2

    def find(self, new, base):
        return Finding(b"x")

    def base_spec(self, spec, parameters):
        return spec

    def open(self, payload, spec, parameters):
        return self

    def read(self, begin, end, base):
        return (np.frombuffer(base.read(begin, end), np.uint8) * np.uint8(7)).data


@dataclass(frozen=True)
class PredictingNothing(Predicting):
    def find(self, new, base):
        return None


@dataclass(frozen=True)
class PredictingBadly(Predicting):
    def read(self, begin, end, base):
        return memoryview(bytes(end - begin))


@dataclass(frozen=True)
class PredictingShort(Predicting):
    def read(self, begin, end, base):
        return super().read(begin, end, base)[1:]


@dataclass(frozen=True)
class PredictingRaising(Predicting):
    def find(self, new, base):
        raise ArithmeticError("find")


@dataclass(frozen=True)
class PredictingRaisingLater(Predicting):
    def read(self, begin, end, base):
        raise ArithmeticError("read")


@dataclass(frozen=True)
class PredictingRaisingAtOpen(Predicting):
    def open(self, payload, spec, parameters):
        raise ArithmeticError("open")


@dataclass(frozen=True)
class PredictingLong(Predicting):
    """A payload that is longer than may be."""
    def find(self, new, base):
        return Finding(bytes(new.spec.nbytes + (1 << 16) + 1))
'''
WRONG = [
    line.split()[1].split("(")[0].rstrip(":")
    for line in PLUGINS.splitlines()
    if line.startswith("class ") and "Coder" not in line
]
LIMIT = 1 << 15


@pytest.fixture
def plugin(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, repo: Repo
) -> Callable[..., None]:
    """Install one of the classes above as the encoding `mine`."""
    site = tmp_path_factory.mktemp("site")
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "encodings_under_test", raising=False)
    (site / "encodings_under_test.py").write_text(PLUGINS + f"\nLIMIT = {LIMIT}\n")

    def install(name: str, settings: str = "mine sparse delta dense") -> None:
        folder = site / "theta_mine-1.0.dist-info"
        folder.mkdir(exist_ok=True)
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: theta-mine\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[gittheta.encodings]\nmine = encodings_under_test:{name}\n")
        setting(repo, settings)

    return install


def test_a_third_partys_predictor_is_corrected_by_other_encodings(repo: Repo, plugin: Callable[..., None]) -> None:
    plugin("Predicting")
    first = bf16(weights(1))
    new = bytearray(sevenfold(first))
    new[77] ^= 1
    commit(repo, safetensors([("w", "BF16", SHAPE, first)]))
    recipe = commit(repo, safetensors([("w", "BF16", SHAPE, bytes(new))]))
    assert names(recipe) == ["sparse", "mine", "dense"]
    assert size(recipe[:2]) < 200


def test_a_third_partys_encoding_is_found_by_entry_point(repo: Repo, plugin: Callable[..., None]) -> None:
    plugin("Good")
    values = weights(1)
    data = bytearray(file_of(values))
    commit(repo, bytes(data))
    data[-1] ^= 1
    recipe = commit(repo, bytes(data))
    assert names(recipe) == ["mine", "dense"]
    assert size(recipe[:1]) < 50
    setting(repo, "sparse")
    assert repo.smudge(repo.clean(bytes(data))) == bytes(data)


@pytest.mark.parametrize("settings", ["mine sparse delta dense", "mine"])
@pytest.mark.parametrize("name", WRONG)
def test_whatever_a_plugin_does_the_file_is_stored(
    repo: Repo, plugin: Callable[..., None], name: str, settings: str
) -> None:
    first, second = bf16(weights(1, LARGER)), bf16(few(weights(1, LARGER), 2))
    far = sevenfold(first)
    plugin(name, settings)
    for data in (first, second, first, far):
        recipe = commit(repo, safetensors([("w", "BF16", LARGER, data)]))
        assert recipe[-1].encoding == "dense"
        if name != "Predicting":
            assert size(recipe[:1]) <= size(recipe[-1:]) + 200
    commit(repo, file_of(weights(3, (90, 7))))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", WRONG)
def test_whatever_a_plugin_does_a_large_tensor_is_stored(
    repo: Repo, plugin: Callable[..., None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin(name)
    values = weights(1, (40, 20))
    commit(repo, file_of(values))
    import encodings_under_test

    monkeypatch.setattr(encodings_under_test, "LIMIT", 64)
    commit(repo, file_of(few(values, 2, 3)))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("shape", [(10, 20), (20, 20), (400, 2), (2000,)])
def test_large_tensors_are_told_from_their_bases(repo: Repo, shape: tuple[int, ...]) -> None:
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

    monkeypatch.setattr(encode.PackWriter, "append", full)
    with pytest.raises(StoreError, match="disk full"):
        repo.clean(new)
    assert set(repo.objects()) == before
    assert not repo.temporaries()


def test_what_a_plugin_stored_cannot_be_read_without_it(
    repo: Repo, plugin: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin("Good")
    data = bytearray(file_of(weights(1)))
    commit(repo, bytes(data))
    data[-1] ^= 1
    text = repo.add(bytes(data))
    plugin("Lying")
    monkeypatch.delitem(sys.modules, "encodings_under_test")
    with pytest.raises(PayloadError) as caught:
        repo.smudge(text)
    assert (caught.value.path, caught.value.tensor) == ("m.safetensors", "w")
