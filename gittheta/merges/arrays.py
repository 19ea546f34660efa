"""Between raw bytes and torch tensors."""

from __future__ import annotations

import torch

from gittheta.api import Tensor, TensorSpec

#: How the bytes of each dtype are seen for arithmetic: flat, complex numbers as pairs.
_TORCH: dict[str, torch.dtype] = {
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f32": torch.float32,
    "f64": torch.float64,
    "c64": torch.float32,
    "f8_e4m3": torch.float8_e4m3fn,
    "f8_e5m2": torch.float8_e5m2,
    "f8_e4m3fnuz": torch.float8_e4m3fnuz,
    "f8_e5m2fnuz": torch.float8_e5m2fnuz,
}


def to_torch(tensor: Tensor) -> torch.Tensor:
    """A flat torch tensor over the same memory."""
    return torch.frombuffer(tensor.data, dtype=_TORCH[tensor.spec.dtype.name])


def from_torch(values: torch.Tensor, spec: TensorSpec) -> Tensor:
    """The bytes of a torch tensor, on the CPU."""
    flat = values.detach().to("cpu").contiguous().view(torch.uint8).numpy()
    return Tensor(spec, memoryview(flat))
