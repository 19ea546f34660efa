"""Finds the exact k-th largest absolute value of tensors that are seen block by block, and where equal ones end.

The bits of non-negative floating-point numbers, read as integers (keys), are in the order of the numbers. A search
counts how many elements have which upper 16 bits, looks closer at those that share them with the k-th, and so on, with
a pass over all blocks for each 16 bits. It ends early where just as many are left as are wanted. Of large tensors the
first pass looks at a sample only, and the next one finds out whether that was good enough. Memory is bounded by a
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
#: Names and values, flat, of what is searched in a block: one search for each name. The values may be overwritten.
Streams = Callable[[Group], Iterator[tuple[str, torch.Tensor]]]

#: Bits that one pass looks at.
_STEP = 16
_BUCKETS = 1 << _STEP
#: From so many elements on, one of 17 is looked at first (an odd number, so that all columns have their turn).
_LARGE, _EVERY = 1 << 20, 17
#: How far a sample may err, in standard deviations, and how many of its buckets are worth a closer look.
_DEVIATIONS, _WORTH = 8, 32
#: How many numbers are remembered at most, so that memory is bounded whatever the values.
_REMEMBERED = 1 << 22
#: So many elements of a block are told one by one, more of them in a histogram.
_FEW = 1 << 14


def find_cuts(blocks: Blocks, streams: Streams, ranks: Sequence[int]) -> dict[str, tuple[Cut, ...]]:
    """For each stream of values the cut after its ``ranks[0]`` largest, that after its ``ranks[1]`` largest, ...

    A stream need not be in every block; where a rank is not below the number of its elements, all are the largest.
    """
    look = _Look(streams, every=_EVERY if blocks.elements >= _LARGE else 1)
    tally = _Tally.of(blocks, look)
    if len(tally.shifts) > 1:
        # float32 in one tensor and float64 in another: bits can be compared only within one dtype
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
    """The cuts, after as many passes as that takes; None if one is not where it was guessed to be."""
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
    """A run of keys of one stream: from ``low`` on, in so many buckets (of 2^shift keys each, in one pass)."""

    name: str
    low: int = 0
    #: The first time there are half as many, because the upper bit, the sign, is 0.
    buckets: int = _BUCKETS // 2


@dataclass
class _Search:
    """Looks for the k-th largest, k being ``rank``: the bracket where it lies, and how many elements lie above."""

    bracket: _Bracket
    rank: int
    above: int = 0
    inside: int = -1
    #: Where it came from in the last pass.
    origin: _Bracket | None = None

    @property
    def done(self) -> bool:
        """Whether nothing is wanted, or all that is inside."""
        return self.rank in (0, self.above + self.inside)

    def guess(self, counts: Counts, shift: int, elements: int) -> bool:
        """Take the buckets where, by a sample, it should be. False if these are too many to look at closely."""
        expected = self.rank / _EVERY
        margin = _DEVIATIONS * (1 + math.sqrt(expected * (1 - min(1, self.rank / elements))))
        from_above = np.cumsum(counts[::-1])
        upper, lower = (len(counts) - 1 - int(np.searchsorted(from_above, expected + by)) for by in (-margin, margin))
        self.bracket = _Bracket(self.bracket.name, lower << shift, (upper - lower + 1) * _BUCKETS)
        return lower >= 0 and upper - lower < _WORTH

    def narrow(self, tally: _Tally, shift: int) -> bool:
        """Go on in the bucket where it is. False if it is in none."""
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
        """The least number inside."""
        value = float(np.array(self.bracket.low).astype(f"i{kind().itemsize}").view(kind))
        return math.inf if math.isnan(value) else value


def _keys(values: torch.Tensor, wide: bool) -> torch.Tensor:
    """Integers in the order of the absolute values, in the same memory if possible."""
    if wide:
        values = values.to(torch.float64)
    return values.abs_().view(INTEGERS[values.dtype])


@dataclass(frozen=True)
class _Seen:
    """What one block has of a bracket: in which buckets of 2^``shift`` elements lie, and how many in each.

    Without counts each bucket stands there as often as it comes.
    """

    bracket: _Bracket
    shift: int
    above: int
    buckets: NDArray[np.integer]
    counts: Counts | None

    def count_of(self, bucket: int) -> int:
        """How many elements lie in one bucket."""
        here = self.buckets == bucket
        return int(np.count_nonzero(here) if self.counts is None else self.counts[here].sum())


@dataclass(frozen=True)
class _Look:
    """Looks at one block, or at one of ``every`` elements of it."""

    streams: Streams
    every: int = 1
    #: Compare float32 with float64.
    wide: bool = False
    #: None: at all keys of all streams, by their upper 16 bits.
    brackets: tuple[_Bracket, ...] | None = None
    shift: int = 0

    def __call__(self, group: Group) -> list[_Seen]:
        """One for each bracket."""
        seen = []
        for name, values in self.streams(self._sample(group)):
            keys = _keys(values, self.wide)
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
    """How many keys lie above a bracket, and the buckets of those that lie in it."""
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
    """Which buckets there are, and how often each."""
    if len(buckets) < _FEW:
        return buckets.to("cpu", torch.int32).numpy(), None
    counts = torch.bincount(buckets).cpu().numpy()
    present = np.flatnonzero(counts)
    return present, counts[present]


@dataclass
class _Tally:
    """How often each bucket comes in all blocks."""

    counts: dict[_Bracket, Counts] = field(default_factory=dict)
    above: dict[_Bracket, int] = field(default_factory=dict)
    shifts: set[int] = field(default_factory=set)
    #: What each block had, where buckets are single keys; None if that is too much.
    remembered: list[list[_Seen]] | None = None

    @classmethod
    def of(cls, blocks: Blocks, look: _Look) -> _Tally:
        """After a pass over all blocks."""
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
        """How many elements there are in a bracket and above it."""
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
    """Where the first of those that equal the k-th largest are wanted, and others not: ends with the last that is."""

    def equal(group: Group) -> torch.Tensor:
        """The places of those in one block."""
        for name, values in look.streams(group):
            if name == search.bracket.name:
                return torch.nonzero(_keys(values, look.wide) == search.bracket.low)
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
    wanted = search.rank - search.above
    index = bisect_left(until, wanted)
    group = blocks.block(index)
    place = int(equal(group)[wanted - 1 - (until[index - 1] if index else 0)])
    return Cut(value, group.name, group.start + place)
