"""Small adapters in the files of the peft library."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from gittheta.adapters.layer import InMemory
from gittheta.adapters.read import Adapter, Fold, read_adapter
from gittheta.api import DTYPES, TensorSpec
from gittheta.encodings.lowrank.factors import WeightChange
from gittheta.errors import AdapterError
from gittheta.registry import Registry
from tests.support.safetensors_file import safetensors

Arrays = Mapping[str, np.ndarray]

LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
Q = "base_model.model.model.q"
RNG = np.random.default_rng(0)


def values(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def lora(module: str = Q, *, inputs: int = 4, outputs: int = 6, rank: int = 2) -> dict[str, np.ndarray]:
    return {f"{module}.lora_A.weight": values(rank, inputs), f"{module}.lora_B.weight": values(outputs, rank)}


def file_of(tensors: Arrays) -> bytes:
    kinds = {"float32": "F32", "float16": "F16", "float64": "F64", "int8": "I8", "uint16": "BF16"}
    return safetensors([(name, kinds[str(a.dtype)], a.shape, a.tobytes()) for name, a in tensors.items()])


def save(folder: Path, config: object, tensors: Arrays) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(file_of(tensors))
    return folder


def specs(shapes: Mapping[str, Sequence[int]], dtype: str = "f32") -> list[TensorSpec]:
    return [TensorSpec(name, DTYPES[dtype], tuple(shape)) for name, shape in shapes.items()]


def zeros(spec: TensorSpec) -> InMemory:
    return InMemory(spec, memoryview(bytes(spec.nbytes)))


def read(folder: Path, shapes: Mapping[str, Sequence[int]] | None = None, dtype: str = "f32") -> Adapter:
    return read_adapter(folder, specs(shapes or {"model.q.weight": (6, 4)}, dtype), zeros, Registry())


def refused(folder: Path, shapes: Mapping[str, Sequence[int]] | None = None, dtype: str = "f32") -> str:
    with pytest.raises(AdapterError) as caught:
        dict(read(folder, shapes, dtype))
    assert str(folder) in str(caught.value)
    assert caught.value.exit_code == 14
    return str(caught.value)


def product_of(folded: Fold) -> np.ndarray:
    assert isinstance(folded.change, WeightChange)
    assert folded.change.first.right is not None
    return folded.change.first.left @ folded.change.first.right
