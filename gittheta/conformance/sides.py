"""The tensors that the suite for merge methods merges: a base, and sides that changed it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from gittheta.engine.arrays import TORCH, raw_bytes
from gittheta.engine.operands import ResidentOperand

if TYPE_CHECKING:
    from gittheta.api import Digest, TensorSpec
    from gittheta.engine.task import Task

Shape = tuple[int, ...]

#: Empty, 0-d, one element, vectors, matrices of all proportions, more dimensions.
SHAPES: tuple[Shape, ...] = ((), (0,), (1,), (7,), (0, 3), (3, 0), (1, 1), (1, 9), (9, 1), (5, 4), (2, 3, 4), (1, 1, 1))
#: More than one run of 65536 elements, with rows that do not end where these do.
SEVERAL_BLOCKS: tuple[Shape, ...] = ((3, 23_001), (700, 101))


def reordered(task: Task, order: Sequence[int]) -> Task:
    """A task with its sides in another order."""
    return replace(
        task,
        sides=tuple(task.sides[side] for side in order),
        labels=tuple(task.labels[side] for side in order),
        weights=tuple(task.weights[side] for side in order),
        statistics=tuple(task.statistics[side] for side in order),
    )


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors have the same bits, signs of zeros included."""
    return raw_bytes(one) == raw_bytes(other)


@lru_cache(16)
def family(shape: Shape, count: int) -> tuple[torch.Tensor, ...]:
    """A base and ``count`` sides that changed it, float64: mostly in one direction, in large shapes also against it."""
    random = torch.Generator().manual_seed(len(shape) + math.prod(shape))

    def normal() -> torch.Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    start, way = normal(), normal()
    base = start + start.sign()
    common = 0.3 * (way + way.sign())
    own = 0.3 if math.prod(shape) > 16 else 0.05
    return base, *(base + common + own * normal().clamp(-3, 3) for _ in range(count))


@dataclass(frozen=True)
class Twin(ResidentOperand):
    """A tensor with the digest of another one. Sides of the same digest never reach an idempotent method."""

    other: Digest

    def digest(self) -> Digest:
        """The digest of the other tensor."""
        return self.other


def resident(spec: TensorSpec, values: torch.Tensor) -> ResidentOperand:
    """An operand of this spec from real numbers, which come in pairs for complex dtypes."""
    narrow = values.to(TORCH[spec.dtype.name])
    return ResidentOperand(spec, torch.view_as_complex(narrow) if spec.dtype.kind == "complex" else narrow)
