"""What a plugin for a metric is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    import torch


class Metric(Protocol):
    """What a numeric diff can measure about two versions of a tensor."""

    name: ClassVar[str]

    def measure(self, old: torch.Tensor, new: torch.Tensor) -> float:
        """One number."""
        ...
