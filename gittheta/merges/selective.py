"""Methods that treat each position by how several sides changed it: SCE and RAM."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch

from gittheta.api import Blocks, Group, MergeError
from gittheta.merges.arithmetic import threshold
from gittheta.merges.arithmetic.order_statistics import find_cuts
from gittheta.merges.arithmetic.reductions import leaf_dots, totals
from gittheta.merges.arithmetic.sign_election import Part, Sum, either, elected, negative, scaled
from gittheta.merges.linear import divided
from gittheta.merges.task_vectors import added_to_base, check_fraction, task_vector

if TYPE_CHECKING:
    from gittheta.merges.arithmetic.threshold import Cut

Unit = Literal["tensor", "row", "element"]


@dataclass(frozen=True)
class Sce:
    """Select, calculate, erase (Wan et al., 2024, *FuseChat: knowledge fusion of chat models*).

    Select the ⌊τd⌋ positions where the variance of the δᵢ across the sides is largest; of equal ones the first.
    Calculate a weight for each side and tensor: wᵢ·mean(δᵢ²) over those positions, divided by the sum of these numbers;
    if the sum is 0, the weights stay wᵢ. Erase entries whose sign is not that of Σδᵢ (plus if that is 0). The result is
    θ0 + λ·Σ(weight·δ)/Σ(weight) over the entries that are left, and θ0 where none is left.

    ``topk`` is τ (1: all positions), ``lambda`` is λ (1). Raises MergeError for a topk that is not above 0 and at most
    1, and without a base.
    """

    topk: float = 1.0
    lambda_: float = 1.0

    name: ClassVar[str] = "sce"
    unit: ClassVar[Unit] = "element"
    needs_base: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises MergeError for a topk out of range."""
        check_fraction(self.name, "topk", self.topk)

    def measure(self, blocks: Blocks) -> Selection:
        """The limit of the selected positions, and Σδᵢ² over them for each side. Raises MergeError without a base."""
        count, cut = threshold.floor_of(self.topk, blocks.elements), None
        if count < blocks.elements:
            ((cut,),) = find_cuts(blocks, _variances, (count,)).values()

        def squares(group: Group) -> torch.Tensor:
            return torch.stack([leaf_dots(delta, delta) for delta in _selected(group, cut)])

        return Selection(cut, tuple(totals(blocks.map(squares))))

    def merge(self, group: Group) -> torch.Tensor:
        """Raises MergeError without a base."""
        selection: Selection = group.measured
        sides = zip(_selected(group, selection.cut), selection.weights(group.weights), strict=True)
        parts = [Part(delta, weight) for delta, weight in sides if weight]
        return added_to_base(group, elected(parts, "unweighted", "weight") if parts else None, self.lambda_)


@dataclass(frozen=True)
class Selection:
    """What SCE measures over a whole tensor."""

    #: The limit of the selected positions; None if all are selected.
    cut: Cut | None
    #: For each side the sum of δᵢ² over the selected positions.
    squares: tuple[float, ...]

    def weights(self, weights: tuple[float, ...]) -> tuple[float, ...]:
        """The weight of each side in the sum, from the user's weights."""
        products = [weight * square for weight, square in zip(weights, self.squares, strict=True)]
        total = math.fsum(products)
        return tuple(product / total for product in products) if total else weights


def _selected(group: Group, cut: Cut | None) -> Iterator[torch.Tensor]:
    """The task vectors with zeros at positions that are not selected."""
    chosen = None
    if cut is not None:
        ((_, variances),) = _variances(group)
        chosen = threshold.is_largest(variances, cut, group)
    for side in range(len(group.sides)):
        delta = task_vector(group, side)
        yield delta if chosen is None else delta.mul_(chosen.to(delta.dtype))


def _variances(group: Group) -> Iterator[tuple[str, torch.Tensor]]:
    """The variance of the task vectors at each position: float64, in the shape of the group's sides."""
    deltas = [task_vector(group, side).to(torch.float64) for side in range(len(group.sides))]
    mean, squares = Sum(), Sum()
    for delta in deltas:
        mean.add(delta.clone())
    middle = divided(mean.total, len(deltas))
    for delta in deltas:
        squares.add(delta.sub_(middle).square_())
    yield "", divided(squares.total, len(deltas))


@dataclass(frozen=True)
class Ram:
    """Treats shared and unique changes differently (*Behavior knowledge merge in reinforced agentic models*, 2026).

    An entry of a side is active if |δᵢ| > ε. Where one side is active, the result is θ0 + λ·wᵢδᵢ; where several are,
    θ0 + λ·Σwᵢδᵢ/(their number); elsewhere θ0. With ``plus``, entries where only side i is active are multiplied by
    1 + r·clip(shared/unique, 0, α), where shared and unique are the numbers of such active entries of side i in the
    tensor.

    ``epsilon`` is ε (1e-5), ``plus`` (false), ``r`` (0.1), ``alpha`` is α (0.2), ``lambda`` is λ (1). A side whose
    weight is 0 is never active. Raises MergeError for options below 0, and without a base.
    """

    epsilon: float = 1e-5
    plus: bool = False
    r: float = 0.1
    alpha: float = 0.2
    lambda_: float = 1.0

    name: ClassVar[str] = "ram"
    unit: ClassVar[Unit] = "element"
    needs_base: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises MergeError for options out of range."""
        for option in ("epsilon", "r", "alpha"):
            value = getattr(self, option)
            if not value >= 0:
                raise MergeError(f"{option} of ram is {value}", hint=f"it must not be below 0, such as {option}=0.1")

    def measure(self, blocks: Blocks) -> tuple[float, ...] | None:
        """The factor for the unique entries of each side; None without ``plus``. Raises MergeError without a base."""
        if not self.plus:
            return None
        counts = np.sum(list(blocks.map(self._unique_and_shared)), axis=0)
        return tuple(self._factor(unique, shared) for unique, shared in counts.tolist())

    def merge(self, group: Group) -> torch.Tensor:
        """Raises MergeError without a base."""
        if not any(group.weights):
            return added_to_base(group, None, self.lambda_)
        unique, shared, count = Sum(), Sum(), Sum()
        for side, values in self._active(group):
            count.add(values.sign().abs_())
            entries = scaled(values, group.weights[side])
            if self.plus:
                unique.add(entries * group.measured[side])
            shared.add(entries)
        change = shared.total.div_(count.total.clamp_min(1))
        if self.plus:
            change = either(unique.total, change, negative(1.5 - count.total))
        return added_to_base(group, change, self.lambda_)

    def _active(self, group: Group) -> Iterator[tuple[int, torch.Tensor]]:
        """The task vector of each side that has a weight, zero where it is not active."""
        for side, weight in enumerate(group.weights):
            if weight:
                yield side, threshold.beyond(task_vector(group, side), self.epsilon)

    def _unique_and_shared(self, group: Group) -> list[tuple[int, int]]:
        """For each side, the numbers of its active entries in a block that are unique, and that are shared."""
        counts = [(0, 0)] * len(group.sides)
        active = {side: values != 0 for side, values in self._active(group)}
        several = torch.zeros(group.sides[0].shape, dtype=torch.int32, device=group.sides[0].device)
        for entries in active.values():
            several += entries
        for side, entries in active.items():
            shared = int(torch.count_nonzero(entries & (several > 1)))
            counts[side] = (int(torch.count_nonzero(entries)) - shared, shared)
        return counts

    def _factor(self, unique: int, shared: int) -> float:
        return 1 + self.r * min(shared / unique, self.alpha) if unique else 1.0
