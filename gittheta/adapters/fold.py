"""Apply folds: compute the bytes of a tensor after an adapter has changed it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gittheta.adapters.layer import Factors, Fold, Replacement
from gittheta.encodings.lowrank.predictor import LowRank, Product, WeightChange, describe, tiles
from gittheta.errors import PayloadError
from gittheta.numerics.floats import Doubles, from_float64, to_float64

if TYPE_CHECKING:
    from gittheta.api import Finding, Prediction, TensorReader
    from gittheta.model import TensorSpec


def finding(fold: Fold, spec: TensorSpec) -> Finding | None:
    """A fold as the encoding ``lowrank`` stores it; None if the encoding cannot express it."""
    if not isinstance(fold.change, WeightChange):
        return None
    try:
        return describe(fold.change, spec)
    except PayloadError:
        return None


def predict(fold: Fold, spec: TensorSpec) -> Prediction:
    """The tensor of this spec after the fold.

    A change of weights is computed with the arithmetic of the encoding ``lowrank``, so that it can be stored as its
    factors. If the factors are too large for that encoding, it is computed from their floats.
    """
    change = fold.change
    if isinstance(change, Replacement):
        return _Replaced(change.values)
    if isinstance(change, Factors):
        return _Scaled(change, spec)
    low_rank = finding(fold, spec)
    if low_rank is None:
        return _Changed(change, spec)
    return LowRank().open(memoryview(low_rank.payload), spec, dict(low_rank.parameters))


@dataclass(frozen=True)
class _Replaced:
    values: TensorReader

    def read(self, begin: int, end: int, base: TensorReader) -> memoryview:
        """The new tensor's own bytes."""
        return self.values.read(begin, end)


@dataclass(frozen=True)
class _Scaled:
    factors: Factors
    spec: TensorSpec

    def read(self, begin: int, end: int, base: TensorReader) -> memoryview:
        """The base times the factors in float64, rounded once to the dtype."""
        size = self.spec.dtype.itemsize
        columns = max(1, self.spec.elements // max(1, self.spec.shape[0]))
        at = np.arange(begin // size, end // size)
        at = at % columns if self.factors.axis else at // columns
        values = to_float64(base.read(begin, end), self.spec.dtype)
        values *= self.factors.values[at]
        return from_float64(values, self.spec.dtype)


@dataclass(frozen=True)
class _Changed:
    change: WeightChange
    spec: TensorSpec

    def read(self, begin: int, end: int, base: TensorReader) -> memoryview:
        """The base plus the change in float64, rounded to the dtype."""
        size = self.spec.dtype.itemsize
        columns = self.spec.elements // self.spec.shape[0]
        values = to_float64(base.read(begin, end), self.spec.dtype)
        at = 0
        for rows, across in tiles(begin // size, end // size, columns):
            shape = (rows.stop - rows.start, across.stop - across.start)
            part = values[at : at + shape[0] * shape[1]].reshape(shape)
            change = self._tile(rows, across)
            if self.change.rounded:
                change = to_float64(from_float64(change.ravel(), self.spec.dtype), self.spec.dtype).reshape(shape)
            part += change
            if self.change.gain is not None:
                part *= self.change.gain[rows][:, None] if self.change.gain_axis == 0 else self.change.gain[across]
            at += part.size
        return from_float64(values, self.spec.dtype)

    def _tile(self, rows: slice, columns: slice) -> Doubles:
        first, second = self.change.first, self.change.second
        down, across = np.arange(rows.start, rows.stop), np.arange(columns.start, columns.stop)
        if second is None:
            return _part(first, down, across) * self.change.scaling
        if self.change.combination == "hadamard":
            return _part(first, down, across) * _part(second, down, across) * self.change.scaling
        high, wide = second.left.shape[0], (second.left if second.right is None else second.right).shape[1]
        left = _part(first, down // high, across // wide)
        return left * _part(second, down % high, across % wide) * self.change.scaling


def _part(product: Product, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]) -> Doubles:
    """The elements of a product in these rows and columns: float64, (rows, columns)."""
    if product.right is None:
        return product.left[np.ix_(rows, columns)].astype(np.float64)
    part: Doubles = product.left[rows].astype(np.float64) @ product.right[:, columns].astype(np.float64)
    return part
