"""What belongs together in a model: which axes of which tensors count the same units.

A specification is entries, separated by semicolons or line ends, each ``NAME: AXIS AXIS ...``: a tensor, and for each
of its axes the permutation that may be applied to it, or ``-`` for none. Axes with the same permutation count the same
units, such as the outputs of one layer and the inputs of the next::

    fc1.weight: P1 -; fc1.bias: P1; fc2.weight: - P1
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice, pairwise

from gittheta.api import MergeError

#: For each tensor, the permutation of each axis.
Axes = Mapping[str, tuple[str | None, ...]]

EXAMPLE = "spec='fc1.weight: P1 -; fc1.bias: P1; fc2.weight: - P1'"
_HINT = f"for instance {EXAMPLE}; `-` is an axis that stays as it is"
_ENTRY = re.compile(r"(?P<name>.*\S)\s*:\s+(?P<axes>(-|\w+)(\s+(-|\w+))*)")
_MAX_STEPS = 10_000


def parse(text: str) -> Axes:
    """The axes that a specification describes. Raises MergeError."""
    axes: dict[str, tuple[str | None, ...]] = {}
    for entry in filter(None, map(str.strip, re.split(r"[;\n]", text))):
        found = _ENTRY.fullmatch(entry)
        if not found:
            raise MergeError(f"'{entry}' in the specification is not NAME: AXIS AXIS ...", hint=_HINT)
        if found["name"] in axes:
            raise MergeError("stands twice in the specification", tensor=found["name"], hint="give its axes once")
        axes[found["name"]] = tuple(None if axis == "-" else axis for axis in found["axes"].split())
    if not axes:
        raise MergeError("the specification names no tensor", hint=_HINT)
    return axes


def written(axes: Axes) -> str:
    """A specification in its one form, on one line."""
    return "; ".join(f"{name}: {' '.join(axis or '-' for axis in permutations)}" for name, permutations in axes.items())


def check(axes: Axes, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises MergeError unless there are such tensors, with these axes, of lengths that fit together."""
    lengths: dict[str, tuple[int, str]] = {}
    for name, permutations in axes.items():
        if name not in shapes:
            raise MergeError(
                "the specification names it, but it is not among the tensors to be merged",
                tensor=name,
                hint=f"they are those that every side changed: {', '.join(shapes)}",
            )
        if len(permutations) != len(shapes[name]):
            raise MergeError(
                f"the specification gives it {len(permutations)} axes, and its shape is {list(shapes[name])}",
                tensor=name,
                hint="give one word for each axis, `-` for those that stay as they are",
            )
        for permutation, length in zip(permutations, shapes[name], strict=True):
            known, where = lengths.setdefault(permutation or "-", (length, name))
            if permutation and length != known:
                raise MergeError(
                    f"{permutation} has {length} units here and {known} in '{where}'",
                    tensor=name,
                    hint="axes with the same permutation must have the same length; correct the specification",
                )


# -- plain chains of linear layers -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A linear layer ``NAME.weight`` of outputs x inputs; with or without a bias."""

    name: str
    outputs: int
    inputs: int

    def precedes(self, other: Layer) -> bool:
        """Whether the two are named alike but for numbers, and this has the lower ones."""
        mine, theirs = (re.split(r"(\d+)", layer.name) for layer in (self, other))
        return mine[::2] == theirs[::2] and [*map(int, mine[1::2])] < [*map(int, theirs[1::2])]


def chain(shapes: Mapping[str, tuple[int, ...]]) -> Axes:
    """The specification of linear layers that are applied one after the other, with functions of single units between.

    Raises MergeError if there is anything else, or more than one order in which the layers can follow each other:
    the outputs of each are the inputs of the next, and of those named alike the lower number comes first.
    """
    layers = [Layer(name.removesuffix(".weight"), *shape) for name, shape in shapes.items() if _is_matrix(name, shape)]
    outputs = {f"{layer.name}.bias": (layer.outputs,) for layer in layers}
    for name, shape in shapes.items():
        if not _is_matrix(name, shape) and outputs.get(name) != shape:
            raise _no_chain(f"{list(shape)} is neither the weight of a linear layer nor its bias", name)
    found = list(islice(_orders(layers, (), count()), 2))
    if len(found) != 1:
        raise _no_chain(f"there is {'more than one' if found else 'no'} order in which the layers fit together")
    axes: dict[str, tuple[str | None, ...]] = {}
    between = [None, *(f"P{number}" for number in range(1, len(layers))), None]
    for layer, (before, after) in zip(found[0], pairwise(between), strict=True):
        axes[f"{layer.name}.weight"] = (after, before)
        if f"{layer.name}.bias" in shapes:
            axes[f"{layer.name}.bias"] = (after,)
    return axes


def _is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    return name.endswith(".weight") and len(shape) == 2


def _orders(rest: list[Layer], before: tuple[Layer, ...], steps: Iterator[int]) -> Iterator[tuple[Layer, ...]]:
    if next(steps) > _MAX_STEPS:
        raise _no_chain("there are too many ways to put the layers in order")
    if not rest:
        yield before
    for layer in rest:
        fits = not before or before[-1].outputs == layer.inputs
        if fits and not any(other.precedes(layer) for other in rest):
            yield from _orders([other for other in rest if other is not layer], (*before, layer), steps)


def _no_chain(what: str, tensor: str | None = None) -> MergeError:
    return MergeError(f"spec=auto: {what}", tensor=tensor, hint=f"write the specification out: {EXAMPLE}")
