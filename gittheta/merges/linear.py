"""Sums of sides and of task vectors, element by element: linear, pick, nearswap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from gittheta.api import Group, MergeError

Unit = Literal["tensor", "row", "element"]


def weighted_sum(values: tuple[torch.Tensor, ...], weights: tuple[float, ...]) -> torch.Tensor:
    """Σwᵢxᵢ, term by term in the order given.

    Each product is rounded before it is added: a fused multiply-add would give other bits on other devices.
    """
    total = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total += value * weight
    return total


def divided(values: torch.Tensor, divisor: float) -> torch.Tensor:
    """Each value divided by a number.

    A plain ``/`` with a number is a multiplication by its reciprocal on some devices, and that is not the same.
    """
    return values / torch.full((), divisor, dtype=values.dtype, device=values.device)


def sum_of(weights: Sequence[float], tensor: str) -> float:
    """Σwᵢ, to divide by. Raises MergeError if it is zero, or what rounding leaves of zero: 0.1 + 0.2 − 0.3."""
    total = math.fsum(weights)
    if abs(total) <= len(weights) * 2.0**-52 * max(map(abs, weights)):
        raise MergeError("the weights sum to zero", tensor=tensor, hint="give others: -X weight=1,1")
    return total


@dataclass(frozen=True)
class Linear:
    """Weighted mean of the sides, Σwᵢθᵢ / Σwᵢ (model soups, Wortsman et al., 2022). Needs no base."""

    name: ClassVar[str] = "linear"
    unit: ClassVar[Unit] = "element"
    ignores_base: ClassVar[bool] = True
    idempotent: ClassVar[bool] = True

    def merge(self, group: Group) -> torch.Tensor:
        """Raises MergeError if the weights sum to zero."""
        return divided(weighted_sum(group.sides, group.weights), sum_of(group.weights, group.name))


@dataclass(frozen=True)
class Pick:
    """Adds a change to what is there: ours + λ·(theirs − base). What cherry-pick, rebase and revert mean.

    Takes two sides, ours first. A weight scales as λ does.
    """

    lambda_: float = 1.0

    name: ClassVar[str] = "pick"
    unit: ClassVar[Unit] = "element"
    needs_base: ClassVar[bool] = True
    side_count: ClassVar[int] = 2
    ordered: ClassVar[bool] = True
    #: What both sides have already is not added again.
    idempotent: ClassVar[bool] = True

    def merge(self, group: Group) -> torch.Tensor:
        """Raises MergeError without a base."""
        return group.sides[0] + group.deltas[1] * (self.lambda_ * group.weights[1])


@dataclass(frozen=True)
class NearSwap:
    """Moves a towards b where they are close: w·b + (1 − w)·a with w = clip(t / max(|a − b|, 1e-6), 0, 1).

    ``t`` has the unit of the parameters themselves and must be given.
    """

    t: float | None = None

    name: ClassVar[str] = "nearswap"
    unit: ClassVar[Unit] = "element"
    ignores_base: ClassVar[bool] = True
    side_count: ClassVar[int] = 2
    ordered: ClassVar[bool] = True
    idempotent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises MergeError unless t is a number above zero."""
        if self.t is None:
            raise MergeError("nearswap needs t", hint="give the distance up to which b is taken: -X t=0.0001")
        if not self.t > 0:
            raise MergeError(f"t is {self.t}, and must be above 0")

    def merge(self, group: Group) -> torch.Tensor:
        """The two sides mixed element by element."""
        a, b = group.sides
        assert self.t is not None  # noqa: S101 - __post_init__ has seen to it
        w = (self.t / (a - b).abs().clamp_min(1e-6)).clamp(0, 1)
        return w * b + (1 - w) * a
