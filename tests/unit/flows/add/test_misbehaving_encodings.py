"""Plugins that answer what no encoding may: the file is stored all the same."""

from __future__ import annotations

import sys

import pytest

from tests.support.repository import Repo
from tests.support.safetensors_file import safetensors
from tests.support.versions import LARGER, bf16, commit, few, setting, sevenfold, weights

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
