"""What every metric owes."""

# ruff: noqa: S101 - assertions are what these modules are for
from __future__ import annotations

import math
import pickle
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from math import lcm, prod
from typing import TYPE_CHECKING, Any

from gittheta.api import BlockPair
from gittheta.conformance.common import (
    ALL_DTYPES,
    MEMORY_SPARE,
    block_values,
    check_plugin,
    random_of,
    special_values,
    tensor,
)
from gittheta.conformance.values import SHAPES, shaped, sprinkled
from gittheta.model import DTYPES, Dtype, Tensor, TensorSpec

if TYPE_CHECKING:
    from gittheta.api import Metric

#: What ``look`` may return of one block, pickled.
MAX_PART = 1 << 14
#: What ``look`` may allocate: eight arrays of float64 for each element of the block, and a fixed amount beside it.
MEMORY_AN_ELEMENT = 64
#: Rounding errors of float64 that the cut of a tensor may cause.
TOLERANCE = 1e-9

#: Run by another process: looks at one block, then fails if torch was imported on the way.
_WITHOUT_TORCH = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
metric, spec, old, new = pickle.load(sys.stdin.buffer)
from gittheta.api import BlockPair
metric.conclude(spec, [metric.look(BlockPair(spec, 0, memoryview(old), memoryview(new)))])
sys.exit("torch" in sys.modules)
"""


class MetricConformance:
    """What every metric owes. Set ``metric``.

    ``unchanged`` is what the number that the metric is called after says of two equal tensors of finite values, and of
    no two that differ in every element. Set it to None if there is no such value.
    """

    metric: Metric
    unchanged: float | None = 0.0

    def measure(
        self, old: Tensor, new: Tensor, cuts: Sequence[int] = (), order: Sequence[int] = ()
    ) -> dict[str, float]:
        """What the metric says of two tensors that are cut at some bytes; blocks are looked at in the given order."""
        pairs = list(self.pairs(old, new, cuts))
        parts = {at: self.metric.look(pairs[at]) for at in order or range(len(pairs))}
        return self.conclude(new.spec, [parts[at] for at in range(len(pairs))])

    def pairs(self, old: Tensor, new: Tensor, cuts: Sequence[int] = ()) -> Iterator[BlockPair]:
        """The blocks of two tensors that are cut at some bytes; one block where the metric must see all at once."""
        spec = new.spec
        marks = (0, *(cuts if self.metric.unit == "element" else ()), spec.nbytes)
        for begin, end in pairwise(marks):
            start = begin * 8 // spec.dtype.bits * spec.dtype.unit
            yield BlockPair(spec, start, old.data[begin:end].toreadonly(), new.data[begin:end].toreadonly())

    def conclude(self, spec: TensorSpec, parts: Sequence[Any]) -> dict[str, float]:
        """The numbers, as the core gets them: from an iterator that can be read once. Checks what any numbers are."""
        numbers = self.metric.conclude(spec, iter(parts))
        self.check_numbers(numbers, spec)
        return dict(numbers)

    def check_numbers(self, numbers: Mapping[str, float], spec: TensorSpec) -> None:
        """Floats by name, the one that the metric is called after first."""
        assert list(numbers)[:1] == [self.metric.name], f"{spec}: {list(numbers)} do not begin with the metric's name"
        for name, number in numbers.items():
            assert isinstance(name, str), f"{spec}: {name!r} is not a name"
            assert isinstance(number, float), f"{spec}: '{name}' is {number!r}, which is not a float"

    def check_cuts(self, old: Tensor, new: Tensor, seed: int = 0) -> None:
        """However the tensor is cut, and in whatever order its blocks are looked at, the numbers are the same."""
        whole = self.measure(old, new)
        random = random_of(seed)
        for cuts in _cuts(new.spec, seed):
            order = list(range(len(cuts) + 1 if self.metric.unit == "element" else 1))
            random.shuffle(order)
            numbers = self.measure(old, new, cuts, order)
            for name, number in whole.items():
                same = _close(numbers[name], number)
                assert same, f"{new.spec} cut at bytes {cuts}: '{name}' is {numbers[name]}, in one block {number}"
            in_order = self.measure(old, new, cuts)
            assert repr(numbers) == repr(in_order), f"{new.spec} cut at bytes {cuts}: the order of calls matters"

    def applicable(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of tensors that the metric applies to: every dtype and shape, noise, special values, equal ones."""
        for dtype in ALL_DTYPES:
            for old, new in _pairs_of(dtype):
                if self.metric.applies(new.spec):
                    yield old, new

    def test_is_a_plugin(self) -> None:
        """A frozen dataclass whose name can stand in settings, and that says what it must see at once."""
        check_plugin(self.metric)
        assert self.metric.unit in ("element", "tensor")

    def test_what_it_applies_to(self) -> None:
        """An answer for tensors of any dtype and shape, the largest included, at once; something it applies to."""
        shapes = (*SHAPES, (1 << 31, 1 << 31), (1,) * 64)
        specs = [TensorSpec("tensor", dtype, shape) for dtype in ALL_DTYPES for shape in shapes]
        answers = [self.metric.applies(spec) for spec in specs]
        assert {type(answer) for answer in answers} == {bool}, "applies() must give True or False"
        assert any(answers), "the metric applies to nothing"

    def test_numbers_and_never_exceptions(self) -> None:
        """NaNs, infinities, zeros of both signs, subnormals, no elements, no dimensions: numbers without a warning."""
        names = set()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for old, new in self.applicable():
                names.add(tuple(self.measure(old, new)))
                if not new.spec.nbytes:
                    names.add(tuple(self.conclude(new.spec, [])))
        assert len(names) == 1, f"the numbers have other names for other tensors: {names}"

    def test_the_cut_does_not_matter(self) -> None:
        """One element at a time, halves, odd runs, in any order: the same numbers but for rounding."""
        for seed, (old, new) in enumerate(self.applicable()):
            if new.spec.nbytes <= 1 << 11:
                self.check_cuts(old, new, seed)

    def test_equal_tensors(self) -> None:
        """They have not changed, and tensors that differ in every element have."""
        for old, new in self.applicable():
            if self.unchanged is None or not _is_finite(old, new) or not new.spec.nbytes:
                continue
            number = self.measure(new, new)[self.metric.name]
            assert number == self.unchanged, f"{new.spec} and itself: {number}"
            number = self.measure(_flipped(new), new)[self.metric.name]
            assert number != self.unchanged, f"{new.spec} and one that differs everywhere: {number}"

    def test_blocks_stay_as_they_are(self) -> None:
        """What is looked at may be looked at by others at the same time."""
        for old, new in self.applicable():
            before = bytes(old.data), bytes(new.data)
            buffers = bytearray(before[0]), bytearray(before[1])
            part = self.metric.look(BlockPair(new.spec, 0, memoryview(buffers[0]), memoryview(buffers[1])))
            assert tuple(map(bytes, buffers)) == before, f"{new.spec}: look() changed the block"
            for buffer in buffers:
                buffer[:] = b"\x55" * len(buffer)
            numbers = self.conclude(new.spec, [part])
            same = repr(numbers) == repr(self.measure(old, new))
            assert same, f"{new.spec}: what look() gives depends on what becomes of the block"

    def test_many_threads(self) -> None:
        """The workers share one metric, and look at blocks of several tensors in any order."""
        small = [(old, new) for old, new in self.applicable() if 0 < new.spec.nbytes <= 1 << 13]
        jobs = [(new.spec, list(self.pairs(old, new, _cuts(new.spec, 1)[0]))) for old, new in small]
        expected = [self.conclude(spec, [self.metric.look(pair) for pair in pairs]) for spec, pairs in jobs]
        with ThreadPoolExecutor(8) as pool:
            for _ in range(3):
                parts = [(spec, pool.map(self.metric.look, pairs)) for spec, pairs in jobs]
                numbers = list(pool.map(lambda job: self.conclude(job[0], list(job[1])), parts))
                assert repr(numbers) == repr(expected), "other numbers from several threads"

    def test_little_memory(self) -> None:
        """What is kept of a block is small, and what it takes to look at it is a small multiple of the block."""
        for name in ("f32", "bf16", "u8"):
            spec = TensorSpec("tensor", DTYPES[name], (1 << 9, 1 << 9))
            if not self.metric.applies(spec):
                continue
            old, new = (memoryview(block_values(spec.dtype, spec.elements, seed)) for seed in (1, 2))
            self.metric.look(BlockPair(spec, 0, old, new))  # what is made once is not counted
            tracemalloc.start()
            try:
                part = self.metric.look(BlockPair(spec, 0, old, new))
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert peak <= MEMORY_AN_ELEMENT * spec.elements + MEMORY_SPARE, f"{peak} bytes to look at {spec}"
            size = len(pickle.dumps(part))
            assert size <= MAX_PART, f"{size} bytes are kept of a block of {spec.elements} elements"

    def test_no_torch(self) -> None:
        """Importing it takes longer than most of what metrics are asked for."""
        old, new = next((old, new) for old, new in self.applicable() if new.spec.nbytes)
        given = pickle.dumps(sys.path) + pickle.dumps((self.metric, new.spec, bytes(old.data), bytes(new.data)))
        done = subprocess.run([sys.executable, "-c", _WITHOUT_TORCH], input=given, capture_output=True, check=False)
        assert done.returncode == 0, f"the metric imports torch, or fails in a new process: {done.stderr.decode()}"


