"""The suite for predictors."""

# ruff: noqa: S101 - assertions are what these modules are for
from __future__ import annotations

import re
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from math import prod
from typing import TYPE_CHECKING

from gittheta.conformance.common import (
    MEMORY_FACTOR,
    MEMORY_SPARE,
    check_plugin,
    random_of,
    tensors,
)
from gittheta.conformance.values import (
    SHAPES,
    Endless,
    InMemory,
    at_once,
    bases_of,
    equal_elements,
    ranges_of,
    shaped,
    sprinkled,
    unit_of,
)
from gittheta.errors import PayloadError
from gittheta.model import DTYPES, Tensor, TensorSpec

if TYPE_CHECKING:
    from gittheta.api import Finding, Prediction, Predictor

#: A new tensor and its base.
Pair = tuple[Tensor, Tensor]

_KEY = re.compile("[a-z][a-z0-9_]*", re.ASCII)
_VALUE = re.compile("[A-Za-z0-9._:,+-]+", re.ASCII)
#: The most bytes of a payload, and the most bytes by which it may be longer than its tensor.
_MAX_PAYLOAD = 1 << 26
_MAX_OVERHEAD = 1 << 16
_ODD_VALUES = (
    "",
    "0",
    "1",
    "-1",
    "7",
    "0x0",
    "1x1",
    "full",
    "nan",
    "1,1",
    "99999999999999999999",
    "9" * 5000,
    "\u0663",
)


