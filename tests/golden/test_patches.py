"""Patches lead to what they always led to."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from gittheta.api import NullReporter
from gittheta.flows.patch.apply import apply_patch

HERE = Path(__file__).parent / "patch"
TABLE: dict[str, dict[str, str]] = json.loads((HERE / "patches.json").read_text())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_frozen_files_are_untouched() -> None:
    assert sha256(HERE / "patches.json") == "bcca488ff05465b0af50c2d92fee0625f91061e3f5af19baac3cc9e1975e1680"
    assert sha256(HERE / "old.safetensors") == "7f026315ad4a2a10215209ac17f60e9ffef5cff533fb2da3ffdc3a3c3ba47ff0"
    assert {path.name: sha256(path) for path in HERE.glob("*.patch")} == {
        name: row["patch"] for name, row in TABLE.items()
    }


@pytest.mark.parametrize("name", TABLE)
def test_a_patch_leads_where_it_always_led(tmp_path: Path, name: str) -> None:
    apply_patch(HERE / name, HERE / "old.safetensors", tmp_path / "new", NullReporter())
    assert sha256(tmp_path / "new") == TABLE[name]["new"]
