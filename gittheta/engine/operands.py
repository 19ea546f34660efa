"""What is merged: tensors that lie somewhere, read in runs and widened to the dtype in which one accumulates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch

from gittheta.api import Digest, TensorReader, TensorSpec
from gittheta.engine.arrays import arithmetic_elements, flat_values, raw_bytes
from gittheta.model import RunningDigest


class Operand(Protocol):
    """One version of a tensor."""

    @property
    def spec(self) -> TensorSpec:
        """Dtype and shape."""
        ...

    def read(self, begin: int, end: int) -> torch.Tensor:
        """Real numbers from index ``begin`` to ``end``, flat, in the tensor's own dtype, wherever they lie."""
        ...

    def digest(self) -> Digest:
        """BLAKE3-256 of all its bytes."""
        ...


@dataclass(frozen=True)
class StoredOperand:
    """A tensor whose bytes can be read by ranges."""

    values: TensorReader
    known_digest: Digest

    @property
    def spec(self) -> TensorSpec:
        """Dtype and shape."""
        return self.values.spec

    def read(self, begin: int, end: int) -> torch.Tensor:
        """A run of it."""
        size = self.spec.nbytes // max(1, arithmetic_elements(self.spec))
        return flat_values(self.values.read(begin * size, end * size), self.spec.dtype)

    def digest(self) -> Digest:
        """Known from the manifest."""
        return self.known_digest


@dataclass(frozen=True)
class ResidentOperand:
    """A tensor in memory, of any device."""

    spec: TensorSpec
    tensor: torch.Tensor

    def read(self, begin: int, end: int) -> torch.Tensor:
        """A run of it."""
        values = self.tensor.detach().reshape(-1)
        return (torch.view_as_real(values).reshape(-1) if values.is_complex() else values)[begin:end]

    def digest(self) -> Digest:
        """Of its bytes, on the CPU."""
        return self._digest

    @cached_property
    def _digest(self) -> Digest:
        digest = RunningDigest(parallel=True)
        digest.update(raw_bytes(self.tensor))
        return digest.digest()
