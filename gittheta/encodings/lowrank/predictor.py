"""``lowrank``: a tensor that is its base plus a product of small matrices, as after a LoRA adapter was folded in.

Specified in ``docs/spec/encodings/lowrank.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from gittheta.api import Finding, PayloadError, Prediction, TensorReader, TensorSpec
from gittheta.encodings.lowrank.factors import ExactChange, Product, WeightChange, has_matrix, matrix_shape
from gittheta.encodings.lowrank.payload import read, write, write_integers
from gittheta.encodings.lowrank.search import Fit, integers, search
from gittheta.numerics.floats import from_float64, to_float64

__all__ = ["LowRank", "Product", "WeightChange", "describe", "tiles"]

#: Elements that are computed at a time: 512 KiB as float64, so that they stay in a processor's cache.
_TILE = 1 << 16


def describe(change: WeightChange, spec: TensorSpec) -> Finding:
    """The finding for a tensor whose change from its base is known. Raises PayloadError if it does not fit the spec."""
    payload = write(change, spec)
    return Finding(payload, tuple(read(memoryview(payload), spec).parameters.items()))


@dataclass(frozen=True)
class LowRank:
    """Predicts a tensor from its base and a few small matrices; some elements may be rounded differently."""

    name: ClassVar[str] = "lowrank"
    kind: ClassVar[Literal["predictor"]] = "predictor"

    def find(self, new: TensorReader, base: TensorReader) -> Finding | None:
        """The factors, if the difference of ``new`` and ``base`` has low rank apart from the noise of rounding."""
        spec = new.spec
        if not has_matrix(spec) or (base.spec.dtype, base.spec.shape) != (spec.dtype, spec.shape):
            return None
        fit = search(new, base)
        if fit is None:
            return None
        try:
            return _finding(fit, spec)
        except PayloadError:
            return None

    def base_spec(self, spec: TensorSpec, parameters: Mapping[str, str]) -> TensorSpec:
        """The base has the tensor's own dtype and shape."""
        return spec

    def open(self, payload: memoryview, spec: TensorSpec, parameters: Mapping[str, str]) -> Prediction:
        """Read a payload. Raises PayloadError."""
        change = read(payload, spec)
        if change.parameters != dict(parameters):
            raise PayloadError(f"parameters {dict(parameters)} of factors that are {change.parameters}")
        return _Prediction(change, spec)


def _finding(fit: Fit, spec: TensorSpec) -> Finding:
    product = integers(fit)
    if product is None:
        return describe(WeightChange(Product(fit.left, fit.right)), spec)
    return Finding(write_integers(product, spec), (("rank", str(len(fit.right))),))


@dataclass(frozen=True)
class _Prediction:
    change: ExactChange
    spec: TensorSpec

    def read(self, begin: int, end: int, base: TensorReader) -> memoryview:
        """The raw bytes from offset ``begin`` to ``end`` of the predicted tensor."""
        size = self.spec.dtype.itemsize
        if begin % size or end % size or not 0 <= begin <= end <= self.spec.nbytes:
            raise PayloadError("a range that does not consist of whole elements")
        old = base.read(begin, end)
        out = np.empty(end - begin, np.uint8)
        columns = matrix_shape(self.spec)[1]
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            for rows, across in tiles(begin // size, end // size, columns):
                first = (rows.start * columns + across.start) * size - begin
                last = first + (rows.stop - rows.start) * (across.stop - across.start) * size
                values = to_float64(old[first:last], self.spec.dtype).reshape(rows.stop - rows.start, -1)
                values = self.change.apply(values, rows, across)
                out[first:last] = np.frombuffer(from_float64(values.ravel(), self.spec.dtype), np.uint8)
        return out.data


def tiles(begin: int, end: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Cut a range of elements of a matrix into tiles: some whole rows, or part of one row; in order."""
    while begin < end:
        row, at = divmod(begin, columns)
        if at or columns > _TILE or end - begin < columns:
            stop = min(columns, at + _TILE, at + end - begin)
            yield slice(row, row + 1), slice(at, stop)
            begin += stop - at
        else:
            count = min(max(1, _TILE // columns), (end - begin) // columns)
            yield slice(row, row + count), slice(0, columns)
            begin += count * columns
