"""Methods for the matrices of linear layers: actmat, tsv, iso, knots. They see a whole matrix at once.

δᵢ is a task vector as a matrix of shape (outputs, inputs), N the number of sides, r the smaller of the two lengths.
Sides of weight zero do not take part. Singular values below ``tolerance`` times the largest count as zero. Without a
tolerance the limit is the precision of float64 and, for changes of low rank (LoRA), the size of the errors of their
rounding: the singular vectors of such values are arbitrary, and must not get the weight of the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from gittheta.api import Group, MergeError
from gittheta.merges.arithmetic.singular_values import (
    TaskVectors,
    check_tolerance,
    decomposed,
    nearest_orthonormal,
    precision,
    rank,
    times_pseudoinverse,
)
from gittheta.merges.arithmetic.threshold import floor_of

#: actmat gives matrices with a longer side than this the mean of the task vectors: decomposing them takes too long.
TOO_LONG = 20_000
#: Singular vectors of several sides that are further apart than this never count as dependent.
LARGEST_ERROR = 0.1


def _added(group: Group, change: TaskVectors, delta: torch.Tensor | float, scale: float) -> torch.Tensor:
    """θ0 + λ·delta in the dtype of the group."""
    return (change.base + delta * scale).to(group.sides[0].dtype)


def _unknown(group: Group) -> torch.Tensor:
    """A result of NaNs, in the group's shape and dtype.

    In a matrix with NaN or infinite values (where they are let through) every element depends on them. An empty matrix
    has no elements anyway.
    """
    return torch.full_like(group.sides[0], math.nan)


@dataclass(frozen=True)
class ActMat:
    """Each layer responds like each side to that side's inputs, whose covariance is estimated from the task vector.

    θ0 + λ·(ΣδᵢCᵢ)(ΣCᵢ)⁺ with Cᵢ = wᵢδᵢᵀδᵢ: RegMean with Cᵢ in place of the inputs' Gram matrix ("Model Merging via
    Data-Free Covariance Estimation", Hameed et al., 2026). A weight scales Cᵢ as it does in RegMean, and cannot be
    negative. In directions that no task vector has, or that are lost in rounding, the result is the mean of the δᵢ.
    """

    lambda_: float = 1.0
    tolerance: float | None = None

    name: ClassVar[str] = "actmat"
    unit: ClassVar[Literal["tensor"]] = "tensor"
    needs_base: ClassVar[bool] = True
    matrices: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises MergeError for a tolerance out of range."""
        check_tolerance(self.tolerance)

    @property
    def idempotent(self) -> bool:
        """Equal sides give exactly that side, unless λ scales their change."""
        return self.lambda_ == 1

    def merge(self, group: Group) -> torch.Tensor:
        """The merged matrix. Raises MergeError if a weight is negative, or if all are zero."""
        change = TaskVectors.of(group)
        if min(group.weights) < 0 or not change.deltas:
            raise MergeError(
                "the weights of actmat may not be negative, nor all be zero",
                tensor=group.name,
                hint="give others: -X weight=1,1",
            )
        if not change.computable:
            return _unknown(group)
        mean = change.total() / sum(change.weights)
        if max(mean.shape) < TOO_LONG:
            mean += self._correction(change, mean)
        return _added(group, change, mean, self.lambda_)

    def _correction(self, change: TaskVectors, mean: torch.Tensor) -> torch.Tensor:
        """The difference between the result and the mean m of the δᵢ.

        It is the least squares solution Z of Aᵢ·Zᵀ = Aᵢ(δᵢ − m)ᵀ with Aᵢ = √wᵢδᵢ. The rows of all Aᵢ are stacked to A.
        If A has at least as many rows as columns, A = QR and Z = Σ(δᵢ − m)AᵢᵀQᵢ·R⁻ᵀ; else Aᵀ = QR and
        Z = [(δᵢ − m)Aᵢᵀ ...]·R⁻¹Qᵀ. ΣAᵢᵀAᵢ is not formed, because its condition number is the square of A's.
        """
        parts = [delta * math.sqrt(weight) for delta, weight in zip(change.deltas, change.weights, strict=True)]
        noise = math.hypot(*(math.sqrt(w) * each for w, each in zip(change.weights, change.noise, strict=True)))
        stack = torch.cat(parts)
        rest = [delta - mean for delta in change.deltas]
        if len(stack) >= stack.shape[1]:
            q, r = torch.linalg.qr(stack)
            blocks = q.split(len(mean))
            known = sum((b @ (a.mT @ c) for a, b, c in zip(parts, rest, blocks, strict=True)), torch.zeros_like(mean))
            return times_pseudoinverse(known, r.mT, noise, self.tolerance, upper=False)
        q, r = torch.linalg.qr(stack.mT)
        known = torch.cat([b @ a.mT for a, b in zip(parts, rest, strict=True)], dim=1)
        return times_pseudoinverse(known, r, noise, self.tolerance, upper=True) @ q.mT


