"""Changes to weights, and what they cost in a repository."""

from __future__ import annotations

import json
import re
from collections.abc import Set

import numpy as np

from tests.support.checkpoints import Raw, bf16, from_bf16, normal
from tests.support.world import Repo, World

M = "m.safetensors"
SIDE = 1024
Tensor = np.ndarray | Raw


def weights(seed: int, *shape: int) -> np.ndarray:
    """Of a model of hidden size 1024."""
    return normal(seed, *(shape or (SIDE, SIDE)), scale=0.02)


def values_in(tensor: Raw) -> np.ndarray:
    """The values that a tensor holds after rounding."""
    result = from_bf16(tensor[2]) if tensor[0] == "BF16" else np.frombuffer(tensor[2], np.float32)
    return result.reshape(tensor[1])


def few(values: np.ndarray, seed: int, share: float = 0.005) -> np.ndarray:
    changed: np.ndarray = values.copy()
    rng = np.random.default_rng(seed)
    at = rng.choice(values.size, int(values.size * share), replace=False)
    changed.flat[at] = rng.standard_normal(len(at)) * 0.02
    return changed


def fine_tuned(values: np.ndarray) -> np.ndarray:
    changed: np.ndarray = values + normal(90, *values.shape, scale=0.0002)
    return changed


def lora(values: np.ndarray) -> np.ndarray:
    b, a = normal(91, values.shape[0], 16, scale=0.01), normal(92, 16, values.shape[1], scale=0.02)
    changed: np.ndarray = (values + 2 * (b.astype(np.float64) @ a)).astype(np.float32)
    return changed


def scaled_rows(values: np.ndarray) -> np.ndarray:
    changed: np.ndarray = values * (1 + normal(93, values.shape[0], 1, scale=0.1))
    return changed


def scaled_columns(values: np.ndarray) -> np.ndarray:
    changed: np.ndarray = values * (1 + normal(94, 1, values.shape[1], scale=0.1))
    return changed


def some(values: np.ndarray) -> np.ndarray:
    return few(values, 95)


def stepped(values: np.ndarray) -> np.ndarray:
    """A step of reinforcement learning: some elements of bf16 move by one unit."""
    words = np.frombuffer(bf16(values)[2], np.uint16).copy()
    rng = np.random.default_rng(96)
    at = rng.choice(len(words), int(len(words) * 0.012), replace=False)
    words[at] += rng.choice(np.array([1, 65535], np.uint16), len(at))
    return from_bf16(words.tobytes()).reshape(values.shape)


def stored(repo: Repo, before: Set[str] = frozenset()) -> int:
    """Bytes of objects, without those that were there before."""
    return sum(path.stat().st_size for path in repo.objects() if path.name not in before)


def costs(repo: Repo, before: Set[str] = frozenset()) -> dict[str, int]:
    """Bytes that each tensor takes in objects that were not there before."""
    results = {}
    for name, lines in re.findall(r"^\[(.*)\]\n((?:[^\[].*\n)*)", repo.manifest(), re.M):
        places = re.findall(r"([0-9a-f]{64}):\d+\+(\d+)", lines)
        results[name] = sum(int(length) for object_id, length in places if object_id not in before)
    return results


def names(repo: Repo) -> set[str]:
    return {path.name for path in repo.objects()}


def shown(repo: Repo, what: str = M) -> dict[str, list[str]]:
    """How each tensor is stored."""
    rows = json.loads(repo.git("theta", "show", "--json", what))["tensors"]
    return {row["name"]: row["stored"] for row in rows}


def at_origin(world: World, repo: Repo) -> None:
    if "origin" not in repo.git("remote"):
        repo.git("remote", "add", "origin", str(world.bare()))
    repo.git("push", "-q", "origin", "main")


def everywhere(world: World, repo: Repo, *shas: str) -> None:
    """These versions, the newest last, come back in a fresh clone of a remote."""
    at_origin(world, repo)
    clone = world.clone(world.root / "hub.git", "fresh")
    for back, sha in enumerate(reversed(shas)):
        clone.git("checkout", "-q", f"main~{back}")
        assert (clone.sha(), clone.status()) == (sha, ""), f"{back} versions before the last"
    clone.healthy()
