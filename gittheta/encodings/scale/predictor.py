"""``scale``: one factor for each row, or for each column, as (IA)³ leaves it when it is folded in.

The product of a float32 factor and a value of at most 29 bits is exact in float64, so that a prediction is the base
times the factor, rounded as hardware rounds it: the same bits on every machine.
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

#: Factors that one tensor may have: the reader holds them all.
MAX_FACTORS = 1 << 22
#: The bytes of the factors are at most one in so many of the tensor's, or it is not worth looking.
_SHARE = 8
#: Elements that are worked on at once: what fits the cache.
_CHUNK = 1 << 17
#: Elements that are read at once.
_PIECE = 1 << 20
#: A sample is so many groups of so many rows of at most so many columns.
_SAMPLES, _ROWS, _COLUMNS = 3, 8, 1024
#: So many of the elements a prediction must get right, and so many of those that changed.
_RIGHT, _RIGHT_OF_CHANGED = 0.9, 0.5
#: In a glance at a few elements of some rows or columns, so many of these must be explained by a factor in full.
_AGREEING = 0.25


@dataclass(frozen=True)
class _Grid:
    """A tensor seen as a matrix, with a factor for each row (axis 0) or each column (axis 1)."""

    spec: TensorSpec
    axis: int
    rows: int
    columns: int

    @classmethod
    def of(cls, spec: TensorSpec, axis: int) -> _Grid | None:
        """Tensors of fewer than two dimensions are one row."""
        if len(spec.shape) < 2:
            return None if axis else cls(spec, axis, 1, spec.elements)
        if not spec.elements:
            return None
        columns = spec.shape[-1] if axis else spec.elements // spec.shape[0]
        return cls(spec, axis, spec.elements // columns, columns)

    @property
    def factors(self) -> int:
        """How many factors there are."""
        return self.columns if self.axis else self.rows


@dataclass(frozen=True)
class Scale:
    """Applies to the floats that arithmetic is known of."""

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
        """The tensor's own dtype and shape."""
        _read_grid(spec, parameters)
        return spec

    def open(self, payload: memoryview, spec: TensorSpec, parameters: Mapping[str, str]) -> Scaled:
        """The factors."""
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
    """The base times the factors."""

    grid: _Grid
    factors: Factors

    def read(self, begin: int, end: int, base: TensorReader) -> memoryview:
        """Chunk by chunk, because float64 takes several times the room."""
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
        """In place; the first of the values is that element of the tensor: the end of a row, rows, part of a row."""
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
    """The elements from the first to the last."""
    size = values.spec.dtype.itemsize
    return as_words(values.read(first * size, last * size), size)


def _sample(values: TensorReader, grid: _Grid) -> Words:
    """Some rows, in a few groups so that few blocks of the base must be decoded; the first columns of wide ones."""
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
    """Whether factors explain a sample, and not only what did not change."""
    changed = new != base
    if not changed.any():
        return False
    step = max(1, new.shape[1] // (64 if grid.axis else 16))
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
    """Whether most elements come out right, in some pieces of the tensor."""
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
    """The first element of each piece, its rows and columns: whole rows, or parts of one that is too long."""
    if grid.columns <= size:
        step = size // grid.columns
        for row in range(0, grid.rows, step):
            yield row * grid.columns, min(step, grid.rows - row), grid.columns
        return
    for row in range(grid.rows):
        for column in range(0, grid.columns, size):
            yield row * grid.columns + column, 1, min(size, grid.columns - column)
