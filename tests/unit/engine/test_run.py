"""Methods that raise, and weights at the ends of their range: a MergeError or numbers."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import gittheta
from gittheta.api import DTYPES, Group, TensorSpec
from gittheta.engine.device import computing
from gittheta.engine.operands import ResidentOperand
from gittheta.engine.run import merge_tensor
from gittheta.engine.task import Task
from gittheta.errors import MergeError
from tests.support.checkpoints import normal


@pytest.mark.parametrize(
    "method", ["ties", "nuslerp", "multislerp", "karcher", "model_stock", "sce", "task_arithmetic"]
)
@pytest.mark.parametrize("weight", [1e308, [1e308, -1e308], 5e-324])
def test_weights_at_the_ends_of_their_range(method: str, weight: float | list[float]) -> None:
    """Either there are numbers, or a MergeError; nothing else is raised."""
    base, *sides = ({"w": torch.from_numpy(normal(seed, 6, 4)).bfloat16()} for seed in (1, 2, 3))
    with suppress(MergeError):
        assert bool(torch.isfinite(gittheta.merge(base, sides, method, weight=weight)["w"]).all())


@dataclass(frozen=True)
class Stumbles:
    """A method that raises what no method should."""

    name: ClassVar[str] = "stumbles"

    def merge(self, group: Group) -> torch.Tensor:
        """Raises ZeroDivisionError."""
        return group.sides[0] * (1 // 0)


def test_a_method_may_raise_anything() -> None:
    spec = TensorSpec("w", DTYPES["f32"], (3,))
    sides = (ResidentOperand(spec, torch.zeros(3)), ResidentOperand(spec, torch.ones(3)))
    task = Task("w", None, sides, ("ours", "theirs"), (1.0, 1.0), Stumbles())
    with (
        computing("cpu") as compute,
        pytest.raises(MergeError, match="tensor 'w': stumbles fails: ZeroDivision") as got,
    ):
        list(merge_tensor(task, compute))
    assert isinstance(got.value.__cause__, ZeroDivisionError)
