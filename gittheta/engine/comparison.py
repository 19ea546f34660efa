"""How the task vectors of one tensor lie to one another: norms, cosines, agreement of signs. One pass, in blocks."""

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
    """Of the sides that changed a tensor, in the order of their labels."""

    #: L2 norm of each task vector.
    norms: tuple[float, ...]
    #: For each pair (i, j), i < j, in lexicographic order: cosine of the angle; NaN if one is zero.
    cosines: tuple[float, ...]
    #: For each pair, the share of the elements changed by both in which they changed to the same side.
    agreements: tuple[float, ...]

    @property
    def hint(self) -> str:
        """Which method suits, in a few words. A rule of thumb, not a promise."""
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
    """Looks like a merge method to the engine, and only measures."""

    name: ClassVar[str] = "compare"
    unit: ClassVar[Literal["element"]] = "element"
    ordered: ClassVar[bool] = True

    def merge(self, group: Group) -> torch.Tensor:
        """Never called."""
        raise MergeError("nothing is merged here", tensor=group.name)

    def measure(self, blocks: Blocks) -> Comparison:
        """The comparison. Without a base the sides themselves are compared."""
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
                _ratio(sum(part.alike[pair] for part in parts), sum(part.both[pair] for part in parts))
                for pair in range(len(pairs))
            ),
        )  # fmt: skip


@dataclass(frozen=True)
class _Part:
    squares: Sequence[float]
    dots: Sequence[float]
    alike: Sequence[int]
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
