"""Generated checkpoints: safetensors files of Gaussian weights, the same bytes from the same seed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

SEED = 20240229
HIDDEN = 1024
FEED_FORWARD = 4096
VOCABULARY = 32_000
DEVIATION = 0.02
_CHUNK = 1 << 22

Shapes = dict[str, tuple[int, ...]]
Words = npt.NDArray[np.unsignedinteger[Any]]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Dtype:
    """Floats as they lie in the file, each in one word; ``name`` as the header has it."""

    name: str
    word: type[np.unsignedinteger[Any]]

    def values(self, words: Words) -> Floats:
        """What the words mean."""
        wide = words.astype(np.uint32) << np.uint32(16) if self.word is np.uint16 else words
        return wide.view(np.float32)

    def words(self, values: Floats) -> Words:
        """Values rounded to the nearest, ties to even."""
        bits = values.view(np.uint32)
        if self.word is np.uint32:
            return bits
        half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        return ((bits + half) >> np.uint32(16)).astype(np.uint16)


BF16 = Dtype("BF16", np.uint16)
F32 = Dtype("F32", np.uint32)


def decoder_shapes(size: int) -> Shapes:
    """The tensors of a decoder of about so many bytes: an embedding, then as many layers as fit."""
    vocabulary = min(VOCABULARY, size // (16 * 2 * HIDDEN))
    layer = 2 * sum(map(prod, layer_shapes("").values()))
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, HIDDEN)}
    for index in range(max(1, round((size - 2 * vocabulary * HIDDEN) / layer))):
        shapes |= layer_shapes(f"model.layers.{index}.")
    return shapes


def layer_shapes(prefix: str, feed_forward: int = FEED_FORWARD) -> Shapes:
    """The tensors of one layer."""
    return {
        **{f"{prefix}self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"},
        f"{prefix}mlp.gate_proj.weight": (feed_forward, HIDDEN),
        f"{prefix}mlp.up_proj.weight": (feed_forward, HIDDEN),
        f"{prefix}mlp.down_proj.weight": (HIDDEN, feed_forward),
        f"{prefix}input_layernorm.weight": (HIDDEN,),
        f"{prefix}post_attention_layernorm.weight": (HIDDEN,),
    }


def one_tensor(size: int) -> Shapes:
    """A single tensor of so many bytes."""
    return {"embedding.weight": (size // (2 * HIDDEN), HIDDEN)}


def write_model(path: Path, shapes: Shapes, dtype: Dtype = BF16) -> None:
    """Write a checkpoint with these tensors, a few MiB at a time."""
    random = np.random.default_rng(SEED)
    with open(path, "wb") as file:
        file.write(header(shapes, dtype))
        for name, shape in shapes.items():
            for part in chunks(prod(shape)):
                values = random.standard_normal(part.stop - part.start, np.float32)
                values *= np.float32(DEVIATION)
                if "norm" in name:
                    values += np.float32(1)
                file.write(dtype.words(values).data)


def header(shapes: Shapes, dtype: Dtype) -> bytes:
    """How a checkpoint with these tensors begins."""
    entries = {}
    at = 0
    for name, shape in shapes.items():
        end = at + np.dtype(dtype.word).itemsize * prod(shape)
        entries[name] = {"dtype": dtype.name, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_header(file: BinaryIO) -> tuple[Shapes, Dtype]:
    """What such a checkpoint holds; the file then stands at its first tensor."""
    entries = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    dtypes = {dtype.name: dtype for dtype in (BF16, F32)}
    (dtype,) = {dtypes[entry["dtype"]] for entry in entries.values()}
    return {name: tuple(entry["shape"]) for name, entry in entries.items()}, dtype


def chunks(elements: int) -> Iterator[slice]:
    """So many elements, a few MiB at a time."""
    for at in range(0, elements, _CHUNK):
        yield slice(at, min(at + _CHUNK, elements))
