"""Find where in the base each row or column comes from: equal ones by their hashes, similar ones by their position."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

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

if TYPE_CHECKING:
    from gittheta.api import Dtype, TensorReader
    from gittheta.numerics.planes import Bytes

Map = npt.NDArray[np.int64]

#: The most entries of a map: a reader holds the whole map in memory.
MAX_ENTRIES = 1 << 22
#: The most bytes of a row whose columns are arranged: whole rows are held in memory for that.
MAX_ROW = 64 << 20
#: From a base of more bytes than this, rows are only taken in ascending order: reading it back and forth would decode
#: its blocks again and again, because a reader keeps 64 MiB of them.
LARGE = 64 << 20

#: Columns are hashed over the rows of this many blocks only: that is enough to tell them apart, and quicker.
_BLOCKS = 4
#: The most rows of a sample (three groups of five, each usually in one block of the base), and its most bytes.
_SAMPLE, _SAMPLE_BYTES = 15, 1 << 22
#: Tensors with longer rows (bytes) are not searched, because their rows would be hashed one at a time.
_LONGEST = 8 << 20
#: Rows or columns of fewer bytes are often equal by chance.
_SHORTEST = 16
#: The share of rows or columns that must have an origin: with less, predicting by the base saves little.
_KNOWN = 0.5
#: The share of elements with the base's sign and exponent from which two tensors count as similar. Unrelated weights
#: share them less often, fine-tuned ones more often.
_NEAR = 0.6
#: If more than one in this many has no origin yet, multiples by a power of two are looked for: that costs another pass.
_REST = 64
#: Bits of signs and mantissas that identify a row or column; far more than the number of rows needs, because elements
#: of weights are not independent.
_BITS = 160
#: Elements that are compared for that, at least.
_LEAST_COMPARED = 8


def find_maps(new: TensorReader, base: TensorReader) -> tuple[Map | None, Map | None] | None:
    """The maps of rows and of columns: for each its index in the base, or -1 if it is new.

    A map is None if all rows or columns keep their order; the result is None if ``new`` does not come from ``base``
    in this way.
    """
    ones, others = new.spec, base.spec
    if ones.dtype != others.dtype or len(ones.shape) != len(others.shape) or ones.shape[2:] != others.shape[2:]:
        return None
    if not ones.shape or ones.dtype.bits % 8 or not ones.elements or not others.elements:
        return None
    grids = Grid.of(ones), Grid.of(others)
    # Checked before anything is computed for each row: a tensor of one dimension has a row for each element.
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
    """The maps if the number of rows (axis 0) or columns (axis 1) changed."""
    tiny = (new.grid.row if axis == 0 else new.grid.cell * new.grid.rows) < _SHORTEST
    origins = _prefix(new, base, axis) if tiny and _is_near(new, base) else _map_axis(new, base, axis)
    if origins is None and _is_near(new, base):
        origins = _prefix(new, base, axis)
    if origins is None:
        return None
    return (None, origins) if axis else (origins, None)


def _find_both(new: Axis, base: Axis) -> tuple[Map, Map] | None:
    """The maps if the numbers of rows and of columns changed.

    Matches rows over the columns that both tensors have, or else columns over the rows; then the other axis.
    """
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
    """The maps if rows or columns (not both) were permuted; None if most rows of a sample resemble the base's."""
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
            origins = _map_axis(new, base, axis)
            if origins is not None and np.any(origins != np.arange(len(origins))):
                return (None, origins) if axis else (origins, None)
    return None


def _occur(rows: Bytes, base: Axis) -> bool:
    """Whether most of some rows have the first eight bytes of a row of the base; ``rows`` is (rows, bytes)."""
    if base.values.spec.nbytes > LARGE:
        return False  # rows of a large base may not be taken out of order
    heads = [part[:, :8].copy().view("<u8")[:, 0] for _, part in pieces(base)]
    return bool(np.mean(np.isin(rows[:, :8].copy().view("<u8")[:, 0], np.concatenate(heads))) >= _KNOWN)


