"""Versions of a model of one tensor: made, committed, and how they are stored."""

from __future__ import annotations

import numpy as np

from gittheta.model import Recipe
from gittheta.storage.manifest import parse_manifest
from tests.support.command import git
from tests.support.repository import Repo
from tests.support.safetensors_file import safetensors

SHAPE = (100, 100)
#: More than is looked at before a choice.
LARGER = (300, 100)


def weights(seed: int, shape: tuple[int, ...] = SHAPE, scale: float = 0.02) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def bf16(values: np.ndarray) -> bytes:
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()


def file_of(values: np.ndarray, name: str = "w") -> bytes:
    return safetensors([(name, "BF16", values.shape, bf16(values))])


def few(values: np.ndarray, seed: int, count: int = 20) -> np.ndarray:
    """A few elements are others."""
    changed = values.copy()
    rng = np.random.default_rng(seed)
    changed.flat[rng.choice(values.size, count, replace=False)] += rng.standard_normal(count).astype(np.float32)
    return changed


def commit(repo: Repo, data: bytes, path: str = "m.safetensors", look: bool = True) -> Recipe:
    """Add and commit; how the first tensor is stored."""
    text = repo.add(data, path)
    git(repo.top, "commit", "-q", "-m", "version")
    if look:
        assert repo.smudge(text, path) == data
        assert repo.clean(data, path) == text
        assert not repo.temporaries()
    return parse_manifest(text).stanzas[0].recipe


def sevenfold(data: bytes) -> bytes:
    """Far from what it was, but for the predictor below."""
    return (np.frombuffer(data, np.uint8) * np.uint8(7)).tobytes()


def names(recipe: Recipe) -> list[str]:
    return [link.encoding for link in recipe]


def size(recipe: Recipe) -> int:
    return sum(place.length for link in recipe for place in link.places)


def setting(repo: Repo, text: str) -> None:
    git(repo.top, "config", "theta.encodings", text)
