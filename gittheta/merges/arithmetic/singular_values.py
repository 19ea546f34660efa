"""Singular values of task vectors: which of them mean something, and what can be made of those that do.

All of it in float64. Bits are the same in every run on one machine with one number of threads. Other machines and
devices have other libraries for linear algebra; there results agree to about 1e-9 of their size, unless two
singular values coincide: then the singular vectors themselves are a matter of choice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from gittheta.api import Group, MergeError

_EPSILON = 2.0**-52


@dataclass(frozen=True)
class TaskVectors:
    """The task vectors of a matrix in float64, without those of weight zero, which are to be ignored."""

    base: torch.Tensor
    deltas: tuple[torch.Tensor, ...]
    weights: tuple[float, ...]
    #: For each of them about the largest singular value that the rounding of its values can have brought in.
    noise: tuple[float, ...]

    @classmethod
    def of(cls, group: Group) -> TaskVectors:
        """Those of a group. Raises MergeError if it is no matrix, or has no base."""
        shape = list(group.sides[0].shape)
        if len(shape) != 2:
            raise MergeError(f"a tensor of shape {shape} is no matrix", tensor=group.name, hint="try linear")
        base = group.base if group.base is None else group.base.to(torch.float64)
        wide = replace(group, base=base, sides=tuple(side.to(torch.float64) for side in group.sides))
        used = [index for index, weight in enumerate(group.weights) if weight]
        deltas = wide.deltas
        return cls(
            base=wide.sides[0] - deltas[0] if base is None else base,
            deltas=tuple(deltas[index] for index in used),
            weights=tuple(group.weights[index] for index in used),
            noise=tuple(_noise(wide.sides[index], deltas[index], _spacing(group)) for index in used),
        )

    @property
    def computable(self) -> bool:
        """Whether there is anything to decompose, and no NaN and no infinity, which nothing here can take."""
        return self.base.numel() > 0 and all(bool(torch.isfinite(delta).all()) for delta in self.deltas)

    def total(self) -> torch.Tensor:
        """Σwᵢδᵢ."""
        total = torch.zeros_like(self.base)
        for delta, weight in zip(self.deltas, self.weights, strict=True):
            total += delta * weight
        return total


def _spacing(group: Group) -> float:
    """Distance from 1 to the next number of the dtype in which the sides are stored."""
    if group.spec is None:
        return float(torch.finfo(group.sides[0].dtype).eps)
    return 2.0**-group.spec.dtype.mantissa_bits


def _noise(side: torch.Tensor, delta: torch.Tensor, spacing: float) -> float:
    """About the largest singular value of a side's rounding errors.

    An error is evenly spread over a last place, whose size is 0.5 to 1 of ``spacing`` times the value: its standard
    deviation is a fifth of that. Values that are those of the base are exact. A matrix of independent errors has a
    largest singular value of at most (√rows + √columns) times their deviation; twice that is safe.
    """
    rows, columns = side.shape
    changed = float(torch.linalg.vector_norm(side * (delta != 0)))
    widest: float = min(1.0, (rows**0.5 + columns**0.5) / max(1, rows * columns) ** 0.5)
    return 0.4 * spacing * changed * widest


def precision(shape: torch.Size) -> float:
    """What float64 cannot tell from zero, as a share of a matrix' largest singular value."""
    return float(max(shape)) * _EPSILON


def rank(values: torch.Tensor, exact: float, noise: float, tolerance: float | None) -> int:
    """How many of the descending singular values of a matrix mean something.

    With a ``tolerance`` those above that share of the largest. Without, those above ``noise`` if they are half of all
    at most: then the matrix is one of low rank (LoRA), and what lies under the noise only says how it was rounded.
    Otherwise all above the share ``exact`` of the largest, which is what the computation can tell from zero.
    """
    if not values.numel():
        return 0
    largest = float(values[0])
    if tolerance is not None:
        return int((values > max(exact, tolerance) * largest).sum())
    loud = int((values > max(exact * largest, noise)).sum())
    return loud if 2 * loud <= len(values) else int((values > exact * largest).sum())


def check_tolerance(tolerance: float | None) -> None:
    """Raises MergeError unless it is a share."""
    if tolerance is not None and not 0 <= tolerance < 1:
        raise MergeError(f"tolerance is {tolerance}", hint="it may be from 0 up to 1: a share of the largest value")


def decomposed(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """U, σ descending and Vᵀ of U·diag(σ)·Vᵀ, thin. Raises MergeError where the iteration does not converge."""
    try:
        u, values, vt = torch.linalg.svd(matrix, full_matrices=False)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined] # public, but torch does not say so
        raise MergeError(f"the singular values cannot be found: {error}", hint="choose another method") from error
    return u, values, vt


def nearest_orthonormal(columns: torch.Tensor, accuracy: float) -> torch.Tensor:
    """The partial isometry closest to a matrix (Procrustes): PQᵀ of its singular value decomposition PΣQᵀ.

    Directions in which the columns depend on each other, as far as their accuracy tells, stay out: there PQᵀ would be
    arbitrary.
    """
    p, values, qt = decomposed(columns)
    kept = int((values > max(accuracy, precision(columns.shape))).sum())
    isometry: torch.Tensor = p[:, :kept] @ qt[:kept]
    return isometry


def times_pseudoinverse(
    left: torch.Tensor, triangle: torch.Tensor, noise: float, tolerance: float | None, *, upper: bool
) -> torch.Tensor:
    """``left @ pinv(triangle)`` for a triangular matrix, by substitution unless it may lack rank.

    As a pseudo-inverse of ``triangle.T @ triangle`` would, this takes for zero what only shows in the squares by less
    than their precision: where ``left`` is the residual of a least squares problem, its errors grow with the squares.
    """
    identity = torch.eye(len(triangle), dtype=triangle.dtype, device=triangle.device)
    inverse = float(torch.linalg.matrix_norm(torch.linalg.solve_triangular(triangle, identity, upper=upper)))
    largest = float(torch.linalg.matrix_norm(triangle))
    exact = precision(triangle.shape) ** 0.5
    # inverse² is the sum of all 1/σ², so at most (x·inverse)² of the σ are below x.
    if inverse * largest * max(exact, tolerance or 0.0) < 1 and 2 * (noise * inverse) ** 2 < len(triangle):
        solved: torch.Tensor = torch.linalg.solve_triangular(triangle, left, upper=upper, left=False)
        return solved
    u, values, vt = decomposed(triangle)
    kept = rank(values, exact, noise, tolerance)
    return (left @ vt[:kept].mT / values[:kept]) @ u[:, :kept].mT