@dataclass(frozen=True)
class Tsv:
    """Task singular vectors, made orthogonal between the sides (TSV-M; Gargiulo et al., 2025): θ0 + λ·U⊥ΣV⊥ᵀ.

    Takes the first ⌊r/N⌋ singular triples of each δᵢ (at least one), as far as their σ do not count as zero. U and V of
    all sides are put side by side, and replaced by the nearest matrices with orthonormal columns; if vectors of several
    sides depend on each other, by the nearest partial isometry. A weight scales δᵢ.
    """

    lambda_: float = 1.0
    tolerance: float | None = None

    name: ClassVar[str] = "tsv"
    unit: ClassVar[Literal["tensor"]] = "tensor"
    needs_base: ClassVar[bool] = True
    matrices: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises MergeError for a tolerance out of range."""
        check_tolerance(self.tolerance)

    def merge(self, group: Group) -> torch.Tensor:
        """The merged matrix. Raises MergeError for a tensor that is not a matrix, and without a base."""
        change = TaskVectors.of(group)
        if not change.computable:
            return _unknown(group)
        triples = [self._first(change, side) for side in range(len(change.deltas))]
        if not sum(len(triple.values) for triple in triples):
            return _added(group, change, 0.0, 0.0)
        accuracy = max(triple.accuracy for triple in triples)
        u = nearest_orthonormal(torch.cat([triple.u for triple in triples], dim=1), accuracy)
        v = nearest_orthonormal(torch.cat([triple.v for triple in triples], dim=1), accuracy)
        values = torch.cat([each.values * weight for each, weight in zip(triples, change.weights, strict=True)])
        return _added(group, change, u * values @ v.mT, self.lambda_)

    def _first(self, change: TaskVectors, side: int) -> _Triples:
        u, values, vt = decomposed(change.deltas[side])
        noise = change.noise[side] if self.tolerance is None else 0.0
        known = rank(values, precision(change.base.shape), noise, self.tolerance)
        kept = min(known, max(1, len(values) // len(change.deltas)))
        low = 0 < 2 * known <= len(values)
        accuracy = min(LARGEST_ERROR, noise / float(values[kept - 1])) if low else 0.0
        return _Triples(u[:, :kept], values[:kept], vt[:kept].mT, accuracy)


@dataclass(frozen=True)
class _Triples:
    """The singular triples of one side that are kept; vectors are the columns of ``u`` and ``v``."""

    u: torch.Tensor
    values: torch.Tensor
    v: torch.Tensor
    #: By how much rounding may have moved the vectors, if the change is of low rank; else 0.
    accuracy: float


@dataclass(frozen=True)
class Iso:
    """The sum of the task vectors, equally strong in all directions (Iso-C; Marczak et al., 2025): θ0 + λ·σ̄·UVᵀ.

    UΣVᵀ = Σwᵢδᵢ, and σ̄ is the mean of its singular values that do not count as zero.
    """

    lambda_: float = 1.0
    tolerance: float | None = None

    name: ClassVar[str] = "iso"
    unit: ClassVar[Literal["tensor"]] = "tensor"
    needs_base: ClassVar[bool] = True
    matrices: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises MergeError for a tolerance out of range."""
        check_tolerance(self.tolerance)

    def merge(self, group: Group) -> torch.Tensor:
        """The merged matrix. Raises MergeError for a tensor that is not a matrix, and without a base."""
        change = TaskVectors.of(group)
        if not change.computable:
            return _unknown(group)
        u, values, vt = decomposed(change.total())
        noise = sum(abs(weight) * each for weight, each in zip(change.weights, change.noise, strict=True))
        kept = rank(values, precision(change.base.shape), noise, self.tolerance)
        strength = float(values[:kept].mean()) if kept else 0.0
        return _added(group, change, u[:, :kept] @ vt[:kept], self.lambda_ * strength)


