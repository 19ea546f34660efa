"""Task vectors: what a checkpoint changed of its base, read block by block, and made sparse.

The task vector τ is new - base over all elements of the float tensors that have the same name, dtype and shape in
both. An element counts if its difference is finite. Of the n that count, the k = round(density n) largest are kept: by
magnitude rounded to float32, the first in the file among equals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gittheta.codec.decode import Decoder
from gittheta.codec.stream import exactly, rechunked
from gittheta.errors import FormatError
from gittheta.numerics.floats import Doubles, as_words, from_float64, to_float64

if TYPE_CHECKING:
    from gittheta.codec.tensor_store import TensorStore
    from gittheta.model import Digest, Recipe, TensorSpec

Mask = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]
#: The bits of a magnitude are looked at in two halves.
_HALF = 16


@dataclass(frozen=True)
class Pair:
    """A tensor at some offset of a file, and the base's tensor of that name."""

    spec: TensorSpec
    offset: int
    digest: Digest
    recipe: Recipe


@dataclass(frozen=True)
class Block:
    """A part of a pair, with its part of the task vector."""

    pair: Pair
    #: Where it lies in the file.
    offset: int
    new: memoryview
    base: memoryview
    base_values: Doubles
    tau: Doubles
    #: Which elements count.
    finite: Mask

    @property
    def magnitudes(self) -> npt.NDArray[np.uint32]:
        """|τ| as bits of float32: integers in the same order."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return np.abs(self.tau).astype(np.float32).view(np.uint32)


@dataclass
class Loss:
    """How far a tensor, or all of them, went from what they were: sums of squares."""

    name: str
    elements: int = 0
    kept: int = 0
    of_errors: float = 0.0
    of_changes: float = 0.0

    @property
    def relative(self) -> float:
        """‖τ' - τ‖ / ‖τ‖; 0 where nothing had changed."""
        return math.sqrt(self.of_errors / self.of_changes) if self.of_changes else 0.0

    def add(self, block: Block, kept: Mask, data: memoryview) -> None:
        """Another block, which has become ``data``."""
        tau = block.tau[block.finite]
        with np.errstate(over="ignore", invalid="ignore"):
            moved = (to_float64(data, block.pair.spec.dtype) - block.base_values)[block.finite]
            self.of_errors += float(np.square(moved - tau).sum())
            self.of_changes += float(np.square(tau).sum())
        self.elements += len(tau)
        self.kept += int(kept.sum())

    @classmethod
    def total(cls, losses: Sequence[Loss]) -> Loss:
        """Of all tensors."""
        return cls(
            "",
            sum(loss.elements for loss in losses),
            sum(loss.kept for loss in losses),
            _sum(loss.of_errors for loss in losses),
            _sum(loss.of_changes for loss in losses),
        )


@dataclass
class Selection:
    """Which elements are kept: all above a threshold, and so many of those at it. Ask for the blocks in order, once."""

    threshold: int
    ties: int
    #: The scalar of ``compeft``: alpha times the standard deviation of τ, rounded to float32.
    scalar: float

    def of(self, block: Block) -> Mask:
        """The kept elements of the next block."""
        bits = block.magnitudes
        kept: Mask = (bits > self.threshold) & block.finite
        if self.ties:
            equal = np.flatnonzero((bits == self.threshold) & block.finite)[: self.ties]
            kept[equal] = True
            self.ties -= len(equal)
        return kept


