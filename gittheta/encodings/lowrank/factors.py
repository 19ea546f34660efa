"""A change of weights that a few small matrices describe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from gittheta.api import Dtype, PayloadError, TensorSpec
from gittheta.numerics.floats import Doubles, from_float64, has_arithmetic, to_float64

if TYPE_CHECKING:
    from gittheta.encodings.lowrank.exact import Exact, Floats

Combination = Literal["product", "hadamard", "kronecker"]
COMBINATIONS: tuple[Combination, ...] = ("product", "hadamard", "kronecker")
GAINS = ("rows", "columns")


@dataclass(frozen=True)
class Product:
    """The matrix ``left @ right``, or ``left`` if ``right`` is None.

    ``left`` has shape (rows, rank), or (rows, columns) without ``right``; ``right`` has shape (rank, columns). Both are
    float64, float32 or float16; values of bf16 are held as float32.
    """

    left: Floats
    right: Floats | None = None


@dataclass(frozen=True)
class WeightChange:
    """The change from a base to a tensor, both treated as matrices of ``shape[0]`` rows.

    The tensor is base + D, where D is ``scaling * first``, ``scaling * first ∘ second`` (Hadamard) or
    ``scaling * first ⊗ second`` (Kronecker). With a ``gain``, which has one factor for each row (``gain_axis`` 0) or
    column (1), the tensor is ``gain ∘ (base + D)``. If ``rounded``, D is rounded to the tensor's dtype before it is
    added.
    """

    first: Product
    second: Product | None = None
    combination: Combination = "product"
    scaling: float = 1.0
    gain: npt.NDArray[np.float32] | None = None
    gain_axis: int = 0
    rounded: bool = False


@dataclass(frozen=True)
class ExactChange:
    """A :class:`WeightChange` in the form in which it is computed: the same bits on every machine."""

    products: tuple[Exact, ...]
    combination: Combination
    scaling: float
    gain: Doubles | None
    gain_axis: int
    #: The dtype to which D is rounded before it is added, or None.
    rounding: Dtype | None

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters of the link in the manifest, sorted by key."""
        parameters = {"rank": ",".join(product.rank for product in self.products)}
        if self.gain is not None:
            parameters["gain"] = GAINS[self.gain_axis]
        if self.combination != "product":
            parameters["combination"] = self.combination
        return dict(sorted(parameters.items()))

    def difference(self, rows: slice, columns: slice) -> Doubles:
        """These rows and columns of D: float64."""
        first, last = self.products[0], self.products[-1]
        if self.combination == "kronecker":
            change = _kronecker(first, last, rows, columns)
        else:
            change = first.tile(rows, columns)
            if self.combination == "hadamard":
                change *= last.tile(rows, columns)
        change *= self.scaling
        return change

    def apply(self, base: Doubles, rows: slice, columns: slice) -> Doubles:
        """These rows and columns of the tensor, as float64, not yet rounded; ``base`` is the same part of the base."""
        values = self.difference(rows, columns)
        if self.rounding is not None:
            values = to_float64(from_float64(values.ravel(), self.rounding), self.rounding).reshape(values.shape)
        values += base
        if self.gain is not None:
            values *= self.gain[rows, None] if self.gain_axis == 0 else self.gain[columns]
        return values


def has_matrix(spec: TensorSpec) -> bool:
    """Whether a tensor can be treated as a matrix of floats."""
    return len(spec.shape) >= 2 and spec.elements > 0 and has_arithmetic(spec.dtype)


def matrix_shape(spec: TensorSpec) -> tuple[int, int]:
    """Rows and columns of a tensor as a matrix: its first dimension, and the product of all others.

    Raises PayloadError if the tensor cannot be treated as a matrix.
    """
    if not has_matrix(spec):
        raise PayloadError(f"a tensor of {spec.dtype.name} and shape {spec.shape} is not a matrix of floats")
    return spec.shape[0], spec.elements // spec.shape[0]


def _kronecker(first: Exact, last: Exact, rows: slice, columns: slice) -> Doubles:
    """These rows and columns of the Kronecker product of two matrices: float64."""
    height, width = last.shape
    middle = (rows.start // height + 1) * height
    if rows.stop - height < rows.start < middle < rows.stop:
        # The rows go from the end of one copy of the second matrix to the beginning of the next: computed in two parts,
        # because one tile would span all rows of the second matrix between them.
        parts = (slice(rows.start, middle), slice(middle, rows.stop))
        return np.concatenate([_kronecker(first, last, part, columns) for part in parts])
    outer, inner = _spread(rows, height)
    across, within = _spread(columns, width)
    part: Doubles = first.tile(*_span(outer, across))[outer - outer.min()][:, across - across.min()]
    part *= last.tile(*_span(inner, within))[inner - inner.min()][:, within - within.min()]
    return part


def _spread(part: slice, size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each index of a part of a Kronecker product, the indices in its first and in its second factor."""
    at = np.arange(part.start, part.stop)
    return at // size, at % size


def _span(rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> tuple[slice, slice]:
    return slice(int(rows.min()), int(rows.max()) + 1), slice(int(columns.min()), int(columns.max()) + 1)
