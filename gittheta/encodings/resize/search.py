"""The search for what became of rows and columns: equal content is found by hashes, near content by its place."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
import numpy.typing as npt

from gittheta.api import Dtype, TensorReader
from gittheta.encodings.resize.hashes import (
    Axis,
    Flags,
    Grid,
    Hashes,
    hash_cells,
    hashes,
    pieces,
    side_of,
    weighted,
)
from gittheta.numerics.planes import Bytes

Map = npt.NDArray[np.int64]

#: A reader holds the whole map.
MAX_ENTRIES = 1 << 22
#: Bytes of a row whose columns are arranged.
MAX_ROW = 64 << 20
#: From a base of more bytes than this, rows are taken in their order.
LARGE = 64 << 20

#: Columns are told from each other by the rows of a few blocks.
_BLOCKS = 4
#: Rows that a sample consists of, and the bytes that it is made of at most.
_SAMPLE, _SAMPLE_BYTES = 15, 1 << 22
#: Longer rows are not searched: they are hashed one at a time.
_LONGEST = 8 << 20
#: Rows of fewer bytes are alike by chance.
_SHORTEST = 16
#: So many rows or columns must have an origin, and so many elements be near those of the base to call a tensor near.
_KNOWN, _NEAR = 0.5, 0.6
#: Where more than one in so many has no origin yet, it is worth to look for multiples by a power of two.
_REST = 64
#: Bits of signs and mantissas that tell one row or column from all others.
_BITS = 160


def find_maps(new: TensorReader, base: TensorReader) -> tuple[Map | None, Map | None] | None:
    """Where each row and each column comes from (-1: from nowhere); None for all in their order. None: not at all."""
    ones, others = new.spec, base.spec
    if ones.dtype != others.dtype or len(ones.shape) != len(others.shape) or ones.shape[2:] != others.shape[2:]:
        return None
    if not ones.shape or ones.dtype.bits % 8 or not ones.elements or not others.elements:
        return None
    grids = Grid.of(ones), Grid.of(others)
    # Before anything is worked out for each row and column: a tensor of one dimension has a row for each element.
    if any(max(grid.rows, grid.columns) > MAX_ENTRIES or grid.row > _LONGEST for grid in grids):
        return None
    if ones.shape == others.shape and (len(ones.shape) < 2 or grids[0].rows < 2 or grids[0].row < _SHORTEST):
        return None
    one, other = side_of(new), side_of(base)
    if ones.shape == others.shape:
        return _find_permutation(one, other)
    differ = [axis for axis in (0, 1) if one.count(axis) != other.count(axis)]
    if any(one.count(axis) > MAX_ENTRIES for axis in differ):
        return None
    return _find_both(one, other) if len(differ) == 2 else _find_one(one, other, differ[0])


def _find_one(new: Axis, base: Axis, axis: int) -> tuple[Map | None, Map | None] | None:
    # Of cells as small as these, many are equal by chance.
    tiny = (new.grid.row if axis == 0 else new.grid.cell * new.grid.rows) < 16
    found = _prefix(new, base, axis) if tiny and _is_near(new, base) else _map_axis(new, base, axis)
    if found is None and _is_near(new, base):
        found = _prefix(new, base, axis)
    if found is None:
        return None
    return (None, found) if axis else (found, None)


def _find_both(new: Axis, base: Axis) -> tuple[Map, Map] | None:
    """Rows by the columns that both have, if the first columns stayed; or columns by the rows; then the rest."""
    for axis in (0, 1):
        first = _map_axis(new, base, axis, _prefix(new, base, 1 - axis))
        if first is not None:
            second = _map_axis(new, base, 1 - axis, first, moved=True)
            prefix = _prefix(new, base, 1 - axis)
            second = prefix if second is None else np.where(second < 0, prefix, second)
            return (_in_order(second, base), first) if axis else (first, second)
    if _is_near(new, base):
        return _prefix(new, base, 0), _prefix(new, base, 1)
    return None


def _find_permutation(new: Axis, base: Axis) -> tuple[Map | None, Map | None] | None:
    """Rows or columns in another order, not both; if most rows of a sample are unlike those of the base."""
    grid = new.grid
    if 3 * grid.row > _SAMPLE_BYTES:
        return None
    rows = _sample_rows(new, grid.rows)
    ones, others = _read_rows(new, rows), _read_rows(base, rows)
    moved = _nearness(ones, others, grid.dtype) < _NEAR
    if 2 * np.count_nonzero(moved) < len(rows):
        return None
    cells = [np.sort(hash_cells(part[moved], grid), axis=1) for part in (ones, others)]
    for axis in (1, 0):
        if axis and np.mean(np.all(cells[0] == cells[1], axis=1)) < _KNOWN:
            continue
        if not axis and not _occur(ones[moved], base):
            continue
        if new.count(axis) <= MAX_ENTRIES:
            found = _map_axis(new, base, axis)
            if found is not None and np.any(found != np.arange(len(found))):
                return (None, found) if axis else (found, None)
    return None


def _occur(rows: Bytes, base: Axis) -> bool:
    """Whether most of some rows begin as rows of the base do."""
    if base.values.spec.nbytes > LARGE:
        return False  # rows out of order could not be written down
    heads = [part[:, :8].copy().view("<u8")[:, 0] for _, part in pieces(base)]
    return bool(np.mean(np.isin(rows[:, :8].copy().view("<u8")[:, 0], np.concatenate(heads))) >= _KNOWN)


def _map_axis(new: Axis, base: Axis, axis: int, across: Map | None = None, moved: bool = False) -> Map | None:
    """The origin of each row or column by its content; None if too few have one.

    ``across``: the origin of each column or row, the other axis; None if those are the same.
    """
    pair = (new, base)
    if axis or across is not None:
        across = np.arange(new.count(1 - axis)) if across is None else across
        pair = _paired(new, base, 1 - axis, across, _few_rows(new, base) if axis else np.flatnonzero(across >= 0))
    fresh, old = (hashes(side, axis) for side in pair)
    found = match(fresh, old)
    zero = ~fresh.any(axis=1)
    found[zero] = -1
    unknown = (found < 0) & ~zero
    if new.grid.dtype.arithmetic and _REST * np.count_nonzero(unknown) > len(found):
        multiples = _match_multiples(new, base, axis, across)
        found = np.where(unknown, multiples, found)
    if axis == 0:
        found = _in_order(found, base)
    known = np.count_nonzero((found >= 0) | zero)
    if known < _KNOWN * min(new.count(axis), base.count(axis)) or not np.any(found >= 0):
        return None
    return found if moved else _filled(new, base, axis, found)


def _match_multiples(new: Axis, base: Axis, axis: int, across: Map | None) -> Map:
    """The origin of what may have been multiplied by a power of two, by the signs and mantissas of some elements.

    Not of all: some may have become subnormal.
    """
    across = np.arange(new.count(1 - axis)) if across is None else across
    some = _few_rows(new, base) if axis else np.arange(len(across))
    some = some[across[some] >= 0]
    wanted = max(8, _BITS // (1 + new.grid.dtype.mantissa_bits))
    some = some[:: -(-len(some) // wanted)] if len(some) else some
    fresh, old = (hashes(side, axis, loose=True) for side in _paired(new, base, 1 - axis, across, some))
    return np.where(fresh.any(axis=1), match(fresh, old), -1)


def _paired(new: Axis, base: Axis, axis: int, origin: Map, some: Map) -> tuple[Axis, Axis]:
    """Let only some rows or columns take part, and in the base those that they come from, with the same numbers."""
    some = some[origin[some] >= 0]
    ones, others = np.zeros_like(new.weights[axis]), np.zeros_like(base.weights[axis])
    ones[some] = new.weights[axis][some]
    np.add.at(others, origin[some], ones[some])
    return weighted(new, axis, ones), weighted(base, axis, others)


def _in_order(rows: Map, base: Axis) -> Map:
    """Rows of a large base, less as few as possible that would have to be looked for backwards."""
    known = np.flatnonzero(rows >= 0)
    if base.values.spec.nbytes <= LARGE or not np.any(np.diff(rows[known]) < 0):
        return rows
    sources = rows[known].tolist()
    smallest: list[int] = []  # the smallest source that so many in order can end with
    ranks = []
    for source in sources:
        rank = bisect_right(smallest, source)
        smallest[rank : rank + 1] = [source]
        ranks.append(rank)
    kept = np.full(len(rows), -1)
    wanted, limit = len(smallest) - 1, base.grid.rows
    for at in range(len(sources) - 1, -1, -1):
        if ranks[at] == wanted and sources[at] <= limit:
            kept[known[at]] = limit = sources[at]
            wanted -= 1
    return kept


def match(fresh: Hashes, old: Hashes) -> Map:
    """For each hash the index of an equal old one: the same index, else what continues a run, else the first."""
    order = np.argsort(old[:, 0], kind="stable")
    ordered = old[order, 0]
    begin = np.searchsorted(ordered, fresh[:, 0], "left")
    end = np.searchsorted(ordered, fresh[:, 0], "right")
    here = np.arange(len(fresh))
    found = order[np.minimum(begin, len(old) - 1)]
    found[~_equal(fresh, old, found)] = -1
    same = _equal(fresh, old, here)
    found[same] = here[same]
    ambiguous = (end - begin > 1) & (found >= 0) & ~same
    last = np.maximum.accumulate(np.where((found >= 0) & ~ambiguous, here, -1))
    following = np.where(last >= 0, found[last] + here - last, -1)
    runs_on = ambiguous & _equal(fresh, old, following)
    found[runs_on] = following[runs_on]
    return found


def _equal(fresh: Hashes, old: Hashes, at: Map) -> Flags:
    """Whether each hash is that of the old one at an index, which may be out of range."""
    inside = (at >= 0) & (at < len(old))
    equal: Flags = inside & np.all(fresh == old[np.where(inside, at, 0)], axis=1)
    return equal


def _filled(new: Axis, base: Axis, axis: int, found: Map) -> Map:
    """What lies between neighbours that kept their distance comes from between them, if it is near to that."""
    here = np.arange(len(found))
    count = base.count(axis)
    ends = np.concatenate([[-1], found, [count]])
    marks = np.concatenate([[True], found >= 0, [True]])
    before = np.maximum.accumulate(np.where(marks, np.arange(len(marks)), 0))[1:-1]
    after = np.minimum.accumulate(np.where(marks, np.arange(len(marks)), len(marks))[::-1])[::-1][1:-1]
    kept = (found < 0) & (ends[after] - ends[before] == after - before)
    if not kept.any():
        return found
    guess = np.where(kept, ends[before] + here + 1 - before, found)
    some = np.flatnonzero(kept)
    if axis:
        rows = _sample_rows(new, min(new.grid.rows, base.grid.rows))
        ones, others = (_cells(_read_rows(side, rows), side.grid) for side in (new, base))
        ones, others = ones[:, some], others[:, guess[some]]
    else:
        some = some[:: -(-len(some) // _sample_size(new))]
        shared = min(new.grid.columns, base.grid.columns)
        ones = _cells(_read_rows(new, some), new.grid)[:, :shared]
        others = _cells(_read_rows(base, guess[some]), base.grid)[:, :shared]
    return guess if _nearness(ones, others, new.grid.dtype).mean() >= _NEAR else found


def _few_rows(new: Axis, base: Axis) -> Map:
    """The rows of a few blocks."""
    count = new.grid.rows
    size = max(1, min(side.grid.block // side.grid.row for side in (new, base)))
    starts = (max(0, count - size) * at // (_BLOCKS - 1) for at in range(_BLOCKS))
    return np.unique(np.concatenate([np.arange(start, min(start + size, count)) for start in starts]))


def _prefix(new: Axis, base: Axis, axis: int) -> Map:
    """The first ones as they are, the others from nowhere."""
    here = np.arange(new.count(axis))
    return np.where(here < base.count(axis), here, -1)


def _is_near(new: Axis, base: Axis) -> bool:
    """Whether what both have room for, rows and columns in their order, is nearly the same."""
    rows = _sample_rows(new, min(new.grid.rows, base.grid.rows))
    columns = min(new.grid.columns, base.grid.columns)
    ones, others = (_cells(_read_rows(side, rows), side.grid)[:, :columns] for side in (new, base))
    return bool(_nearness(ones, others, new.grid.dtype).mean() >= _NEAR)


def _nearness(ones: Bytes, others: Bytes, dtype: Dtype) -> npt.NDArray[np.float64]:
    """For each row, which part of the elements have the sign and the exponent of the other, or are equal."""
    width = f"<u{dtype.itemsize}"
    different = np.ascontiguousarray(ones).view(width) ^ np.ascontiguousarray(others).view(width)
    different >>= different.dtype.type(dtype.mantissa_bits if dtype.arithmetic else 0)
    shares: npt.NDArray[np.float64] = np.mean(different.reshape(len(ones), -1) == 0, axis=1)
    return shares


def _sample_size(side: Axis) -> int:
    return max(1, min(_SAMPLE, _SAMPLE_BYTES // side.grid.row))


def _sample_rows(side: Axis, count: int) -> Map:
    """Some of the first so many rows, in three groups so that few blocks of the base must be decoded."""
    size = min(max(1, _sample_size(side) // 3), count)
    starts = [(count - size) * at // 2 for at in range(3)]
    return np.unique(np.add.outer(starts, np.arange(size)))


def _read_rows(side: Axis, rows: Map) -> Bytes:
    row = side.grid.row
    read = [np.frombuffer(side.values.read(at * row, (at + 1) * row), np.uint8) for at in rows.tolist()]
    return np.stack(read)


def _cells(rows: Bytes, grid: Grid) -> Bytes:
    return rows.reshape(len(rows), -1, grid.cell)
