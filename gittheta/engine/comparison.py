"""Compare the task vectors of one tensor: norms, cosines, agreement of signs. One pass over its blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar, Literal

import torch

from gittheta.api import Blocks, Group, MergeError


@dataclass(frozen=True)
class Comparison:
    """How the sides that changed a tensor compare, in the order of their labels."""

    #: L2 norm of each task vector.
    norms: tuple[float, ...]
    #: For each pair (i, j), i < j, in lexicographic order: the cosine of the angle; NaN if one of the two is zero.
    cosines: tuple[float, ...]
    #: For each pair, among the elements that both changed, the share that both changed in the same direction.
    agreements: tuple[float, ...]

    @property
    def hint(self) -> str:
        """Which method suits, in a few words: a rule of thumb."""
        cosine, agreement = min(self.cosines, default=1.0), min(self.agreements, default=1.0)
        if not all(map(math.isfinite, self.norms)):
            return "values that are not finite: take one"
        if max(self.norms) > 10 * min(self.norms):
            return "one change is far larger: weights, or nuslerp"
        if cosine > 0.9:
            return "nearly the same change: linear"
        if cosine < -0.1:
            return "the changes oppose one another: ties, or take one"
        if agreement > 0.6:
            return "the changes agree: linear, or slerp"
        if abs(cosine) < 0.1:
            return "nearly orthogonal changes: task_arithmetic, tsv"
        return "signs interfere: ties, or dare"


@dataclass(frozen=True)
class Compare:
    """A merge method that only measures."""

    name: ClassVar[str] = "compare"
    unit: ClassVar[Literal["element"]] = "element"
    ordered: ClassVar[bool] = True

    def merge(self, group: Group) -> torch.Tensor:
        """Raise MergeError: this method only measures."""
        raise MergeError("nothing is merged here", tensor=group.name)

    def measure(self, blocks: Blocks) -> Comparison:
        """The comparison of the task vectors, or of the sides themselves if there is no base."""
        parts = list(blocks.map(_look))
        count = len(parts[0].squares)
        squares = [math.fsum(part.squares[side] for part in parts) for side in range(count)]
        pairs = list(combinations(range(count), 2))
        dots = [math.fsum(part.dots[pair] for part in parts) for pair in range(len(pairs))]
        norms = [math.sqrt(square) for square in squares]
        return Comparison(
            tuple(norms),
            tuple(
                _ratio(dot, norms[i] * norms[j]) for dot, (i, j) in zip(dots, pairs, strict=True)
            ),
            tuple(
                _ratio(sum(part.agreeing[pair] for part in parts), sum(part.both[pair] for part in parts))
                for pair in range(len(pairs))
            ),
        )  # fmt: skip


@dataclass(frozen=True)
class _Part:
    """The measurements of one block: for each side and, from ``dots`` on, for each pair of sides."""

    squares: Sequence[float]
    dots: Sequence[float]
    #: The numbers of elements that both changed in the same direction, and that both changed.
    agreeing: Sequence[int]
    both: Sequence[int]


def _look(group: Group) -> _Part:
    deltas = [delta.to(torch.float64) for delta in (group.deltas if group.base is not None else group.sides)]
    pairs = list(combinations(deltas, 2))
    signs = [delta.sign() for delta in deltas]
    products = [one * other for one, other in combinations(signs, 2)]
    return _Part(
        [float(torch.dot(delta, delta)) for delta in deltas],
        [float(torch.dot(one, other)) for one, other in pairs],
        [int((product > 0).sum()) for product in products],
        [int((product != 0).sum()) for product in products],
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
