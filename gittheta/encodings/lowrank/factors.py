"""A change told by a few small matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from gittheta.api import Dtype, PayloadError, TensorSpec
from gittheta.encodings.lowrank.exact import Exact, Floats
from gittheta.numerics.floats import Doubles, from_float64, has_arithmetic, to_float64

Combination = Literal["product", "hadamard", "kronecker"]
COMBINATIONS: tuple[Combination, ...] = ("product", "hadamard", "kronecker")
GAINS = ("rows", "columns")


@dataclass(frozen=True)
class Product:
    """A matrix ``left`` if ``right`` is None, else ``left @ right``.

    ``left`` is (rows, rank), or (rows, columns); ``right`` is (rank, columns). Of float64, float32 or float16;
    values of bf16 come as float32.
    """

    left: Floats
    right: Floats | None = None


@dataclass(frozen=True)
class WeightChange:
    """The difference D between a tensor and its base, both seen as matrices of ``shape[0]`` rows.

    D is ``scaling * first``, ``scaling * first ∘ second`` (Hadamard) or ``scaling * first ⊗ second`` (Kronecker). With
    a ``gain``, which has one factor for each row (``gain_axis`` 0) or column (1), the tensor is ``gain ∘ (base + D)``.
    With ``rounded``, D is rounded to the tensor's dtype before it is added.
    """

    first: Product
    second: Product | None = None
    combination: Combination = "product"
    scaling: float = 1.0
    gain: npt.NDArray[np.float32] | None = None
    gain_axis: int = 0
    rounded: bool = False


@dataclass(frozen=True)
class Telling:
    """A :class:`WeightChange` as it is computed with."""

    products: tuple[Exact, ...]
    combination: Combination
    scaling: float
    gain: Doubles | None
    gain_axis: int
    #: What D is rounded to before it is added; None: it is not.
    rounding: Dtype | None

    @property
    def parameters(self) -> dict[str, str]:
        """What the manifest says of it, in the order of the keys."""
        found = {"rank": ",".join(product.rank for product in self.products)}
        if self.gain is not None:
            found["gain"] = GAINS[self.gain_axis]
        if self.combination != "product":
            found["combination"] = self.combination
        return dict(sorted(found.items()))

    def difference(self, rows: slice, columns: slice) -> Doubles:
        """A part of D."""
        first, last = self.products[0], self.products[-1]
        if self.combination == "kronecker":
            found = _kronecker(first, last, rows, columns)
        else:
            found = first.tile(rows, columns)
            if self.combination == "hadamard":
                found *= last.tile(rows, columns)
        found *= self.scaling
        return found

    def apply(self, base: Doubles, rows: slice, columns: slice) -> Doubles:
        """A part of the tensor, before it is rounded to its dtype; ``base`` is the same part of the base."""
        found = self.difference(rows, columns)
        if self.rounding is not None:
            found = to_float64(from_float64(found.ravel(), self.rounding), self.rounding).reshape(found.shape)
        found += base
        if self.gain is not None:
            found *= self.gain[rows, None] if self.gain_axis == 0 else self.gain[columns]
        return found


def has_matrix(spec: TensorSpec) -> bool:
    """Whether a tensor can be seen as a matrix of numbers."""
    return len(spec.shape) >= 2 and spec.elements > 0 and has_arithmetic(spec.dtype)


def matrix_shape(spec: TensorSpec) -> tuple[int, int]:
    """Rows and columns of a tensor seen as a matrix: its first dimension, and all others. Raises PayloadError."""
    if not has_matrix(spec):
        raise PayloadError(f"a tensor of {spec.dtype.name} and shape {spec.shape} has no rank")
    return spec.shape[0], spec.elements // spec.shape[0]


def _kronecker(first: Exact, last: Exact, rows: slice, columns: slice) -> Doubles:
    """A part of the Kronecker product of two matrices."""
    height, width = last.shape
    middle = (rows.start // height + 1) * height
    if rows.stop - height < rows.start < middle < rows.stop:
        # From the end of one copy of the second matrix to the beginning of the next: not all that lies between.
        parts = (slice(rows.start, middle), slice(middle, rows.stop))
        return np.concatenate([_kronecker(first, last, part, columns) for part in parts])
    outer, inner = _spread(rows, height)
    across, within = _spread(columns, width)
    found: Doubles = first.tile(*_span(outer, across))[outer - outer.min()][:, across - across.min()]
    found *= last.tile(*_span(inner, within))[inner - inner.min()][:, within - within.min()]
    return found


def _spread(part: slice, size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each index of a part of a Kronecker product, those of its two factors."""
    at = np.arange(part.start, part.stop)
    return at // size, at % size


def _span(rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> tuple[slice, slice]:
    return slice(int(rows.min()), int(rows.max()) + 1), slice(int(columns.min()), int(columns.max()) + 1)
