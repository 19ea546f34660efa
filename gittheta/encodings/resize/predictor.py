"""``resize``: rows or columns were added, removed, permuted or duplicated, as in a vocabulary or a widened layer.

A tensor is treated as a grid: its first dimension gives rows, its second columns, and all others the cells. A map says
for each row, or each column, which one of the base it copies; a new one is predicted as zeros. Elements are copied,
never computed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import ClassVar, Literal

import numpy as np

from gittheta.api import Finding, PayloadError, TensorReader, TensorSpec
from gittheta.encodings.resize.hashes import Grid
from gittheta.encodings.resize.search import LARGE, MAX_ENTRIES, MAX_ROW, Map, find_maps
from gittheta.numerics.floats import unzigzag
from gittheta.numerics.planes import Bytes, join, pack, split, unpack

_ROWS, _COLUMNS = 1, 2
_FROM = re.compile(r"[1-9][0-9]{0,18}(x[1-9][0-9]{0,18})*", re.ASCII)
#: The largest base, in bytes.
_MAX_BYTES = 1 << 62
#: The longest text of a shape: 64 dimensions of 19 digits, and the letters between.
_MAX_FROM = 1280
#: A map of fewer runs than this is copied run by run, which is faster than gathering single cells.
_FEW = 16


@dataclass(frozen=True)
class Resize:
    """Applies to tensors of any dtype whose elements are whole bytes."""

    name: ClassVar[str] = "resize"
    kind: ClassVar[Literal["predictor"]] = "predictor"

    def find(self, new: TensorReader, base: TensorReader) -> Finding | None:
        """The maps of rows and columns, if most of them come from the base."""
        maps = find_maps(new, base)
        if maps is None:
            return None
        rows, columns = maps
        flags = (_ROWS if rows is not None else 0) | (_COLUMNS if columns is not None else 0)
        payload = bytes((flags,)) + b"".join(_pack_map(each) for each in maps if each is not None)
        if 2 * len(payload) > new.spec.nbytes:
            return None
        return Finding(payload, (("from", "x".join(map(str, base.spec.shape))),))

    def base_spec(self, spec: TensorSpec, parameters: Mapping[str, str]) -> TensorSpec:
        """The base has the tensor's name and dtype, and the shape in the parameter ``from``. Raises PayloadError."""
        if (
            set(parameters) != {"from"}
            or len(parameters["from"]) > _MAX_FROM
            or not _FROM.fullmatch(parameters["from"])
        ):
            raise PayloadError("'resize' takes one parameter, such as from=32000x1024")
        shape = tuple(map(int, parameters["from"].split("x")))
        if len(shape) != len(spec.shape) or shape[2:] != spec.shape[2:]:
            raise PayloadError(f"a tensor of shape {spec.shape} cannot come from one of shape {shape}")
        if prod(shape) * spec.dtype.bits > 8 * _MAX_BYTES:
            raise PayloadError(f"a base of shape {shape} is too large")
        return TensorSpec(spec.name, spec.dtype, shape)

    def open(self, payload: memoryview, spec: TensorSpec, parameters: Mapping[str, str]) -> Rearranged:
        """Read the maps and check each index. Raises PayloadError."""
        base = self.base_spec(spec, parameters)
        if spec.dtype.bits % 8 or not spec.elements:
            raise PayloadError("no whole bytes to copy")
        new, old = Grid.of(spec), Grid.of(base)
        if not len(payload) or payload[0] & ~(_ROWS | _COLUMNS):
            raise PayloadError("a resize of unknown kind")
        rows = columns = None
        rest = payload[1:]
        if payload[0] & _ROWS:
            rows, rest = _unpack_map(rest, new.rows, old.rows)
        if payload[0] & _COLUMNS:
            columns, rest = _unpack_map(rest, new.columns, old.columns)
        if len(rest):
            raise PayloadError("a resize of the wrong length")
        if (rows is None and new.rows != old.rows) or (columns is None and new.columns != old.columns):
            raise PayloadError("a resize does not say where all rows and columns come from")
        if rows is not None and base.nbytes > LARGE and np.any(np.diff(rows[rows >= 0]) < 0):
            raise PayloadError("rows of a large base must be taken in order")
        if columns is not None and max(new.row, old.row) > MAX_ROW:
            raise PayloadError("columns of rows that are too long")
        return Rearranged(new, old, rows, columns)


def _pack_map(origins: Map) -> bytes:
    """A map as differences from the index that would come next, so that runs become zeros."""
    steps = np.diff(origins, prepend=-1) - 1
    folded = np.where(steps < 0, -2 * steps - 1, 2 * steps)
    width = next(width for width in (1, 2, 4) if int(folded.max()) < 1 << 8 * width)
    return bytes((width,)) + pack(split(folded.astype(f"<u{width}")), matches=True)


def _unpack_map(payload: memoryview, count: int, limit: int) -> tuple[Map, memoryview]:
    if count > MAX_ENTRIES:
        raise PayloadError(f"a map of more than {MAX_ENTRIES} entries")
    if not len(payload) or payload[0] not in (1, 2, 4):
        raise PayloadError("a map of unknown width")
    width = payload[0]
    planes, rest = unpack(payload[1:], [count] * width)
    origins = unzigzag(join(planes)).view(f"<i{width}").astype(np.int64)
    origins += 1
    np.cumsum(origins, out=origins)
    origins -= 1
    if int(origins.min()) < -1 or int(origins.max()) >= limit:
        raise PayloadError("a map names a row or column that the base does not have")
    return origins, rest


