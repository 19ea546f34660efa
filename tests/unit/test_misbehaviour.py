"""Plugins that misbehave, disks that fill, chains made to waste memory: what went wrong once."""

from __future__ import annotations

import errno
import os
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gittheta.codec import spool
from gittheta.codec.choose import MAX_CHAIN
from gittheta.encodings.resize.predictor import Resize
from gittheta.errors import PayloadError, StoreError
from gittheta.flows.edit.apply import apply
from gittheta.model import DTYPES, Link, TensorSpec
from gittheta.storage.manifest import MAX_LINKS, format_manifest, parse_manifest
from tests.unit.building import Repo, git, safetensors
from tests.unit.in_memory import InMemory
from tests.unit.test_adapter import LORA, Q, save
from tests.unit.test_adapter import file_of as arrays_file
from tests.unit.test_bases import TRACKED, V1, V2, V3, attributes, told_from
from tests.unit.test_bases import file_of as base_file
from tests.unit.test_chain import UNKNOWN, Shelf, frame
from tests.unit.test_choose import LARGER, bf16, commit, few, file_of, setting, sevenfold, weights

HEAD = """
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from gittheta.api import DTYPES, Finding, Tensor, TensorSpec

@dataclass(frozen=True)
class Predicting:
    name: ClassVar[str] = "mine"
    def find(self, new, base): return Finding(b"x")
    def base_spec(self, spec, parameters): return spec
    def open(self, payload, spec, parameters): return self
    def read(self, begin, end, base): return (np.frombuffer(base.read(begin, end), np.uint8) * np.uint8(7)).data

@dataclass(frozen=True)
class Coding:
    name: ClassVar[str] = "mine"
    needs_base: ClassVar[bool] = True
    def encode(self, new, base): return b""
    def decode(self, payload, spec, base): return Tensor(spec, base.data)
"""


def _finding(answer: str) -> str:
    return f"class Mine(Predicting):\n    def find(self, new, base): return {answer}\n"


PLUGINS = {
    "a payload of no bytes": _finding("Finding(b'')"),
    "parameters that a manifest cannot hold": _finding("Finding(b'x', (('Key', 'a b'),))"),
    "parameters that are not in order": _finding("Finding(b'x', (('b', '1'), ('a', '2')))"),
    "another base at decoding": (
        "class Mine(Predicting):\n"
        "    def base_spec(self, spec, parameters): return TensorSpec(spec.name, DTYPES['u8'], (3,))\n"
    ),
    "scribbles into what it is given": (
        "class Mine(Coding):\n    def encode(self, new, base):\n"
        "        for given in (new, base):\n"
        "            if given is not None and not given.data.readonly: given.data[0] = 0x55\n"
        "        return b'' if len(new.data) <= 1 << 15 else None\n"
    ),
    "decode gives None": "class Mine(Coding):\n    def decode(self, payload, spec, base): return None\n",
    "encode gives a number": "class Mine(Coding):\n    def encode(self, new, base): return 7\n",
    "find gives text": _finding("'found'"),
}


@pytest.mark.parametrize("case", PLUGINS)
def test_whatever_a_plugin_does_the_file_is_stored(
    repo: Repo, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    site = tmp_path_factory.mktemp("site")
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "misbehaving_plugin", raising=False)
    (site / "misbehaving_plugin.py").write_text(HEAD + "\n@dataclass(frozen=True)\n" + PLUGINS[case])
    (site / "m-1.0.dist-info").mkdir()
    (site / "m-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: m\nVersion: 1.0\n")
    (site / "m-1.0.dist-info/entry_points.txt").write_text("[gittheta.encodings]\nmine = misbehaving_plugin:Mine\n")
    setting(repo, "mine sparse delta dense")
    first, second = bf16(weights(1, LARGER)), bf16(few(weights(1, LARGER), 2))
    for data in (first, second, first, sevenfold(first)):
        commit(repo, safetensors([("w", "BF16", LARGER, data)]))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("after", [0, 300])
