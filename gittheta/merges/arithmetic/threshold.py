"""Keep exactly the k largest values: what a cut is, and how it is applied.

Cuts are found by :mod:`gittheta.merges.arithmetic.order_statistics`. Of equal values, the first count as larger: by the
tensor's name, then by flat index. So exactly k values are kept, whatever the device and the size of blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from gittheta.api import Group


def floor_of(fraction: float, elements: int) -> int:
    """⌊ρd⌋ for the decimal ρ that the user wrote: 0.29 of 100 is 29, although the float 0.29 is a little less."""
    return math.floor(Fraction(repr(fraction)) * elements)


@dataclass(frozen=True)
class Cut:
    """The limit of the k largest values: the k-th value, and the last element equal to it that belongs to the k."""

    value: float
    #: The tensor with that element; None if all elements equal to ``value`` belong to the k largest.
    name: str | None = None
    index: int = 0

    def equals_until(self, name: str, start: int, elements: int) -> int:
        """The number of elements of a block, from its beginning, in which elements equal to the value are kept.

        The block belongs to the tensor ``name``, and has ``elements`` elements from flat index ``start`` on.
        """
        if self.name is None or name < self.name:
            return elements
        return min(max(self.index + 1 - start, 0), elements) if name == self.name else 0


#: The cut of the 0 largest values: no value reaches it.
NOTHING = Cut(math.inf, "", -1)


def keep_largest(values: torch.Tensor, cut: Cut, group: Group) -> torch.Tensor:
    """Set the values of a flat block that do not belong to the k largest to zero, in place; returns ``values``."""
    for part, limit in _parts(values, cut, group):
        torch.ops.aten.hardshrink.out(values[part], limit, out=values[part])
    return values


def is_largest(values: torch.Tensor, cut: Cut, group: Group) -> torch.Tensor:
    """1 for the values of a flat block that belong to the k largest (even if they are 0), and 0 for the others."""
    result = torch.ones_like(values)
    for part, limit in _parts(values, cut, group):
        if limit >= 0:
            torch.ops.aten.hardshrink.out(values[part], limit, out=result[part])
            result[part].sign_().abs_()
    return result


def beyond(values: torch.Tensor, limit: float) -> torch.Tensor:
    """The values with those set to zero whose absolute value is not above a limit; compared exactly."""
    return torch.hardshrink(values, _at_most(limit, values.dtype))


def _parts(values: torch.Tensor, cut: Cut, group: Group) -> list[tuple[slice, float]]:
    """A block in up to two parts, each with the number that absolute values must exceed there to be kept."""
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
    largest = _at_most(value, dtype)
    return float(np.nextafter(kind(largest), kind(-np.inf))) if largest == value else largest


def ranks(values: torch.Tensor) -> torch.Tensor:
    """The rank of each absolute value in its row, from 0 for the smallest: int64, in the shape of the values.

    Of equal values the last counts as the smallest.
    """
    length = values.shape[-1]
    places = torch.arange(length, device=values.device)
    if values.dtype == torch.float32:
        # Value and position in one integer, so that none are equal: several times as fast as a stable sort.
        keys = (values.abs().view(torch.int32).to(torch.int64) << 32) + (length - 1 - places)
        ascending = torch.from_numpy(np.sort(keys.numpy())) if keys.device.type == "cpu" else torch.sort(keys).values
        order = length - 1 - (ascending & 0xFFFFFFFF)
    else:
        order = torch.sort(values.abs(), descending=True, stable=True).indices.flip(-1)
    return torch.empty_like(order).scatter_(-1, order, places.expand_as(order))
