"""Finds the permutations of units under which models agree best: weight matching.

After Ainsworth, Hayase and Srinivasa, Git Re-Basin: Merging Models modulo Permutation Symmetries (2023), section 3.2
and algorithms 1 and 3: with all permutations but one held fixed, the best one is a linear assignment problem; so they
are solved in turn until nothing gets better.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random

import torch
from scipy.optimize import linear_sum_assignment

from gittheta.api import Blocks, Group, MergeError
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


def shapes_and_order(blocks: Blocks) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
    """The shape of each tensor, in the order of the blocks, and an order of the sides that follows from their values.

    Raises MergeError if some tensor has fewer sides than another: nobody could say which ones.
    """
    seen = list(
        blocks.map(lambda group: (group.name, _shape(group), tuple(zip(group.digests, group.weights, strict=True))))
    )
    first = seen[0][2]
    for name, _, sides in seen:
        if len(sides) != len(first):
            raise MergeError(
                f"{len(sides)} sides changed it, and {len(first)} sides changed '{seen[0][0]}'",
                tensor=name,
                mend="merge models of which every tensor was changed on all sides",
            )
    order = sorted(range(len(first)), key=lambda side: [sides[side] for _, _, sides in seen])
    return {name: shape for name, shape, _ in seen}, tuple(order)


def _shape(group: Group) -> tuple[int, ...]:
    return group.spec.shape if group.spec else tuple(group.sides[0].shape)


class Matching:
    """Aligns the sides of a model, one tensor at a time in memory: the blocks are read again as often as needed."""

    def __init__(
        self, blocks: Blocks, axes: Axes, shapes: Mapping[str, tuple[int, ...]], order: tuple[int, ...]
    ) -> None:
        self._blocks = blocks
        self._axes = axes
        self._order = order
        self._index = {name: index for index, name in enumerate(shapes)}
        self._lengths = {
            permutation: length
            for name, permutations in axes.items()
            for permutation, length in zip(permutations, shapes[name], strict=True)
            if permutation is not None
        }
        self._found = [{name: torch.arange(length) for name, length in self._lengths.items()} for _ in order]

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
            target = sum(rearranged(_exact(group.sides[other]), axes, self._found[other]) for other in others)
            for axis in places:
                mine = rearranged(_exact(group.sides[side]), axes, self._found[side], but=axis)
                profit += _units(target, axis) @ _units(mine, axis).T
        # A matrix product may differ in its last bits from machine to machine, and should not decide between equals.
        return (profit * (2.0**40 / profit.abs().max().clamp_min(1e-300))).round()


def _exact(values: torch.Tensor) -> torch.Tensor:
    """On the processor, whatever the device: so the same permutations are found on all."""
    return values.to("cpu", torch.float64)


def _units(values: torch.Tensor, axis: int) -> torch.Tensor:
    """One row for each unit along an axis."""
    return values.movedim(axis, 0).reshape(values.shape[axis], -1)
