"""Whatever the file: it comes back byte by byte, and cleaning again changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gittheta.flows.add.clean import clean
from gittheta.model import DTYPES
from gittheta.storage.manifest import parse_manifest
from tests.support.command import git
from tests.support.limits import SMALL
from tests.support.repository import Repo
from tests.support.safetensors_file import Entry, safetensors

FEW = settings(derandomize=True, max_examples=25, deadline=None)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")
SPELT = [name.upper() for name, dtype in DTYPES.items() if dtype.kind != "raw"] + ["F2_NEW"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """One repository for all examples, so that each meets what the others have stored; small blocks."""
    top = tmp_path_factory.mktemp("properties")
    git(top, "init", "-q")
    return Repo(top, limits=SMALL)


@st.composite
def tensors(draw: st.DrawFn) -> list[Entry]:
    entries: list[Entry] = []
    for name in draw(st.lists(NAMES, unique=True, max_size=5)):
        spelt = draw(st.sampled_from(SPELT))
        dtype = DTYPES.get(spelt.lower(), DTYPES["u8"])
        shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, 7, 40, 300]), max_size=2))
        if dtype.bits % 8:
            shape.append(8)
        elements = 1
        for size in shape:
            elements *= size
        pattern = draw(st.binary(min_size=1, max_size=40))
        nbytes = min(elements, 5000) * dtype.bits // 8
        shape = [nbytes * 8 // dtype.bits] if elements > 5000 else shape
        entries.append((name, spelt, shape, (pattern * (nbytes // len(pattern) + 1))[:nbytes]))
    return entries


FILES = st.builds(
    safetensors,
    tensors(),
    metadata=st.none() | st.dictionaries(st.text("ab \n", max_size=3), st.text("xyz", max_size=9), max_size=2),
    padding=st.sampled_from([b"", b" ", b"       ", b"\n\t\r "]),
)


@FEW
@given(FILES)
def test_checkpoints(shared: Repo, data: bytes) -> None:
    text = shared.check_fixed_point(data)
    assert parse_manifest(text).format == "safetensors"
    assert parse_manifest(text).file_size == len(data)


@FEW
@given(FILES, st.data())
def test_edited_checkpoints(shared: Repo, data: bytes, chosen: st.DataObject) -> None:
    shared.add(data)
    edited = bytearray(data)
    for at in chosen.draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=3)):
        edited[at] ^= chosen.draw(st.integers(1, 255))
    shared.check_fixed_point(bytes(edited))


@FEW
@given(FILES, st.data())
def test_truncated_and_extended_checkpoints(shared: Repo, data: bytes, chosen: st.DataObject) -> None:
    if chosen.draw(st.booleans()):
        shared.add(data)
    end = chosen.draw(st.integers(1, len(data)))
    shared.check_fixed_point(data[:end] + chosen.draw(st.binary(max_size=20)))


@FEW
@given(st.binary(min_size=1, max_size=3000), st.integers(1, 3))
def test_any_bytes(shared: Repo, data: bytes, times: int) -> None:
    shared.check_fixed_point(data * times, "noise.bin")


@FEW
@given(st.binary(max_size=60))
def test_what_begins_like_a_manifest(shared: Repo, rest: bytes) -> None:
    """Broken manifests are kept as opaque bytes, and an intact one as itself; nothing in between."""
    for data in (b"gittheta manifest 1" + rest, b"gittheta manifest " + rest):
        text = shared.add(data, "odd.txt")
        assert shared.clean(text, "odd.txt") == text
        assert text == data or shared.smudge(text, "odd.txt") == data


def test_an_empty_file_stays_empty(shared: Repo) -> None:
    assert shared.clean(b"") == b""


@pytest.mark.parametrize("cut", [1, 7, 4095, 4096, 4097])
def test_how_git_cuts_the_stream_does_not_matter(repo: Repo, cut: int, small_blocks: None) -> None:
    class Pipe:
        def __init__(self, data: bytes) -> None:
            self.left = memoryview(data)

        def readinto(self, buffer: memoryview, /) -> int:
            size = min(len(buffer), cut, len(self.left))
            buffer[:size] = self.left[:size]
            self.left = self.left[size:]
            return size

    data = safetensors([("a", "F32", [900], bytes(range(240)) * 15), ("b", "I8", [11], b"hello world")])
    whole = repo.add(data)
    for _ in range(2):
        with repo.open() as workspace:
            assert clean(workspace, "m.safetensors", Pipe(data)) == whole
