from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from gittheta.api import Group, MergeError


@dataclass(frozen=True)
class MagMax:
    """θ0 + λ·(of all wᵢδᵢ, element by element, the one of the largest magnitude; + in a tie). Marczak et al., 2024."""

    lambda_: float = 1.0

    name: ClassVar[str] = "magmax"
    api_version: ClassVar[int] = 2
    unit: ClassVar[str] = "element"
    needs_base: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.lambda_ > 0:
            raise MergeError(f"lambda is {self.lambda_}, and must be above 0", hint="leave it out for 1")

    def merge(self, group: Group) -> torch.Tensor:
        changes = torch.stack([delta * weight for delta, weight in zip(group.deltas, group.weights, strict=True)])
        highest, lowest = changes.amax(0), changes.amin(0)
        return group.theta0 + torch.where(highest >= -lowest, highest, lowest) * self.lambda_