class PredictorConformance:
    """Tests for every predictor. Set ``predictor``, and ``pairs`` of a tensor and a base for which it must apply.

    Give small pairs of every dtype that the predictor is for; the payloads of the first four are damaged by the tests.
    ``hostile`` may add damaged payloads, with their parameters.
    """

    predictor: Predictor
    pairs: Sequence[Pair]
    hostile: Sequence[tuple[bytes, Mapping[str, str]]] = ()

    def find(self, new: Tensor, base: Tensor) -> Finding | None:
        """The predictor's finding for a tensor and a base, or None."""
        return self.predictor.find(InMemory(new), InMemory(base))

    def found(self, new: Tensor, base: Tensor) -> Finding:
        """The predictor's finding for a tensor and a base for which it must apply."""
        finding = self.find(new, base)
        assert finding is not None, f"nothing was found in {new.spec} from {base.spec}"
        return finding

    def open(self, finding: Finding, spec: TensorSpec) -> Prediction:
        """The prediction of a finding."""
        return self.predictor.open(memoryview(finding.payload), spec, dict(finding.parameters))

    def predict(self, new: Tensor, base: Tensor) -> bytes | None:
        """The whole predicted tensor, or None if the predictor does not apply."""
        finding = self.find(new, base)
        if finding is None:
            return None
        return bytes(self.open(finding, new.spec).read(0, new.spec.nbytes, InMemory(base)))

    def check_pair(self, new: Tensor, base: Tensor) -> bool:
        """Find, open and read; returns whether the predictor applied."""
        what = f"{new.spec} from {base.spec}"
        before = bytes(new.data), bytes(base.data)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            finding = self.find(new, base)
            assert self.find(new, base) == finding, f"finding twice gave different payloads: {what}"
            if finding is not None:
                self.check_finding(finding, new.spec, base.spec)
                predicted = self.predict(new, base)
                assert predicted is not None, what
                assert len(predicted) == new.spec.nbytes, f"{len(predicted)} bytes predicted: {what}"
                assert predicted == self.predict(new, base), f"predicting twice gave different bytes: {what}"
        assert (bytes(new.data), bytes(base.data)) == before, f"an input was changed: {what}"
        return finding is not None

    def check_finding(self, finding: Finding, spec: TensorSpec, base: TensorSpec) -> None:
        """A finding can be stored: payload and parameters are within bounds, and give the base's dtype and shape."""
        size = len(finding.payload)
        assert 0 < size <= min(_MAX_PAYLOAD, spec.nbytes + _MAX_OVERHEAD), f"a payload of {size} bytes for {spec}"
        keys = [key for key, _ in finding.parameters]
        assert keys == sorted(set(keys)), f"parameters out of order, or twice: {finding.parameters}"
        for key, value in finding.parameters:
            fits = _KEY.fullmatch(key) and _VALUE.fullmatch(value) and len(value) < 1 << 12
            assert fits, f"{key}={value} cannot stand in a manifest"
        stated = self.predictor.base_spec(spec, dict(finding.parameters))
        fits = (stated.dtype, stated.shape) == (base.dtype, base.shape)
        assert fits, f"{stated} for the base of {spec}, which is {base}"

    def check_hostile(self, payload: bytes, spec: TensorSpec, parameters: Mapping[str, str], what: str) -> None:
        """A damaged payload predicts the right number of bytes, or raises PayloadError alone, in bounded memory."""
        base = None
        tracemalloc.start()
        try:
            base = self.predictor.base_spec(spec, parameters)
            prediction = self.predictor.open(memoryview(payload), spec, parameters)
            for begin, end in ((0, spec.nbytes), (0, unit_of(spec)), (spec.nbytes - unit_of(spec), spec.nbytes)):
                if 0 <= begin <= end <= spec.nbytes:
                    data = prediction.read(begin, end, Endless(base))
                    assert len(data) == end - begin, f"{what}: {len(data)} bytes instead of {end - begin} of {spec}"
        except PayloadError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        allowed = MEMORY_FACTOR * (spec.nbytes + len(payload) + at_once(base)) + MEMORY_SPARE
        assert peak <= allowed, f"{what}: {peak} bytes allocated for {spec} with {parameters}"

    def samples(self) -> Iterator[tuple[bytes, TensorSpec, dict[str, str]]]:
        """Valid payloads to damage, with specs and parameters."""
        for new, base in self.pairs[:4]:
            finding = self.found(new, base)
            yield finding.payload, new.spec, dict(finding.parameters)

    def test_is_a_plugin(self) -> None:
        """A frozen dataclass whose name can stand in a manifest."""
        check_plugin(self.predictor)
        assert self.predictor.kind == "predictor"

    def test_finds_what_it_is_for(self) -> None:
        """Each pair is found, in fewer bytes than the tensor has, and more of it is right than in the base."""
        assert self.pairs, "a suite without pairs shows nothing"
        for new, base in self.pairs:
            assert self.check_pair(new, base), f"nothing was found in {new.spec} from {base.spec}"
            assert len(self.found(new, base).payload) < new.spec.nbytes, f"no gain for {new.spec}"
            predicted = self.predict(new, base)
            before = equal_elements(new, bytes(base.data)) if base.spec.shape == new.spec.shape else 0
            assert predicted is not None
            assert equal_elements(new, predicted) > before, f"the prediction of {new.spec} is no better than its base"

    def test_values_that_are_no_numbers(self) -> None:
        """NaNs of every payload, infinities, both zeros, subnormals and largest values, in the tensor or its base."""
        for new, base in self.pairs:
            for seed, (some, others) in enumerate(product((0, 3, 40), (0, 3, 40))):
                self.check_pair(sprinkled(new, some, seed), sprinkled(base, others, seed + 1))
            self.check_pair(new, Tensor(base.spec, memoryview(bytes(base.spec.nbytes))))
            self.check_pair(Tensor(new.spec, memoryview(b"\xff" * new.spec.nbytes)), base)
            self.check_pair(new, Tensor(base.spec, memoryview(b"\xff" * base.spec.nbytes)))

    def test_every_dtype_and_shape(self) -> None:
        """Empty, 0-d, one element, one row, odd sizes; equal, unrelated, or of another shape or dtype: no harm."""
        for dtype in DTYPES.values():
            for new in tensors(dtype):
                for base in bases_of(new):
                    self.check_pair(new, base)
            of_all_shapes = [shaped(dtype, shape) for shape in SHAPES]
            for new, base in product(of_all_shapes, of_all_shapes):
                self.check_pair(new, base)

    def test_a_base_of_another_dtype(self) -> None:
        """The core never passes a base of another dtype, but doing so must not fail."""
        for new, base in self.pairs:
            for name in ("f32", "bf16", "u8", "f4", "raw"):
                dtype = DTYPES[name]
                shape = (base.spec.nbytes * 8 // dtype.bits,)
                if prod(shape) * dtype.bits == base.spec.bits and dtype != new.spec.dtype:
                    self.check_pair(new, Tensor(replace(base.spec, dtype=dtype, shape=shape), base.data))

    def test_how_a_prediction_is_read_does_not_matter(self) -> None:
        """Any ranges of whole elements, read in any order, are parts of the same bytes."""
        for seed, (new, base) in enumerate(self.pairs):
            prediction = self.open(self.found(new, base), new.spec)
            expected = bytes(prediction.read(0, new.spec.nbytes, InMemory(base)))
            for begin, end in ranges_of(new.spec, random_of(seed)):
                part = bytes(prediction.read(begin, end, InMemory(base)))
                assert part == expected[begin:end], f"bytes {begin} to {end} of {new.spec} differ when read alone"

    def test_where_the_bytes_lie_does_not_matter(self) -> None:
        """Values are slices of larger buffers: unaligned, sometimes writable."""
        for new, base in self.pairs:
            moved = [Tensor(one.spec, memoryview(bytearray(b"?" + one.data + b"?"))[1:-1]) for one in (new, base)]
            assert self.find(moved[0], moved[1]) == self.find(new, base), new.spec
            assert self.predict(moved[0], moved[1]) == self.predict(new, base), new.spec
            finding = self.found(new, base)
            payload = memoryview(bytearray(b"?" + finding.payload))[1:]
            prediction = self.predictor.open(payload, new.spec, dict(finding.parameters))
            assert bytes(prediction.read(0, new.spec.nbytes, InMemory(base))) == self.predict(new, base), new.spec

    def test_threads_do_not_disturb_each_other(self) -> None:
        """The core finds with one instance and reads from one prediction on several workers."""
        alone = [self.predict(new, base) for new, base in self.pairs]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda pair: self.predict(*pair), self.pairs)) == alone
            for (new, base), expected in zip(self.pairs, alone, strict=True):
                prediction = self.open(self.found(new, base), new.spec)
                read = _reader(prediction, base)
                ranges = list(ranges_of(new.spec, random_of(5)))
                for (begin, end), data in zip(ranges, pool.map(read, ranges), strict=True):
                    assert data == (expected or b"")[begin:end], f"bytes {begin} to {end} of {new.spec}, on a thread"

    def test_truncated_payloads(self) -> None:
        """Payloads cut at every position, and payloads with extra bytes."""
        for payload, spec, parameters in self.samples():
            for size in range(len(payload)) if len(payload) < 600 else (*range(64), *range(64, len(payload), 31)):
                self.check_hostile(payload[:size], spec, parameters, f"cut to {size} of {len(payload)} bytes")
            self.check_hostile(payload + b"\0", spec, parameters, "one byte too many")
            self.check_hostile(payload + payload, spec, parameters, "the payload twice")

    def test_flipped_bits(self) -> None:
        """Payloads with one bit flipped, among the first bytes and in some others."""
        for payload, spec, parameters in self.samples():
            for at in (*range(min(len(payload), 48)), *range(48, len(payload), 61)):
                for bit in range(8) if at < 48 else (at % 8,):
                    damaged = bytearray(payload)
                    damaged[at] ^= 1 << bit
                    self.check_hostile(bytes(damaged), spec, parameters, f"bit {bit} of byte {at} flipped")

    def test_lengths_that_lie(self) -> None:
        """Any number in the payload may claim to be huge, or nothing."""
        for payload, spec, parameters in self.samples():
            for at in range(min(len(payload), 64)):
                for lie in (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff" * 8, b"\0" * 4):
                    damaged = (payload[:at] + lie + payload[at + len(lie) :])[: len(payload)]
                    self.check_hostile(damaged, spec, parameters, f"{lie.hex()} at {at}")

    def test_noise(self) -> None:
        """Random payloads, and the ``hostile`` ones of the plugin's author."""
        random = random_of(7)
        noise = [random.randbytes(random.randrange(200)) for _ in range(200)]
        for _, spec, parameters in self.samples():
            for payload in noise:
                self.check_hostile(payload, spec, parameters, f"noise {payload[:40].hex()}")
            for payload, others in self.hostile:
                self.check_hostile(payload, spec, others, f"{payload[:40].hex()} with {others}")

    def test_parameters_that_lie(self) -> None:
        """The manifest's parameters may be missing, too many, huge, or not numbers."""
        for payload, spec, parameters in self.samples():
            self.check_hostile(payload, spec, {}, "no parameters")
            self.check_hostile(payload, spec, {**parameters, "more": "1"}, "a parameter too many")
            for key, value in parameters.items():
                for other in (*_ODD_VALUES, value + "0", "+" + value, value + "x1", value + ",1"):
                    self.check_hostile(payload, spec, {**parameters, key: other}, f"{key}={other[:40]}")

    def test_a_payload_for_another_tensor(self) -> None:
        """The manifest states dtype and shape, not the payload: they may belong to another tensor."""
        for payload, spec, parameters in self.samples():
            shapes = {*SHAPES, spec.shape[::-1], (*spec.shape, 1), spec.shape[1:], tuple(n + 1 for n in spec.shape)}
            for dtype, shape in product(DTYPES.values(), (spec.shape, *sorted(shapes))):
                other = replace(spec, dtype=dtype, shape=shape)
                if other.bits % 8 == 0:
                    self.check_hostile(payload, other, parameters, f"a payload for {spec} with {other}")

    def test_a_small_payload_does_not_ask_for_a_large_tensor_at_once(self) -> None:
        """A payload for a small tensor with a shape of many gigabytes allocates little before anything is read."""
        for payload, spec, parameters in self.samples():
            for shape in (
                (1 << 40,),
                (1 << 20, 1 << 20),
                (4, 1 << 40),
                (1 << 40, 4),
                tuple(n << 20 for n in spec.shape),
            ):
                large = replace(spec, shape=shape)
                tracemalloc.start()
                try:
                    self.predictor.base_spec(large, parameters)
                    self.predictor.open(memoryview(payload), large, parameters)
                except PayloadError:
                    pass
                finally:
                    peak = tracemalloc.get_traced_memory()[1]
                    tracemalloc.stop()
                assert peak <= MEMORY_SPARE, f"{peak} bytes allocated before anything of {large} was read"


def _reader(prediction: Prediction, base: Tensor) -> Callable[[tuple[int, int]], bytes]:
    return lambda span: bytes(prediction.read(*span, InMemory(base)))
