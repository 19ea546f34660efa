"""One tensor to merge, and the check whether its method can merge it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import torch

from gittheta.api import Merge, MergeError, TensorSpec, ThetaError, Traits
from gittheta.engine.arrays import TORCH

if TYPE_CHECKING:
    from gittheta.engine.operands import Operand

Result = TypeVar("Result")


Argument = TypeVar("Argument")


@dataclass(frozen=True)
class Task:
    """One tensor to merge: θ0 or None, the θᵢ with their labels and weights, and the method."""

    name: str
    base: Operand | None
    sides: tuple[Operand, ...]
    labels: tuple[str, ...]
    weights: tuple[float, ...]
    method: Merge
    #: For each side its statistics, by kind.
    statistics: tuple[Mapping[str, Operand], ...] = ()
    #: Let NaN and infinities through instead of refusing them.
    propagate: bool = False

    @property
    def spec(self) -> TensorSpec:
        """Dtype and shape of the result."""
        return self.sides[0].spec

    @cached_property
    def traits(self) -> Traits:
        """The traits of the method."""
        return Traits.of(self.method)


def call_method(method: Merge, function: Callable[[Argument], Result], argument: Argument) -> Result:
    """The result of a call into a method. Any error of the method becomes a MergeError: Git must see no traceback."""
    try:
        return function(argument)
    except (ThetaError, OSError, MemoryError, KeyboardInterrupt, torch.OutOfMemoryError):
        raise
    except BaseException as error:  # it may try to end the process
        raise MergeError(
            f"{method.name} fails: {error!r}", hint="give it other options or weights, or choose another method"
        ) from error


def prepared(task: Task) -> Task:
    """The task with its sides sorted by digest and weight, unless their order matters to the method.

    Raises MergeError if the method cannot merge this tensor.
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
        raise MergeError(f"{name} needs a merge base, and there is none", tensor=task.name, hint="try linear")
    if traits.side_count not in (None, len(task.sides)):
        raise MergeError(
            f"{name} takes {traits.side_count} sides, and there are {len(task.sides)}: {', '.join(task.labels)}",
            tensor=task.name,
            hint="merge fewer at once, or choose another method",
        )
    expected = (task.spec.dtype, task.spec.shape)
    for operand, label in zip((task.base, *task.sides), ("the base", *task.labels), strict=True):
        if operand is not None and (operand.spec.dtype, operand.spec.shape) != expected:
            raise MergeError(
                f"{label} has {_kind(operand.spec)}, {task.labels[0]} has {_kind(task.spec)}",
                tensor=task.name,
                hint="bring them to one dtype and shape first, or `take` one side",
            )
    for kind in traits.kinds:
        for side, label in enumerate(task.labels):
            known = task.statistics[side].get(kind) if task.statistics else None
            if known is None:
                raise MergeError(f"{name} needs statistics ({kind}), and {label} has none", tensor=task.name)
            if known.spec.dtype.kind != "float" or known.spec.dtype.name not in TORCH:
                raise MergeError(
                    f"the statistics ({kind}) of {label} are {known.spec.dtype.name}, which cannot be computed with",
                    tensor=task.name,
                    hint=f"collect them again: gittheta.statistics.{kind}",
                )


def _kind(spec: TensorSpec) -> str:
    return f"{spec.dtype.name} {list(spec.shape)}"