class TaskVector:
    """Read in passes; ``read`` gives bytes of the file by offset and length."""

    def __init__(self, tensors: TensorStore, pairs: Sequence[Pair], read: Callable[[int, int], memoryview]) -> None:
        self._tensors = tensors
        self._pairs = pairs
        self._read = read

    def blocks(self, what: str) -> Iterator[Block]:
        """All pairs in order, in full blocks, however the base is stored. ``what`` is told to the user."""
        self._tensors.reporter.start(what, sum(pair.spec.nbytes for pair in self._pairs))
        decoded = Decoder(self._tensors).checked((pair.spec, pair.digest, pair.recipe) for pair in self._pairs)
        for pair in self._pairs:
            at = pair.offset
            for base in rechunked(
                exactly(decoded, pair.spec.nbytes), self._tensors.limits.block_bytes(pair.spec.dtype)
            ):
                yield _block(pair, at, self._read(at, len(base)), base)
                at += len(base)
                self._tensors.reporter.advance(len(base))
        for _ in decoded:  # checks the digest of what came last
            pass

    def choose(self, density: float, alpha: float) -> Selection:
        """First the mean and the upper halves of the magnitudes, then the deviation and the lower halves."""
        count, sums, upper = 0, [], np.zeros(1 << _HALF, np.int64)
        for block in self.blocks("Surveying"):
            count += int(block.finite.sum())
            sums.append(_total(block.tau[block.finite]))
            upper += _histogram(block.magnitudes[block.finite] >> np.uint32(_HALF))
        wanted = round(density * count)
        high, above = _holding(upper, wanted)
        mean, squares, lower = _sum(sums) / max(count, 1), [], np.zeros(1 << _HALF, np.int64)
        for block in self.blocks("Choosing"):
            with np.errstate(over="ignore", invalid="ignore"):
                squares.append(_total(np.square(block.tau[block.finite] - mean)))
            bits = block.magnitudes[block.finite]
            lower += _histogram(bits[bits >> np.uint32(_HALF) == high] & np.uint32((1 << _HALF) - 1))
        low, also_above = _holding(lower, wanted - above)
        with np.errstate(over="ignore"):
            scalar = float(np.float32(alpha * math.sqrt(_sum(squares) / max(count, 1))))
        return Selection(high << _HALF | low, wanted - above - also_above, scalar)


def sparse(block: Block, kept: Mask, scalar: float | None) -> memoryview:
    """The block's new bytes: the base's, but for what is kept, or does not count.

    What is kept moves by the scalar in the direction of its change; without a scalar it keeps its bits.
    """
    dtype = block.pair.spec.dtype
    new, base = (as_words(data, dtype.itemsize) for data in (block.new, block.base))
    result = np.where(block.finite if scalar is not None else block.finite & ~kept, base, new)
    if scalar:
        # Where τ is 0 nothing moves: to add 0 could turn a negative zero.
        places = np.flatnonzero(kept & (block.tau != 0))
        moved = block.base_values[places] + np.sign(block.tau[places]) * scalar
        result[places] = as_words(from_float64(moved, dtype), dtype.itemsize)
    return result.view(np.uint8).data


def check_scalar(choice: Selection) -> None:
    """Raise FormatError if no scalar can stand for the changes."""
    if not math.isfinite(choice.scalar):
        raise FormatError("the changes are too large for one scalar", hint="use --method topk")


def _block(pair: Pair, offset: int, new: memoryview, base: memoryview) -> Block:
    values = to_float64(base, pair.spec.dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        tau = to_float64(new, pair.spec.dtype) - values
    return Block(pair, offset, new, base, values, tau, np.isfinite(tau))


def _histogram(halves: npt.NDArray[np.uint32]) -> Counts:
    return np.bincount(halves, minlength=1 << _HALF)


def _holding(histogram: Counts, wanted: int) -> tuple[int, int]:
    """The number that the last of the ``wanted`` largest has, and how many are larger than that."""
    reached = np.cumsum(histogram[::-1])
    place = min(int(np.searchsorted(reached, max(wanted, 1))), len(histogram) - 1)
    number = len(histogram) - 1 - place
    return number, int(reached[place] - histogram[number])


def _total(values: Doubles) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return float(values.sum())


def _sum(values: Iterable[float]) -> float:
    """The exact sum, rounded once; NaN where it overflows."""
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):
        return math.nan