def test_a_full_disk_while_a_large_tensor_is_spooled(repo: Repo, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
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


@pytest.mark.parametrize("name", ["../outside.safetensors", "../../etc/passwd"])
def test_an_attribute_that_leads_out_of_the_repository(repo: Repo, name: str) -> None:
    attributes(repo, TRACKED + f"tuned.safetensors theta-base={name}\n")
    assert told_from(repo.add(base_file(V2), "tuned.safetensors")) is None
    assert any("theta-base" in warning for warning in repo.warnings)


@pytest.mark.parametrize("case", ["unknown above", "unknown below", "parameters"])
def test_a_recipe_of_head_that_cannot_be_read_is_no_base(repo: Repo, case: str) -> None:
    commit(repo, base_file(V1))
    commit(repo, base_file(V2))
    manifest = parse_manifest(repo.add(base_file(V2)))
    (found,) = manifest.stanzas
    sparse, dense = found.recipe
    recipe = {
        "unknown above": (replace(sparse, encoding="quantum"), dense),
        "unknown below": (sparse, replace(dense, encoding="quantum")),
        "parameters": (sparse, replace(sparse, encoding="resize", parameters=(("from", "9"),)), dense),
    }[case]
    repo.stage(format_manifest(replace(manifest, stanzas=(replace(found, recipe=recipe),))))
    git(repo.top, "commit", "-q", "-m", "odd")
    text = repo.add(base_file(V3))
    assert repo.smudge(text) == base_file(V3)


def test_adapters_applied_one_after_the_other_keep_the_chain_short(
    repo: Repo, tmp_path_factory: pytest.TempPathFactory
) -> None:
    chance = np.random.default_rng(3)
    path, folder = repo.top / "m.safetensors", tmp_path_factory.mktemp("adapter")
    path.write_bytes(arrays_file({"model.q.weight": chance.normal(size=(64, 64)).astype(np.float32)}))
    commit(repo, path.read_bytes())
    for _ in range(8):
        factors = {
            f"{Q}.lora_A.weight": chance.normal(size=(2, 64)).astype(np.float32),
            f"{Q}.lora_B.weight": chance.normal(size=(64, 2)).astype(np.float32),
        }
        with repo.open() as workspace:
            apply(workspace, save(folder, LORA, factors), path, path.name)
        assert len(commit(repo, path.read_bytes())) <= MAX_CHAIN


def test_memory_of_a_long_chain_does_not_grow_with_its_links(repo: Repo) -> None:
    shelf, size = Shelf(repo), 8 << 20
    spec, data = TensorSpec("w", DTYPES["u8"], (size,)), bytes(size)
    ways = [shelf.link("sparse", data, data, cuts, spec) for cuts in ((), range(1 << 19, size, 1 << 20))]
    links = [ways[at % 2] for at in range(MAX_LINKS - 1)]
    text = shelf.manifest(spec, data, (*links, shelf.link("dense", data, None, (), spec)))
    tracemalloc.start()
    assert repo.smudge(text)[-size:] == data
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * size, f"{peak / size:.0f} times the tensor"


def test_a_long_chain_of_tiny_frames(repo: Repo) -> None:
    shelf, size = Shelf(repo), 6000
    spec, data = TensorSpec("w", DTYPES["u8"], (size,)), bytes(size)
    tiny = Link("sparse", shelf.put(*[frame(b"", b"\0")] * size), (), UNKNOWN)
    text = shelf.manifest(spec, data, (*[tiny] * (MAX_LINKS - 1), shelf.link("dense", data, None, (), spec)))
    with pytest.raises(PayloadError, match="too many small blocks"):
        repo.smudge(text)


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
def test_a_broken_file_shares_tensors_that_were_told_from_others(repo: Repo, broken: str) -> None:
    """Pieces of an opaque file may be told by predictors, which need to know the shape."""
    chance = np.random.default_rng(5)
    old = chance.normal(0, 0.02, (256, 256)).astype(np.float32)
    factors = chance.normal(0, 0.05, (256, 2)), chance.normal(0, 0.05, (2, 256))
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


def test_long_tensors_of_one_dimension_are_refused_before_anything_is_worked_out() -> None:
    spec = TensorSpec("w", DTYPES["u8"], (1 << 24,))
    new, old = InMemory(spec, memoryview(bytes(spec.nbytes))), InMemory(spec, memoryview(b"\1" * spec.nbytes))
    tracemalloc.start()
    assert Resize().find(new, old) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