def _pairs_of(dtype: Dtype) -> Iterator[tuple[Tensor, Tensor]]:
    """Old and new: equal, changed a little, unrelated, all zero, with special values; in every shape."""
    special = special_values(dtype)
    yield tensor(dtype, special), tensor(dtype, special)
    yield tensor(dtype, special), tensor(dtype, special[::-1][: len(special)])
    for shape in SHAPES:
        if dtype.unit > 1 and not shape:
            continue
        new = _shaped(dtype, shape)
        yield new, new
        yield Tensor(new.spec, memoryview(bytes(new.spec.nbytes))), new
        yield new, Tensor(new.spec, memoryview(bytes(new.spec.nbytes)))
    old, new = (tensor(dtype, block_values(dtype, 40, seed)) for seed in (1, 2))
    yield old, new
    for seed in range(4):
        yield sprinkled(old, 20, seed), sprinkled(new, 7 + seed, 9 + seed)
    yield tensor(dtype, random_of(1).randbytes(old.spec.nbytes)), tensor(dtype, random_of(2).randbytes(old.spec.nbytes))


def _shaped(dtype: Dtype, shape: tuple[int, ...]) -> Tensor:
    """Values in a shape; of a block dtype, the last dimension counts blocks."""
    if dtype.unit == 1:
        return shaped(dtype, shape)
    return tensor(dtype, block_values(dtype, prod(shape)), (*shape[:-1], shape[-1] * dtype.unit))


