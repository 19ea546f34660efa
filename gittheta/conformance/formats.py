"""The suite for formats."""

# ruff: noqa: S101 - assertions are what these modules are for
from __future__ import annotations

import io
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from gittheta.conformance.common import check_plugin, random_of
from gittheta.errors import FormatError
from gittheta.model import DTYPES, Layout

if TYPE_CHECKING:
    from gittheta.api import Composed, Format


class FormatConformance:
    """Tests for every format. Set ``file_format``, and whole files: valid ``samples`` and ``broken`` ones."""

    file_format: Format
    samples: Sequence[bytes]
    broken: Sequence[bytes] = ()

    def split(self, file: bytes, at_once: int = 1 << 16) -> Layout:
        """Split a file that comes in pieces of ``at_once`` bytes and can only be read forwards.

        A format that needs the whole file gets one in which it can seek.
        """
        whole = self.file_format.needs_whole_file
        return self.file_format.split(io.BytesIO(file) if whole else _forward_only(file, at_once))

    def check_hostile(self, file: bytes, what: str) -> None:
        """A damaged file is refused with FormatError and nothing else, or it gets a valid layout."""
        if not self.file_format.matches(file[:4096]):
            return
        try:
            layout = self.split(file)
        except FormatError:
            return
        check_layout(layout, what)

    def test_is_a_plugin(self) -> None:
        """A frozen dataclass whose name can stand in a manifest; ``opaque`` is taken."""
        check_plugin(self.file_format)
        assert self.file_format.name != "opaque"
        assert isinstance(self.file_format.needs_whole_file, bool)

    def test_samples_are_recognised_by_their_beginning(self) -> None:
        """The first 4096 bytes are enough, and more bytes never change the answer."""
        assert self.samples, "a suite without samples shows nothing"
        for number, sample in enumerate(self.samples):
            assert self.file_format.matches(sample[:4096]), f"sample {number}"
            assert self.file_format.matches(sample), f"sample {number}, whole"

    def test_foreign_beginnings_are_no_trouble(self) -> None:
        """For no bytes, too few, noise, text and other tools' files: an answer, never an exception."""
        random = random_of(3)
        heads = [b"", b"\0", b"\xff" * 4096, b"PK\x03\x04", b"\x80\x02}", b"GGUF", b"{}", b"\x89HDF\r\n\x1a\n"]
        for head in (*heads, *(random.randbytes(random.randrange(64)) for _ in range(300))):
            assert self.file_format.matches(head) in (True, False), head
        assert not self.file_format.matches(b""), "an empty file is of no format"

    def test_layouts_keep_their_promises(self) -> None:
        """Tensors are in order, without overlap, within the file; the layout's length is the file's."""
        for number, sample in enumerate(self.samples):
            layout = self.split(sample)
            check_layout(layout, f"sample {number}")
            assert layout.length == len(sample), f"sample {number} has {len(sample)} bytes, not {layout.length}"

    def test_how_the_stream_is_cut_does_not_matter(self) -> None:
        """Reading one byte at a time, a few, or everything at once gives the same layout."""
        for number, sample in enumerate(self.samples):
            whole = self.split(sample)
            for at_once in (1, 7, len(sample)):
                assert self.split(sample, at_once) == whole, f"sample {number}, {at_once} bytes at a time"
            assert self.file_format.split(io.BytesIO(sample)) == whole, f"sample {number}, from memory"

    def test_truncated_files(self) -> None:
        """Files cut at any position are refused or get a valid layout."""
        for number, sample in enumerate(self.samples):
            for size in _positions(len(sample), random_of(number)):
                self.check_hostile(sample[:size], f"sample {number} cut to {size} bytes")

    def test_flipped_bits_and_replaced_bytes(self) -> None:
        """Files with one damaged byte are refused or get a valid layout."""
        for number, sample in enumerate(self.samples):
            random = random_of(number)
            for at in _positions(len(sample), random):
                damaged = bytearray(sample)
                damaged[at] = random.choice((damaged[at] ^ 1 << random.randrange(8), 0, 255, ord("9"), ord('"')))
                self.check_hostile(bytes(damaged), f"sample {number}, byte {at} is {damaged[at]}")

    def test_broken_files_are_refused(self) -> None:
        """Each broken file is not recognised, or raises FormatError and nothing else."""
        for number, file in enumerate(self.broken):
            if not self.file_format.matches(file[:4096]):
                continue
            try:
                layout = self.split(file)
            except FormatError:
                continue
            # The core itself finds files that are shorter or longer than their layout says.
            assert layout.length != len(file), f"broken file {number} was accepted: {file[:200]!r}"
            check_layout(layout, f"broken file {number}")

    def test_files_that_are_laid_out_anew(self) -> None:
        """``compose`` returns None, or a file of the layout that it states, with these tensors and this metadata."""
        for number, sample in enumerate(self.samples):
            layout = self.split(sample)
            specs = [segment.spec for segment in layout.segments]
            try:
                metadata = self.file_format.metadata(_skeleton(sample, layout))
            except FormatError:
                continue
            for chosen in (specs, specs[::-1], specs[1:], []):
                composed = self.file_format.compose(chosen, metadata)
                if composed is None:
                    continue
                file = _filled(composed)
                again = self.split(file)
                check_layout(again, f"sample {number}, as composed")
                assert again == composed.layout, f"sample {number}: not the layout that compose() returned"
                assert [segment.spec for segment in again.segments] == chosen, f"sample {number}"
                assert again.length == len(file), f"sample {number}: {len(file)} bytes, not {again.length}"
                kept = self.file_format.metadata(composed.skeleton)
                assert dict(kept) == dict(metadata), f"sample {number}: the metadata has changed"

    def test_metadata_is_texts_by_key(self) -> None:
        """``metadata`` returns texts by key, or raises FormatError; also for damaged skeletons."""
        for number, sample in enumerate(self.samples):
            skeleton = _skeleton(sample, self.split(sample))
            for damaged in (skeleton, skeleton[:-1], skeleton[:9], b""):
                try:
                    metadata = self.file_format.metadata(damaged)
                except FormatError:
                    continue
                assert all(isinstance(text, str) for pair in metadata.items() for text in pair), f"sample {number}"


