"""Plugins are found by name: built in, or brought by another distribution."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gittheta.errors import PluginError
from gittheta.registry import BUILT_IN, Registry

PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar

@dataclass(frozen=True)
class Mine:
    api_version: ClassVar[int] = 2
    name: ClassVar[str] = "mine"
    kind: ClassVar[str] = "blockwise"
    needs_base: ClassVar[bool] = False

class Other:
    name = "another"
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path with a module of plugins in it."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "plugin_under_test.py").write_text(PLUGIN)
    monkeypatch.delitem(sys.modules, "plugin_under_test", raising=False)
    monkeypatch.delitem(sys.modules, "plugin_that_fails", raising=False)
    monkeypatch.delitem(sys.modules, "plugin_of_old", raising=False)
    return tmp_path


def distribution(site: Path, name: str, entry_points: str) -> None:
    folder = site / f"{name.replace('-', '_')}-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(entry_points)


def test_every_built_in_loads_under_its_own_name() -> None:
    registry = Registry()
    for kind in (
        "formats",
        "encodings",
        "metrics",
        "remotes",
    ):  # merges need torch, and are loaded by every test that merges
        for name in BUILT_IN[kind]:
            assert registry.load(kind, name).name == name


def test_an_unknown_name_says_what_to_do() -> None:
    with pytest.raises(PluginError, match="no encoding named 'quantum' is installed") as caught:
        Registry().encoding("quantum")
    assert "install the plugin" in (caught.value.hint or "")


def test_an_entry_point_is_found(site: Path) -> None:
    distribution(site, "theta-mine", "[gittheta.encodings]\nmine = plugin_under_test:Mine\n")
    registry = Registry()
    assert registry.encoding("mine").name == "mine"
    assert "mine" in list(registry.names("encodings"))
    result = next(info for info in registry.all() if info.name == "mine")
    assert (result.kind, result.distribution) == ("encodings", "theta-mine")


def test_listing_loads_nothing(site: Path) -> None:
    distribution(site, "theta-mine", "[gittheta.encodings]\nmine = plugin_under_test:Mine\n")
    list(Registry().all())
    assert "plugin_under_test" not in sys.modules


def test_a_name_of_a_built_in_is_refused(site: Path) -> None:
    distribution(site, "theta-dense", "[gittheta.encodings]\ndense = plugin_under_test:Mine\n")
    registry = Registry()
    assert type(registry.encoding("dense")).__module__ == "gittheta.encodings.dense"
    assert list(registry.names("encodings")).count("dense") == 1
    (clash,) = registry.clashes()
    assert str(clash) == "two encodings are named 'dense': one of theta-dense, one of gittheta"


def test_a_name_that_two_distributions_bring_is_refused(site: Path) -> None:
    distribution(site, "theta-one", "[gittheta.formats]\nmine = plugin_under_test:Mine\n")
    distribution(site, "theta-two", "[gittheta.formats]\nmine = plugin_under_test:Other\n")
    registry = Registry()
    with pytest.raises(PluginError, match="two formats are named 'mine'") as caught:
        registry.format("mine")
    assert "pip uninstall theta-" in (caught.value.hint or "")
    assert "mine" not in list(registry.names("formats")), "all else works"


@pytest.mark.parametrize(
    ("version", "what", "who"),
    [
        ("1", "was written for version 1", "theta-old"),
        ("3", "was written for version 3", "gittheta"),
        ("None", "does not say", "theta-old"),
    ],
)
def test_a_plugin_of_another_version_of_the_api_is_an_error(site: Path, version: str, what: str, who: str) -> None:
    (site / "plugin_of_old.py").write_text(f"class Mine:\n    name = 'mine'\n    api_version = {version}\n")
    distribution(site, "theta-old", "[gittheta.encodings]\nmine = plugin_of_old:Mine\n")
    with pytest.raises(PluginError, match=what) as caught:
        Registry().encoding("mine")
    assert caught.value.hint == f"pip install --upgrade {who}"


@pytest.mark.parametrize("target", ["plugin_under_test:Missing", "no_such_module:Mine", "plugin_under_test"])
def test_a_plugin_that_cannot_be_loaded(site: Path, target: str) -> None:
    distribution(site, "theta-mine", f"[gittheta.encodings]\nmine = {target}\n")
    with pytest.raises(PluginError):
        Registry().encoding("mine")


@pytest.mark.parametrize("code", ["raise RuntimeError('no GPU')", "def broken(:"])
def test_a_plugin_whose_module_fails_is_an_error_that_names_it(site: Path, code: str) -> None:
    (site / "plugin_that_fails.py").write_text(code)
    distribution(site, "theta-mine", "[gittheta.encodings]\nmine = plugin_that_fails:Mine\n")
    with pytest.raises(PluginError, match="'mine'"):
        Registry().encoding("mine")


def test_a_class_that_calls_itself_otherwise(site: Path) -> None:
    distribution(site, "theta-mine", "[gittheta.encodings]\nmine = plugin_under_test:Other\n")
    with pytest.raises(PluginError, match="registered as 'mine' calls itself 'another'"):
        Registry().encoding("mine")


EXITS = """
class Exits:
    api_version = 2
    name = "mine"
    needs_whole_file = False
    def __init__(self): raise SystemExit(0)
"""


@pytest.mark.parametrize("text", ["raise SystemExit(0)", EXITS, "class Own(BaseException): pass\nraise Own"])
def test_a_plugin_that_tries_to_end_the_process_is_an_error_of_the_plugin(site: Path, text: str) -> None:
    (site / "plugin_under_test.py").write_text(text)
    distribution(site, "ends", "[gittheta.formats]\nmine = plugin_under_test:Exits\n")
    with pytest.raises(PluginError, match="mine"):
        Registry().format("mine")
