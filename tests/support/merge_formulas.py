"""What methods on task vectors compute, as their formulas say, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from blake3 import blake3

from gittheta.merges.selective import Ram, Sce
from gittheta.merges.task_vectors import Breadcrumbs, Dare, Della, Ties

Array = np.ndarray[Any, np.dtype[Any]]


# ----------------------------------------------------------------------------------------------- references in float64


@dataclass
class Side:
    """What the references know of one side."""

    delta: Array
    weight: float
    #: Of the bytes that are merged.
    digest: bytes


def by_size(delta: Array) -> Array:
    """Places, the largest first; of equal ones the first first."""
    return np.argsort(-np.abs(delta), kind="stable")


def count_of(fraction: float, elements: int) -> int:
    return int(Fraction(str(fraction)) * elements)


def marked(size: int, places: Array) -> Array:
    result = np.zeros(size)
    result[places] = 1
    return result


@cache
def random_numbers(seed: int, digest: bytes, name: str, count: int) -> Array:
    """SplitMix64 with a key from BLAKE3, written for itself: 53 bits each."""
    key = int.from_bytes(blake3(b"%d\0" % seed + digest + name.encode()).digest(8), "little")
    mask = 2**64 - 1
    numbers = []
    for index in range(count):
        z = (key + (index + 1) * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        numbers.append((z ^ (z >> 31)) >> 11)
    return np.array(numbers, dtype=np.int64)


def sparsified(method: Any, side: Side, rows: int) -> tuple[Array, Array]:
    """S(δ), and which entries it keeps."""
    delta, size = side.delta, len(side.delta)
    if isinstance(method, Ties):
        kept = marked(size, by_size(delta)[: count_of(method.density, size)])
    elif isinstance(method, Breadcrumbs):
        expected = count_of(method.density, size)
        skipped = min(count_of(method.gamma, size), size - expected)
        kept = marked(size, by_size(delta)[skipped : skipped + expected])
    elif isinstance(method, Dare):
        kept = random_numbers(method.seed, side.digest, "x", size) < round(Fraction(str(method.density)) * 2**53)
        scale = {"none": 1.0, "inverse": 1 / method.density}
        if method.rescale == "l1":
            return delta * kept * (np.abs(delta).sum() / np.abs(delta * kept).sum()), kept
        return delta * kept * scale[method.rescale], kept
    elif isinstance(method, Della):
        length = size // rows
        rank = np.concatenate([length - 1 - np.argsort(by_size(row)) for row in delta.reshape(rows, length)])
        chance = method.density - method.epsilon + 2 * method.epsilon * rank / (length - 1)
        kept = random_numbers(method.seed, side.digest, "x", size) < np.round(chance * 2**53)
        return delta * kept / chance, kept
    else:
        kept = np.ones(size)
    return delta * kept, kept


def family(method: Any, base: Array, sides: Sequence[Side], rows: int) -> Array:
    """θ0 + λ·Σvᵢ/div."""
    values, kept = (np.stack(each) for each in zip(*(sparsified(method, side, rows) for side in sides), strict=True))
    weights = np.array([[side.weight] for side in sides])
    if method.sign:
        votes = values * (weights if method.election == "weighted" else 1)
        expected = np.where(votes.sum(0) >= -1e-14, 1, -1)  # they may be even but for how a quotient is rounded
        kept = np.sign(votes) == expected
    change = (values * weights * kept).sum(0)
    if method.normalize:
        divisor = (kept * (weights if method.divisor == "weight" else 1)).sum(0)
        change = change / np.where(divisor == 0, 1, divisor)
    merged: Array = base + method.lambda_ * change
    return merged


def sce(method: Sce, base: Array, sides: Sequence[Side]) -> Array:
    deltas = np.stack([side.delta for side in sides])
    variance = ((deltas - deltas.mean(0)) ** 2).mean(0)
    deltas = deltas * marked(len(base), by_size(variance)[: count_of(method.topk, len(base))])
    weights = np.array([side.weight for side in sides]) * (deltas**2).mean(1)
    sign = np.where(deltas.sum(0) >= 0, 1, -1)
    left = (np.sign(deltas) == sign) * weights[:, None] / weights.sum()
    merged: Array = base + method.lambda_ * (deltas * left).sum(0) / np.where(left.sum(0) == 0, 1, left.sum(0))
    return merged


def ram(method: Ram, base: Array, sides: Sequence[Side]) -> Array:
    deltas = np.stack([side.delta for side in sides])
    active = np.abs(deltas) > method.epsilon
    several = active.sum(0) > 1
    change = np.zeros(len(base))
    for side, delta, mine in zip(sides, deltas, active, strict=True):
        ratio = (mine & several).sum() / (mine & ~several).sum()
        factor = 1 + method.r * min(ratio, method.alpha) if method.plus else 1
        change += side.weight * np.where(
            mine, np.where(several, delta / np.maximum(active.sum(0), 1), delta * factor), 0
        )
    merged: Array = base + method.lambda_ * change
    return merged


def reference(method: Any, base: Array, sides: Sequence[Side], rows: int = 1) -> Array:
    if isinstance(method, Sce):
        return sce(method, base, sides)
    return ram(method, base, sides) if isinstance(method, Ram) else family(method, base, sides, rows)
