"""Finds the permutations of units under which models agree best: weight matching.

After Ainsworth, Hayase and Srinivasa, Git Re-Basin: Merging Models modulo Permutation Symmetries (2023), section 3.2
and algorithms 1 and 3: with all permutations but one held fixed, the best one is a linear assignment problem; so they
are solved in turn until nothing gets better.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from random import Random
from typing import TYPE_CHECKING

import torch
from scipy.optimize import linear_sum_assignment

from gittheta.api import Blocks, Group, MergeError

if TYPE_CHECKING:
    from gittheta_merge_rebasin.specification import Axes

#: For each permutation: at place i stands which unit of the side comes there.
Permutations = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Alignment:
    """How the units of each side are to be rearranged so that they fit those of the others."""

    axes: Axes
    #: The sides in an order that does not depend on the user's. The first of them stays as it is.
    order: tuple[int, ...]
    #: Of each side, as the user has them.
    permutations: tuple[Permutations, ...]

    def aligned(self, group: Group) -> list[torch.Tensor]:
        """The sides of a tensor with their units rearranged, in the alignment's own order."""
        return [
            rearranged(group.sides[side], self.axes.get(group.name, ()), self.permutations[side]) for side in self.order
        ]


def rearranged(
    values: torch.Tensor, axes: tuple[str | None, ...], permutations: Permutations, but: int | None = None
) -> torch.Tensor:
    """A tensor with the units of each axis rearranged, except along one."""
    for axis, name in enumerate(axes):
        if name is not None and axis != but:
            values = values.index_select(axis, permutations[name].to(values.device))
    return values


@dataclass(frozen=True)
class Seen:
    """What a first look at a tensor tells."""

    shape: tuple[int, ...]
    #: The largest magnitude on any side.
    peak: float
    #: Digest and weight of each side.
    sides: tuple[tuple[bytes, float], ...]

    @classmethod
    def of(cls, group: Group) -> tuple[str, Seen]:
        """A tensor's name, and what is to be seen."""
        peaks = [float(side.abs().max()) if side.numel() else 0.0 for side in group.sides]
        shape = group.spec.shape if group.spec else tuple(group.sides[0].shape)
        peak = math.nan if any(map(math.isnan, peaks)) else max(peaks)
        return group.name, cls(shape, peak, tuple(zip(group.digests, group.weights, strict=True)))


class Matching:
    """Aligns the sides of a model, one tensor at a time in memory: the blocks are read again as often as needed."""

    def __init__(self, blocks: Blocks, axes: Axes, seen: Mapping[str, Seen]) -> None:
        """``seen`` has the tensors in the order of the blocks. Raises MergeError where nothing can be aligned."""
        self._blocks = blocks
        self._axes = axes
        self._index = {name: index for index, name in enumerate(seen)}
        self._order = _order(seen)
        self._peak = _peak({name: seen[name] for name in axes})
        self._lengths = {
            permutation: length
            for name, permutations in axes.items()
            for permutation, length in zip(permutations, seen[name].shape, strict=True)
            if permutation is not None
        }
        self._found = [{name: torch.arange(length) for name, length in self._lengths.items()} for _ in self._order]

    def run(self, iterations: int, seed: int) -> Alignment:
        """Align each side to those before it; then each to all others, as long as that changes anything."""
        random = Random(seed)  # noqa: S311 - in which order permutations are tried
        for at in range(1, len(self._order)):
            self._settle(self._order[at], self._order[:at], iterations, random)
        for _ in range(iterations if len(self._order) > 2 else 0):
            moved = 0
            for side in self._order[1:]:
                others = [other for other in self._order if other != side]
                moved += self._settle(side, others, iterations, random)
            if not moved:
                break
        return Alignment(self._axes, self._order, tuple(self._found))

    def _settle(self, side: int, others: Iterable[int], iterations: int, random: Random) -> bool:
        """Improve the permutations of one side in turn until none can be. Whether any changed."""
        names = sorted(self._lengths)
        changed = False
        for _ in range(iterations):
            random.shuffle(names)
            if not sum(self._improve(name, side, others) for name in names):
                break
            changed = True
        return changed

    def _improve(self, name: str, side: int, others: Iterable[int]) -> bool:
        """Solve for one permutation of one side. Whether that is better than what was there."""
        profit = self._profit(name, side, others)
        rows, columns = linear_sum_assignment(profit.numpy(), maximize=True)
        best, now = torch.from_numpy(columns), self._found[side][name]
        if not profit[rows, best].sum() > profit[rows, now].sum():
            return False
        self._found[side][name] = best
        return True

    def _profit(self, name: str, side: int, others: Iterable[int]) -> torch.Tensor:
        """How well each unit of the others (rows) fits each one of the side (columns): whole numbers."""
        profit = torch.zeros(self._lengths[name], self._lengths[name], dtype=torch.float64)
        for tensor, axes in self._axes.items():
            places = [axis for axis, permutation in enumerate(axes) if permutation == name]
            if not places:
                continue
            group = self._blocks.block(self._index[tensor])
            target = reduce(
                add, (rearranged(self._exact(group.sides[each]), axes, self._found[each]) for each in others)
            )
            for axis in places:
                mine = rearranged(self._exact(group.sides[side]), axes, self._found[side], but=axis)
                profit += _units(target, axis) @ _units(mine, axis).T
        # A matrix product may differ in its last bits from machine to machine, and should not decide between equals.
        largest = float(profit.abs().max()) if profit.numel() else 0.0
        return (profit / largest * 2**40).round() if largest else profit

    def _exact(self, values: torch.Tensor) -> torch.Tensor:
        """On the processor, whatever the device, so that all find the same; and not larger than 1."""
        return values.to("cpu", torch.float64) / self._peak


def _order(seen: Mapping[str, Seen]) -> tuple[int, ...]:
    """The sides in an order that follows from their values. Raises MergeError if some tensor has fewer than another."""
    first = next(iter(seen))
    count = len(seen[first].sides)
    for name, each in seen.items():
        if len(each.sides) != count:
            raise MergeError(
                f"{len(each.sides)} sides changed it, and {count} changed '{first}'",
                tensor=name,
                hint="merge models of which every tensor was changed on all sides",
            )
    return tuple(sorted(range(count), key=lambda side: [each.sides[side] for each in seen.values()]))


def _peak(seen: Mapping[str, Seen]) -> float:
    """The largest magnitude of all. Raises MergeError if that is no number."""
    for name, each in seen.items():
        if not math.isfinite(each.peak):
            raise MergeError("values that are not finite cannot be aligned", tensor=name, hint="choose another method")
    return max((each.peak for each in seen.values()), default=0.0) or 1.0


def _units(values: torch.Tensor, axis: int) -> torch.Tensor:
    """One row for each unit along an axis."""
    count = values.shape[axis]
    return values.movedim(axis, 0).reshape(count, values.numel() // max(1, count))
