"""Run a merge method over tensors in blocks, several at a time. The result has the same bits for any number of threads.

A method gets and returns values in the dtype for accumulation; the engine converts and checks them, and rounds the
result once. Where blocks begin, and the order in which anything is summed, follow from the tensor alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from gittheta.api import ThetaError
from gittheta.engine.blocks import ModelBlocks, TensorBlocks
from gittheta.engine.task import Task, call_method, prepared

if TYPE_CHECKING:
    import torch

    from gittheta.engine.device import Compute

Result = TypeVar("Result")


def merge_tensor(task: Task, compute: Compute, measured: Any = None) -> Iterator[torch.Tensor]:
    """The merged tensor in runs: flat, in its own dtype, on the device of the merge.

    ``measured`` is the result of :func:`measure_all`, for methods of global scope. Raises MergeError.
    """
    blocks = TensorBlocks(prepared(task), compute)
    measure = getattr(task.method, "measure", None)
    if measured is None and measure:
        try:
            measured = call_method(task.method, measure, blocks)
        except ThetaError as error:
            raise error.located(tensor=task.name) from error.__cause__
    return blocks.map(lambda group: blocks.result(replace(group, measured=measured)))


def measure_all(tasks: Sequence[Task], compute: Compute) -> Any:
    """What a method of global scope measures over all tensors that it merges. Raises MergeError."""
    method: Any = tasks[0].method
    by_name = sorted(tasks, key=lambda task: task.name)
    blocks = ModelBlocks([TensorBlocks(prepared(task), compute) for task in by_name])
    return call_method(method, method.measure, blocks)
