"""Sums over a tensor that have the same bits on every device and for blocks of any size.

A library's own sum may add in any order. Here the order is part of the definition. A row (a flat tensor is one row) is
cut into leaves of 65536 elements, and the last leaf is filled up with zeros. A leaf is summed in float64 by adding its
second half to its first until one element is left. The sums of the leaves are added exactly (``math.fsum``) and rounded
once. Blocks begin at multiples of 65536 elements, or hold whole rows, so that each leaf lies in one block.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

#: Elements of a leaf.
LEAF = 1 << 16


def leaf_sums(values: torch.Tensor) -> torch.Tensor:
    """The sums of the leaves along the last dimension: from ``(..., n)`` to ``(..., leaves)``, float64.

    A row without elements has one leaf, whose sum is 0.
    """
    *rows, length = values.shape
    width = min(LEAF, 1 << max(0, length - 1).bit_length())
    leaves = max(1, -(-length // width))
    padding = leaves * width - length
    wide = values.to(torch.float64)
    if padding:
        wide = torch.nn.functional.pad(wide, (0, padding))
    tree = wide.reshape(*rows, leaves, width)
    while width > 1:
        width //= 2
        tree = tree[..., :width] + tree[..., width:]
    return tree.squeeze(-1)


def leaf_dots(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The leaf sums of the elementwise products, float64. Products of values of 16-bit dtypes are exact."""
    return leaf_sums(a.to(torch.float64) * b.to(torch.float64))


def total(parts: Iterable[torch.Tensor]) -> float:
    """The sum of all leaf sums of all blocks, rounded once."""
    return _exact(value for part in parts for value in part.reshape(-1).tolist())


def totals(parts: Iterable[torch.Tensor]) -> list[float]:
    """k sums at once, each over all blocks and rounded once.

    ``parts`` are the leaf sums of the blocks, of shape ``(k, leaves)`` or ``(k, rows, leaves)``.
    """
    blocks = [part.reshape(part.shape[0], -1).tolist() for part in parts]
    return [_exact(value for block in rows for value in block) for rows in zip(*blocks, strict=True)]


def row_sums(values: torch.Tensor) -> torch.Tensor:
    """The sum of each row: from ``(..., n)`` to ``(...)``, float64, on the device of the values."""
    leaves = leaf_sums(values)
    if leaves.shape[-1] == 1:
        return leaves.squeeze(-1)
    exact = [_exact(row) for row in leaves.reshape(-1, leaves.shape[-1]).tolist()]
    return torch.tensor(exact, dtype=torch.float64, device=values.device).reshape(leaves.shape[:-1])


def row_dots(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The dot product of each row of ``a`` with the same row of ``b``: from ``(..., n)`` to ``(...)``, float64."""
    return row_sums(a.to(torch.float64) * b.to(torch.float64))


def _exact(values: Iterable[float]) -> float:
    """The exact sum, rounded once; NaN for opposite infinities (where they are let through) and on overflow."""
    try:
        return math.fsum(values)
    except (ValueError, OverflowError):
        return math.nan
