"""A plugin may be wrong; the file must still be stored exactly, or not at all and loudly."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, ClassVar

import pytest

from gittheta.api import Composed
from gittheta.encodings.dense import Dense
from gittheta.errors import PayloadError, PluginError
from gittheta.flows.add.clean import clean
from gittheta.flows.checkout.smudge import read_manifest, smudge
from gittheta.model import DTYPES, RAW, Dtype, Layout, Segment, Tensor, TensorSpec
from gittheta.registry import BUILT_IN, Registry
from gittheta.storage.manifest import format_manifest, parse_manifest
from tests.support.repository import Repo
from tests.support.safetensors_file import safetensors

DATA = b"lying format" + bytes(range(200))


def segment(name: str, offset: int, size: int, dtype: Dtype = RAW) -> Segment:
    return Segment(TensorSpec(name, dtype, (size,)), offset)


def layout(*segments: Segment, length: int = len(DATA)) -> Layout:
    return Layout(segments, length)


@dataclass(frozen=True)
class Lying:
    """A format that answers whatever the test asks for."""

    name: ClassVar[str] = "lying"
    needs_whole_file: ClassVar[bool] = False
    answer: ClassVar[Callable[[], Layout]]

    def matches(self, head: bytes) -> bool:
        return head.startswith(b"lying")

    def split(self, file: BinaryIO) -> Layout:
        file.read(5)
        return type(self).answer()

    def metadata(self, skeleton: bytes) -> Mapping[str, str]:
        return {}

    def compose(self, specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> Composed | None:
        return None


@dataclass(frozen=True)
class Forgetful(Dense):
    """An encoding that loses one bit."""

    def decode(self, payload: memoryview, spec: TensorSpec) -> Tensor:
        data = bytearray(super().decode(payload, spec).data)
        data[-1] ^= 1
        return Tensor(spec, memoryview(data))


@dataclass(frozen=True)
class Tripping(Dense):
    """An encoding whose decoder stumbles."""

    def decode(self, payload: memoryview, spec: TensorSpec) -> Tensor:
        raise IndexError("out of range")


def registry(kind: str, name: str, target: type) -> Registry:
    built_in = {**BUILT_IN, kind: {**BUILT_IN[kind], name: f"{__name__}:{target.__name__}"}}
    return Registry(built_in)


def fail() -> Layout:
    raise ZeroDivisionError


WRONG: dict[str, Callable[[], object]] = {
    "raises": fail,
    "no layout": lambda: None,
    "overlap": lambda: layout(segment("a", 10, 10), segment("b", 19, 10)),
    "out of order": lambda: layout(segment("b", 30, 10), segment("a", 10, 10)),
    "before the file": lambda: layout(segment("a", -1, 10)),
    "behind the file": lambda: layout(segment("a", 10, 10_000)),
    "behind the length": lambda: layout(segment("a", 10, 10), length=15),
    "no whole bytes": lambda: layout(segment("a", 10, 3, DTYPES["f4"])),
    "negative size": lambda: layout(segment("a", 10, -5)),
    "absurd length": lambda: layout(segment("a", 10, 10), length=10**15),
    "too short": lambda: layout(segment("a", 10, 10), length=len(DATA) - 1),
    "too long": lambda: layout(segment("a", 10, 10), length=len(DATA) + 1),
    "a name twice": lambda: layout(segment("a", 10, 10), segment("a", 20, 10)),
    "long name": lambda: layout(segment("x" * 5000, 10, 10)),
    "name that is no text": lambda: layout(segment("\ud800", 10, 10)),
    "too many dimensions": lambda: layout(Segment(TensorSpec("a", RAW, (1,) * 70), 10)),
    "unknown dtype": lambda: layout(segment("a", 10, 10, Dtype("f7", 8, "float"))),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_format_that_is_wrong_costs_nothing_but_the_format(
    repo: Repo, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setattr(Lying, "answer", staticmethod(WRONG[wrong]), raising=False)
    with repo.open() as workspace:
        workspace.tensors.registry = registry("formats", "lying", Lying)
        text = clean(workspace, "file", io.BytesIO(DATA))
        assert format_manifest(parse_manifest(text)) == text
        assert parse_manifest(text).format == "opaque"
        assert repo.warnings
    assert repo.smudge(text, "file") == DATA, "without the plugin, too"


def test_gaps_before_between_and_after_tensors(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = layout(segment("a", 20, 10), segment("none", 40, 0), segment("b", 41, 30), segment("c", 71, 9))
    monkeypatch.setattr(Lying, "answer", staticmethod(lambda: answer), raising=False)
    with repo.open() as workspace:
        workspace.tensors.registry = registry("formats", "lying", Lying)
        text = clean(workspace, "file", io.BytesIO(DATA))
        manifest = parse_manifest(text)
        assert manifest.format == "lying"
        assert manifest.skeleton.lead == 20
        assert [stanza.skip for stanza in manifest.stanzas] == [0, 10, 1, 0]
        repo.stage(text, "file")
        assert clean(workspace, "file", io.BytesIO(DATA)) == text
        assert b"".join(smudge(workspace, "file", manifest)) == DATA
    with pytest.raises(PluginError, match="no format named 'lying'"):
        repo.smudge(text, "file")


def test_an_encoding_that_loses_a_bit_stores_nothing(repo: Repo) -> None:
    with repo.open() as workspace:
        workspace.tensors.registry = registry("encodings", "dense", Forgetful)
        with pytest.raises(PayloadError, match="does not decode to the block"):
            clean(workspace, "m.safetensors", io.BytesIO(safetensors([("w", "F32", [9], bytes(36))])))
    assert not repo.objects()
    assert not repo.temporaries()


@pytest.mark.parametrize("kind", [Forgetful, Tripping])
def test_a_decoder_that_is_wrong_is_an_error_that_names_the_tensor(repo: Repo, kind: type) -> None:
    text = repo.add(safetensors([("w", "F32", [9], bytes(36))]))
    with repo.open() as workspace:
        workspace.tensors.registry = registry("encodings", "dense", kind)
        manifest = read_manifest(workspace, "m.safetensors", text)
        assert manifest is not None
        with pytest.raises(PayloadError) as caught:
            b"".join(smudge(workspace, "m.safetensors", manifest))
    assert caught.value.path == "m.safetensors"


def test_an_encoding_that_is_not_installed(repo: Repo) -> None:
    text = repo.add(safetensors([("w", "F32", [9], bytes(36))]))
    with pytest.raises(PluginError, match="no encoding named 'quantum'") as caught:
        repo.smudge(text.replace(b"\ndense", b"\nquantum"))
    assert caught.value.path == "m.safetensors"
    assert "install the plugin" in (caught.value.hint or "")


def test_a_broken_file_says_what_is_wrong_with_it(repo: Repo) -> None:
    repo.check_fixed_point(safetensors([("w", "F32", [9], bytes(35))]))
    assert any("'w' has 35 bytes" in warning for warning in repo.warnings)
