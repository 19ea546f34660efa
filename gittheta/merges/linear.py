"""The weighted mean: Σwᵢθᵢ / Σwᵢ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from gittheta.api import Group, MergeError


@dataclass(frozen=True)
class Linear:
    """Mean of the sides, which is the base plus the mean of the task vectors (Wortsman et al., 2022, model soups).

    Accumulated in float32 (float64 for float64 inputs), sides in the order given, rounded once to the sides' dtype.
    """

    name: ClassVar[str] = "linear"

    def merge(self, group: Group) -> torch.Tensor:
        """Raises MergeError if the weights sum to zero or a value is not finite."""
        total = sum(group.weights)
        if total == 0:
            raise MergeError("the weights sum to zero", tensor=group.name)
        dtype = group.sides[0].dtype
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        mean = torch.zeros_like(group.sides[0], dtype=wide)
        for side, weight in zip(group.sides, group.weights, strict=True):
            mean.add_(side.to(wide), alpha=weight / total)
        if not bool(torch.isfinite(mean).all()):
            raise MergeError("a side has NaN or infinite values", tensor=group.name)
        return mean.to(dtype)