@dataclass(frozen=True, eq=False)
class Rearranged:
    """A prediction: rows and columns of the base as their maps say; a map of None keeps all in their order."""

    grid: Grid
    base: Grid
    rows: Map | None
    columns: Map | None

    def read(self, begin: int, end: int, base: TensorReader) -> memoryview:
        """The predicted bytes from offset ``begin`` to ``end``.

        Read at once where they lie in one piece in the base; else as the end of a row, whole rows, and part of a row.
        """
        row = self.grid.row
        first, last = begin // row, -(-end // row)
        shift = self._shift(first, last)
        if shift is not None:
            return base.read(begin + shift, end + shift)
        out = np.zeros(end - begin, np.uint8)
        at = begin
        while at < end:
            index, offset = divmod(at, row)
            if offset or end - at < row:
                stop = min(end, (index + 1) * row)
                self._part(index, offset, out[at - begin : stop - begin], base)
            else:
                stop = end // row * row
                self._whole(index, out[at - begin : stop - begin].reshape(-1, row), base)
            at = stop
        return out.data

    def _shift(self, first: int, last: int) -> int | None:
        """By how many bytes these rows lie further on in the base; None if they do not lie there in one piece."""
        if self.columns is not None or first >= last:
            return None
        if self.rows is None:
            return 0
        sources = self.rows[first:last]
        if sources[0] < 0 or sources[-1] - sources[0] != last - first - 1 or np.any(np.diff(sources) != 1):
            return None
        return (int(sources[0]) - first) * self.grid.row

    def _source(self, index: int) -> int:
        return index if self.rows is None else int(self.rows[index])

    def _part(self, index: int, offset: int, out: Bytes, base: TensorReader) -> None:
        """Fill ``out`` with part of a row, from an offset in bytes on."""
        source = self._source(index) * self.base.row
        if source < 0:
            return
        if self.columns is None:
            out[:] = np.frombuffer(base.read(source + offset, source + offset + len(out)), np.uint8)
            return
        cell = self.grid.cell
        first, last = offset // cell, -(-(offset + len(out)) // cell)
        columns = self.columns[first:last]
        known = columns[columns >= 0]
        if not len(known):
            return
        low, high = int(known.min()), int(known.max()) + 1
        window = np.frombuffer(base.read(source + low * cell, source + high * cell), np.uint8).reshape(1, -1, cell)
        cells = np.zeros((1, len(columns), cell), np.uint8)
        _take(window, np.where(columns < 0, -1, columns - low), cells)
        out[:] = cells.reshape(-1)[offset - first * cell :][: len(out)]

    def _whole(self, first: int, out: Bytes, base: TensorReader) -> None:
        """Fill ``out`` with whole rows, from index ``first`` on."""
        rows = np.arange(first, first + len(out)) if self.rows is None else self.rows[first : first + len(out)]
        known = np.flatnonzero(rows >= 0)
        order = known[np.argsort(rows[known], kind="stable")]
        sources = rows[order]
        for begin, end in _windows(sources, self.base):
            low, high = int(sources[begin]), int(sources[end - 1]) + 1
            window = np.frombuffer(base.read(low * self.base.row, high * self.base.row), np.uint8)
            self._spread(window.reshape(-1, self.base.row), sources[begin:end] - low, order[begin:end], out)

    def _spread(self, window: Bytes, rows: Map, places: Map, out: Bytes) -> None:
        """Copy rows of a window of the base to their places in ``out``, with their columns arranged.

        ``rows`` are ascending indices in the window, perhaps with repetitions; ``places`` are indices in ``out``.
        """
        fresh = np.diff(rows, prepend=-1) > 0
        distinct = rows[fresh]
        if len(distinct) != len(window):
            window = window.take(distinct, axis=0)
        if self.columns is not None:  # before rows are repeated: those of the base may be much longer
            arranged = np.zeros((len(window), self.grid.columns, self.grid.cell), np.uint8)
            _take(window.reshape(len(window), -1, self.grid.cell), self.columns, arranged)
            window = arranged.reshape(len(window), -1)
        if len(distinct) != len(rows):
            window = window.take(np.cumsum(fresh) - 1, axis=0)
        if np.any(np.diff(places) != 1):
            out[places] = window
        else:
            out[places[0] : places[-1] + 1] = window


def _windows(sources: Map, base: Grid) -> Iterator[tuple[int, int]]:
    """Cut ascending rows into runs that begin in the same block of the base; a run is read at once, gaps included."""
    blocks = sources * base.row // base.block
    edges = np.flatnonzero(np.diff(blocks)) + 1
    if len(sources):
        yield from pairwise((0, *edges.tolist(), len(sources)))


def _take(rows: Bytes, columns: Map, out: Bytes) -> None:
    """Copy cells of some rows to ``out``, by a map of columns; cells of new columns stay zero."""
    unknown = columns < 0
    runs_on = np.where(unknown[:-1], unknown[1:], np.diff(columns) == 1)
    edges = np.flatnonzero(~runs_on) + 1
    if len(edges) < _FEW:
        for begin, end in pairwise((0, *edges.tolist(), len(columns))):
            if columns[begin] >= 0:
                out[:, begin:end] = rows[:, columns[begin] : columns[begin] + end - begin]
        return
    np.take(rows, np.maximum(columns, 0), axis=1, out=out, mode="clip")
    out[:, unknown] = 0
