"""Task vectors added to the base: task arithmetic, and methods that first drop some of their entries.

All compute θ0 + λ·Σvᵢ/div with vᵢ = wᵢ·S(δᵢ), δᵢ = θᵢ − θ0 and a sparsifier S. Options of all:

``lambda``
    λ, the scale of the sum. Default 1.
``normalize``
    At each element, divide by the total weight of the sides whose entry S kept (0 counts as 1). Otherwise div = 1.
``sign``
    Elect a sign for each element, that of Σvᵢ (plus if that is 0), and drop entries of the other sign. Entries that are
    0 have no sign, and do not count in the divisor.
``election``
    ``weighted``, or ``unweighted``: then the elected sign is that of ΣS(δᵢ), and entries agree by the sign of S(δᵢ).
``divisor``
    ``weight``, or ``count``: divide by the number of kept entries instead of their weight.

A side of weight 0 does not take part. All raise MergeError without a base.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

import torch

from gittheta.api import Blocks, Group, MergeError
from gittheta.merges.arithmetic import counter_rng, threshold
from gittheta.merges.arithmetic.order_statistics import find_cuts
from gittheta.merges.arithmetic.reductions import leaf_sums, totals
from gittheta.merges.arithmetic.sign_election import Divisor, Election, Part, added, elected, scaled
from gittheta.merges.arithmetic.threshold import Cut
from gittheta.merges.linear import divided

Unit = Literal["tensor", "row", "element"]
#: The cuts of each side, by its name as in :func:`side_names`.
Cuts = dict[str, tuple[Cut, ...]]


def task_vector(group: Group, side: int) -> torch.Tensor:
    """δ of one side, in new memory, with the side's shape and dtype. Raises MergeError without a base."""
    return group.sides[side] - group.theta0


def added_to_base(group: Group, change: torch.Tensor | None, factor: float) -> torch.Tensor:
    """θ0 + λ·change, or θ0 if ``change`` is None. Overwrites ``change``. Raises MergeError without a base."""
    base = group.theta0
    return base.clone() if change is None else scaled(change, factor).add_(base)


def side_names(group: Group) -> tuple[str, ...]:
    """Names of the sides that are the same for all tensors, even if the order of the sides differs."""
    return group.labels or tuple(str(side) for side in range(len(group.sides)))


def task_vectors(group: Group) -> Iterator[tuple[str, torch.Tensor]]:
    """The name and δ of each side whose weight is not 0. Raises MergeError without a base."""
    for side, name in enumerate(side_names(group)):
        if group.weights[side]:
            yield name, task_vector(group, side)


def check_fraction(name: str, option: str, value: float) -> None:
    """Raise MergeError unless the value of an option is above 0 and at most 1."""
    if not 0 < value <= 1:
        raise MergeError(
            f"{option} of {name} is {value}", hint=f"it is the fraction that is kept, above 0 and up to 1: {option}=0.2"
        )


@dataclass(frozen=True)
class TaskArithmetic:
    """θ0 + λ·Σwᵢδᵢ (Ilharco et al., 2023, *Editing models with task arithmetic*). Nothing is dropped.

    Equal sides are added like any others: the change of two equal sides of weight 1 counts twice.
    """

    lambda_: float = 1.0
    normalize: bool = False
    sign: bool = False
    election: Election = "weighted"
    divisor: Divisor = "weight"

    name: ClassVar[str] = "task_arithmetic"
    unit: ClassVar[Unit] = "element"
    needs_base: ClassVar[bool] = True

    def merge(self, group: Group) -> torch.Tensor:
        """The merged values. Raises MergeError without a base."""
        sides = [side for side, weight in enumerate(group.weights) if weight]
        if not sides:
            return added_to_base(group, None, self.factor)
        parts = (self.part(group, side) for side in sides)
        divisor = self.divisor if self.normalize else None
        change = elected(parts, self.election, divisor) if self.sign else added(parts, divisor)
        return added_to_base(group, change, self.factor)

    def part(self, group: Group, side: int) -> Part:
        """One side's term of the sum: its sparsified task vector and its weight."""
        return Part(task_vector(group, side), group.weights[side])

    @property
    def factor(self) -> float:
        """The factor of the sum: λ, times the constant by which S multiplies all entries."""
        return self.lambda_

    @property
    def asks_what_is_kept(self) -> bool:
        """Whether the divisor needs to know which entries were kept, because kept entries may be 0."""
        return self.normalize and not self.sign


