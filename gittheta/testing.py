"""Conformance suites for plugins. Subclass one in a test module, name what is to be tested, and let pytest run it.

::

    from gittheta.testing import EncodingConformance

    class TestMine(EncodingConformance):
        encoding = Mine()

The suites need nothing of pytest but that it collects classes whose names begin with ``Test``; every method can be
called by hand too. A failure says which dtype, shape or damaged payload it was.
"""

from __future__ import annotations

import io
import re
import tracemalloc
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

from gittheta.errors import FormatError, PayloadError
from gittheta.model import BLOCK_ELEMENTS, DTYPES, Dtype, Layout, Tensor, TensorSpec

if TYPE_CHECKING:
    from gittheta.api import Encoding, Format

__all__ = ["EncodingConformance", "FormatConformance", "block_values", "check_layout", "tensor"]

#: What a decoder may allocate: so many times the tensor, and a fixed amount beside it.
MEMORY_FACTOR = 16
MEMORY_SPARE = 4 << 20

_WORD = re.compile("[a-z][a-z0-9_]*")
_ODD_COUNTS = (1, 2, 3, 5, 7, 8, 12, 255, 1023, 4097)
#: Zeros of both signs, ones, subnormals, largest finite values, infinities, NaNs of several payloads and signs.
_SPECIAL_32 = (0, 1 << 31, 0x3F800000, 1, 0x007FFFFF, 0x80000001, 0x00800000, 0x7F7FFFFF, 0x7F800000, 0xFF800000)
_NANS_32 = (0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFBFFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
_SPECIAL_64 = (
    0,
    1 << 63,
    0x3FF << 52,
    1,
    (1 << 52) - 1,
    (1 << 63) + 1,
    1 << 52,
    0x7FEF << 48,
    0x7FF << 52,
    0xFFF << 52,
)
_NANS_64 = (0x7FF8 << 48, 0xFFF8 << 48, (0x7FF << 52) + 1, (0xFFF8 << 48) - 1, (1 << 63) - 1, (1 << 64) - 1)
_SPECIAL = {4: (*_SPECIAL_32, *_NANS_32), 8: (*_SPECIAL_64, *_NANS_64)}


def _random(seed: int) -> Random:
    return Random(seed)  # noqa: S311 - noise that must be the same each time


def tensor(dtype: Dtype, data: bytes, shape: tuple[int, ...] | None = None) -> Tensor:
    """A tensor from its bytes; one-dimensional unless a shape is given."""
    spec = TensorSpec("tensor", dtype, (len(data) * 8 // dtype.bits,) if shape is None else shape)
    assert spec.nbytes == len(data), f"{len(data)} bytes for {spec}"
    return Tensor(spec, memoryview(data))


def block_values(dtype: Dtype, elements: int, seed: int = 0) -> bytes:
    """That many elements as a trained layer might hold them: normal of small deviation, or small integers."""
    import numpy as np

    rng = np.random.default_rng(seed)
    if dtype.kind == "bool":
        return rng.integers(0, 2, elements, np.uint8).tobytes()
    if dtype.kind == "complex":
        return rng.normal(0, 0.02, 2 * elements).astype("<f4").tobytes()
    if dtype.kind != "float" or dtype.bits < 16:
        nbytes = elements * dtype.bits // 8
        return rng.integers(0, 256, nbytes, np.uint8).tobytes()
    wide = rng.normal(0, 0.02, elements)
    if dtype.name == "bf16":
        return (wide.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return wide.astype(f"<f{dtype.itemsize}").tobytes()


def _special_values(dtype: Dtype) -> bytes:
    """Every bit pattern of narrow elements, the telling ones of wide elements."""
    if dtype.bits <= 8:
        return bytes(range(256)) * 3
    if dtype.bits == 16:
        return b"".join(pattern.to_bytes(2, "little") for pattern in range(1 << 16))
    width = 4 if dtype.kind == "complex" else dtype.itemsize
    return b"".join(pattern.to_bytes(width, "little") for pattern in _SPECIAL[width]) * 5


def _whole(dtype: Dtype, elements: int) -> int:
    """The next number of elements that fill whole bytes."""
    while elements * dtype.bits % 8:
        elements += 1
    return elements


def _tensors(dtype: Dtype) -> Iterator[Tensor]:
    yield tensor(dtype, _special_values(dtype))
    for seed, count in enumerate(_ODD_COUNTS):
        nbytes = _whole(dtype, count) * dtype.bits // 8
        yield tensor(dtype, _random(seed).randbytes(nbytes))
        yield tensor(dtype, block_values(dtype, _whole(dtype, count), seed))
    size = _whole(dtype, 1000) * dtype.bits // 8
    yield tensor(dtype, bytes(size))
    yield tensor(dtype, b"\xff" * size)
    yield tensor(dtype, (b"\x3f\x80\x01\x42\x00\xc0\x7f\x99" * size)[:size])
    yield tensor(dtype, _random(1).randbytes(24 * dtype.bits // 8), (2, 3, 4))
    if dtype.bits % 8 == 0:
        yield tensor(dtype, _random(2).randbytes(dtype.itemsize), ())


class EncodingConformance:
    """What every encoding owes. Set ``encoding``; ``hostile`` may add payloads made by hand to those made here."""

    encoding: Encoding
    hostile: Sequence[bytes] = ()

    def base_of(self, new: Tensor) -> Tensor | None:
        """A base that ``new`` might have grown from. Override it where the encoding needs a special one."""
        if not self.encoding.needs_base:
            return None
        data = bytearray(new.data)
        for at in range(0, len(data), 97):
            data[at] ^= 1
        return Tensor(new.spec, memoryview(bytes(data)))

    def encoded(self, new: Tensor) -> bytes | None:
        """The payload of a tensor, over :meth:`base_of` it."""
        return self.encoding.encode(new, self.base_of(new))

    def check_round_trip(self, new: Tensor) -> bool:
        """Encode and decode one tensor; says whether the encoding applied to it."""
        before = bytes(new.data)
        payload = self.encoded(new)
        assert bytes(new.data) == before, f"encoding changed its input: {new.spec}"
        if payload is None:
            return False
        assert self.encoded(new) == payload, f"encoding twice gave different payloads: {new.spec}"
        back = self.encoding.decode(memoryview(payload), new.spec, self.base_of(new))
        assert back.spec == new.spec, f"decoding gave {back.spec} for {new.spec}"
        assert bytes(back.data) == before, f"not what was encoded: {new.spec}"
        return True

    def check_hostile(self, payload: bytes, spec: TensorSpec, what: str) -> None:
        """A damaged payload gives a tensor of the right size, or PayloadError and nothing else, in bounded memory."""
        base = self.base_of(Tensor(spec, memoryview(bytes(spec.nbytes))))
        tracemalloc.start()
        try:
            back = self.encoding.decode(memoryview(payload), spec, base)
            assert len(back.data) == spec.nbytes, f"{what}: {len(back.data)} bytes for {spec}"
        except PayloadError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak <= MEMORY_FACTOR * spec.nbytes + MEMORY_SPARE, f"{what}: {peak} bytes allocated for {spec}"

    def samples(self) -> Iterator[tuple[bytes, TensorSpec]]:
        """Small valid payloads to damage, several dtypes and both compressible and not."""
        for name in ("bf16", "f32", "i64", "u8", "f4", "c64"):
            dtype = DTYPES[name]
            for data in (block_values(dtype, 256), bytes(256 * dtype.bits // 8), block_values(dtype, 4)):
                new = tensor(dtype, data)
                payload = self.encoded(new)
                if payload is not None:
                    yield payload, new.spec

    def test_is_a_plugin(self) -> None:
        """A frozen dataclass whose name can stand in a manifest."""
        _check_plugin(self.encoding)
        assert isinstance(self.encoding.needs_base, bool)

    def test_every_dtype_comes_back_bit_by_bit(self) -> None:
        """NaN payloads, infinities, signed zeros, subnormals, constants, noise, 0-d, single and odd numbers."""
        applied = [self.check_round_trip(new) for dtype in DTYPES.values() for new in _tensors(dtype)]
        assert any(applied), "the encoding applied to nothing"

    def test_an_empty_block_does_no_harm(self) -> None:
        """The core encodes none, but asking for one must not fail."""
        for dtype in DTYPES.values():
            self.check_round_trip(tensor(dtype, b""))

    def test_full_blocks_come_back(self) -> None:
        """The largest block that the core makes, and its neighbours."""
        for dtype in DTYPES.values():
            self.check_round_trip(tensor(dtype, block_values(dtype, BLOCK_ELEMENTS)))
        for count in (BLOCK_ELEMENTS - 1, BLOCK_ELEMENTS + 1):
            self.check_round_trip(tensor(DTYPES["bf16"], block_values(DTYPES["bf16"], count)))

    def test_where_the_bytes_lie_does_not_matter(self) -> None:
        """Blocks are slices of larger buffers: unaligned, sometimes writable."""
        for dtype in DTYPES.values():
            data = block_values(dtype, 512)
            spec = tensor(dtype, data).spec
            moved = memoryview(bytearray(b"?" + data + b"?"))[1:-1]
            assert self.encoded(Tensor(spec, moved)) == self.encoded(Tensor(spec, memoryview(data))), spec
            self.check_round_trip(Tensor(spec, moved))

    def test_threads_do_not_disturb_each_other(self) -> None:
        """The core encodes and decodes on several workers with one instance."""
        news = [tensor(dtype, block_values(dtype, 20_000, seed)) for dtype in DTYPES.values() for seed in range(2)]
        alone = [self.encoded(new) for new in news]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(self.encoded, news)) == alone
            assert all(done is not None for done in pool.map(self.check_round_trip, news))

    def test_truncated_payloads(self) -> None:
        """Cut at every position, and with bytes too many."""
        for payload, spec in self.samples():
            for size in range(len(payload)) if len(payload) < 600 else (*range(64), *range(64, len(payload), 31)):
                self.check_hostile(payload[:size], spec, f"cut to {size} of {len(payload)} bytes")
            self.check_hostile(payload + b"\0", spec, "one byte too many")
            self.check_hostile(payload + payload, spec, "the payload twice")

    def test_flipped_bits(self) -> None:
        """Each bit of the payload's first bytes, and some of the others."""
        for payload, spec in self.samples():
            for at in (*range(min(len(payload), 48)), *range(48, len(payload), 61)):
                for bit in range(8):
                    damaged = bytearray(payload)
                    damaged[at] ^= 1 << bit
                    self.check_hostile(bytes(damaged), spec, f"bit {bit} of byte {at} flipped")

    def test_lengths_that_lie(self) -> None:
        """Any number in the payload may claim to be huge: four or eight bytes of ones, anywhere near its beginning."""
        for payload, spec in self.samples():
            for at in range(min(len(payload), 64)):
                for lie in (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff" * 8, b"\0" * 4):
                    damaged = (payload[:at] + lie + payload[at + len(lie) :])[: len(payload)]
                    self.check_hostile(damaged, spec, f"{lie.hex()} at {at}")

    def test_payloads_that_hold_more_than_the_shape_allows(self) -> None:
        """A small payload of a large constant block is a bomb where a small tensor is expected, and the reverse."""
        for name in ("bf16", "f32", "u8"):
            dtype = DTYPES[name]
            payload = self.encoded(tensor(dtype, bytes(BLOCK_ELEMENTS * dtype.itemsize)))
            for count in (1, 7, 1000) if payload is not None else ():
                spec = TensorSpec("tensor", dtype, (count,))
                self.check_hostile(payload or b"", spec, f"a full block where {count} elements belong")
            small = self.encoded(tensor(dtype, bytes(8 * dtype.itemsize)))
            self.check_hostile(small or b"", TensorSpec("tensor", dtype, (BLOCK_ELEMENTS,)), "too small a payload")

    def test_noise(self) -> None:
        """Random bytes, and those that the plugin's author thought of."""
        random = _random(7)
        noise = [random.randbytes(random.randrange(200)) for _ in range(300)]
        for payload in (*noise, *self.hostile):
            for name in ("bf16", "u8", "f64"):
                self.check_hostile(payload, TensorSpec("tensor", DTYPES[name], (25,)), f"noise {payload[:40].hex()}")

    def test_a_payload_of_another_dtype(self) -> None:
        """The manifest names the dtype, not the payload; the two may disagree."""
        for payload, spec in self.samples():
            for dtype in DTYPES.values():
                other = replace(spec, dtype=dtype, shape=(_whole(dtype, 64),))
                self.check_hostile(payload, other, f"a payload of {spec.dtype.name} read as {dtype.name}")

    def test_needs_base(self) -> None:
        """With ``needs_base``, nothing is encoded without one; without it, decoding must not look at one."""
        new = tensor(DTYPES["bf16"], block_values(DTYPES["bf16"], 500))
        if self.encoding.needs_base:
            assert self.encoding.encode(new, None) is None
            return
        payload = self.encoding.encode(new, None)
        other = tensor(DTYPES["bf16"], block_values(DTYPES["bf16"], 500, seed=9))
        if payload is not None:
            assert bytes(self.encoding.decode(memoryview(payload), new.spec, other).data) == bytes(new.data)


class FormatConformance:
    """What every format owes. Set ``file_format``, and whole files: valid ``samples`` and ``broken`` ones."""

    file_format: Format
    samples: Sequence[bytes]
    broken: Sequence[bytes] = ()

    def split(self, file: bytes, at_once: int = 1 << 16) -> Layout:
        """Split a file that arrives in pieces of so many bytes and cannot be rewound."""
        return self.file_format.split(_forward_only(file, at_once))

    def check_hostile(self, file: bytes, what: str) -> None:
        """A damaged file is refused with FormatError and nothing else, or its layout keeps its promises."""
        if not self.file_format.matches(file[:4096]):
            return
        try:
            layout = self.split(file)
        except FormatError:
            return
        check_layout(layout, what)

    def test_is_a_plugin(self) -> None:
        """A frozen dataclass whose name can stand in a manifest; ``opaque`` is taken."""
        _check_plugin(self.file_format)
        assert self.file_format.name != "opaque"

    def test_samples_are_recognised_by_their_beginning(self) -> None:
        """A few thousand bytes are enough, and an answer never depends on more."""
        assert self.samples, "a suite without samples shows nothing"
        for number, sample in enumerate(self.samples):
            assert self.file_format.matches(sample[:4096]), f"sample {number}"
            assert self.file_format.matches(sample), f"sample {number}, whole"

    def test_foreign_beginnings_are_no_trouble(self) -> None:
        """Nothing, too little, noise, text, another tool's files: an answer, never an exception."""
        random = _random(3)
        heads = [b"", b"\0", b"\xff" * 4096, b"PK\x03\x04", b"\x80\x02}", b"GGUF", b"{}", b"\x89HDF\r\n\x1a\n"]
        for head in (*heads, *(random.randbytes(random.randrange(64)) for _ in range(300))):
            assert self.file_format.matches(head) in (True, False), head
        assert not self.file_format.matches(b""), "an empty file is of no format"

    def test_layouts_keep_their_promises(self) -> None:
        """In order, without overlap, within the file, whose whole length they state."""
        for number, sample in enumerate(self.samples):
            layout = self.split(sample)
            check_layout(layout, f"sample {number}")
            assert layout.length == len(sample), f"sample {number} has {len(sample)} bytes, not {layout.length}"

    def test_how_the_stream_is_cut_does_not_matter(self) -> None:
        """One byte at a time, a few, everything at once; twice the same."""
        for number, sample in enumerate(self.samples):
            whole = self.split(sample)
            for at_once in (1, 7, len(sample)):
                assert self.split(sample, at_once) == whole, f"sample {number}, {at_once} bytes at a time"
            assert self.file_format.split(io.BytesIO(sample)) == whole, f"sample {number}, from memory"

    def test_truncated_files(self) -> None:
        """Cut anywhere."""
        for number, sample in enumerate(self.samples):
            for size in _positions(len(sample), _random(number)):
                self.check_hostile(sample[:size], f"sample {number} cut to {size} bytes")

    def test_flipped_bits_and_replaced_bytes(self) -> None:
        """Wherever the damage is."""
        for number, sample in enumerate(self.samples):
            random = _random(number)
            for at in _positions(len(sample), random):
                damaged = bytearray(sample)
                damaged[at] = random.choice((damaged[at] ^ 1 << random.randrange(8), 0, 255, ord("9"), ord('"')))
                self.check_hostile(bytes(damaged), f"sample {number}, byte {at} is {damaged[at]}")

    def test_broken_files_are_refused(self) -> None:
        """Each is not recognised, or raises FormatError and nothing else."""
        for number, file in enumerate(self.broken):
            if not self.file_format.matches(file[:4096]):
                continue
            try:
                layout = self.split(file)
            except FormatError:
                continue
            # Shorter or longer than the layout says is what the core finds out by itself.
            assert layout.length != len(file), f"broken file {number} was accepted: {file[:200]!r}"
            check_layout(layout, f"broken file {number}")

    def test_merged_skeletons_hold_what_was_wanted(self) -> None:
        """None, or a skeleton that splits into just those tensors in just that order."""
        for number, sample in enumerate(self.samples):
            layout = self.split(sample)
            skeleton = _skeleton(sample, layout)
            specs = [segment.spec for segment in layout.segments]
            for wanted in (specs, specs[::-1], specs[1:], []):
                for base in (skeleton, None):
                    merged = self.file_format.merge_skeletons(base, skeleton, skeleton, wanted)
                    if merged is None:
                        continue
                    again = self.file_format.split(io.BytesIO(merged))
                    check_layout(again, f"sample {number}, merged")
                    assert [segment.spec for segment in again.segments] == wanted, f"sample {number}"


def check_layout(layout: Layout, what: str) -> None:
    """The promises of :class:`gittheta.model.Layout`, and what a manifest can hold."""
    end = 0
    for segment in layout.segments:
        spec = segment.spec
        assert segment.offset >= end, f"{what}: '{spec.name}' overlaps another, or is out of order"
        assert spec.bits % 8 == 0, f"{what}: '{spec.name}' is no whole number of bytes"
        assert len(spec.name.encode()) <= 4096, f"{what}: a name too long for a manifest"
        assert len(spec.shape) <= 64, f"{what}: '{spec.name}' has too many dimensions"
        assert all(0 <= size <= 1 << 62 for size in spec.shape), f"{what}: '{spec.name}' has an absurd shape"
        assert DTYPES.get(spec.dtype.name) == spec.dtype, f"{what}: '{spec.name}' is of a dtype that is none"
        end = segment.offset + spec.nbytes
    assert end <= layout.length, f"{what}: the last tensor reaches beyond the file"
    names = {segment.spec.name for segment in layout.segments}
    assert len(names) == len(layout.segments), f"{what}: a name twice"


def _check_plugin(plugin: Any) -> None:
    kind = type(plugin)
    described = getattr(kind, "__dataclass_params__", None)
    assert described is not None, f"{kind.__name__} is no dataclass"
    assert described.frozen, f"{kind.__name__} is not frozen"
    assert replace(plugin) == plugin, f"two {kind.__name__} with the same options differ"
    assert kind.name == plugin.name, f"the name of {kind.__name__} belongs to the class"
    assert _WORD.fullmatch(plugin.name), f"'{plugin.name}' cannot stand in a manifest"


def _positions(size: int, random: Random) -> Sequence[int]:
    """Every position in a small file; in a larger one the first thousand and some of the rest."""
    return range(size) if size <= 1500 else (*range(1000), *sorted(random.sample(range(1000, size), 500)))


def _skeleton(file: bytes, layout: Layout) -> bytes:
    pieces, at = [], 0
    for segment in layout.segments:
        pieces.append(file[at : segment.offset])
        at = segment.offset + segment.spec.nbytes
    return b"".join([*pieces, file[at:]])


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
