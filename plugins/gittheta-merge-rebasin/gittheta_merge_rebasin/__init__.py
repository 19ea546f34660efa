"""Permutation alignment before averaging, as a merge method of gittheta: ``method=rebasin``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from gittheta.api import Blocks, Group, MergeError
from gittheta_merge_rebasin.matching import Alignment, Matching, Seen
from gittheta_merge_rebasin.specification import EXAMPLE, chain, check, parse, written

AUTO = "auto"


@dataclass(frozen=True)
class Rebasin:
    """Weighted mean of the sides after their hidden units were brought into one order (Ainsworth et al., 2023).

    ``spec`` says which axes of which tensors count the same units, or ``auto`` for a plain chain of linear layers;
    tensors that it does not name are averaged as they are. Permutations are solved in turn, in an order that ``seed``
    decides, at most ``iterations`` times each.

    The side whose values have the lowest digest stays as it is and the others follow; so the result does not depend on
    the order in which the sides are given.
    """

    spec: str = ""
    iterations: int = 100
    seed: int = 0

    name: ClassVar[str] = "rebasin"
    api_version: ClassVar[int] = 2
    unit: ClassVar[Literal["tensor"]] = "tensor"
    scope: ClassVar[Literal["global"]] = "global"
    #: One side must have the same place in every tensor. Here the user's order only names the sides.
    ordered: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raises MergeError for a specification that is missing or malformed."""
        if not self.spec.strip():
            raise MergeError(
                "rebasin needs to know which axes belong together",
                hint=f"give {EXAMPLE}, or spec=auto for a chain of linear layers",
            )
        if self.spec != AUTO:  # on one line, because options are written into the messages of merge commits
            object.__setattr__(self, "spec", written(parse(self.spec)))
        if self.iterations < 1:
            raise MergeError(f"iterations is {self.iterations}", hint="give 1 or more")

    def measure(self, blocks: Blocks) -> Alignment:
        """The permutations of all sides. Raises MergeError if the specification does not fit the model."""
        seen = dict(blocks.map(Seen.of))
        shapes = {name: each.shape for name, each in seen.items()}
        axes = chain(shapes) if self.spec == AUTO else parse(self.spec)
        check(axes, shapes)
        return Matching(blocks, axes, seen).run(self.iterations, self.seed)

    def merge(self, group: Group) -> torch.Tensor:
        """The mean of the rearranged sides. Raises MergeError if the weights sum to zero."""
        alignment: Alignment = group.measured
        weights = [group.weights[side] for side in alignment.order]
        if sum(weights) == 0:
            raise MergeError("the weights sum to zero", tensor=group.name, hint="give others: -X weight=1,1")
        total = torch.zeros_like(group.sides[0])
        for values, weight in zip(alignment.aligned(group), weights, strict=True):
            total += values * weight
        return total / sum(weights)
