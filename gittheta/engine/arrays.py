"""Convert between the bytes of a tensor and the torch tensors with which methods compute."""

from __future__ import annotations

import warnings
from math import prod

import torch

from gittheta.api import DTYPES, Dtype, TensorSpec

# Blocks of stored tensors are read-only. torch warns of that, but nothing here writes to them.
warnings.filterwarnings("ignore", message="The given buffer is not writable")

#: By the name of a dtype: torch's dtype for its real numbers. A complex number is two of them.
TORCH: dict[str, torch.dtype] = {
    dtype.name: torch.float32 if dtype.kind == "complex" else getattr(torch, dtype.torch or "")
    for dtype in DTYPES.values()
    if dtype.arithmetic or dtype.kind == "complex"
}


def accumulated_in(dtype: Dtype) -> torch.dtype:
    """The dtype for accumulation: float64 for dtypes of 32 bits and more, float32 for all others.

    Sums of float32 values may cancel, and float32 would then lose more than the last places of the result.
    """
    return torch.float64 if TORCH[dtype.name] in (torch.float32, torch.float64) else torch.float32


def flat_values(data: memoryview, dtype: Dtype) -> torch.Tensor:
    """The real numbers in these bytes, one-dimensional, in torch's dtype for ``dtype``.

    Shares the memory of ``data``, and must not be written to.
    """
    if not data.nbytes:
        return torch.empty(0, dtype=TORCH[dtype.name])
    return torch.frombuffer(data, dtype=TORCH[dtype.name])


def raw_bytes(values: torch.Tensor) -> memoryview:
    """The bytes of a tensor, copied to the CPU, little-endian, row-major."""
    return memoryview(values.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy())


def arithmetic_shape(spec: TensorSpec) -> tuple[int, ...]:
    """The shape of a tensor's real numbers: a complex tensor has one more dimension, of length two."""
    return (*spec.shape, 2) if spec.dtype.kind == "complex" else spec.shape


def arithmetic_elements(spec: TensorSpec) -> int:
    """The number of real numbers in a tensor; a complex number has two."""
    return prod(arithmetic_shape(spec))
