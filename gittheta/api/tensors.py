"""How plugins read whole tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gittheta.model import TensorSpec


class TensorReader(Protocol):
    """A whole tensor that is read in parts, because it may be larger than memory. Safe to use from several threads."""

    @property
    def spec(self) -> TensorSpec:
        """Dtype and shape."""
        ...

    def read(self, begin: int, end: int) -> memoryview:
        """The raw bytes from offset ``begin`` to ``end``, row-major; cheapest in blocks of 2^20 elements."""
        ...