def _map_axis(new: Axis, base: Axis, axis: int, across: Map | None = None, *, moved: bool = False) -> Map | None:
    """The origin of each row (axis 0) or column (axis 1) by its content; None if too few have one.

    ``across`` is the map of the other axis, None if that did not change. If ``moved``, rows or columns without an equal
    in the base get no origin; else they may get one by their position.
    """
    pair = (new, base)
    if axis or across is not None:
        across = np.arange(new.count(1 - axis)) if across is None else across
        pair = _paired(new, base, 1 - axis, across, _few_rows(new, base) if axis else np.flatnonzero(across >= 0))
    fresh, old = (hashes(side, axis) for side in pair)
    origins = match(fresh, old)
    zero = ~fresh.any(axis=1)
    origins[zero] = -1
    unknown = (origins < 0) & ~zero
    if new.grid.dtype.arithmetic and _REST * np.count_nonzero(unknown) > len(origins):
        multiples = _match_multiples(new, base, axis, across)
        origins = np.where(unknown, multiples, origins)
    if axis == 0:
        origins = _in_order(origins, base)
    known = np.count_nonzero((origins >= 0) | zero)
    if known < _KNOWN * min(new.count(axis), base.count(axis)) or not np.any(origins >= 0):
        return None
    return origins if moved else _filled(new, base, axis, origins)


