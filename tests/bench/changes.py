"""Kinds of training: each makes a new version of a generated checkpoint, the same bytes from the same seed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tests.bench.model import DEVIATION, SEED, Dtype, Floats, Shapes, Words, chunks, header, read_header

RANK = 16
ALPHA = 32
#: Of what a LoRA adds to a matrix.
LORA_DEVIATION = 5e-4
#: Of the factors of (IA)3, around one.
FACTOR_DEVIATION = 0.1
REPLACED = 0.005
STEPPED = 0.012
ROWS = 64

#: A tensor's name, words (which may be changed in place) and dtype, and chance -> its new words.
Edit = Callable[[str, Words, Dtype, np.random.Generator], Words]


@dataclass(frozen=True)
class Change:
    """What happens to the tensors in whose names ``names``, a regular expression, is found."""

    key: str
    what: str
    names: str
    edit: Edit
    #: So many rows the edit appends.
    rows: int = 0

    def touches(self, name: str) -> bool:
        """Whether a tensor is among them."""
        return re.search(self.names, name) is not None

    def shapes(self, before: Shapes) -> Shapes:
        """The shapes of the tensors afterwards."""
        return {
            name: (shape[0] + self.rows, *shape[1:]) if self.touches(name) else shape for name, shape in before.items()
        }


def write_version(path: Path, base: Path, change: Change, seed: int = 0) -> None:
    """Write the checkpoint ``base`` as it is after a change; another seed changes it otherwise."""
    random = _random(seed)
    with open(base, "rb") as before, open(path, "wb") as file:
        shapes, dtype = read_header(before)
        file.write(header(change.shapes(shapes), dtype))
        for name, shape in shapes.items():
            words = np.fromfile(before, dtype.word, int(np.prod(shape))).reshape(shape)
            if change.touches(name):
                words = change.edit(name, words, dtype, random)
            file.write(words.data)


def write_adapter(folder: Path, base: Path, names: str, seed: int = 0) -> int:
    """Write a LoRA for matrices of ``base``, as peft saves one, in their dtype; returns its tensors' bytes."""
    random = _random(seed)
    with open(base, "rb") as file:
        shapes, dtype = read_header(file)
    factors: dict[str, Words] = {}
    for name, shape in shapes.items():
        if re.search(names, name):
            module = f"base_model.model.{name.removesuffix('.weight')}"
            up, down = _factors(shape, random)
            factors |= {f"{module}.lora_A.weight": dtype.words(down), f"{module}.lora_B.weight": dtype.words(up)}
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none", "target_modules": names}
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with open(folder / "adapter_model.safetensors", "wb") as file:
        file.write(header({name: words.shape for name, words in factors.items()}, dtype))
        return sum(file.write(words.data) for words in factors.values())


def _random(seed: int) -> np.random.Generator:
    return np.random.default_rng((SEED, seed + 1))  # a zero would be the model's own chance again


def _factors(shape: tuple[int, ...], random: np.random.Generator) -> tuple[Floats, Floats]:
    """B and A of a LoRA such that alpha / rank * B @ A has the standard deviation ``LORA_DEVIATION``."""
    rows, columns = shape
    down = random.standard_normal((RANK, columns), np.float32) / np.float32(columns**0.5)
    up = random.standard_normal((rows, RANK), np.float32)
    return up * np.float32(LORA_DEVIATION * RANK / ALPHA * (columns / RANK) ** 0.5), down


def _folded(_: str, words: Words, dtype: Dtype, random: np.random.Generator) -> Words:
    up, down = _factors(words.shape, random)
    return dtype.words(dtype.values(words) + np.float32(ALPHA / RANK) * (up @ down))


def _moved(deviation: float) -> Edit:
    def edit(_: str, words: Words, dtype: Dtype, random: np.random.Generator) -> Words:
        flat = words.reshape(-1)
        for part in chunks(flat.size):
            noise = random.standard_normal(part.stop - part.start, np.float32)
            noise *= np.float32(deviation)
            noise += dtype.values(flat[part])
            flat[part] = dtype.words(noise)
        return words

    return edit


def _scaled(name: str, words: Words, dtype: Dtype, random: np.random.Generator) -> Words:
    rows, columns = words.shape
    factors = random.standard_normal((1, columns) if "down_proj" in name else (rows, 1), np.float32)
    return dtype.words(dtype.values(words) * (1 + np.float32(FACTOR_DEVIATION) * factors))


def _replaced(_: str, words: Words, dtype: Dtype, random: np.random.Generator) -> Words:
    flat = words.reshape(-1)
    chosen = _some(flat.size, REPLACED, random)
    flat[chosen] = dtype.words(np.float32(DEVIATION) * random.standard_normal(chosen.size, np.float32))
    return words


def _stepped(_: str, words: Words, dtype: Dtype, random: np.random.Generator) -> Words:
    flat = words.reshape(-1)
    chosen = _some(flat.size, STEPPED, random)
    old = flat[chosen]
    down = (random.random(chosen.size) < 0.5) & (dtype.values(old) != 0)  # below zero, the words begin anew
    flat[chosen] = np.where(down, old - 1, old + 1)
    return words


def _some(elements: int, share: float, random: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return random.choice(elements, round(share * elements), replace=False, shuffle=False)


def _appended(_: str, words: Words, dtype: Dtype, random: np.random.Generator) -> Words:
    rows = np.float32(DEVIATION) * random.standard_normal((ROWS, words.shape[1]), np.float32)
    return np.concatenate([words, dtype.words(rows)])


def _trimmed(_: str, words: Words, dtype: Dtype, random: np.random.Generator) -> Words:
    return np.delete(words, random.choice(len(words), ROWS, replace=False), axis=0)


def fine_tune(deviation: float) -> Change:
    """Every weight moves, by Gaussian steps."""
    return Change("fine-tune", "full fine-tune", "", _moved(deviation))


_MATRICES = "_proj|embed"
FINE_TUNE = fine_tune(0.01 * DEVIATION)
LORA = Change("lora", "rank-16 LoRA folded in, nothing told", "self_attn", _folded)
#: As in most adapters, two matrices of each layer.
LORA_OF_TWO = replace(LORA, what="rank-16 LoRA folded into q and v, nothing told", names="[qv]_proj")
IA3 = Change("ia3", "(IA)3 folded in", "[kv]_proj|down_proj", _scaled)
ELEMENTS = Change("elements", "0.5 % of the elements changed", _MATRICES, _replaced)
REINFORCED = Change("rl", "reinforcement-learning step", _MATRICES, _stepped)
APPENDED = Change("appended", "rows appended to the embedding", "embed", _appended, ROWS)
TRIMMED = Change("trimmed", "rows trimmed from the embedding", "embed", _trimmed, -ROWS)
