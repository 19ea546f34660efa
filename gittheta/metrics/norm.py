"""``norm``: how far a tensor moved, in float64."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from gittheta.api import BlockPair, TensorSpec


@dataclass(frozen=True)
class Part:
    """Of one block: sums of squares, and the largest change."""

    change: float
    old: float
    largest: float


@dataclass(frozen=True)
class Norm:
    """The L2 norm of new - old, that norm over the norm of old, and the largest change of one element."""

    name: ClassVar[str] = "norm"
    unit: ClassVar[Literal["element"]] = "element"

    def applies(self, spec: TensorSpec) -> bool:
        """Floats."""
        return spec.dtype.arithmetic

    def look(self, pair: BlockPair) -> Part:
        """Sums of squares in float64."""
        old, new = pair.values()
        with np.errstate(over="ignore", invalid="ignore"):
            change = new - old
            largest = float(np.abs(change).max(initial=0.0))
            return Part(float(np.dot(change, change)), float(np.dot(old, old)), largest)

    def conclude(self, spec: TensorSpec, parts: Iterable[Part]) -> Mapping[str, float]:
        """``norm``, ``relative`` (0 if nothing changed, infinite if all of old is zero) and ``largest``.

        NaN and infinite values in the tensor make the numbers NaN or infinite.
        """
        found = list(parts)
        change = math.sqrt(_total(part.change for part in found))
        old = math.sqrt(_total(part.old for part in found))
        largest = float(np.max([part.largest for part in found], initial=0.0))
        relative = change / old if old else math.inf if change else 0.0
        return {"norm": change, "relative": relative, "largest": largest}


def _total(values: Iterable[float]) -> float:
    """The exact sum, rounded once, so that the order of blocks does not matter; NaN where it has no meaning."""
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):
        return math.nan