def _cuts(spec: TensorSpec, seed: int) -> list[list[int]]:
    """Where a tensor may be cut, in bytes: between whole elements, in runs of any size, everywhere, once."""
    unit = lcm(spec.dtype.bits, 8) // 8
    count = spec.nbytes // unit
    random = random_of(seed)
    inner = range(1, count)
    chosen = [sorted(random.sample(inner, min(len(inner), pieces))) for pieces in (10, 3, 1)]
    chosen += [list(inner[: 1 << 7]), list(inner[:1]), list(inner[-1:])]
    return [[at * unit for at in marks] for marks in chosen]


def _flipped(one: Tensor) -> Tensor:
    """The same values but for the lowest bit of each element."""
    flipped = bytearray(one.data)
    for at in range(0, len(flipped), one.spec.dtype.itemsize):
        flipped[at] ^= 1
    return Tensor(one.spec, memoryview(flipped))


def _is_finite(*tensors: Tensor) -> bool:
    """Whether all values are finite, or the dtype has no numbers."""
    import numpy as np

    from gittheta.numerics.floats import to_float64

    if not tensors[0].spec.dtype.arithmetic:
        return True
    return all(np.isfinite(to_float64(one.data, one.spec.dtype)).all() for one in tensors)


def _close(one: float, other: float) -> bool:
    return (math.isnan(one) and math.isnan(other)) or math.isclose(one, other, rel_tol=TOLERANCE)
