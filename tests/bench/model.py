"""Generated checkpoints: safetensors files of Gaussian bf16 weights, the same bytes from the same seed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

SEED = 20240229
HIDDEN = 1024
FEED_FORWARD = 4096
VOCABULARY = 32_000
DEVIATION = 0.02
#: A fine-tune moves every weight, most of them by a few units in the last place.
STEP = 0.0005
_CHUNK = 1 << 22

Shapes = dict[str, tuple[int, ...]]


def decoder_shapes(size: int) -> Shapes:
    """The tensors of a decoder of about so many bytes: an embedding, then as many layers as fit."""
    vocabulary = min(VOCABULARY, size // (16 * 2 * HIDDEN))
    layer = 2 * sum(map(prod, _layer_shapes("").values()))
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, HIDDEN)}
    for index in range(max(1, round((size - 2 * vocabulary * HIDDEN) / layer))):
        shapes |= _layer_shapes(f"model.layers.{index}.")
    return shapes


def _layer_shapes(prefix: str) -> Shapes:
    return {
        **{f"{prefix}self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"},
        f"{prefix}mlp.gate_proj.weight": (FEED_FORWARD, HIDDEN),
        f"{prefix}mlp.up_proj.weight": (FEED_FORWARD, HIDDEN),
        f"{prefix}mlp.down_proj.weight": (HIDDEN, FEED_FORWARD),
        f"{prefix}input_layernorm.weight": (HIDDEN,),
        f"{prefix}post_attention_layernorm.weight": (HIDDEN,),
    }


def one_tensor(size: int) -> Shapes:
    """A single tensor of so many bytes."""
    return {"embedding.weight": (size // (2 * HIDDEN), HIDDEN)}


def write_model(path: Path, shapes: Shapes) -> None:
    """Write a checkpoint with these tensors, a few MiB at a time."""
    random = np.random.default_rng(SEED)
    with open(path, "wb") as file:
        file.write(_header(shapes))
        for name, shape in shapes.items():
            for count in _chunks(prod(shape)):
                values = random.standard_normal(count, np.float32)
                values *= np.float32(DEVIATION)
                if "norm" in name:
                    values += np.float32(1)
                file.write(_bf16(values).data)


def write_fine_tune(path: Path, base: Path, shapes: Shapes, seed: int) -> None:
    """Write ``base`` with every weight moved a little; another seed moves them elsewhere."""
    random = np.random.default_rng(SEED + seed)
    header = _header(shapes)
    with open(base, "rb") as before, open(path, "wb") as file:
        file.write(before.read(len(header)))
        for count in _chunks(sum(map(prod, shapes.values()))):
            old = np.frombuffer(before.read(2 * count), np.uint16)
            values = (old.astype(np.uint32) << np.uint32(16)).view(np.float32)
            values += np.float32(STEP) * random.standard_normal(count, np.float32)
            file.write(_bf16(values).data)


def _header(shapes: Shapes) -> bytes:
    entries = {}
    at = 0
    for name, shape in shapes.items():
        end = at + 2 * prod(shape)
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _chunks(elements: int) -> Iterator[int]:
    for at in range(0, elements, _CHUNK):
        yield min(_CHUNK, elements - at)


def _bf16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Rounded to the nearest, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
