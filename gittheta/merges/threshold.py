"""The exact k-th largest of a tensor's absolute values, and what is as large as that.

Of values that are equal, those that come first are the larger ones: by the tensor's name, then by flat index. So
exactly k are kept, whatever the device and the size of blocks.

The bits of non-negative floating-point numbers are in the order of the numbers. A search counts how many elements have
which upper 16 bits, looks closer at those that share the bits of the k-th, and so on; a pass over all blocks for each
16 bits, two for values of 16 bits. It ends early where a bracket holds just as many as are wanted. Memory is bounded
by a histogram for each search.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray

from gittheta.api import Blocks, Group
from gittheta.merges.elections import INTEGERS

Counts = NDArray[np.int64]
#: Names and values, flat, of what is searched in a block: one search for each name. The values may be overwritten.
Streams = Callable[[Group], Iterator[tuple[str, torch.Tensor]]]

#: Bits that one pass looks at.
_STEP = 16
_BUCKETS = 1 << _STEP
#: How many counts of blocks are remembered at most, so that memory is bounded whatever the values.
_REMEMBERED = 1 << 22
#: So many numbers are told one by one, more of them in a histogram.
_FEW = 1 << 14


def floor_of(fraction: float, elements: int) -> int:
    """⌊ρd⌋ for the ρ that the user wrote: 0.29 of 100 is 29, though the float 0.29 is less than that."""
    return math.floor(Fraction(repr(fraction)) * elements)


@dataclass(frozen=True)
class Cut:
    """Where the k largest of some values end: at this value, and among its equals at this element of this tensor."""

    value: float
    #: None: all of its equals are among the k largest.
    name: str | None = None
    index: int = 0

    def equals_until(self, name: str, start: int, elements: int) -> int:
        """How many elements of a block come before the end of the equal ones that are kept."""
        if self.name is None or name < self.name:
            return elements
        return min(max(self.index + 1 - start, 0), elements) if name == self.name else 0


#: Nothing is as large as that.
NOTHING = Cut(math.inf, "", -1)


def keep_largest(values: torch.Tensor, cut: Cut, group: Group) -> torch.Tensor:
    """Put zeros in the place of values, a block and flat, that do not belong to the k largest. Returns them."""
    for part, limit in _parts(values, cut, group):
        torch.ops.aten.hardshrink.out(values[part], limit, out=values[part])
    return values


def is_largest(values: torch.Tensor, cut: Cut, group: Group) -> torch.Tensor:
    """1 for the values that belong to the k largest, be they zero, and 0 for the others."""
    result = torch.ones_like(values)
    for part, limit in _parts(values, cut, group):
        if limit >= 0:
            torch.ops.aten.hardshrink.out(values[part], limit, out=result[part])
            result[part].sign_().abs_()
    return result


def beyond(values: torch.Tensor, limit: float) -> torch.Tensor:
    """The values whose absolute value is above a limit, compared exactly, and zeros for the others."""
    return torch.hardshrink(values, _at_most(limit, values.dtype))


def _parts(values: torch.Tensor, cut: Cut, group: Group) -> list[tuple[slice, float]]:
    """A block in up to two parts, and what the absolute values must exceed there."""
    elements = len(values)
    split = cut.equals_until(group.name, group.start, elements)
    parts = []
    if split:
        parts.append((slice(0, split), _below(cut.value, values.dtype)))
    if split < elements:
        parts.append((slice(split, elements), _at_most(cut.value, values.dtype)))
    return parts


def _at_most(value: float, dtype: torch.dtype) -> float:
    """The largest number of a dtype that is not above a value."""
    kind = np.float32 if dtype == torch.float32 else np.float64
    with np.errstate(over="ignore"):
        rounded = kind(value)
    return float(np.nextafter(rounded, kind(-np.inf)) if float(rounded) > value else rounded)


def _below(value: float, dtype: torch.dtype) -> float:
    """The largest number of a dtype that is below a value."""
    kind = np.float32 if dtype == torch.float32 else np.float64
    found = _at_most(value, dtype)
    return float(np.nextafter(kind(found), kind(-np.inf))) if found == value else found


def find_cuts(blocks: Blocks, streams: Streams, ranks: Sequence[int]) -> dict[str, tuple[Cut, ...]]:
    """For each stream of values the cut after its ``ranks[0]`` largest, that after its ``ranks[1]`` largest, ...

    A stream need not be in every block; where a rank is not below the number of its elements, all are the largest.
    """
    look = _Look(streams)
    tally = _Tally.of(blocks, look)
    if len(tally.shifts) > 1:
        # float32 in one tensor and float64 in another: bits can be compared only within one dtype
        look = _Look(streams, wide=True)
        tally = _Tally.of(blocks, look)
    shift = max(tally.shifts, default=0)
    searches = [_Search(name, rank, shift > _STEP) for name, _ in tally.counts for rank in ranks]
    for search in searches:
        search.begin(tally.counts[search.name, 0], shift)
    while (todo := [search for search in searches if not search.done]) and shift:
        shift -= _STEP
        look = replace(look, shift=shift, lows=_lows(todo))
        tally = _Tally.of(blocks, look)
        for search in todo:
            search.narrow(tally.counts[search.name, search.low], shift)
    found: dict[str, tuple[Cut, ...]] = {}
    for search in searches:
        cut = search.cut if search.done else _place(search, tally, blocks, look)
        found[search.name] = (*found.get(search.name, ()), cut)
    return found


def _lows(searches: Sequence[_Search]) -> dict[str, set[int]]:
    lows: dict[str, set[int]] = {}
    for search in searches:
        lows.setdefault(search.name, set()).add(search.low)
    return lows


@dataclass
class _Search:
    """Knows in which run of keys the k-th largest lies, and how many of those inside are wanted."""

    name: str
    wanted: int
    wide: bool
    low: int = 0
    inside: int = 0

    def begin(self, counts: Counts, shift: int) -> None:
        """The first look, in which it may turn out that nothing or everything is wanted."""
        self.inside = int(counts.sum())
        self.wanted = min(self.wanted, self.inside)
        if not self.done:
            self.narrow(counts, shift)

    def narrow(self, counts: Counts, shift: int) -> None:
        """Go on in the bucket that holds the last of the wanted."""
        from_above = np.cumsum(counts[::-1])
        place = int(np.searchsorted(from_above, self.wanted))
        bucket = len(counts) - 1 - place
        self.inside = int(counts[bucket])
        self.wanted -= int(from_above[place]) - self.inside
        self.low += bucket << shift

    @property
    def done(self) -> bool:
        """Whether all inside or none of them are wanted."""
        return self.wanted in (0, self.inside)

    @property
    def value(self) -> float:
        """The least number that lies inside."""
        bits, kind = (np.int64, np.float64) if self.wide else (np.int32, np.float32)
        value = float(bits(self.low).view(kind))
        return math.inf if math.isnan(value) else value

    @property
    def cut(self) -> Cut:
        """Where all equals are among the wanted."""
        return Cut(self.value) if self.wanted else NOTHING


def _keys(values: torch.Tensor, wide: bool) -> torch.Tensor:
    """Integers in the order of the absolute values, in the same memory if possible."""
    if wide:
        values = values.to(torch.float64)
    return values.abs_().view(INTEGERS[values.dtype])


@dataclass(frozen=True)
class _Seen:
    """What one block has of the keys from ``low`` on: in which buckets of 2^``shift`` they are, and how many in each.

    Without counts each bucket stands there as often as it comes.
    """

    name: str
    low: int
    shift: int
    buckets: NDArray[np.integer]
    counts: Counts | None

    def count_of(self, search: _Search) -> int:
        """How many elements have just the key at which a search has arrived."""
        if self.name != search.name:
            return 0
        here = self.buckets == search.low - self.low
        return int(np.count_nonzero(here) if self.counts is None else self.counts[here].sum())


@dataclass(frozen=True)
class _Look:
    """Looks at one block."""

    streams: Streams
    wide: bool = False
    #: For each stream from which keys on; None: at all of them, in as many buckets as they have upper 16 bits.
    lows: Mapping[str, set[int]] | None = None
    shift: int = 0

    def __call__(self, group: Group) -> list[_Seen]:
        """One for each bracket of each stream."""
        seen = []
        for name, values in self.streams(group):
            keys = _keys(values, self.wide)
            if self.lows is None:
                shift = torch.iinfo(keys.dtype).bits - _STEP
                seen.append(_Seen(name, 0, shift, *_counted(keys.bitwise_right_shift_(shift))))
                continue
            lows = self.lows.get(name, ())
            seen += [_Seen(name, low, self.shift, *_counted(_inside(keys, low, self.shift))) for low in lows]
        return seen


def _inside(keys: torch.Tensor, low: int, shift: int) -> torch.Tensor:
    """The buckets of those keys that fall in one."""
    if keys.device.type != "cpu":
        above = keys - low
        return above[(above >= 0) & (above < _BUCKETS << shift)] >> shift
    bits = keys.numpy()
    above = bits - bits.dtype.type(low)
    unsigned = above.view(f"u{above.itemsize}")
    return torch.from_numpy(np.compress(unsigned < unsigned.dtype.type(_BUCKETS << shift), above) >> shift)


def _counted(buckets: torch.Tensor) -> tuple[NDArray[np.integer], Counts | None]:
    """Which buckets there are, and how often each."""
    if len(buckets) < _FEW:
        return buckets.to("cpu", torch.uint16).numpy(), None
    counts = torch.bincount(buckets).cpu().numpy()
    present = np.flatnonzero(counts)
    return present, counts[present]


@dataclass
class _Tally:
    """How often each bucket comes in all blocks."""

    counts: dict[tuple[str, int], Counts] = field(default_factory=dict)
    shifts: set[int] = field(default_factory=set)
    #: What the blocks had, one after the other; None if that is too much.
    remembered: list[list[_Seen]] | None = field(default_factory=list)

    @classmethod
    def of(cls, blocks: Blocks, look: _Look) -> _Tally:
        """After a pass over all blocks."""
        tally, size = cls(), 0
        if look.lows is None or look.shift:
            tally.remembered = None
        for seen in blocks.map(look):
            for each in seen:
                tally._add(each)
                size += len(each.buckets)
            if size > _REMEMBERED:
                tally.remembered = None
            if tally.remembered is not None:
                tally.remembered.append(seen)
        return tally

    def _add(self, seen: _Seen) -> None:
        key = (seen.name, seen.low)
        if key not in self.counts:
            self.counts[key] = np.zeros(_BUCKETS, np.int64)
        if seen.counts is None:
            np.add.at(self.counts[key], seen.buckets, 1)
        else:
            self.counts[key][seen.buckets] += seen.counts
        self.shifts.add(seen.shift)


def _place(search: _Search, tally: _Tally, blocks: Blocks, look: _Look) -> Cut:
    """Where some of those that equal the k-th largest are wanted, and others not: finds the last that is."""

    def equal(group: Group) -> torch.Tensor:
        """The places of those in one block."""
        for name, values in look.streams(group):
            if name == search.name:
                return torch.nonzero(_keys(values, look.wide) == search.low)
        return torch.zeros(0)

    if tally.remembered is None:
        by_block = blocks.map(lambda group: len(equal(group)))
    else:
        by_block = (sum(each.count_of(search) for each in seen) for seen in tally.remembered)
    until = list(accumulate(by_block))
    index = bisect_left(until, search.wanted)
    group = blocks.block(index)
    before = until[index - 1] if index else 0
    place = int(equal(group)[search.wanted - before - 1])
    return Cut(search.value, group.name, group.start + place)
