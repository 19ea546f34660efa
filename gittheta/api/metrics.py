"""What a plugin for a metric is: how two versions of a tensor differ, measured block by block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from gittheta.model import TensorSpec


@dataclass(frozen=True)
class BlockPair:
    """The same run of elements of two versions of a tensor, as raw bytes."""

    #: Name, dtype and shape of the whole tensor; both versions have the same dtype and shape.
    spec: TensorSpec
    #: Index of the first element, row-major.
    start: int
    old: memoryview
    new: memoryview

    def values(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Old and new values as float64, one-dimensional; only where ``spec.dtype.arithmetic`` is set."""
        from gittheta.numerics.floats import to_float64

        return to_float64(self.old, self.spec.dtype), to_float64(self.new, self.spec.dtype)


class Metric(Protocol):
    """Measures how two versions of a tensor differ. Safe to use from several threads; never imports torch.

    ``look`` is called for each block, in any order and from several threads; ``conclude`` gets its results in the order
    of the blocks. A result is small, far smaller than a block. How the tensor is cut into blocks changes the numbers by
    rounding errors of float64 at most.
    """

    name: ClassVar[str]
    #: What ``look`` must see at once: any run of elements, or the whole tensor (for matrices of bounded size).
    unit: ClassVar[Literal["element", "tensor"]]

    def applies(self, spec: TensorSpec) -> bool:
        """Whether tensors of this dtype and shape can be measured."""
        ...

    def look(self, pair: BlockPair) -> Any:
        """The measurements of one block, in any form that ``conclude`` understands."""
        ...

    def conclude(self, spec: TensorSpec, parts: Iterable[Any]) -> Mapping[str, float]:
        """The numbers of a tensor, by name; the number with the metric's own name first. NaN where undefined."""
        ...