def check_layout(layout: Layout, what: str) -> None:
    """Fail unless a layout is valid (see :class:`gittheta.model.Layout`) and fits into a manifest."""
    end = 0
    for segment in layout.segments:
        spec = segment.spec
        assert segment.offset >= end, f"{what}: '{spec.name}' overlaps another, or is out of order"
        assert spec.bits % 8 == 0, f"{what}: '{spec.name}' is not a whole number of bytes"
        assert len(spec.name.encode()) <= 4096, f"{what}: a name too long for a manifest"
        assert len(spec.shape) <= 64, f"{what}: '{spec.name}' has too many dimensions"
        sizes = (*spec.shape, spec.elements)
        assert all(0 <= size <= 1 << 62 for size in sizes), f"{what}: '{spec.name}' has an absurd shape"
        known = (
            spec.dtype.name not in DTYPES if spec.dtype.kind == "block" else DTYPES.get(spec.dtype.name) == spec.dtype
        )
        assert known, f"{what}: '{spec.name}' has a dtype that manifests do not know"
        last = spec.shape[-1] if spec.shape else 1
        assert last % spec.dtype.unit == 0, f"{what}: '{spec.name}' has parts of a block in its last dimension"
        end = segment.offset + spec.nbytes
    assert end <= layout.length, f"{what}: the last tensor reaches beyond the file"
    names = {segment.spec.name for segment in layout.segments}
    assert len(names) == len(layout.segments), f"{what}: a name twice"
    aliases = {alias for alias, _ in layout.aliases}
    assert len(aliases) == len(layout.aliases), f"{what}: another name twice"
    assert not names & aliases, f"{what}: another name that is the name of a tensor"
    assert {name for _, name in layout.aliases} <= names, f"{what}: an alias that does not stand for a tensor"


def _positions(size: int, random: Random) -> Sequence[int]:
    """Every position in a small file; in a larger one the first thousand and some of the rest."""
    return range(size) if size <= 1500 else (*range(1000), *sorted(random.sample(range(1000, size), 500)))


def _skeleton(file: bytes, layout: Layout) -> bytes:
    pieces, at = [], 0
    for segment in layout.segments:
        pieces.append(file[at : segment.offset])
        at = segment.offset + segment.spec.nbytes
    return b"".join([*pieces, file[at:]])


def _filled(composed: Composed) -> bytes:
    """The file that a format laid out, with zeros for all tensors."""
    pieces, at, end = [], 0, 0
    for segment in composed.layout.segments:
        gap = segment.offset - end
        pieces += [composed.skeleton[at : at + gap], bytes(segment.spec.nbytes)]
        at += gap
        end = segment.offset + segment.spec.nbytes
    return b"".join([*pieces, composed.skeleton[at:]])


def _forward_only(data: bytes, at_once: int) -> io.BufferedReader:
    return io.BufferedReader(_Trickle(data, max(1, at_once)))


class _Trickle(io.RawIOBase):
    def __init__(self, data: bytes, at_once: int) -> None:
        self._left = memoryview(data)
        self._at_once = at_once

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        size = min(len(buffer), self._at_once, len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size
