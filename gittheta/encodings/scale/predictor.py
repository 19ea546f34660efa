"""``scale``: the base with each row or each column multiplied by a factor, as after an (IA)³ adapter was folded in.

The product of a float32 factor and a value of at most 29 bits is exact in float64, and rounding it once to the dtype
gives the same bits on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np

from gittheta.api import Finding, PayloadError, TensorReader, TensorSpec
from gittheta.encodings.scale.factors import Factors, Fit, bounds, values_of
from gittheta.numerics.floats import Doubles, as_words, from_float64, has_arithmetic, to_float64
from gittheta.numerics.planes import Words, join_rotated, pack, split_rotated, unpack

#: The most factors of one tensor: the reader holds all of them in memory (32 MiB of float64).
MAX_FACTORS = 1 << 22
#: Factors may take at most one in this many bytes of the tensor: with more, little could be saved.
_SHARE = 8
#: Elements that are computed at a time: as float64 they take 1 MiB, so that they stay in the processor's cache.
_CHUNK = 1 << 17
#: Elements that are read at a time: one block of the base.
_PIECE = 1 << 20
#: A sample is three groups of eight rows, of at most 1024 columns: each group usually lies in one block of the base,
#: which must be decoded for it.
_SAMPLES, _ROWS, _COLUMNS = 3, 8, 1024
#: The shares of all elements, and of the changed ones, that a prediction must get right. With less, the correction
#: above it would be large, and `delta` does as well. Most elements may be unchanged, so they alone prove nothing.
_RIGHT, _RIGHT_OF_CHANGED = 0.9, 0.5
#: At a first look at a few elements, the share of rows or columns in which one factor must explain every element. Low,
#: because a single outlier spoils a row; it only has to rule out changes that are not a scaling.
_AGREEING = 0.25
#: The elements of each row of the sample in that first look at factors of rows, and the columns in one at columns.
_GLANCE_ALONG, _GLANCE_ACROSS = 16, 64


@dataclass(frozen=True)
class _Grid:
    """A tensor seen as a matrix, with a factor for each row (axis 0) or each column (axis 1)."""

    spec: TensorSpec
    axis: int
    rows: int
    columns: int

    @classmethod
    def of(cls, spec: TensorSpec, axis: int) -> _Grid | None:
        """The tensor as a matrix; one of fewer than two dimensions is one row. None if factors make no sense."""
        if len(spec.shape) < 2:
            return None if axis else cls(spec, axis, 1, spec.elements)
        if not spec.elements:
            return None
        columns = spec.shape[-1] if axis else spec.elements // spec.shape[0]
        return cls(spec, axis, spec.elements // columns, columns)

    @property
    def factors(self) -> int:
        """The number of factors."""
        return self.columns if self.axis else self.rows


@dataclass(frozen=True)
class Scale:
    """Applies to floats whose values :mod:`gittheta.numerics.floats` can convert."""

    name: ClassVar[str] = "scale"
    kind: ClassVar[Literal["predictor"]] = "predictor"

    def find(self, new: TensorReader, base: TensorReader) -> Finding | None:
        """Factors for the rows, else for the columns, if a sample shows that they explain what changed."""
        spec = new.spec
        if base.spec.dtype != spec.dtype or base.spec.shape != spec.shape or not has_arithmetic(spec.dtype):
            return None
        for axis in (0, 1):
            grid = _Grid.of(spec, axis)
            if grid is None or not 0 < 4 * _SHARE * grid.factors <= spec.nbytes or grid.factors > MAX_FACTORS:
                continue
            if _is_plausible(_sample(new, grid), _sample(base, grid), grid):
                factors = _fit(new, base, grid)
                if np.any(factors != 1) and _is_right(new, base, grid, factors):
                    words = factors.astype("<f4").view("<u4")
                    return Finding(pack(split_rotated(words), matches=True), (("axis", str(axis)),))
        return None

    def base_spec(self, spec: TensorSpec, parameters: Mapping[str, str]) -> TensorSpec:
        """The base has the tensor's own dtype and shape. Raises PayloadError."""
        _read_grid(spec, parameters)
        return spec

    def open(self, payload: memoryview, spec: TensorSpec, parameters: Mapping[str, str]) -> Scaled:
        """Read the factors. Raises PayloadError."""
        grid = _read_grid(spec, parameters)
        planes, rest = unpack(payload, [grid.factors] * 4)
        if len(rest):
            raise PayloadError("factors of the wrong length")
        words = np.empty(grid.factors, "<u4")
        join_rotated(planes, words)
        factors = words.view("<f4")
        if not np.isfinite(factors).all():
            raise PayloadError("a factor that is not finite")
        return Scaled(grid, factors.astype(np.float64))


def _read_grid(spec: TensorSpec, parameters: Mapping[str, str]) -> _Grid:
    if set(parameters) != {"axis"} or parameters["axis"] not in ("0", "1"):
        raise PayloadError("'scale' takes one parameter, axis=0 or axis=1")
    grid = _Grid.of(spec, int(parameters["axis"]))
    if grid is None or not has_arithmetic(spec.dtype):
        raise PayloadError(f"nothing to scale in a tensor of {spec.dtype.name} and shape {spec.shape}")
    if grid.factors > MAX_FACTORS:
        raise PayloadError(f"more than {MAX_FACTORS} factors")
    return grid


