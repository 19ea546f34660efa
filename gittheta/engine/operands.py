"""The tensors that a merge reads, in runs, wherever they lie."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import torch

from gittheta.engine.arrays import arithmetic_elements, flat_values, raw_bytes
from gittheta.model import RunningDigest

if TYPE_CHECKING:
    from gittheta.api import Digest, TensorReader, TensorSpec


class Operand(Protocol):
    """One version of a tensor. Safe to use from several threads."""

    @property
    def spec(self) -> TensorSpec:
        """Dtype and shape."""
        ...

    def read(self, begin: int, end: int) -> torch.Tensor:
        """The real numbers from index ``begin`` to ``end``: flat, in the tensor's own dtype, on any device."""
        ...

    def digest(self) -> Digest:
        """BLAKE3-256 of the tensor's bytes."""
        ...


@dataclass(frozen=True)
class StoredOperand:
    """A tensor whose bytes can be read by ranges, and whose digest is known."""

    values: TensorReader
    known_digest: Digest

    @property
    def spec(self) -> TensorSpec:
        """Dtype and shape."""
        return self.values.spec

    def read(self, begin: int, end: int) -> torch.Tensor:
        """The real numbers from index ``begin`` to ``end``: flat, in the tensor's own dtype, on the CPU."""
        size = self.spec.nbytes // max(1, arithmetic_elements(self.spec))
        return flat_values(self.values.read(begin * size, end * size), self.spec.dtype)

    def digest(self) -> Digest:
        """The digest, as known from the manifest."""
        return self.known_digest


@dataclass(frozen=True)
class ResidentOperand:
    """A tensor in the memory of any device."""

    spec: TensorSpec
    tensor: torch.Tensor

    def read(self, begin: int, end: int) -> torch.Tensor:
        """The real numbers from index ``begin`` to ``end``: flat, in the tensor's own dtype and on its device."""
        values = self.tensor.detach().reshape(-1)
        return (torch.view_as_real(values).reshape(-1) if values.is_complex() else values)[begin:end]

    def digest(self) -> Digest:
        """BLAKE3-256 of the tensor's bytes, computed once, on the CPU."""
        return self._digest

    @cached_property
    def _digest(self) -> Digest:
        digest = RunningDigest(parallel=True)
        digest.update(raw_bytes(self.tensor))
        return digest.digest()
