"""Runs a merge method over tensors: in blocks, on a device, several blocks at once, the same bits however that is done.

A method sees values in the dtype in which one accumulates and returns the same; here they are widened, checked and
rounded once. Where blocks begin follows from the tensor alone, and so does the order of whatever is summed up.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import accumulate
from typing import Any, TypeVar

import torch

from gittheta.api import Digest, Group, Merge, MergeError, TensorSpec, ThetaError, Traits
from gittheta.merging.arrays import TORCH, accumulated_in, arithmetic_elements, arithmetic_shape
from gittheta.merging.compute import CPU, Compute, queue
from gittheta.merging.operands import Operand

Result = TypeVar("Result")
Asked = TypeVar("Asked")


@dataclass(frozen=True)
class Task:
    """One tensor to be merged: θ0, the θᵢ with what they are called and their weights, and the method."""

    name: str
    base: Operand | None
    sides: tuple[Operand, ...]
    labels: tuple[str, ...]
    weights: tuple[float, ...]
    method: Merge
    #: For each side, by kind.
    statistics: tuple[Mapping[str, Operand], ...] = ()
    #: Let NaN and infinities through instead of refusing them.
    propagate: bool = False

    @property
    def spec(self) -> TensorSpec:
        """Dtype and shape of the result."""
        return self.sides[0].spec

    @cached_property
    def traits(self) -> Traits:
        """Of the method."""
        return Traits.of(self.method)


def merge_tensor(task: Task, compute: Compute, measured: Any = None) -> Iterator[torch.Tensor]:
    """The merged tensor in runs, flat and in its own dtype.

    ``measured`` is what :func:`measure_all` gave, for methods of global scope. Raises MergeError.
    """
    blocks = TensorBlocks(prepared(task), compute)
    measure = getattr(task.method, "measure", None)
    if measured is None and measure:
        try:
            measured = _asked(task.method, measure, blocks)
        except ThetaError as error:
            raise error.located(tensor=task.name) from error.__cause__
    return blocks.map(lambda group: blocks.result(replace(group, measured=measured)))


def measure_all(tasks: Sequence[Task], compute: Compute) -> Any:
    """What a method of global scope wants to know of all tensors that it merges."""
    method: Any = tasks[0].method
    by_name = sorted(tasks, key=lambda task: task.name)
    blocks = ModelBlocks([TensorBlocks(prepared(task), compute) for task in by_name])
    return _asked(method, method.measure, blocks)


def _asked(method: Merge, call: Callable[[Asked], Result], asked: Asked) -> Result:
    """What a method answers. Whatever it raises becomes a MergeError: Git must not end in a traceback for it."""
    try:
        return call(asked)
    except (ThetaError, OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise MergeError(
            f"{method.name} fails: {error!r}", mend="give it other options or weights, or choose another method"
        ) from error


def prepared(task: Task) -> Task:
    """The task, with its sides in an order that is not the user's where the method says that order means nothing.

    Raises MergeError if the method cannot take what there is.
    """
    _check(task)
    if task.traits.ordered or len(task.sides) < 2:
        return task
    order = sorted(range(len(task.sides)), key=lambda side: (task.sides[side].digest(), task.weights[side]))
    return replace(
        task,
        sides=tuple(task.sides[side] for side in order),
        labels=tuple(task.labels[side] for side in order),
        weights=tuple(task.weights[side] for side in order),
        statistics=tuple(task.statistics[side] for side in order) if task.statistics else (),
    )


def _check(task: Task) -> None:
    traits, name = task.traits, task.method.name
    if traits.needs_base and task.base is None:
        raise MergeError(f"{name} needs a merge base, and there is none", tensor=task.name, mend="try linear")
    if traits.side_count not in (None, len(task.sides)):
        raise MergeError(
            f"{name} takes {traits.side_count} sides, and there are {len(task.sides)}: {', '.join(task.labels)}",
            tensor=task.name,
            mend="merge fewer at once, or choose another method",
        )
    wanted = (task.spec.dtype, task.spec.shape)
    for operand, label in zip((task.base, *task.sides), ("the base", *task.labels), strict=True):
        if operand is not None and (operand.spec.dtype, operand.spec.shape) != wanted:
            raise MergeError(
                f"{label} has {_kind(operand.spec)}, {task.labels[0]} has {_kind(task.spec)}",
                tensor=task.name,
                mend="bring them to one dtype and shape first, or `take` one side",
            )
    for kind in traits.kinds:
        for side, label in enumerate(task.labels):
            known = task.statistics[side].get(kind) if task.statistics else None
            if known is None:
                raise MergeError(f"{name} needs statistics ({kind}), and {label} has none", tensor=task.name)
            if known.spec.dtype.kind != "float" or known.spec.dtype.name not in TORCH:
                raise MergeError(
                    f"the statistics ({kind}) of {label} are {known.spec.dtype.name}, and nothing can be computed with",
                    tensor=task.name,
                    mend=f"collect them again: gittheta.statistics.{kind}",
                )


def _kind(spec: TensorSpec) -> str:
    return f"{spec.dtype.name} {list(spec.shape)}"


class TensorBlocks:
    """One tensor, block by block."""

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
        """Not every accelerator knows float64, in which sums over a tensor are taken."""
        sums = hasattr(self.task.method, "measure") or self.task.traits.unit != "element"
        if self.compute.device.type == "mps" and (sums or self._wide == torch.float64):
            return CPU
        return self.compute.device

    @property
    def count(self) -> int:
        """How many blocks; one for a tensor without elements."""
        return max(1, -(-self.elements // self._step))

    def jobs(self, look: Callable[[Group], Result]) -> Iterator[Callable[[], Result]]:
        """Looks at one block each."""
        return (partial(self._look, look, index) for index in range(self.count))

    def map(self, look: Callable[[Group], Result]) -> Iterator[Result]:
        """Look at each block."""
        yield from self.compute.each(self.jobs(look))
        self._checked = True

    def _look(self, look: Callable[[Group], Result], index: int) -> Result:
        try:
            with queue(self._device):
                return _asked(self.task.method, look, self.block(index))
        except torch.OutOfMemoryError as error:
            if self._device == CPU:
                raise MergeError("there is not enough memory", tensor=self.task.name) from error
            self.compute.warn(f"tensor '{self.task.name}': out of memory on {self._device}; merging on the processor")
            self._device = CPU
            torch.cuda.empty_cache()
            return _asked(self.task.method, look, self.block(index))
        except ThetaError as error:
            raise error.located(tensor=self.task.name) from error.__cause__

    def block(self, index: int) -> Group:
        """One block, widened and on the device. Raises MergeError for values that are not finite."""
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
            statistics=tuple(self._known(side, begin, end) for side in range(len(task.statistics))),
        )

    @cached_property
    def _alike(self) -> bool:
        """Whether the sides are the same to the bit, and the method would say just that but for rounding."""
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
                mend="`take` the other side, or let them through: nonfinite=propagate",
            )
        unit = self.task.traits.unit
        if unit == "tensor":
            return values.reshape(arithmetic_shape(self.task.spec))
        return values if unit == "element" else values.reshape(-1, self._row)

    def _known(self, side: int, begin: int, end: int) -> dict[str, torch.Tensor]:
        """Statistics of one side: the same run of those that have the tensor's shape, others whole."""
        found = {}
        for kind, operand in self.task.statistics[side].items():
            label = f"the statistics ({kind}) of {self.task.labels[side]}"
            if operand.spec.shape == self.task.spec.shape:
                found[kind] = self._read(operand, label, begin, end)
            else:
                whole = operand.read(0, arithmetic_elements(operand.spec)).to(self._device, torch.float64)
                found[kind] = whole.reshape(operand.spec.shape)
        return found

    def result(self, group: Group) -> torch.Tensor:
        """What the method makes of a block, rounded. Raises MergeError if that is no block of the tensor."""
        merged, name = self.task.method.merge(group), self.task.method.name
        expected = group.sides[0]
        if not isinstance(merged, torch.Tensor) or merged.shape != expected.shape or merged.dtype != expected.dtype:
            given = f"{merged.dtype} {list(merged.shape)}" if isinstance(merged, torch.Tensor) else type(merged)
            raise MergeError(f"{name} gave {given}, not {expected.dtype} {list(expected.shape)}", tensor=group.name)
        if not self.task.propagate:
            self._check_range(merged)
        return (group.sides[0] if self._alike else merged).reshape(-1).to(self._narrow)

    def _check_range(self, merged: torch.Tensor) -> None:
        if not merged.numel():
            return
        ends = torch.stack(torch.aminmax(merged))
        if not all_finite(ends.to(self._narrow)):
            raise MergeError(
                f"{self.task.method.name} gives values that {self.task.spec.dtype.name} cannot hold "
                f"({ends[0].item():.4g} to {ends[1].item():.4g})",
                tensor=self.task.name,
                mend="give smaller weights or a smaller lambda, or let them through: nonfinite=propagate",
            )


class ModelBlocks:
    """Several tensors, one after the other, block by block."""

    def __init__(self, tensors: Sequence[TensorBlocks]) -> None:
        self._tensors = tensors
        self._ends = list(accumulate(tensor.count for tensor in tensors))
        self.elements = sum(tensor.elements for tensor in tensors)

    def map(self, look: Callable[[Group], Result]) -> Iterator[Result]:
        """Look at each block of each tensor."""
        jobs = (job for tensor in self._tensors for job in tensor.jobs(look))
        return self._tensors[0].compute.each(jobs)

    def block(self, index: int) -> Group:
        """One block again."""
        tensor = bisect_right(self._ends, index)
        return self._tensors[tensor].block(index - (self._ends[tensor - 1] if tensor else 0))


def all_finite(values: torch.Tensor) -> bool:
    """Whether there is no NaN and no infinity."""
    if not values.numel():
        return True
    low, high = torch.aminmax(values.to(torch.float32) if values.element_size() < 2 else values)
    return math.isfinite(low.item()) and math.isfinite(high.item())