def _match_multiples(new: Axis, base: Axis, axis: int, across: Map | None) -> Map:
    """The origin of rows or columns that may have been multiplied by a power of two; -1 for all others.

    Compares signs and mantissas of some elements only, because an element that became subnormal has another mantissa.
    """
    across = np.arange(new.count(1 - axis)) if across is None else across
    some = _few_rows(new, base) if axis else np.arange(len(across))
    some = some[across[some] >= 0]
    count = max(_LEAST_COMPARED, _BITS // (1 + new.grid.dtype.mantissa_bits))
    some = some[:: -(-len(some) // count)] if len(some) else some
    fresh, old = (hashes(side, axis, loose=True) for side in _paired(new, base, 1 - axis, across, some))
    return np.where(fresh.any(axis=1), match(fresh, old), -1)


def _paired(new: Axis, base: Axis, axis: int, origin: Map, some: Map) -> tuple[Axis, Axis]:
    """Let only some rows (axis 0) or columns (axis 1) take part, and in the base their origins, with equal weights."""
    some = some[origin[some] >= 0]
    ones, others = np.zeros_like(new.weights[axis]), np.zeros_like(base.weights[axis])
    ones[some] = new.weights[axis][some]
    np.add.at(others, origin[some], ones[some])
    return weighted(new, axis, ones), weighted(base, axis, others)


def _in_order(rows: Map, base: Axis) -> Map:
    """The map of rows; for a large base without those out of ascending order, as few of them as possible."""
    known = np.flatnonzero(rows >= 0)
    if base.values.spec.nbytes <= LARGE or not np.any(np.diff(rows[known]) < 0):
        return rows
    sources = rows[known].tolist()
    smallest: list[int] = []  # at index n: the smallest source with which n + 1 ascending ones can end
    ranks = []
    for source in sources:
        rank = bisect_right(smallest, source)
        smallest[rank : rank + 1] = [source]
        ranks.append(rank)
    kept = np.full(len(rows), -1)
    rank, limit = len(smallest) - 1, base.grid.rows
    for at in range(len(sources) - 1, -1, -1):
        if ranks[at] == rank and sources[at] <= limit:
            kept[known[at]] = limit = sources[at]
            rank -= 1
    return kept


def match(fresh: Hashes, old: Hashes) -> Map:
    """For each hash the index of an equal old hash, or -1: int64, one-dimensional.

    Of several equal ones it is the one at the same index, else the one that continues a run, else the first.
    """
    order = np.argsort(old[:, 0], kind="stable")
    ordered = old[order, 0]
    begin = np.searchsorted(ordered, fresh[:, 0], "left")
    end = np.searchsorted(ordered, fresh[:, 0], "right")
    here = np.arange(len(fresh))
    origins = order[np.minimum(begin, len(old) - 1)]
    origins[~_equal(fresh, old, origins)] = -1
    same = _equal(fresh, old, here)
    origins[same] = here[same]
    ambiguous = (end - begin > 1) & (origins >= 0) & ~same
    last = np.maximum.accumulate(np.where((origins >= 0) & ~ambiguous, here, -1))
    following = np.where(last >= 0, origins[last] + here - last, -1)
    runs_on = ambiguous & _equal(fresh, old, following)
    origins[runs_on] = following[runs_on]
    return origins


def _equal(fresh: Hashes, old: Hashes, at: Map) -> Flags:
    """Whether each hash equals the old hash at an index; an index may be out of range."""
    inside = (at >= 0) & (at < len(old))
    equal: Flags = inside & np.all(fresh == old[np.where(inside, at, 0)], axis=1)
    return equal


def _filled(new: Axis, base: Axis, axis: int, origins: Map) -> Map:
    """Give origins to rows or columns between neighbours that kept their distance, if the values are similar."""
    here = np.arange(len(origins))
    count = base.count(axis)
    ends = np.concatenate([[-1], origins, [count]])
    marks = np.concatenate([[True], origins >= 0, [True]])
    before = np.maximum.accumulate(np.where(marks, np.arange(len(marks)), 0))[1:-1]
    after = np.minimum.accumulate(np.where(marks, np.arange(len(marks)), len(marks))[::-1])[::-1][1:-1]
    kept = (origins < 0) & (ends[after] - ends[before] == after - before)
    if not kept.any():
        return origins
    guess = np.where(kept, ends[before] + here + 1 - before, origins)
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
    return guess if _nearness(ones, others, new.grid.dtype).mean() >= _NEAR else origins


def _few_rows(new: Axis, base: Axis) -> Map:
    """The indices of the rows of a few evenly spread blocks."""
    count = new.grid.rows
    size = max(1, min(side.grid.block // side.grid.row for side in (new, base)))
    starts = (max(0, count - size) * at // (_BLOCKS - 1) for at in range(_BLOCKS))
    return np.unique(np.concatenate([np.arange(start, min(start + size, count)) for start in starts]))


def _prefix(new: Axis, base: Axis, axis: int) -> Map:
    """The map that keeps the first rows (axis 0) or columns (axis 1), as many as the base has; all others are new."""
    here = np.arange(new.count(axis))
    return np.where(here < base.count(axis), here, -1)


def _is_near(new: Axis, base: Axis) -> bool:
    """Whether the rows and columns that both tensors have, in their order, are similar."""
    rows = _sample_rows(new, min(new.grid.rows, base.grid.rows))
    columns = min(new.grid.columns, base.grid.columns)
    ones, others = (_cells(_read_rows(side, rows), side.grid)[:, :columns] for side in (new, base))
    return bool(_nearness(ones, others, new.grid.dtype).mean() >= _NEAR)


def _nearness(ones: Bytes, others: Bytes, dtype: Dtype) -> npt.NDArray[np.float64]:
    """For each row, the share of elements with the same sign and exponent (for dtypes without arithmetic: equal ones).

    Both arrays have a row's bytes along all axes but the first.
    """
    width = f"<u{dtype.itemsize}"
    different = np.ascontiguousarray(ones).view(width) ^ np.ascontiguousarray(others).view(width)
    different >>= different.dtype.type(dtype.mantissa_bits if dtype.arithmetic else 0)
    shares: npt.NDArray[np.float64] = np.mean(different.reshape(len(ones), -1) == 0, axis=1)
    return shares


def _sample_size(side: Axis) -> int:
    return max(1, min(_SAMPLE, _SAMPLE_BYTES // side.grid.row))


def _sample_rows(side: Axis, count: int) -> Map:
    """Indices of some of the first ``count`` rows, in three groups so that few blocks of the base must be decoded."""
    size = min(max(1, _sample_size(side) // 3), count)
    starts = [(count - size) * at // 2 for at in range(3)]
    return np.unique(np.add.outer(starts, np.arange(size)))


def _read_rows(side: Axis, rows: Map) -> Bytes:
    row = side.grid.row
    read = [np.frombuffer(side.values.read(at * row, (at + 1) * row), np.uint8) for at in rows.tolist()]
    return np.stack(read)


def _cells(rows: Bytes, grid: Grid) -> Bytes:
    return rows.reshape(len(rows), -1, grid.cell)