@dataclass(frozen=True)
class Knots:
    """TIES in a space that all sides share (KnOTS; Stoica et al., 2024): θ0 + λ·U·TIES(ΣV₁ᵀ, ..., ΣVₙᵀ).

    The task vectors are put side by side, UΣ[V₁ᵀ ... Vₙᵀ] = [δ₁ ... δₙ]. The part that differs between the sides, ΣVᵢᵀ
    (Σ is on the right, as in the authors' code), is merged as by ``ties``: the fraction ``density`` of its entries that
    is largest in absolute value is kept; with ``sign``, entries that disagree with the sign of Σwᵢ·(ΣVᵢᵀ) are dropped
    (0 counts as +); with ``normalize``, the sum is divided by the weights of the kept entries. With density 1 and
    neither of the two, it is task arithmetic.
    """

    density: float = 0.2
    lambda_: float = 1.0
    sign: bool = True
    normalize: bool = True
    tolerance: float | None = None

    name: ClassVar[str] = "knots"
    unit: ClassVar[Literal["tensor"]] = "tensor"
    needs_base: ClassVar[bool] = True
    matrices: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises MergeError for a density or a tolerance out of range."""
        check_tolerance(self.tolerance)
        if not 0 < self.density <= 1:
            raise MergeError(f"density is {self.density}", hint="it is the fraction that is kept: above 0, at most 1")

    def merge(self, group: Group) -> torch.Tensor:
        """The merged matrix. Raises MergeError for a tensor that is not a matrix, and without a base."""
        change = TaskVectors.of(group)
        if not change.computable:
            return _unknown(group)
        if not change.deltas:
            return _added(group, change, 0.0, 0.0)
        u = self._shared(change)
        parts = [trimmed(u.mT @ delta, self.density) for delta in change.deltas]
        return _added(group, change, u @ self._elected(parts, change.weights), self.lambda_)

    def _shared(self, change: TaskVectors) -> torch.Tensor:
        """U, (outputs, rank), whose columns span the columns of all sides. ΣVᵢᵀ is then Uᵀδᵢ."""
        beside = torch.cat(change.deltas, dim=1)
        if beside.shape[1] > len(beside):
            beside = torch.linalg.qr(beside.mT, mode="r").R.mT
        u, values, _ = decomposed(beside)
        shape = torch.Size((len(u), change.base.shape[1] * len(change.deltas)))
        return u[:, : rank(values, precision(shape), math.hypot(*change.noise), self.tolerance)]

    def _elected(self, parts: list[torch.Tensor], weights: tuple[float, ...]) -> torch.Tensor:
        weighted = [part * weight for part, weight in zip(parts, weights, strict=True)]
        if self.sign:
            positive = torch.stack(weighted).sum(0) >= 0
            weighted = [part * ((part >= 0) == positive) for part in weighted]
        total = torch.stack(weighted).sum(0)
        if not self.normalize:
            return total
        kept = torch.stack([(part != 0) * weight for part, weight in zip(weighted, weights, strict=True)]).sum(0)
        return total / torch.where(kept == 0, 1.0, kept)


def trimmed(values: torch.Tensor, density: float) -> torch.Tensor:
    """The values with all but the ⌊density·n⌋ largest in absolute value set to zero; of equal ones the first are kept.

    The result has the shape and dtype of ``values``.
    """
    keep = floor_of(density, values.numel())
    if keep == values.numel():
        return values
    if not keep:
        return torch.zeros_like(values)
    size = values.abs().reshape(-1)
    limit = size.topk(keep, sorted=False).values.min()
    above = size > limit
    equal = size == limit
    above |= equal & (equal.cumsum(0) <= keep - above.sum())
    return values * above.reshape(values.shape)