@dataclass(frozen=True)
class Ties(TaskArithmetic):
    """Trim, elect sign, disjoint mean (Yadav et al., 2023, *TIES-Merging: resolving interference when merging models*).

    S keeps the ⌊ρd⌋ entries of a task vector with the largest |δ|; of equal ones the first. The result is θ0 + λ·(the
    mean, weighted with w, of the kept entries that have the elected sign).

    ``density`` is ρ (0.2). With ``scope`` ``tensor``, ρ is a fraction of each tensor; with ``global``, of the whole
    model's task vector. The paper uses ``scope=global election=unweighted divisor=count``. Raises MergeError for a
    density that is not above 0 and at most 1.
    """

    normalize: bool = True
    sign: bool = True
    density: float = 0.2
    scope: Literal["tensor", "global"] = "tensor"

    name: ClassVar[str] = "ties"

    def __post_init__(self) -> None:
        """Raises MergeError for a density out of range."""
        check_fraction(self.name, "density", self.density)

    def measure(self, blocks: Blocks) -> Cuts | None:
        """The limit of the kept entries of each side; None if all are kept. Raises MergeError without a base."""
        count = threshold.floor_of(self.density, blocks.elements)
        return find_cuts(blocks, task_vectors, (count,)) if count < blocks.elements else None

    def part(self, group: Group, side: int) -> Part:
        """The task vector with all but the largest entries set to zero."""
        delta, weight = task_vector(group, side), group.weights[side]
        if group.measured is None:
            return Part(delta, weight)
        (cut,) = group.measured[side_names(group)[side]]
        kept = threshold.is_largest(delta, cut, group) if self.asks_what_is_kept else None
        return Part(threshold.keep_largest(delta, cut, group), weight, kept)


@dataclass(frozen=True)
class Breadcrumbs(TaskArithmetic):
    """Drops outliers and small entries (Davari, Belilovsky, 2024, *Model breadcrumbs*).

    S drops the ⌊γd⌋ entries of a task vector with the largest |δ|, and keeps the next ⌊ρd⌋; of equal ones the first
    count as larger. If fewer than ⌊ρd⌋ would be left, fewer of the largest are dropped.

    ``density`` is ρ (0.9), ``gamma`` is γ (0.01). Raises MergeError for a density that is not above 0 and at most 1, or
    a gamma that is not from 0 up to, but not including, 1.
    """

    density: float = 0.9
    gamma: float = 0.01

    name: ClassVar[str] = "breadcrumbs"

    def __post_init__(self) -> None:
        """Raises MergeError for options out of range."""
        check_fraction(self.name, "density", self.density)
        if not 0 <= self.gamma < 1:
            raise MergeError(
                f"gamma of breadcrumbs is {self.gamma}", hint="it is the fraction of the largest that is dropped: 0.01"
            )

    def measure(self, blocks: Blocks) -> Cuts | None:
        """For each side the limits of the outliers and of the kept entries; None if all are kept."""
        elements = blocks.elements
        count = threshold.floor_of(self.density, elements)
        dropped = min(threshold.floor_of(self.gamma, elements), elements - count)
        if count == elements:
            return None
        return find_cuts(blocks, task_vectors, (dropped, dropped + count))

    def part(self, group: Group, side: int) -> Part:
        """The task vector with all entries set to zero except those between the two limits."""
        delta, weight = task_vector(group, side), group.weights[side]
        if group.measured is None:
            return Part(delta, weight)
        outliers, all_kept = group.measured[side_names(group)[side]]
        kept = None
        if self.asks_what_is_kept:
            kept = threshold.is_largest(delta, all_kept, group) - threshold.is_largest(delta, outliers, group)
        large = threshold.keep_largest(delta, all_kept, group)
        return Part(large - threshold.keep_largest(large.clone(), outliers, group), weight, kept)


