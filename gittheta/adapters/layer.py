"""One layer that an adapter changes, and the kinds of change to its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gittheta.adapters.config import MERGE_IT, AdapterConfig
from gittheta.errors import AdapterError

if TYPE_CHECKING:
    from gittheta.adapters.file import AdapterFile
    from gittheta.api import TensorReader
    from gittheta.encodings.lowrank.predictor import WeightChange
    from gittheta.model import TensorSpec

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Factors:
    """(IA)3: each row (axis 0) or column (axis 1) of a weight is multiplied by its factor; ``values`` has one each."""

    values: npt.NDArray[np.float32]
    axis: int


@dataclass(frozen=True)
class Replacement:
    """A tensor that was trained as a whole (``modules_to_save``, ``bias``), already in the checkpoint's dtype."""

    values: TensorReader


@dataclass(frozen=True)
class InMemory:
    """A small tensor whose bytes are in memory. Safe to use from several threads."""

    spec: TensorSpec
    data: memoryview

    def read(self, begin: int, end: int) -> memoryview:
        """The raw bytes from offset ``begin`` to ``end``."""
        return self.data[begin:end]


@dataclass(frozen=True)
class Fold:
    """What an adapter does to one tensor of the checkpoint."""

    change: WeightChange | Factors | Replacement


#: By the name of a tensor of the checkpoint: a function that reads the factors. Raises AdapterError.
Folds = dict[str, Callable[[], Fold]]


@dataclass(frozen=True)
class Layer:
    """A module that the adapter changes: its weight and bias in the checkpoint, its parts in the adapter's file."""

    module: str
    #: By the name of a part, such as ``lora_A.weight``: the name of its tensor in the adapter's file.
    parts: Mapping[str, str]
    weight: TensorSpec
    bias: TensorSpec | None
    file: AdapterFile
    config: AdapterConfig
    base_of: Callable[[TensorSpec], TensorReader]
    #: Whether square weights have the shape (inputs, outputs); None if unknown.
    squares_transposed: bool | None = None

    @property
    def rows(self) -> int:
        """Rows of the weight, seen as a matrix."""
        return self.weight.shape[0]

    @property
    def columns(self) -> int:
        """Columns of the weight, seen as a matrix."""
        return prod(self.weight.shape[1:])

    def shape(self, part: str) -> tuple[int, ...]:
        """The shape of a part's tensor in the adapter's file."""
        return self.file.spec(self.parts[part]).shape

    def array(self, part: str) -> Floats:
        """The values of a part, in its shape: float32 or float64. Raises AdapterError."""
        return self.file.array(self.parts[part])

    def needs(self, *parts: str) -> None:
        """Raise AdapterError unless the layer has exactly these parts."""
        for part in parts:
            if part not in self.parts:
                present = next(iter(self.parts.values()))
                raise self.file.wrong(present, f"needs '{self.module}.{part}' beside it, which is missing")
        for part, name in self.parts.items():
            if part not in parts:
                raise self.file.wrong(name, f"does not belong in this {self.config.kind} adapter, by its configuration")

    def expect(self, part: str, shape: tuple[int, ...]) -> None:
        """Raise AdapterError unless a part has this shape."""
        if self.shape(part) != shape:
            raise self.misfit(part, shape)

    def expect_bias(self, part: str, outputs: int) -> TensorSpec:
        """The bias of the layer. Raises AdapterError if there is none, or if its shape does not fit the part."""
        if self.bias is None or self.bias.shape != (outputs,) or prod(self.shape(part)) != outputs:
            raise self.misfit(part)
        return self.bias

    def misfit(self, part: str, shape: tuple[int, ...] | None = None) -> AdapterError:
        """The error for a part of the wrong shape; ``shape`` is the right one, if known."""
        right = f"; {shape_text(shape)} would" if shape else ""
        return self.file.wrong(
            self.parts[part],
            f"is {shape_text(self.shape(part))}, which does not fit "
            f"'{self.weight.name}' of {shape_text(self.weight.shape)}{right}",
            f"is this the checkpoint that the adapter was trained on? if so, its {self.config.path.name} is wrong",
        )

    @property
    def stands_transposed(self) -> bool | None:
        """Whether the weight has the shape (inputs, outputs), judged by shapes alone; None if they do not decide."""
        if len(self.weight.shape) != 2:
            return False
        if self.rows == self.columns:
            return None
        for part in ("lora_A.weight", "lora_A"):
            if part in self.parts:
                return self.shape(part)[-1:] == (self.rows,)
        if "ia3_l" in self.parts:
            return self.config.is_feedforward(self.module) == (prod(self.shape("ia3_l")) == self.rows)
        return None

    @property
    def transposed(self) -> bool:
        """Whether the weight has the shape (inputs, outputs): by its shape, or if square by ``fan_in_fan_out``.

        Raises AdapterError if neither decides.
        """
        transposed = self.stands_transposed
        transposed = self.squares_transposed if transposed is None else transposed
        if transposed is None:
            raise AdapterError(
                f"field 'fan_in_fan_out' does not say which dimension of the square weight of '{self.module}' is the "
                "input, because the weights of other layers contradict it",
                path=str(self.config.path),
                hint=MERGE_IT,
            )
        return transposed


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape as text for messages: ``4096x1024``."""
    return "x".join(map(str, shape)) or "a scalar"
