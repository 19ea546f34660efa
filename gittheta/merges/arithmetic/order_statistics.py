"""Find the exact k-th largest absolute value of tensors that come block by block, and which of equal values count.

The bits of non-negative floats, read as integers (keys), have the order of the floats. A search counts the elements by
the upper 16 bits of their keys, then counts those that share these bits with the k-th by their next 16 bits, and so on;
each time with a pass over all blocks. It ends early if exactly the needed number of elements is left. For large tensors
the first pass only takes a sample, and the next pass checks whether the guess was right. Memory is bounded by one
histogram for each search.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gittheta.api import Blocks, Group
from gittheta.merges.arithmetic.sign_election import INTEGERS
from gittheta.merges.arithmetic.threshold import NOTHING, Cut

Counts = NDArray[np.int64]
#: The values to search in a block, by name: flat tensors, which may be overwritten. Each name is a search of its own.
Streams = Callable[[Group], Iterator[tuple[str, torch.Tensor]]]

#: Bits of the keys that one pass resolves.
_STEP = 16
_BUCKETS = 1 << _STEP
#: From this many elements on, the first pass takes every 17th (an odd number, so that it meets all columns).
_LARGE, _EVERY = 1 << 20, 17
#: The error allowed to a sample, in standard deviations; and the most buckets that the next pass resolves.
_DEVIATIONS, _WORTH = 8, 32
#: The most numbers that are remembered from a pass, so that memory is bounded whatever the values.
_REMEMBERED = 1 << 22
#: Up to this many elements of a block are listed one by one; more are counted in a histogram.
_FEW = 1 << 14


def find_cuts(blocks: Blocks, streams: Streams, ranks: Sequence[int]) -> dict[str, tuple[Cut, ...]]:
    """For each stream of values, by name, one cut for each rank k: the limit of its k largest absolute values.

    A stream need not be in every block. If a rank is not below the number of elements, all belong to the largest.
    """
    look = _Look(streams, every=_EVERY if blocks.elements >= _LARGE else 1)
    tally = _Tally.of(blocks, look)
    if len(tally.shifts) > 1:
        # One tensor is float32 and another float64: bits can be compared only within one dtype.
        look = replace(look, wide=True)
        tally = _Tally.of(blocks, look)
    shift = max(tally.shifts, default=0)
    if look.every > 1:
        searches = [_Search(bracket, rank) for bracket in tally.counts for rank in ranks]
        look = replace(look, every=1)
        if all(search.guess(tally.counts[search.bracket], shift, blocks.elements) for search in searches):
            cuts = _close_in(searches, blocks, look, shift)
            if cuts is not None:
                return cuts
        tally = _Tally.of(blocks, look)
    searches = [_Search(bracket, min(rank, tally.total(bracket))) for bracket in tally.counts for rank in ranks]
    for search in searches:
        search.narrow(tally, shift)
    return _close_in(searches, blocks, look, shift) or {}


def _close_in(
    searches: Sequence[_Search], blocks: Blocks, look: _Look, first_shift: int
) -> dict[str, tuple[Cut, ...]] | None:
    """The cuts, after as many passes as needed; None if a search finds nothing in the bracket guessed for it."""
    shift, tally = first_shift, _Tally()
    while shift and (todo := [search for search in searches if not search.done]):
        shift -= _STEP
        tally = _Tally.of(blocks, replace(look, shift=shift, brackets=tuple({search.bracket for search in todo})))
        if not all(search.narrow(tally, shift) for search in todo):
            return None
    cuts: dict[str, tuple[Cut, ...]] = {}
    for search in searches:
        value = search.value(np.float64 if first_shift > _STEP else np.float32)
        cut = Cut(value) if search.done else _last_equal(search, value, tally, blocks, look)
        name = search.bracket.name
        cuts[name] = (*cuts.get(name, ()), cut if search.rank else NOTHING)
    return cuts


class _Bracket(NamedTuple):
    """A run of keys of one stream, from ``low`` on, in buckets; each pass sets the size 2^shift of a bucket."""

    name: str
    low: int = 0
    #: Only half of the buckets are needed in the first pass, because the upper bit of the keys, the sign, is 0.
    buckets: int = _BUCKETS // 2


@dataclass
class _Search:
    """A search for the k-th largest value, where k is ``rank``: the bracket that contains it, and counts of elements.

    ``above`` elements lie above the bracket, ``inside`` in it.
    """

    bracket: _Bracket
    rank: int
    above: int = 0
    inside: int = -1
    #: The bracket before the last pass.
    origin: _Bracket | None = None

    @property
    def done(self) -> bool:
        """Whether none of the elements inside the bracket is needed, or all of them are."""
        return self.rank in (0, self.above + self.inside)

    def guess(self, counts: Counts, shift: int, elements: int) -> bool:
        """Narrow the bracket to the buckets that a sample suggests. False if there are too many of them."""
        expected = self.rank / _EVERY
        margin = _DEVIATIONS * (1 + math.sqrt(expected * (1 - min(1, self.rank / elements))))
        from_above = np.cumsum(counts[::-1])
        upper, lower = (len(counts) - 1 - int(np.searchsorted(from_above, expected + by)) for by in (-margin, margin))
        self.bracket = _Bracket(self.bracket.name, lower << shift, (upper - lower + 1) * _BUCKETS)
        return lower >= 0 and upper - lower < _WORTH

    def narrow(self, tally: _Tally, shift: int) -> bool:
        """Narrow the bracket to the bucket that contains the value. False if no bucket does."""
        counts, self.origin = tally.counts[self.bracket], self.bracket
        from_above = tally.above[self.bracket] + np.cumsum(counts[::-1])
        place = int(np.searchsorted(from_above, self.rank))
        if place == len(counts) or self.rank <= tally.above[self.bracket]:
            return self.rank == 0
        bucket = len(counts) - 1 - place
        self.inside = int(counts[bucket])
        self.above = int(from_above[place]) - self.inside
        self.bracket = _Bracket(self.bracket.name, self.bracket.low + (bucket << shift), _BUCKETS)
        return True

    def value(self, kind: type[np.float32 | np.float64]) -> float:
        """The least value in the bracket."""
        value = float(np.array(self.bracket.low).astype(f"i{kind().itemsize}").view(kind))
        return math.inf if math.isnan(value) else value


def _keys(values: torch.Tensor, *, wide: bool) -> torch.Tensor:
    """The keys of values: integers in the order of the absolute values. Overwrites the values if possible."""
    if wide:
        values = values.to(torch.float64)
    return values.abs_().view(INTEGERS[values.dtype])


@dataclass(frozen=True)
class _Seen:
    """The elements of one block in a bracket, by buckets of 2^``shift`` keys, and the number of elements ``above`` it.

    ``counts`` are the numbers of elements in ``buckets``; if None, a bucket is listed once for each element.
    """

    bracket: _Bracket
    shift: int
    above: int
    buckets: NDArray[np.integer]
    counts: Counts | None

    def count_of(self, bucket: int) -> int:
        """The number of elements in one bucket."""
        here = self.buckets == bucket
        return int(np.count_nonzero(here) if self.counts is None else self.counts[here].sum())


@dataclass(frozen=True)
class _Look:
    """Counts the elements of one block by buckets; with ``every`` above 1, only one element in ``every``."""

    streams: Streams
    every: int = 1
    #: Whether float32 values are converted to float64, so that tensors of both can be compared.
    wide: bool = False
    #: The brackets to count; None for all keys of all streams, by their upper 16 bits.
    brackets: tuple[_Bracket, ...] | None = None
    shift: int = 0

    def __call__(self, group: Group) -> list[_Seen]:
        """The counts of the block, one for each bracket."""
        seen = []
        for name, values in self.streams(self._sample(group)):
            keys = _keys(values, wide=self.wide)
            if self.brackets is None:
                shift = torch.iinfo(keys.dtype).bits - _STEP
                seen.append(_Seen(_Bracket(name), shift, 0, *_counted(keys.bitwise_right_shift_(shift))))
                continue
            for bracket in self.brackets:
                if bracket.name == name:
                    above, buckets = _inside(keys, bracket, self.shift)
                    seen.append(_Seen(bracket, self.shift, above, *_counted(buckets)))
        return seen

    def _sample(self, group: Group) -> Group:
        if self.every == 1:
            return group
        base = None if group.base is None else group.base[:: self.every]
        return replace(group, base=base, sides=tuple(side[:: self.every] for side in group.sides))


def _inside(keys: torch.Tensor, bracket: _Bracket, shift: int) -> tuple[int, torch.Tensor]:
    """The number of keys above a bracket, and the buckets of the keys in it."""
    width = bracket.buckets << shift
    last = bracket.low + width - 1
    if keys.device.type != "cpu":
        offsets = keys - bracket.low
        return int((keys > last).sum()), offsets[(offsets >= 0) & (offsets < width)] >> shift
    bits = keys.numpy()  # several times as fast as torch where comparisons are involved
    above = int(np.count_nonzero(bits > bits.dtype.type(last)))
    offsets = bits - bits.dtype.type(bracket.low)
    unsigned = offsets.view(f"u{offsets.itemsize}")
    return above, torch.from_numpy(np.compress(unsigned < unsigned.dtype.type(width), offsets) >> shift)


def _counted(buckets: torch.Tensor) -> tuple[NDArray[np.integer], Counts | None]:
    """The buckets that occur, and the number of elements in each; see :class:`_Seen`."""
    if len(buckets) < _FEW:
        return buckets.to("cpu", torch.int32).numpy(), None
    counts = torch.bincount(buckets).cpu().numpy()
    present = np.flatnonzero(counts)
    return present, counts[present]


@dataclass
class _Tally:
    """The number of elements in each bucket, over all blocks."""

    counts: dict[_Bracket, Counts] = field(default_factory=dict)
    above: dict[_Bracket, int] = field(default_factory=dict)
    shifts: set[int] = field(default_factory=set)
    #: The counts of each block, if buckets are single keys; None if that would take too much memory.
    remembered: list[list[_Seen]] | None = None

    @classmethod
    def of(cls, blocks: Blocks, look: _Look) -> _Tally:
        """Make a pass over all blocks, and add up their counts."""
        tally, size = cls(), 0
        if look.brackets is not None and not look.shift:
            tally.remembered = []
        for seen in blocks.map(look):
            for each in seen:
                tally._add(each)
                size += len(each.buckets)
            if size > _REMEMBERED:
                tally.remembered = None
            if tally.remembered is not None:
                tally.remembered.append(seen)
        return tally

    def total(self, bracket: _Bracket) -> int:
        """The number of elements in a bracket and above it."""
        return self.above[bracket] + int(self.counts[bracket].sum())

    def _add(self, seen: _Seen) -> None:
        self.shifts.add(seen.shift)
        self.above[seen.bracket] = self.above.get(seen.bracket, 0) + seen.above
        if seen.bracket not in self.counts:
            self.counts[seen.bracket] = np.zeros(seen.bracket.buckets, np.int64)
        if seen.counts is None:
            np.add.at(self.counts[seen.bracket], seen.buckets, 1)
        else:
            self.counts[seen.bracket][seen.buckets] += seen.counts


def _last_equal(search: _Search, value: float, tally: _Tally, blocks: Blocks, look: _Look) -> Cut:
    """The cut among elements equal to the k-th largest value: it ends with the last of them that belongs to the k."""

    def equal(group: Group) -> torch.Tensor:
        """The indices of the equal elements in one block."""
        for name, values in look.streams(group):
            if name == search.bracket.name:
                return torch.nonzero(_keys(values, wide=look.wide) == search.bracket.low)
        return torch.zeros(0)

    by_block: Iterable[int]
    if tally.remembered is None or search.origin is None:
        by_block = blocks.map(lambda group: len(equal(group)))
    else:
        bucket = search.bracket.low - search.origin.low
        by_block = (
            sum(each.count_of(bucket) for each in seen if each.bracket == search.origin) for seen in tally.remembered
        )
    until = list(accumulate(by_block))
    needed = search.rank - search.above
    index = bisect_left(until, needed)
    group = blocks.block(index)
    place = int(equal(group)[needed - 1 - (until[index - 1] if index else 0)])
    return Cut(value, group.name, group.start + place)
