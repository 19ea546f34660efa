"""Methods that mix directions: slerp, nuslerp, multislerp, karcher, model_stock.

Each is a sum of the sides, or of the task vectors, times numbers that depend on their lengths and angles alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from gittheta.api import Blocks, Group, MergeError
from gittheta.merges.arithmetic.angles import (
    OPPOSED,
    Vectors,
    clamped,
    dot,
    mixed,
    mixed_rows,
    mixture,
    on_arc,
    shares_of,
)

if TYPE_CHECKING:
    import torch

Unit = Literal["tensor", "row", "element"]


@dataclass(frozen=True)
class Slerp:
    """Spherical interpolation of two sides: [sin((1 − t)Ω)·a + sin(tΩ)·b] / sin Ω (Shoemake, 1985). Needs no base.

    Ω is the angle between a and b. If |cos Ω| > 0.9995, or if one of them is zero, the result is (1 − t)·a + t·b.
    """

    t: float = 0.5

    name: ClassVar[str] = "slerp"
    ignores_base: ClassVar[bool] = True
    unit: ClassVar[Unit] = "element"
    side_count: ClassVar[int] = 2
    ordered: ClassVar[bool] = True
    idempotent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raise MergeError unless t is from 0 to 1."""
        if not 0 <= self.t <= 1:
            raise MergeError(f"t is {self.t}", hint="give a number from 0 (the first side) to 1 (the second)")

    def measure(self, blocks: Blocks) -> object:
        """The numbers by which the sides are multiplied. Raises MergeError if the weights differ: t replaces them."""
        return mixture(blocks, self._numbers, on_deltas=False)

    def merge(self, group: Group) -> torch.Tensor:
        """The point on the arc between the sides."""
        return mixed(group, group.measured, on_deltas=False)

    def _numbers(self, vectors: Vectors) -> list[float]:
        if vectors.weights[0] != vectors.weights[1]:
            raise MergeError("slerp goes by t, not by weights", tensor=vectors.tensor, hint="give t, or choose nuslerp")
        return on_arc(vectors.cosines[0][1] if all(vectors.lengths) else 1.0, (1 - self.t, self.t))


@dataclass(frozen=True)
class NuSlerp:
    """Spherical interpolation of two task vectors (or sides, without a base) with t = w₂ / (w₁ + w₂).

    The formula is that of :class:`Slerp`, for the flattened tensor or, with ``rows``, for each row by itself.
    """

    rows: bool = False

    name: ClassVar[str] = "nuslerp"
    side_count: ClassVar[int] = 2
    idempotent: ClassVar[bool] = True

    @property
    def unit(self) -> Unit:
        """A row if each row has its own angle, else any run of elements."""
        return "row" if self.rows else "element"

    def measure(self, blocks: Blocks) -> object:
        """The numbers by which sides are multiplied; None with ``rows``. Raises MergeError if weights sum to zero."""
        return None if self.rows else mixture(blocks, self._numbers, on_deltas=True)

    def merge(self, group: Group) -> torch.Tensor:
        """The point on the arc between the sides, or between their rows. Raises MergeError if weights sum to zero."""
        if self.rows:
            return mixed_rows(group, shares_of(group.weights, group.name))
        return mixed(group, group.measured, on_deltas=True)

    def _numbers(self, vectors: Vectors) -> list[float]:
        shares = shares_of(vectors.weights, vectors.tensor)
        return on_arc(vectors.cosines[0][1] if all(vectors.lengths) else 1.0, shares)


@dataclass(frozen=True)
class MultiSlerp:
    """The mean direction of the task vectors (or sides, without a base), at their mean length.

    m·Σwᵢ‖xᵢ‖ with m = Σwᵢûᵢ / ‖Σwᵢûᵢ‖ and weights that sum to one. (It was published with a step in the tangent space
    of m, T = Σwᵢ(ûᵢ − ⟨ûᵢ, m⟩m). But T is Σwᵢûᵢ without its part along m, which is zero.) A vector of zeros counts for
    the length but not for the direction. Two vectors that cancel out are mixed along a line.
    """

    name: ClassVar[str] = "multislerp"
    unit: ClassVar[Unit] = "element"
    idempotent: ClassVar[bool] = True

    def measure(self, blocks: Blocks) -> object:
        """The numbers by which the sides are multiplied.

        Raises MergeError if three or more directions cancel out, or if the weights sum to zero.
        """
        return mixture(blocks, self._numbers, on_deltas=True)

    def merge(self, group: Group) -> torch.Tensor:
        """The mean direction at the mean length."""
        return mixed(group, group.measured, on_deltas=True)

    def _numbers(self, vectors: Vectors) -> list[float]:
        shares = shares_of(vectors.weights, vectors.tensor)
        size = vectors.length(shares)
        if size > OPPOSED:
            return vectors.at_mean_length(shares, [share / size for share in shares])
        if sum(share != 0 for share in shares) > 2 and any(vectors.lengths):
            raise vectors.opposed(self.name)
        return shares


