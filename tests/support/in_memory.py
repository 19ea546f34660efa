"""Tensors in memory, as predictors see them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gittheta.api import DTYPES, TensorSpec
from gittheta.numerics.floats import Doubles, from_float64, to_float64


@dataclass
class InMemory:
    """A whole tensor; knows which ranges were read."""

    spec: TensorSpec
    data: memoryview
    reads: list[tuple[int, int]] = field(default_factory=list)

    def read(self, begin: int, end: int) -> memoryview:
        assert 0 <= begin <= end <= self.spec.nbytes
        assert begin % self.spec.dtype.itemsize == end % self.spec.dtype.itemsize == 0
        self.reads.append((begin, end))
        return self.data[begin:end]

    @property
    def words(self) -> npt.NDArray[np.unsignedinteger]:
        """The elements' bits, in the tensor's shape."""
        return np.frombuffer(self.data, f"<u{self.spec.dtype.itemsize}").reshape(self.spec.shape)


def of_bits(dtype: str, words: npt.NDArray[np.generic]) -> InMemory:
    """A tensor of these bits, or of these values if the array has that very type."""
    spec = TensorSpec("w", DTYPES[dtype], words.shape)
    return InMemory(spec, memoryview(np.ascontiguousarray(words).tobytes()))


def of_values(dtype: str, values: Doubles) -> InMemory:
    """A tensor of these values, rounded."""
    spec = TensorSpec("w", DTYPES[dtype], values.shape)
    return InMemory(spec, memoryview(bytes(from_float64(np.ascontiguousarray(values).ravel(), spec.dtype))))


def values_of(tensor: InMemory) -> Doubles:
    return to_float64(tensor.data, tensor.spec.dtype).reshape(tensor.spec.shape)
