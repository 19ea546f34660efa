"""A tensor, or all tensors of a model, block by block on a device: converted, checked, and rounded once."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import accumulate
from typing import TYPE_CHECKING, TypeVar

import torch

from gittheta.api import Digest, Group, MergeError, ThetaError
from gittheta.engine.arrays import TORCH, accumulated_in, arithmetic_elements, arithmetic_shape
from gittheta.engine.device import CPU, Compute, queue
from gittheta.engine.task import Task, call_method

if TYPE_CHECKING:
    from gittheta.engine.operands import Operand

Result = TypeVar("Result")


class TensorBlocks:
    """The blocks of one tensor to merge. Safe to use from several threads."""

    def __init__(self, task: Task, compute: Compute) -> None:
        self.task = task
        self.compute = compute
        self.elements = arithmetic_elements(task.spec)
        self._wide = accumulated_in(task.spec.dtype)
        self._narrow = TORCH[task.spec.dtype.name]
        shape = task.spec.shape
        self._row = max(1, self.elements // max(1, shape[0]) if len(shape) > 1 else self.elements)
        self._step = self._step_length()
        self._device = self._suitable_device()
        self._checked = False

    def _step_length(self) -> int:
        unit = self.task.traits.unit
        if unit == "element":
            return self.compute.block
        if unit == "row":
            return max(1, self.compute.block // self._row) * self._row
        return max(1, self.elements)

    def _suitable_device(self) -> torch.device:
        """The device, or the processor if the task needs float64 (sums over a tensor do) and the device lacks it."""
        sums = hasattr(self.task.method, "measure") or self.task.traits.unit != "element"
        if self.compute.device.type == "mps" and (sums or self._wide == torch.float64):
            return CPU
        return self.compute.device

    @property
    def count(self) -> int:
        """The number of blocks; one for a tensor without elements."""
        return max(1, -(-self.elements // self._step))

    def jobs(self, look: Callable[[Group], Result]) -> Iterator[Callable[[], Result]]:
        """One job for each block, which returns what ``look`` returns for it."""
        return (partial(self._look, look, index) for index in range(self.count))

    def map(self, look: Callable[[Group], Result]) -> Iterator[Result]:
        """What ``look`` returns for each block, in the order of the blocks. Raises MergeError."""
        yield from self.compute.each(self.jobs(look))
        self._checked = True

    def _look(self, look: Callable[[Group], Result], index: int) -> Result:
        try:
            with queue(self._device):
                return call_method(self.task.method, look, self.block(index))
        except torch.OutOfMemoryError as error:
            if self._device == CPU:
                raise MergeError("there is not enough memory", tensor=self.task.name) from error
            self.compute.warn(f"tensor '{self.task.name}': out of memory on {self._device}; merging on the processor")
            self._device = CPU
            torch.cuda.empty_cache()
            return call_method(self.task.method, look, self.block(index))
        except ThetaError as error:
            raise error.located(tensor=self.task.name) from error.__cause__

    def block(self, index: int) -> Group:
        """One block, on the device and in the dtype for accumulation. Raises MergeError for values that are not finite.

        Its shape is that of the whole tensor, (rows, elements of a row), or flat, as the method's ``unit`` says.
        """
        task = self.task
        begin = index * self._step
        end = min(begin + self._step, self.elements)
        sides = zip(task.sides, task.labels, strict=True)
        return Group(
            name=task.name,
            base=self._read(task.base, "the base", begin, end) if task.base and not task.traits.ignores_base else None,
            sides=tuple(self._read(side, label, begin, end) for side, label in sides),
            weights=task.weights,
            labels=task.labels,
            digests=self._digests,
            spec=task.spec,
            start=begin,
            statistics=tuple(self._statistics(side, begin, end) for side in range(len(task.statistics))),
        )

    @cached_property
    def _is_same_side(self) -> bool:
        """Whether all sides have the same bits, and the method would return these apart from rounding."""
        return self.task.traits.idempotent and len(set(self._digests)) == 1

    @cached_property
    def _digests(self) -> tuple[Digest, ...]:
        return tuple(side.digest() for side in self.task.sides)

    def _read(self, operand: Operand, label: str, begin: int, end: int) -> torch.Tensor:
        values = operand.read(begin, end).to(self._device, self._wide)
        if not self._checked and not self.task.propagate and not all_finite(values):
            raise MergeError(
                f"{label} has NaN or infinite values",
                tensor=self.task.name,
                hint="`take` the other side, or let them through: nonfinite=propagate",
            )
        unit = self.task.traits.unit
        if unit == "tensor":
            return values.reshape(arithmetic_shape(self.task.spec))
        return values if unit == "element" else values.reshape(-1, self._row)

    def _statistics(self, side: int, begin: int, end: int) -> dict[str, torch.Tensor]:
        """Statistics of one side by kind: those of the tensor's shape for the block alone, all others whole."""
        statistics = {}
        for kind, operand in self.task.statistics[side].items():
            label = f"the statistics ({kind}) of {self.task.labels[side]}"
            if operand.spec.shape == self.task.spec.shape:
                statistics[kind] = self._read(operand, label, begin, end)
            else:
                whole = operand.read(0, arithmetic_elements(operand.spec)).to(self._device, torch.float64)
                statistics[kind] = whole.reshape(operand.spec.shape)
        return statistics

    def result(self, group: Group) -> torch.Tensor:
        """The merged block, flat and rounded to the tensor's own dtype.

        Raises MergeError if the method returns another shape or dtype, or values that the dtype cannot hold.
        """
        merged, name = self.task.method.merge(group), self.task.method.name
        expected = group.sides[0]
        if not isinstance(merged, torch.Tensor) or merged.shape != expected.shape or merged.dtype != expected.dtype:
            actual = f"{merged.dtype} {list(merged.shape)}" if isinstance(merged, torch.Tensor) else type(merged)
            raise MergeError(
                f"{name} returned {actual}, not {expected.dtype} {list(expected.shape)}", tensor=group.name
            )
        if not self.task.propagate:
            self._check_range(merged)
        return (group.sides[0] if self._is_same_side else merged).reshape(-1).to(self._narrow)

    def _check_range(self, merged: torch.Tensor) -> None:
        if not merged.numel():
            return
        ends = torch.stack(torch.aminmax(merged))
        if not all_finite(ends.to(self._narrow)):
            raise MergeError(
                f"{self.task.method.name} gives values that {self.task.spec.dtype.name} cannot hold "
                f"({ends[0].item():.4g} to {ends[1].item():.4g})",
                tensor=self.task.name,
                hint="give smaller weights or a smaller lambda, or let them through: nonfinite=propagate",
            )


class ModelBlocks:
    """The blocks of several tensors, one tensor after the other. Safe to use from several threads."""

    def __init__(self, tensors: Sequence[TensorBlocks]) -> None:
        self._tensors = tensors
        self._ends = list(accumulate(tensor.count for tensor in tensors))
        self.elements = sum(tensor.elements for tensor in tensors)

    def map(self, look: Callable[[Group], Result]) -> Iterator[Result]:
        """What ``look`` returns for each block of each tensor, in order. Raises MergeError."""
        jobs = (job for tensor in self._tensors for job in tensor.jobs(look))
        return self._tensors[0].compute.each(jobs)

    def block(self, index: int) -> Group:
        """The block of this index, counted over all tensors."""
        tensor = bisect_right(self._ends, index)
        return self._tensors[tensor].block(index - (self._ends[tensor - 1] if tensor else 0))


def all_finite(values: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite."""
    if not values.numel():
        return True
    low, high = torch.aminmax(values.to(torch.float32) if values.element_size() < 2 else values)
    return math.isfinite(low.item()) and math.isfinite(high.item())
