"""The suite for block-wise encodings."""

# ruff: noqa: S101 - assertions are what these modules are for
from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from gittheta.conformance.common import (
    ALL_DTYPES,
    MEMORY_FACTOR,
    MEMORY_SPARE,
    block_values,
    check_plugin,
    random_of,
    tensor,
    tensors,
    whole,
)
from gittheta.errors import PayloadError
from gittheta.model import BLOCK_ELEMENTS, DTYPES, Tensor, TensorSpec

if TYPE_CHECKING:
    from gittheta.api import Encoding


class EncodingConformance:
    """Tests for every block-wise encoding. Set ``encoding``; ``hostile`` may add damaged payloads."""

    encoding: Encoding
    hostile: Sequence[bytes] = ()

    def base_of(self, new: Tensor) -> Tensor | None:
        """A base for ``new``. Override it if the encoding needs a special one."""
        if not self.encoding.needs_base:
            return None
        data = bytearray(new.data)
        for at in range(0, len(data), 97):
            data[at] ^= 1
        return Tensor(new.spec, memoryview(bytes(data)))

    def encoded(self, new: Tensor) -> bytes | None:
        """The payload of a tensor, encoded over its :meth:`base_of`."""
        return self.encoding.over(self.base_of(new)).encode(new)

    def check_round_trip(self, new: Tensor) -> bool:
        """Encode and decode one tensor; returns whether the encoding applied to it."""
        before = bytes(new.data)
        payload = self.encoded(new)
        assert bytes(new.data) == before, f"encoding changed its input: {new.spec}"
        if payload is None:
            return False
        assert self.encoded(new) == payload, f"encoding twice gave different payloads: {new.spec}"
        back = self.encoding.over(self.base_of(new)).decode(memoryview(payload), new.spec)
        assert back.spec == new.spec, f"decoding gave {back.spec} for {new.spec}"
        assert bytes(back.data) == before, f"not what was encoded: {new.spec}"
        return True

    def check_hostile(self, payload: bytes, spec: TensorSpec, what: str) -> None:
        """A damaged payload gives a tensor of the right size, or PayloadError and nothing else, in bounded memory."""
        base = self.base_of(Tensor(spec, memoryview(bytes(spec.nbytes))))
        tracemalloc.start()
        try:
            back = self.encoding.over(base).decode(memoryview(payload), spec)
            assert len(back.data) == spec.nbytes, f"{what}: {len(back.data)} bytes for {spec}"
        except PayloadError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak <= MEMORY_FACTOR * spec.nbytes + MEMORY_SPARE, f"{what}: {peak} bytes allocated for {spec}"

    def samples(self) -> Iterator[tuple[bytes, TensorSpec]]:
        """Small valid payloads to damage, of several dtypes, compressible and not."""
        for name in ("bf16", "f32", "i64", "u8", "f4", "c64"):
            dtype = DTYPES[name]
            for data in (block_values(dtype, 256), bytes(256 * dtype.bits // 8), block_values(dtype, 4)):
                new = tensor(dtype, data)
                payload = self.encoded(new)
                if payload is not None:
                    yield payload, new.spec

    def test_is_a_plugin(self) -> None:
        """A frozen dataclass whose name can stand in a manifest."""
        check_plugin(self.encoding)
        assert self.encoding.kind == "blockwise"
        assert isinstance(self.encoding.needs_base, bool)

    def test_every_dtype_comes_back_bit_by_bit(self) -> None:
        """NaN payloads, infinities, signed zeros, subnormals, constants, noise, 0-d, single and odd numbers."""
        applied = [self.check_round_trip(new) for dtype in ALL_DTYPES for new in tensors(dtype)]
        assert any(applied), "the encoding applied to nothing"

    def test_a_coder_serves_several_blocks(self) -> None:
        """What it keeps of its base must not leak from one block into another, nor from encoding into decoding."""
        for name in ("bf16", "f32", "i16", "u8"):
            dtype = DTYPES[name]
            one, other = (tensor(dtype, block_values(dtype, 500, seed)) for seed in (1, 2))
            coder = self.encoding.over(self.base_of(one))
            payloads = [coder.encode(one), coder.encode(other), coder.encode(one)]
            assert payloads[0] == payloads[2], f"{name}: encoding another block in between changed the payload"
            for payload, new in zip(payloads, (one, other, one), strict=True):
                if payload is not None:
                    assert bytes(coder.decode(memoryview(payload), new.spec).data) == bytes(new.data), name

    def test_many_threads(self) -> None:
        """The workers share one encoding."""
        new = tensor(DTYPES["bf16"], block_values(DTYPES["bf16"], 4096))
        expected = self.encoded(new)
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda _: self.encoded(new), range(64))) == {expected}

    def test_an_empty_block_does_no_harm(self) -> None:
        """The core never encodes an empty block, but doing so must not fail."""
        for dtype in ALL_DTYPES:
            self.check_round_trip(tensor(dtype, b""))

    def test_full_blocks_come_back(self) -> None:
        """The largest block that the core makes, of elements of each width, and its neighbours."""
        for dtype in {dtype.bits: dtype for dtype in ALL_DTYPES}.values():
            self.check_round_trip(tensor(dtype, block_values(dtype, BLOCK_ELEMENTS)))
        for count in (BLOCK_ELEMENTS - 1, BLOCK_ELEMENTS + 1):
            self.check_round_trip(tensor(DTYPES["bf16"], block_values(DTYPES["bf16"], count)))

    def test_where_the_bytes_lie_does_not_matter(self) -> None:
        """Blocks are slices of larger buffers: unaligned, sometimes writable."""
        for dtype in ALL_DTYPES:
            data = block_values(dtype, 512)
            spec = tensor(dtype, data).spec
            moved = memoryview(bytearray(b"?" + data + b"?"))[1:-1]
            assert self.encoded(Tensor(spec, moved)) == self.encoded(Tensor(spec, memoryview(data))), spec
            self.check_round_trip(Tensor(spec, moved))

    def test_threads_do_not_disturb_each_other(self) -> None:
        """The core encodes and decodes on several workers with one instance."""
        news = [tensor(dtype, block_values(dtype, 20_000, seed)) for dtype in ALL_DTYPES for seed in range(2)]
        alone = [self.encoded(new) for new in news]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(self.encoded, news)) == alone
            assert all(done is not None for done in pool.map(self.check_round_trip, news))

    def test_truncated_payloads(self) -> None:
        """Payloads cut at every position, and payloads with extra bytes, are refused or decode to the right size."""
        for payload, spec in self.samples():
            for size in range(len(payload)) if len(payload) < 600 else (*range(64), *range(64, len(payload), 31)):
                self.check_hostile(payload[:size], spec, f"cut to {size} of {len(payload)} bytes")
            self.check_hostile(payload + b"\0", spec, "one byte too many")
            self.check_hostile(payload + payload, spec, "the payload twice")

    def test_flipped_bits(self) -> None:
        """Payloads with one bit flipped, among the first bytes and in some others."""
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
        """Random payloads, and the ``hostile`` ones of the plugin's author."""
        random = random_of(7)
        noise = [random.randbytes(random.randrange(200)) for _ in range(300)]
        for payload in (*noise, *self.hostile):
            for name in ("bf16", "u8", "f64"):
                self.check_hostile(payload, TensorSpec("tensor", DTYPES[name], (25,)), f"noise {payload[:40].hex()}")

    def test_a_payload_of_another_dtype(self) -> None:
        """The manifest names the dtype, not the payload; the two may disagree."""
        for payload, spec in self.samples():
            for dtype in ALL_DTYPES:
                other = replace(spec, dtype=dtype, shape=(whole(dtype, 64) * dtype.unit,))
                self.check_hostile(payload, other, f"a payload of {spec.dtype.name} read as {dtype.name}")

    def test_needs_base(self) -> None:
        """With ``needs_base``, nothing is encoded without a base; without it, decoding ignores any base."""
        new = tensor(DTYPES["bf16"], block_values(DTYPES["bf16"], 500))
        if self.encoding.needs_base:
            assert self.encoding.over(None).encode(new) is None
            return
        payload = self.encoding.over(None).encode(new)
        other = tensor(DTYPES["bf16"], block_values(DTYPES["bf16"], 500, seed=9))
        if payload is not None:
            assert bytes(self.encoding.over(other).decode(memoryview(payload), new.spec).data) == bytes(new.data)

    def test_without_a_base_bytes_are_bytes(self) -> None:
        """A payload that needs no base is used for every tensor of the same bytes, whatever its dtype."""
        if self.encoding.needs_base:
            return
        for dtype in ALL_DTYPES:
            data = block_values(dtype, 192)
            payload = self.encoding.over(None).encode(tensor(dtype, data))
            for other in ALL_DTYPES if payload is not None else ():
                spec = TensorSpec("tensor", other, (len(data) * 8 // other.bits * other.unit,))
                if spec.nbytes == len(data):
                    back = self.encoding.over(None).decode(memoryview(payload or b""), spec)
                    assert bytes(back.data) == data, f"a payload of {dtype.name} read as {other.name}"
