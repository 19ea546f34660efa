"""Runs a merge method over tensors: in blocks, on a device, several blocks at once, the same bits however that is done.

A method sees values in the dtype in which one accumulates and returns the same; here they are widened, checked and
rounded once. Where blocks begin follows from the tensor alone, and so does the order of whatever is summed up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch

from gittheta.api import ThetaError
from gittheta.engine.blocks import ModelBlocks, TensorBlocks
from gittheta.engine.device import Compute
from gittheta.engine.task import Task, asked, prepared

Result = TypeVar("Result")


def merge_tensor(task: Task, compute: Compute, measured: Any = None) -> Iterator[torch.Tensor]:
    """The merged tensor in runs, flat and in its own dtype.

    ``measured`` is what :func:`measure_all` gave, for methods of global scope. Raises MergeError.
    """
    blocks = TensorBlocks(prepared(task), compute)
    measure = getattr(task.method, "measure", None)
    if measured is None and measure:
        try:
            measured = asked(task.method, measure, blocks)
        except ThetaError as error:
            raise error.located(tensor=task.name) from error.__cause__
    return blocks.map(lambda group: blocks.result(replace(group, measured=measured)))


def measure_all(tasks: Sequence[Task], compute: Compute) -> Any:
    """What a method of global scope wants to know of all tensors that it merges."""
    method: Any = tasks[0].method
    by_name = sorted(tasks, key=lambda task: task.name)
    blocks = ModelBlocks([TensorBlocks(prepared(task), compute) for task in by_name])
    return asked(method, method.measure, blocks)