@dataclass(frozen=True)
class Scaled:
    """A prediction: the base times the factors. ``factors`` is float64, one for each row or column."""

    grid: _Grid
    factors: Factors

    def read(self, begin: int, end: int, base: TensorReader) -> memoryview:
        """The predicted bytes from offset ``begin`` to ``end``; chunk by chunk, because float64 takes more memory."""
        dtype = self.grid.spec.dtype
        data = base.read(begin, end)
        out = np.empty(end - begin, np.uint8)
        step = _CHUNK * dtype.itemsize
        for at in range(0, end - begin, step):
            values = to_float64(data[at : at + step], dtype)
            self._multiply(values, (begin + at) // dtype.itemsize)
            out[at : at + step] = np.frombuffer(from_float64(values, dtype), np.uint8)
        return out.data

    def _multiply(self, values: Doubles, first: int) -> None:
        """Multiply in place the flat values that begin at element ``first`` of the tensor.

        They are the end of a row, then whole rows, then the beginning of a row.
        """
        width = self.grid.columns
        head = min(-first % width, len(values))
        whole = head + (len(values) - head) // width * width
        for begin, end in pairwise((0, head, whole, len(values))):
            if begin == end:
                continue
            row, column = divmod(first + begin, width)
            part = values[begin:end].reshape(-1, min(width, end - begin))
            factors = self.factors[column : column + part.shape[1]]
            if self.grid.axis == 0:
                factors = self.factors[row : row + len(part), None]
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                part *= factors


def _words(values: TensorReader, first: int, last: int) -> Words:
    """The elements from index ``first`` to ``last`` as words."""
    size = values.spec.dtype.itemsize
    return as_words(values.read(first * size, last * size), size)


def _sample(values: TensorReader, grid: _Grid) -> Words:
    """Some rows, in a few groups so that few blocks of the base must be decoded; of wide rows the first columns."""
    count = min(_ROWS, grid.rows)
    starts = sorted({(grid.rows - count) * at // (_SAMPLES - 1) for at in range(_SAMPLES)})
    width = min(grid.columns, _COLUMNS)
    if width == grid.columns:
        runs = [_words(values, start * width, (start + count) * width) for start in starts]
    else:
        rows = [start + at for start in starts for at in range(count)]
        runs = [_words(values, row * grid.columns, row * grid.columns + width) for row in rows]
    return np.concatenate(runs).reshape(-1, width)


def _is_plausible(new: Words, base: Words, grid: _Grid) -> bool:
    """Whether factors explain a sample, and its changed elements too; ``new`` and ``base`` are (rows, columns)."""
    changed = new != base
    if not changed.any():
        return False
    step = max(1, new.shape[1] // (_GLANCE_ACROSS if grid.axis else _GLANCE_ALONG))
    low, high = bounds(new[:, ::step], base[:, ::step], grid.spec.dtype)
    if np.mean(low.max(axis=1 - grid.axis) <= high.min(axis=1 - grid.axis)) < _AGREEING:
        return False
    fit = Fit(new.shape[grid.axis], grid.spec.dtype, grid.axis)
    fit.narrow(slice(None), new, base)
    factors = fit.factors()
    values = values_of(base, grid.spec.dtype)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        values *= factors if grid.axis else factors[:, None]
    right = as_words(from_float64(values.ravel(), grid.spec.dtype), new.itemsize).reshape(new.shape) == new
    return bool(right.mean() > _RIGHT and right[changed].mean() > _RIGHT_OF_CHANGED)


def _is_right(new: TensorReader, base: TensorReader, grid: _Grid, factors: Factors) -> bool:
    """Whether the factors predict most elements right, judged by some pieces of the tensor."""
    prediction = Scaled(grid, factors)
    size = grid.spec.dtype.itemsize
    right, total = 0, 0
    last = max(0, grid.spec.elements - _PIECE)
    for first in sorted({last * at // (_SAMPLES - 1) // _CHUNK * _CHUNK for at in range(_SAMPLES)}):
        end = min(first + _PIECE, grid.spec.elements)
        predicted = as_words(prediction.read(first * size, end * size, base), size)
        right += int(np.count_nonzero(predicted == _words(new, first, end)))
        total += end - first
    return right > _RIGHT * total


def _fit(new: TensorReader, base: TensorReader, grid: _Grid) -> Factors:
    fit = Fit(grid.factors, grid.spec.dtype, grid.axis)
    for first, rows, columns in _pieces(grid, _PIECE):
        shape = (rows, columns)
        fresh = _words(new, first, first + rows * columns).reshape(shape)
        old = _words(base, first, first + rows * columns).reshape(shape)
        row, column = divmod(first, grid.columns)
        height, width = max(1, _CHUNK // columns), min(columns, _CHUNK)
        for top in range(0, rows, height):
            for left in range(0, columns, width):
                part = (slice(top, top + height), slice(left, left + width))
                start = column + left if grid.axis else row + top
                count = fresh[part].shape[grid.axis]
                fit.narrow(slice(start, start + count), fresh[part], old[part])
    return fit.factors()


def _pieces(grid: _Grid, size: int) -> Iterator[tuple[int, int, int]]:
    """The first element, the rows and the columns of each piece of at most ``size`` elements.

    A piece is some whole rows, or part of one row if rows are longer.
    """
    if grid.columns <= size:
        step = size // grid.columns
        for row in range(0, grid.rows, step):
            yield row * grid.columns, min(step, grid.rows - row), grid.columns
        return
    for row in range(grid.rows):
        for column in range(0, grid.columns, size):
            yield row * grid.columns + column, 1, min(size, grid.columns - column)