@dataclass(frozen=True)
class Karcher:
    """The Karcher mean of the sides' directions on the sphere, at their mean length. Needs no base.

    Each iteration moves the mean direction u to cos‖T‖·u + sin‖T‖·T / ‖T‖ with T = Σαᵢ(Ωᵢ / sin Ωᵢ)(ûᵢ − cos Ωᵢ·u),
    where Ωᵢ is the angle between ûᵢ and u. It ends after ``iterations``, or when ‖T‖ was below ``tolerance``. α are the
    weights, scaled so that they sum to one. A vector of zeros counts for the length but not for the direction.
    """

    iterations: int = 10
    tolerance: float = 1e-5

    name: ClassVar[str] = "karcher"
    ignores_base: ClassVar[bool] = True
    unit: ClassVar[Unit] = "element"
    idempotent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raise MergeError for less than one iteration, or for a negative tolerance."""
        if self.iterations < 1:
            raise MergeError(f"iterations is {self.iterations}, and must be at least 1")
        if not self.tolerance >= 0:
            raise MergeError(f"tolerance is {self.tolerance}, and must not be below 0")

    def measure(self, blocks: Blocks) -> object:
        """The numbers by which the sides are multiplied.

        Raises MergeError if directions are opposite, or if weights are negative or all zero.
        """
        return mixture(blocks, self._numbers, on_deltas=False)

    def merge(self, group: Group) -> torch.Tensor:
        """The mean direction at the mean length."""
        return mixed(group, group.measured, on_deltas=False)

    def _numbers(self, vectors: Vectors) -> list[float]:
        shares = shares_of(vectors.weights, vectors.tensor, negative=False)
        alphas = [share if length else 0.0 for share, length in zip(shares, vectors.lengths, strict=True)]
        if not any(alphas):
            return alphas
        alphas = shares_of(alphas, vectors.tensor)
        u = self._unit(vectors, alphas)
        for _ in range(self.iterations):
            step = self._step(vectors, alphas, u)
            size = vectors.length(step)
            along, across = math.cos(size), math.sin(size) / size if size else 1.0
            u = self._unit(vectors, [along * at + across * move for at, move in zip(u, step, strict=True)])
            if size < self.tolerance:
                break
        return vectors.at_mean_length(shares, u)

    def _unit(self, vectors: Vectors, u: list[float]) -> list[float]:
        size = vectors.length(u)
        if size < OPPOSED:
            raise vectors.opposed(self.name)
        return [number / size for number in u]

    def _step(self, vectors: Vectors, alphas: list[float], u: list[float]) -> list[float]:
        """T as a linear combination of the unit vectors ûᵢ: its coefficients. Raises MergeError for opposite ones."""
        cosines = [clamped(cosine) for cosine in vectors.dots(u)]
        factors = []
        for alpha, cosine in zip(alphas, cosines, strict=True):
            angle = math.acos(cosine) if alpha else 0.0
            if math.pi - angle < OPPOSED:
                raise vectors.opposed(self.name)
            factors.append(alpha * angle / math.sin(angle) if angle else alpha)
        back = dot(factors, cosines)
        return [factor - back * at for factor, at in zip(factors, u, strict=True)]


@dataclass(frozen=True)
class ModelStock:
    """A point between base and mean, closer to the mean the more the sides agree (Jang et al., 2024).

    t·mean θ + (1 − t)·θ0 with t = N·c / (1 + (N − 1)·c), where c is the mean cosine between two task vectors; as
    published, c below zero gives t below zero. Weights apply to the mean and to the pairs; N is then 1 / Σw², for
    weights that sum to one. The cosines of a task vector of zeros are 0.
    """

    name: ClassVar[str] = "model_stock"
    unit: ClassVar[Unit] = "element"
    needs_base: ClassVar[bool] = True
    idempotent: ClassVar[bool] = True

    def measure(self, blocks: Blocks) -> object:
        """The numbers by which the task vectors are multiplied.

        Raises MergeError for fewer than two sides, opposite ones, and negative weights.
        """
        return mixture(blocks, self._numbers, on_deltas=True)

    def merge(self, group: Group) -> torch.Tensor:
        """The point between the base and the mean of the sides."""
        return mixed(group, group.measured, on_deltas=True)

    def _numbers(self, vectors: Vectors) -> list[float]:
        shares = shares_of(vectors.weights, vectors.tensor, negative=False)
        if sum(share > 0 for share in shares) < 2:
            raise MergeError("model_stock needs two sides or more", tensor=vectors.tensor, hint="try linear")
        if not any(vectors.lengths):
            return shares
        together = dot(shares, vectors.dots(shares))
        alone = math.fsum(
            share**2 * row[side] for side, (share, row) in enumerate(zip(shares, vectors.cosines, strict=True))
        )
        squares = dot(shares, shares)
        cosine = (together - alone) / (1 - squares)
        # N·c / (1 + (N − 1)·c), both divided by N.
        below = squares + (1 - squares) * cosine
        if below < OPPOSED**2:
            raise vectors.opposed(self.name)
        return [cosine / below * share for share in shares]