@dataclass(frozen=True)
class Dare(TaskArithmetic):
    """Drops entries at random and rescales the others (Yu et al., 2024, *Language models are super Mario*).

    S keeps each entry with probability ρ and divides it by ρ. With ``sign`` this is known as DARE-TIES.

    ``density`` is ρ (0.5). ``rescale``: ``inverse`` (1/ρ), ``l1`` (so that Σ|S(δ)| = Σ|δ| over the tensor), or
    ``none``. ``seed`` (0): the same seed, name of the tensor and content of the side give the same random numbers; see
    :mod:`gittheta.merges.arithmetic.counter_rng`. Raises MergeError for a density that is not above 0 and at most 1.
    """

    density: float = 0.5
    rescale: Literal["inverse", "l1", "none"] = "inverse"
    seed: int = 0

    name: ClassVar[str] = "dare"

    def __post_init__(self) -> None:
        """Raises MergeError for a density out of range."""
        check_fraction(self.name, "density", self.density)

    def measure(self, blocks: Blocks) -> tuple[float, ...] | None:
        """The scale of each side with ``rescale=l1``; None otherwise. Raises MergeError without a base."""
        if self.rescale != "l1":
            return None

        def norms(group: Group) -> torch.Tensor:
            sums = []
            for side in range(len(group.sides)):
                delta = task_vector(group, side).abs_()
                sums += [leaf_sums(delta), leaf_sums(delta * self._kept(group, side))]
            return torch.stack(sums)

        sums = totals(blocks.map(norms))
        return tuple(whole / kept if kept else 1.0 for whole, kept in zip(sums[::2], sums[1::2], strict=True))

    def part(self, group: Group, side: int) -> Part:
        """The task vector with the entries that chance drops set to zero."""
        kept = self._kept(group, side)
        values = task_vector(group, side).mul_(kept)
        if self.rescale == "l1":
            values = scaled(values, group.measured[side])
        return Part(values, group.weights[side], kept)

    @property
    def factor(self) -> float:
        """λ/ρ. The division is done on the sum: rounded quotients could tip an even vote on a sign."""
        return self.lambda_ / self.density if self.rescale == "inverse" else self.lambda_

    def _kept(self, group: Group, side: int) -> torch.Tensor:
        like = group.sides[side]
        numbers = counter_rng.numbers(self.seed, group.digests[side], group.name, group.start, like)
        return counter_rng.below(numbers, round(Fraction(repr(self.density)) * counter_rng.ONE), like.dtype)


@dataclass(frozen=True)
class Della(TaskArithmetic):
    """Drops entries at random, small ones more often (Deep et al., 2024, *DELLA-Merging*).

    S keeps an entry with probability p = (ρ − ε) + 2ε·r/(n − 1) and divides it by p, where r is its rank by |δ| in its
    row of n entries, from 0 for the smallest; of equal ones the first count as larger. A row is all elements with the
    same first index, and a vector is one row. In rows of one element p = ρ.

    ``density`` is ρ (0.5), ``epsilon`` is ε (0.15), ``seed`` (0) as for :class:`Dare`. Raises MergeError unless both
    ρ − ε and ρ + ε lie between 0 and 1. (A density of 1 with epsilon 0 keeps everything.)
    """

    normalize: bool = True
    sign: bool = True
    density: float = 0.5
    epsilon: float = 0.15
    seed: int = 0

    name: ClassVar[str] = "della"
    unit: ClassVar[Unit] = "row"

    def __post_init__(self) -> None:
        """Raises MergeError for options out of range."""
        inside = self.epsilon >= 0 and self.density - self.epsilon > 0 and self.density + self.epsilon < 1
        if not inside and (self.density, self.epsilon) != (1, 0):
            raise MergeError(
                f"density {self.density} and epsilon {self.epsilon} of della",
                hint="density - epsilon must be above 0, density + epsilon below 1, such as density=0.5 epsilon=0.15",
            )

    def part(self, group: Group, side: int) -> Part:
        """The task vector with the entries that chance drops set to zero, and the others divided by their p."""
        delta = task_vector(group, side)
        chances = self._chances(delta)
        numbers = counter_rng.numbers(self.seed, group.digests[side], group.name, group.start, delta)
        kept = counter_rng.below(numbers, (chances * counter_rng.ONE).round_().to(torch.int64), delta.dtype)
        return Part(delta.mul_(kept).div_(chances.to(delta.dtype)), group.weights[side], kept)

    def _chances(self, deltas: torch.Tensor) -> torch.Tensor:
        """p of each entry: float64, in the shape of ``deltas``."""
        length = deltas.shape[-1]
        if length == 1:
            return torch.full(deltas.shape, self.density, dtype=torch.float64, device=deltas.device)
        steps = threshold.ranks(deltas).to(torch.float64).mul_(2 * self.epsilon)
        return divided(steps, max(1, length - 1)).add_(self.density - self.epsilon)
