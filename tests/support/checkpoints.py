"""Hand-made safetensors files: every byte is the test's own, so that nothing in the library under test is trusted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

#: Every dtype that safetensors knows, and its bits.
BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
}
_NUMPY = {"float16": "F16", "float32": "F32", "float64": "F64", "bool": "BOOL", "uint8": "U8", "int8": "I8"}
_NUMPY |= {"int16": "I16", "uint16": "U16", "int32": "I32", "uint32": "U32", "int64": "I64", "uint64": "U64"}

#: dtype, shape, bytes.
Raw = tuple[str, Sequence[int], bytes]
Tensors = Mapping[str, "np.ndarray | Raw"]


def raw(value: np.ndarray | Raw) -> Raw:
    """A tensor as dtype, shape and bytes."""
    if isinstance(value, tuple):
        return value
    return _NUMPY[value.dtype.name], value.shape, np.ascontiguousarray(value).tobytes()


def checkpoint(
    tensors: Tensors,
    metadata: Mapping[str, str] | None = None,
    *,
    header_order: Sequence[str] | None = None,
    padding: bytes = b"",
    indent: int | None = None,
) -> bytes:
    """A safetensors file; data lies in the order of ``tensors``, the header may name it in another."""
    entries, data = {}, b""
    for name, value in tensors.items():
        dtype, shape, content = raw(value)
        offsets = [len(data), len(data) + len(content)]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        data += content
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata is not None else {}
    header |= {name: entries[name] for name in header_order or entries}
    return framed(json.dumps(header, indent=indent).encode() + padding, data)


def framed(header: bytes, data: bytes) -> bytes:
    """Header length, header, data; nothing is checked."""
    return len(header).to_bytes(8, "little") + header + data


def tensors_of(content: bytes) -> dict[str, Raw]:
    """What a safetensors file holds."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    data = content[8 + length :]
    return {
        name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def metadata_of(content: bytes) -> dict[str, str]:
    """The ``__metadata__`` of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    result: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return result


def normal(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    """Float32 values that look like weights."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def noise(seed: int, size: int) -> bytes:
    """Any bytes."""
    return np.random.default_rng(seed).bytes(size)


def bf16(values: np.ndarray) -> Raw:
    """Float32 rounded to bfloat16, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return "BF16", values.shape, rounded.astype(np.uint16).tobytes()


def from_bf16(content: bytes) -> np.ndarray:
    """The values of bfloat16 bytes, flat."""
    return (np.frombuffer(content, np.uint16).astype(np.uint32) << 16).view(np.float32)


def sha256(content: bytes) -> str:
    """Of some bytes."""
    return hashlib.sha256(content).hexdigest()


def model(seed: int = 0, **changed: np.ndarray | Raw) -> bytes:
    """A small model of four tensors; keywords replace some of them, or add others."""
    tensors: dict[str, np.ndarray | Raw] = {
        "embed": normal(seed, 32, 8),
        "layer.0": normal(seed + 1, 16, 16),
        "layer.1": bf16(normal(seed + 2, 16, 16)),
        "step": np.array(seed, np.int64),
    }
    return checkpoint(tensors | {name.replace("__", "."): value for name, value in changed.items()})
