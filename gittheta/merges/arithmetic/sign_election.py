"""Sums of task vectors, with or without an election of signs, and with or without a divisor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

#: Whether the weights of the sides count when signs are elected.
Election = Literal["weighted", "unweighted"]
#: What a normalised sum is divided by: the weight of the entries in it, or their number.
Divisor = Literal["weight", "count"]

#: Integers of the same width, for work on the bits of floats.
INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


@dataclass(frozen=True)
class Part:
    """One side's term of a sum: its entries S(δ), zero where they were dropped, and its weight. May be overwritten."""

    values: torch.Tensor
    weight: float
    #: 1 for kept entries and 0 for dropped ones; None if all were kept. Not used where signs are elected.
    kept: torch.Tensor | None = None

    def share(self, divisor: Divisor) -> float:
        """The amount that one entry adds to the divisor."""
        return self.weight if divisor == "weight" else 1.0


class Sum:
    """A running sum of tensors of equal shape and dtype, in order. It may overwrite the first. For one thread."""

    def __init__(self) -> None:
        self._total: torch.Tensor | None = None

    def add(self, term: torch.Tensor) -> None:
        """Add a tensor, which may be overwritten later."""
        self._total = term if self._total is None else self._total.add_(term)

    @property
    def total(self) -> torch.Tensor:
        """The sum; only after :meth:`add`."""
        assert self._total is not None  # noqa: S101 - the docstring demands it
        return self._total


def added(parts: Iterable[Part], divisor: Divisor | None) -> torch.Tensor:
    """Σwᵢxᵢ of one part or more; with a divisor, divided at each element by the weight or number of kept entries.

    Has the shape and dtype of the parts.
    """
    values, weights = Sum(), Sum()
    everywhere = 0.0
    for part in parts:
        values.add(scaled(part.values, part.weight))
        if divisor and part.kept is not None:
            weights.add(part.kept * part.share(divisor))
        elif divisor:
            everywhere += part.share(divisor)
    if not divisor:
        return values.total
    weights.add(torch.full((), everywhere, dtype=values.total.dtype, device=values.total.device))
    return values.total.div_(_without_zeros(weights.total))


def elected(parts: Iterable[Part], election: Election, divisor: Divisor | None) -> torch.Tensor:
    """Σwᵢxᵢ of one part or more, over the entries that have the elected sign at their element.

    That is the sign of Σwᵢxᵢ, or of Σxᵢ if the election is unweighted; plus if the sum is 0. Entries that are 0 have no
    sign. With a divisor, the sum is divided by the weight or number of these entries. Has the shape and dtype of the
    parts.
    """
    weighted = election == "weighted"
    voters = [(scaled(part.values, part.weight) if weighted else part.values, part) for part in parts]
    # Arithmetic on sign bits, because masks and torch.where take several times as long.
    lost = _sign_bits(voters)
    total = torch.zeros_like(voters[0][0])
    weights = torch.zeros_like(total)
    for entries, part in voters:
        entries.view(lost.dtype).bitwise_xor_(lost)
        entries.relu_()
        total += entries if weighted else scaled(entries, part.weight)
        if divisor:
            weights += scaled(entries.sign_(), part.share(divisor))
    if divisor:
        # Where no entry has the elected sign, the sum is 0, and any divisor but 0 will do. Weights below 0 may cancel.
        least = min(part.share(divisor) for _, part in voters)
        total /= weights.clamp_min_(least) if least > 0 else _without_zeros(weights)
    total.view(lost.dtype).bitwise_xor_(lost)
    return total


def _sign_bits(voters: Sequence[tuple[torch.Tensor, Part]]) -> torch.Tensor:
    """Integers whose upper bit is set where the sum of all votes is negative, and 0 elsewhere."""
    votes = voters[0][0].clone()
    for entries, _ in voters[1:]:
        votes += entries
    integers = INTEGERS[votes.dtype]
    return votes.view(integers).bitwise_and_(torch.iinfo(integers).min)


def scaled(values: torch.Tensor, factor: float) -> torch.Tensor:
    """The values times a number; the same tensor if the number is 1."""
    return values if factor == 1 else values * factor


def _without_zeros(weights: torch.Tensor) -> torch.Tensor:
    """The weights with 1 in place of 0."""
    return weights + (weights == 0)


def negative(values: torch.Tensor) -> torch.Tensor:
    """Integers in the shape of the values: all bits set where the sign bit is set, and none elsewhere."""
    integers = INTEGERS[values.dtype]
    return values.view(integers) >> (torch.iinfo(integers).bits - 1)


def either(first: torch.Tensor, second: torch.Tensor, takes_second: torch.Tensor) -> torch.Tensor:
    """``second`` where the mask ``takes_second`` has all bits set, else ``first``. Overwrites ``second``.

    Works bit by bit, which is several times as fast as ``torch.where``.
    """
    a, b = (values.view(takes_second.dtype) for values in (first, second))
    return b.bitwise_xor_(a).bitwise_and_(takes_second).bitwise_xor_(a).view(first.dtype)
