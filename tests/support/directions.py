"""The methods that merge directions, run on tensors in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from gittheta.api import DTYPES, Merge, TensorSpec
from gittheta.engine.arrays import TORCH
from gittheta.engine.device import computing
from gittheta.engine.operands import ResidentOperand
from gittheta.engine.run import merge_tensor
from gittheta.engine.task import Task
from gittheta.merges.directions import Karcher, ModelStock, MultiSlerp, NuSlerp, Slerp

FLOATS = ("bf16", "f16", "f32", "f64")
METHODS: tuple[Merge, ...] = (Slerp(), NuSlerp(), NuSlerp(rows=True), MultiSlerp(), Karcher(), ModelStock())
Array = np.ndarray


def merged(
    method: Merge,
    *sides: torch.Tensor,
    base: torch.Tensor | None = None,
    weights: Sequence[float] = (),
    block: int = 1 << 18,
    threads: int = 1,
    propagate: bool = False,
) -> torch.Tensor:
    operands = [_operand(side) for side in sides]
    labels = tuple(f"side {number}" for number in range(len(sides)))
    theta0 = _operand(base) if base is not None else None
    weight = tuple(weights) or (1.0,) * len(sides)
    task = Task("layer", theta0, tuple(operands), labels, weight, method, propagate=propagate)
    with computing("cpu", threads, block=block) as compute:
        flat = torch.cat([run.clone() for run in merge_tensor(task, compute)])
    return (torch.view_as_complex(flat.reshape(-1, 2)) if sides[0].is_complex() else flat).reshape(sides[0].shape)


def _operand(values: torch.Tensor) -> ResidentOperand:
    names = {**{dtype: name for name, dtype in TORCH.items() if name != "c64"}, torch.complex64: "c64"}
    return ResidentOperand(TensorSpec("layer", DTYPES[names[values.dtype]], tuple(values.shape)), values)


def random(dtype: str, *shape: int, seed: int = 0, size: float = 1.0) -> torch.Tensor:
    values = np.random.default_rng(seed).normal(0, size, shape)
    return torch.from_numpy(np.asarray(values)).to(TORCH[dtype])


def family(dtype: str, count: int, *shape: int, size: float = 0.3) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A base and sides that grew from it, partly in the same direction."""
    base, common = random(dtype, *shape).double(), random("f64", *shape, seed=50, size=size)
    sides = [base + common + random("f64", *shape, seed=seed, size=size) for seed in range(1, count + 1)]
    return base.to(TORCH[dtype]), [side.to(TORCH[dtype]) for side in sides]


def wide(values: torch.Tensor) -> Array:
    doubles: Array = values.double().numpy()
    return doubles


def check(result: torch.Tensor, expected: Array) -> None:
    """Equal to the reference rounded once, but on rounding boundaries; f64 to a few units in the last place."""
    want = torch.from_numpy(np.asarray(expected)).to(result.dtype)
    assert result.shape == want.shape
    off = (result.double() - want.double()).abs()
    if result.dtype == torch.float64:
        assert (off <= 1e-14 * want.abs().max()).all()
        return
    assert (result != want).double().mean() <= 0.001
    accumulated = 1e-6 if result.dtype.itemsize == 2 else 1e-14
    assert (off <= 2 * torch.finfo(result.dtype).eps * want.double().abs() + accumulated).all()


def plain_slerp(a: Array, b: Array, t: float) -> Array:
    cosine = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
    if abs(cosine) > 0.9995:
        line: Array = (1 - t) * a + t * b
        return line
    angle = np.arccos(cosine)
    arc: Array = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return arc
