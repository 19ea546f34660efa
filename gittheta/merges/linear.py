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
    """Σwᵢxᵢ, summed in this order; all values have the same shape and dtype.

    Each product is rounded before it is added: a fused multiply-add would give other bits on other devices.
    """
    total = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total += value * weight
    return total


def divided(values: torch.Tensor, divisor: float) -> torch.Tensor:
    """Each value divided by a number, rounded once.

    On some devices a plain ``/`` by a number multiplies by its reciprocal, which gives other bits.
    """
    return values / torch.full((), divisor, dtype=values.dtype, device=values.device)


def sum_of(weights: Sequence[float], tensor: str) -> float:
    """Σwᵢ. Raises MergeError if it is zero apart from rounding, such as 0.1 + 0.2 − 0.3: it will be a divisor."""
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
        """The weighted mean. Raises MergeError if the weights sum to zero."""
        return divided(weighted_sum(group.sides, group.weights), sum_of(group.weights, group.name))


@dataclass(frozen=True)
class Pick:
    """Adds a change to our side: ours + λ·(theirs − base). The meaning of cherry-pick, rebase and revert.

    Takes two sides, ours first. The weight of theirs scales the change as λ does.
    """

    lambda_: float = 1.0

    name: ClassVar[str] = "pick"
    unit: ClassVar[Unit] = "element"
    needs_base: ClassVar[bool] = True
    side_count: ClassVar[int] = 2
    ordered: ClassVar[bool] = True
    #: A change that both sides have is not added again.
    idempotent: ClassVar[bool] = True

    def merge(self, group: Group) -> torch.Tensor:
        """Our side plus the change. Raises MergeError without a base."""
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
        """Raise MergeError unless t is above zero."""
        if self.t is None:
            raise MergeError("nearswap needs t", hint="give the distance up to which b is taken: -X t=0.0001")
        if not self.t > 0:
            raise MergeError(f"t is {self.t}, and must be above 0")

    def merge(self, group: Group) -> torch.Tensor:
        """The two sides mixed element by element."""
        a, b = group.sides
        assert self.t is not None  # noqa: S101 - checked by __post_init__
        w = (self.t / (a - b).abs().clamp_min(1e-6)).clamp(0, 1)
        return w * b + (1 - w) * a
