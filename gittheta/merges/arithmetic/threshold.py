"""Exactly so many of the largest: what a cut is, and what to do with one. :mod:`gittheta.merges.arithmetic.order_statistics` finds it.

Of values that are equal, those that come first are the larger ones: by the tensor's name, then by flat index. So
exactly k are kept, whatever the device and the size of blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from gittheta.api import Group


def floor_of(fraction: float, elements: int) -> int:
    """⌊ρd⌋ for the ρ that the user wrote: 0.29 of 100 is 29, though the float 0.29 is less than that."""
    return math.floor(Fraction(repr(fraction)) * elements)


@dataclass(frozen=True)
class Cut:
    """Where the k largest of some values end: at this value, and among its equals at this element of this tensor."""

    value: float
    #: None: all of its equals are among the k largest.
    name: str | None = None
    index: int = 0

    def equals_until(self, name: str, start: int, elements: int) -> int:
        """How many elements of a block come before the end of the equal ones that are kept."""
        if self.name is None or name < self.name:
            return elements
        return min(max(self.index + 1 - start, 0), elements) if name == self.name else 0


#: Nothing is as large as that.
NOTHING = Cut(math.inf, "", -1)


def keep_largest(values: torch.Tensor, cut: Cut, group: Group) -> torch.Tensor:
    """Put zeros in the place of values, a block and flat, that do not belong to the k largest. Returns them."""
    for part, limit in _parts(values, cut, group):
        torch.ops.aten.hardshrink.out(values[part], limit, out=values[part])
    return values


def is_largest(values: torch.Tensor, cut: Cut, group: Group) -> torch.Tensor:
    """1 for the values that belong to the k largest, be they zero, and 0 for the others."""
    result = torch.ones_like(values)
    for part, limit in _parts(values, cut, group):
        if limit >= 0:
            torch.ops.aten.hardshrink.out(values[part], limit, out=result[part])
            result[part].sign_().abs_()
    return result


def beyond(values: torch.Tensor, limit: float) -> torch.Tensor:
    """The values whose absolute value is above a limit, compared exactly, and zeros for the others."""
    return torch.hardshrink(values, _at_most(limit, values.dtype))


def _parts(values: torch.Tensor, cut: Cut, group: Group) -> list[tuple[slice, float]]:
    """A block in up to two parts, and what the absolute values must exceed there."""
    elements = len(values)
    split = cut.equals_until(group.name, group.start, elements)
    parts = []
    if split:
        parts.append((slice(0, split), _below(cut.value, values.dtype)))
    if split < elements:
        parts.append((slice(split, elements), _at_most(cut.value, values.dtype)))
    return parts


def _at_most(value: float, dtype: torch.dtype) -> float:
    """The largest number of a dtype that is not above a value."""
    kind = np.float32 if dtype == torch.float32 else np.float64
    with np.errstate(over="ignore"):
        rounded = kind(value)
    return float(np.nextafter(rounded, kind(-np.inf)) if float(rounded) > value else rounded)


def _below(value: float, dtype: torch.dtype) -> float:
    """The largest number of a dtype that is below a value."""
    kind = np.float32 if dtype == torch.float32 else np.float64
    found = _at_most(value, dtype)
    return float(np.nextafter(kind(found), kind(-np.inf))) if found == value else found


def ranks(values: torch.Tensor) -> torch.Tensor:
    """The rank of each absolute value in its row: 0 for the smallest; of equal ones the last is the smallest."""
    length = values.shape[-1]
    places = torch.arange(length, device=values.device)
    if values.dtype == torch.float32:
        # Size and place in one integer, so that none are equal: several times as fast as a stable sort.
        keys = (values.abs().view(torch.int32).to(torch.int64) << 32) + (length - 1 - places)
        ascending = torch.from_numpy(np.sort(keys.numpy())) if keys.device.type == "cpu" else torch.sort(keys).values
        order = length - 1 - (ascending & 0xFFFFFFFF)
    else:
        order = torch.sort(values.abs(), descending=True, stable=True).indices.flip(-1)
    return torch.empty_like(order).scatter_(-1, order, places.expand_as(order))
