"""``norm``: how far a tensor moved, as an L2 norm computed in float64."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from gittheta.api import BlockPair, TensorSpec


@dataclass(frozen=True)
class Part:
    """The measurements of one block."""

    #: Sum of the squares of new - old.
    change: float
    #: Sum of the squares of old.
    old: float
    #: Largest absolute value of new - old.
    largest: float


@dataclass(frozen=True)
class Norm:
    """The L2 norm of new - old, that norm over the norm of old, and the largest change of one element."""

    name: ClassVar[str] = "norm"
    unit: ClassVar[Literal["element"]] = "element"

    def applies(self, spec: TensorSpec) -> bool:
        """Whether the tensor holds floats whose values are known."""
        return spec.dtype.arithmetic

    def look(self, pair: BlockPair) -> Part:
        """Sums of squares and the largest change of a block, in float64."""
        old, new = pair.values()
        with np.errstate(over="ignore", invalid="ignore"):
            change = new - old
            largest = float(np.abs(change).max(initial=0.0))
            return Part(float(np.dot(change, change)), float(np.dot(old, old)), largest)

    def conclude(self, spec: TensorSpec, parts: Iterable[Part]) -> Mapping[str, float]:
        """The numbers ``norm``, ``relative`` and ``largest``.

        ``relative`` is 0 if nothing changed, and infinite if the tensor changed from all zeros. NaN and infinite values
        in the tensor make the numbers NaN or infinite.
        """
        blocks = list(parts)
        change = math.sqrt(_total(part.change for part in blocks))
        old = math.sqrt(_total(part.old for part in blocks))
        largest = float(np.max([part.largest for part in blocks], initial=0.0))
        relative = change / old if old else math.inf if change else 0.0
        return {"norm": change, "relative": relative, "largest": largest}


def _total(values: Iterable[float]) -> float:
    """The exact sum, rounded once, so that the order of blocks does not matter; NaN where it is undefined."""
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):
        return math.nan
