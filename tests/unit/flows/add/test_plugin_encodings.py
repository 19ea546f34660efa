"""Encodings of a third party: used where they serve, passed over where they fail."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from gittheta.errors import PayloadError
from tests.support.repository import Repo
from tests.support.safetensors_file import safetensors
from tests.support.versions import LARGER, SHAPE, bf16, commit, few, file_of, names, setting, sevenfold, size, weights

pytestmark = pytest.mark.once

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


@pytest.mark.parametrize("settings", ["mine sparse delta dense", pytest.param("mine", marks=pytest.mark.slow)])
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
    monkeypatch.setattr(sys.modules["encodings_under_test"], "LIMIT", 64)
    commit(repo, file_of(few(values, 2, 3)))


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
