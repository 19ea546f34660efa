"""``norm``: how far a tensor moved, in float64."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

if TYPE_CHECKING:
    from gittheta.api import BlockPair, TensorSpec
    from gittheta.numerics.floats import Doubles

#: Squares of values between these neither overflow nor lose bits.
_SMALLEST, _LARGEST = 2.0**-480, 2.0**480


@dataclass(frozen=True)
class Part:
    """The measurements of one block."""

    change: float
    old: float
    largest: float


@dataclass(frozen=True)
class Norm:
    """The L2 norm of new - old, that norm over the norm of old, and the largest change of one element."""

    name: ClassVar[str] = "norm"
    unit: ClassVar[Literal["element", "tensor"]] = "element"

    def applies(self, spec: TensorSpec) -> bool:
        """Floats."""
        return spec.dtype.arithmetic

    def look(self, pair: BlockPair) -> Part:
        """The norms and the largest change of a block, in float64."""
        old, new = pair.values()
        with np.errstate(over="ignore", invalid="ignore"):
            change = new - old
        largest = _largest(change)
        return Part(_norm(change, largest), _norm(old, _largest(old)), largest)

    def conclude(self, spec: TensorSpec, parts: Iterable[Part]) -> Mapping[str, float]:
        """``norm``, ``relative`` (0 if nothing changed, infinite if all of old is zero) and ``largest``.

        NaN and infinite values in the tensor make the numbers NaN or infinite.
        """
        blocks = list(parts)
        change = _total([part.change for part in blocks])
        old = _total([part.old for part in blocks])
        largest = float(np.max([part.largest for part in blocks], initial=0.0))
        return {"norm": change, "relative": _ratio(change, old), "largest": largest}


def _largest(values: Doubles) -> float:
    """The largest absolute value; NaN if one of them is NaN."""
    return float(np.abs(values).max(initial=0.0))


def _norm(values: Doubles, largest: float) -> float:
    """The L2 norm of one block, without overflow or underflow on the way."""
    if largest == 0 or not math.isfinite(largest):
        return largest
    if _SMALLEST <= largest <= _LARGEST:
        return math.sqrt(float(np.dot(values, values)))
    scaled = values / largest
    return largest * math.sqrt(float(np.dot(scaled, scaled)))


def _total(norms: list[float]) -> float:
    """The norm of all blocks together; NaN if that of one of them is."""
    return math.nan if any(map(math.isnan, norms)) else math.hypot(*norms)


def _ratio(change: float, old: float) -> float:
    if old:
        return change / old
    return math.inf if change > 0 else change
