"""The plugins in plugins/README.md run as they stand there, and keep the contracts that the page speaks of."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from hashlib import sha256
from importlib import import_module, invalidate_caches
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gittheta import testing
from gittheta.api import (
    API_VERSION,
    DTYPES,
    BlockPair,
    ObjectId,
    Remote,
    RemoteContext,
    RemoteError,
    RemotePlugin,
    TensorSpec,
)
from gittheta.codec.measure import measure
from gittheta.codec.tensor_store import TensorStore
from gittheta.limits import Limits
from gittheta.testing import EncodingConformance, InMemory, MetricConformance, RemoteConformance, tensor

pytestmark = pytest.mark.once

PAGE = (Path(__file__).parents[2] / "plugins/README.md").read_text()
_BLOCK = re.compile(r"^(?:[^\n]*`(gittheta_\w+)\.py`:\n\n)?```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


_FOLDER = TemporaryDirectory()


def _run_the_page() -> dict[str, ModuleType]:
    """Each block of Python as a module, by the name that the page gives its file; the last one uses the others."""
    sys.path.append(_FOLDER.name)
    modules = {}
    for at, (name, code) in enumerate(_BLOCK.findall(PAGE)):
        module = name or f"readme_block_{at}"
        Path(_FOLDER.name, f"{module}.py").write_text(code)
        invalidate_caches()
        sys.modules.pop(module, None)  # another test may have one of that name
        modules[module] = import_module(module)
    return modules


MODULES = _run_the_page()


def plugins() -> Iterable[type[Any]]:
    """The classes of the page that call themselves plugins."""
    classes = [each for module in MODULES.values() for each in vars(module).values() if isinstance(each, type)]
    return {each: None for each in classes if "api_version" in vars(each)}


def test_every_block_of_python_is_run() -> None:
    assert len(MODULES) == PAGE.count("```python")
    assert sorted(plugin.name for plugin in plugins()) == ["flips", "negated", "npy", "shelf", "zlib"]


@pytest.mark.parametrize("plugin", plugins(), ids=lambda plugin: plugin.name)
def test_every_plugin_says_for_which_api_it_is(plugin: type[Any]) -> None:
    assert plugin.api_version == API_VERSION


def test_every_suite_of_the_page_is_there_and_every_suite_is_on_the_page() -> None:
    suites = {name for name in testing.__all__ if name.endswith("Conformance")}
    assert set(re.findall(r"\w+Conformance", PAGE)) == suites


class TestTheExampleOfATest(list(MODULES.values())[-1].TestNpy):  # type: ignore[misc]
    """The block that shows how to test a format does test it."""


class TestZlib(EncodingConformance):
    """The encoding of the page keeps the contract of encodings."""

    encoding = MODULES["gittheta_zlib"].Zlib()


def test_a_format_lays_out_a_file_that_numpy_reads(tmp_path: Path) -> None:
    npy = MODULES["gittheta_npy"].Npy()
    composed = npy.compose([TensorSpec("array", DTYPES["f32"], (2, 3))], {})
    (tmp_path / "new.npy").write_bytes(composed.skeleton + bytes(24))
    array = np.load(tmp_path / "new.npy")
    assert (array.shape, array.dtype) == ((2, 3), np.float32)


class TestFlips(MetricConformance):
    """The metric of the page keeps the contract of metrics."""

    metric = MODULES["gittheta_flips"].Flips()
    unchanged = None  # all elements may differ, and no sign


class TestShelf(RemoteConformance):
    """The remote of the page keeps the contract of remotes."""

    plugin = MODULES["gittheta_shelf"].Shelf

    def open_remote(self, folder: Path) -> Remote:
        (folder / "shelf").mkdir(exist_ok=True)
        remote: Remote = MODULES["gittheta_shelf"].Shelf.open("shelf:shelf", RemoteContext(folder))
        return remote

    def plant(self, folder: Path, object_id: ObjectId, data: bytes) -> bool:
        (folder / "shelf" / object_id).write_bytes(data)
        return True


# -- the metric --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 4, 1 << 20])
def test_the_metric_counts_signs_however_blocks_are_cut(block: int, tmp_path: Path) -> None:
    old = np.array([1, -1, 0.0, 5, np.nan, 3], np.float32)
    new = np.array([2, 1, -0.0, -5, np.nan, 3], np.float32)
    readers = [InMemory(tensor(DTYPES["f32"], values.tobytes(), (2, 3))) for values in (old, new)]
    with TensorStore.at(tmp_path, Limits(block_elements=block)) as tensors:
        assert measure(tensors, MODULES["gittheta_flips"].Flips(), *readers) == {"flips": 0.5}


def test_the_metric_is_for_dtypes_with_arithmetic() -> None:
    flips = MODULES["gittheta_flips"].Flips()
    applies = {name for name, dtype in DTYPES.items() if flips.applies(tensor(dtype, b"", (0,)).spec)}
    assert {"f16", "bf16", "f32", "f64"} <= applies
    assert not {"raw", "i8", "f4"} & applies
    empty = tensor(DTYPES["f32"], b"", (0,))
    assert flips.look(BlockPair(empty.spec, 0, empty.data, empty.data)) == (0, 0)
    assert flips.conclude(empty.spec, []) == {"flips": 0.0}


# -- the remote --------------------------------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 5000
OBJECT = ObjectId(sha256(CONTENT).hexdigest())
OTHER = ObjectId("0" * 64)


@pytest.fixture
def shelf(tmp_path: Path) -> RemotePlugin:
    (tmp_path / "shelf").mkdir()
    remote: RemotePlugin = MODULES["gittheta_shelf"].Shelf.open("shelf:shelf", RemoteContext(tmp_path))
    return remote


def _moved() -> tuple[list[int], Any]:
    amounts: list[int] = []
    return amounts, amounts.append


def test_the_remote_leaves_other_urls_to_others(tmp_path: Path) -> None:
    assert MODULES["gittheta_shelf"].Shelf.open("file:///mnt", RemoteContext(tmp_path)) is None


def test_the_remote_keeps_what_it_was_given(shelf: RemotePlugin, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    assert shelf.sizes([OBJECT, OTHER]) == {}
    for _ in range(2):  # again, as after an answer that was lost
        amounts, advance = _moved()
        shelf.upload(OBJECT, tmp_path / "source", advance)
        assert sum(amounts) == len(CONTENT)
    assert shelf.sizes([OBJECT, OTHER]) == {OBJECT: len(CONTENT)}
    assert shelf.read(OBJECT, 255, 3) == b"\xff\x00\x01"
    amounts, advance = _moved()
    shelf.download(OBJECT, tmp_path / "target", advance)
    assert (tmp_path / "target").read_bytes() == CONTENT
    assert sum(amounts) == len(CONTENT)
    shelf.close()


def test_the_remote_fails_with_a_hint(shelf: RemotePlugin, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    shelf.upload(OBJECT, tmp_path / "source", lambda amount: None)
    for failing in (
        lambda: shelf.download(OTHER, tmp_path / "target", lambda amount: None),
        lambda: shelf.read(OTHER, 0, 1),
        lambda: shelf.read(OBJECT, len(CONTENT) - 1, 2),
        lambda: shelf.upload(OTHER, tmp_path / "nothing", lambda amount: None),
    ):
        with pytest.raises(RemoteError) as failure:
            failing()
        assert failure.value.hint
    assert shelf.sizes([OTHER]) == {}
    assert [path.name for path in (tmp_path / "shelf").iterdir()] == [OBJECT]
