"""Singular values of task vectors: which of them count as zero, and what is computed from the others.

Everything is in float64. On one machine, with one number of threads, every run gives the same bits. Other machines and
devices have other libraries for linear algebra; their results agree to about 1e-9 of their size, unless two singular
values coincide: then the singular vectors are not determined.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from gittheta.api import Group, MergeError

_EPSILON = 2.0**-52


@dataclass(frozen=True)
class TaskVectors:
    """The task vectors of a matrix as float64, (outputs, inputs), without those of weight zero."""

    base: torch.Tensor
    deltas: tuple[torch.Tensor, ...]
    weights: tuple[float, ...]
    #: For each of them an estimate of the largest singular value of its rounding errors.
    noise: tuple[float, ...]

    @classmethod
    def of(cls, group: Group) -> TaskVectors:
        """The task vectors of a group. Raises MergeError if it is not a matrix, or has no base."""
        shape = list(group.sides[0].shape)
        if len(shape) != 2:
            raise MergeError(f"a tensor of shape {shape} is not a matrix", tensor=group.name, hint="try linear")
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
        """Whether the matrices have elements, all of them finite: others cannot be decomposed."""
        return self.base.numel() > 0 and all(bool(torch.isfinite(delta).all()) for delta in self.deltas)

    def total(self) -> torch.Tensor:
        """Σwᵢδᵢ: float64, (outputs, inputs)."""
        total = torch.zeros_like(self.base)
        for delta, weight in zip(self.deltas, self.weights, strict=True):
            total += delta * weight
        return total


def _spacing(group: Group) -> float:
    """The distance from 1 to the next number of the dtype in which the sides are stored."""
    if group.spec is None:
        return float(torch.finfo(group.sides[0].dtype).eps)
    return 2.0**-group.spec.dtype.mantissa_bits


def _noise(side: torch.Tensor, delta: torch.Tensor, spacing: float) -> float:
    """An estimate of the largest singular value of a side's rounding errors.

    An error is evenly distributed over a unit in the last place, which is 0.5 to 1 times ``spacing`` times the value:
    its standard deviation is about 0.2 times that. Values equal to the base's have no error. The largest singular value
    of a matrix of independent errors is at most about (√rows + √columns) times their deviation; twice that is safe.
    """
    rows, columns = side.shape
    changed = float(torch.linalg.vector_norm(side * (delta != 0)))
    widest: float = min(1.0, (rows**0.5 + columns**0.5) / max(1, rows * columns) ** 0.5)
    return 0.4 * spacing * changed * widest


def precision(shape: torch.Size) -> float:
    """The share of a matrix's largest singular value below which float64 cannot distinguish others from zero."""
    return float(max(shape)) * _EPSILON


def rank(values: torch.Tensor, exact: float, noise: float, tolerance: float | None) -> int:
    """The number of a matrix's singular values, given in descending order, that do not count as zero.

    With a ``tolerance``, these are the values above that share of the largest. Without, they are those above ``noise``
    if at most half of all are: then the matrix has low rank (LoRA), and all other values come from rounding. Otherwise
    they are those above the share ``exact`` of the largest, which is the limit of the computation's precision.
    """
    if not values.numel():
        return 0
    largest = float(values[0])
    if tolerance is not None:
        return int((values > max(exact, tolerance) * largest).sum())
    loud = int((values > max(exact * largest, noise)).sum())
    return loud if 2 * loud <= len(values) else int((values > exact * largest).sum())


def check_tolerance(tolerance: float | None) -> None:
    """Raise MergeError unless the tolerance is None, or from 0 up to 1."""
    if tolerance is not None and not 0 <= tolerance < 1:
        raise MergeError(f"tolerance is {tolerance}", hint="it may be from 0 up to 1: a share of the largest value")


def decomposed(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The thin singular value decomposition U·diag(σ)·Vᵀ of an (m, n) matrix, with σ descending.

    Returns U (m, r), σ (r) and Vᵀ (r, n), where r is the smaller of m and n. Raises MergeError if the iteration does
    not converge.
    """
    try:
        u, values, vt = torch.linalg.svd(matrix, full_matrices=False)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined] # public, but torch does not say so
        raise MergeError(f"the singular values cannot be computed: {error}", hint="choose another method") from error
    return u, values, vt


def nearest_orthonormal(columns: torch.Tensor, accuracy: float) -> torch.Tensor:
    """The partial isometry closest to a matrix (Procrustes): PQᵀ of its singular value decomposition PΣQᵀ.

    Directions whose singular value is below ``accuracy`` are left out, because the columns depend on each other there
    and PQᵀ would be arbitrary.
    """
    p, values, qt = decomposed(columns)
    kept = int((values > max(accuracy, precision(columns.shape))).sum())
    isometry: torch.Tensor = p[:, :kept] @ qt[:kept]
    return isometry


def times_pseudoinverse(
    left: torch.Tensor, triangle: torch.Tensor, noise: float, tolerance: float | None, *, upper: bool
) -> torch.Tensor:
    """``left @ pinv(triangle)`` for a triangular matrix, by substitution unless it may lack full rank.

    Singular values whose squares are below the precision of the largest square count as zero, as in a pseudo-inverse of
    ``triangle.T @ triangle``: if ``left`` is the residual of a least squares problem, its errors grow with the squares.
    """
    identity = torch.eye(len(triangle), dtype=triangle.dtype, device=triangle.device)
    inverse = float(torch.linalg.matrix_norm(torch.linalg.solve_triangular(triangle, identity, upper=upper)))
    largest = float(torch.linalg.matrix_norm(triangle))
    exact = precision(triangle.shape) ** 0.5
    # inverse² is the sum of all 1/σ², so at most (x·inverse)² singular values are below any x.
    if inverse * largest * max(exact, tolerance or 0.0) < 1 and 2 * (noise * inverse) ** 2 < len(triangle):
        solved: torch.Tensor = torch.linalg.solve_triangular(triangle, left, upper=upper, left=False)
        return solved
    u, values, vt = decomposed(triangle)
    kept = rank(values, exact, noise, tolerance)
    return (left @ vt[:kept].mT / values[:kept]) @ u[:, :kept].mT
