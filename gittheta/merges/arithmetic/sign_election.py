"""How task vectors are added up: with signs elected or not, divided by the weight of what was kept or not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

#: Whether the weights of the sides count when signs are elected.
Election = Literal["weighted", "unweighted"]
#: What a normalised sum is divided by: the weight of the entries in it, or their number.
Divisor = Literal["weight", "count"]

INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


@dataclass(frozen=True)
class Part:
    """What one side gives: its entries S(δ), zero where they were dropped, and its weight. Entries are overwritten."""

    values: torch.Tensor
    weight: float
    #: 1 for entries that were not dropped and 0 for others; None: none was. Of no account where signs are elected.
    kept: torch.Tensor | None = None

    def share(self, divisor: Divisor) -> float:
        """What one entry adds to the divisor."""
        return self.weight if divisor == "weight" else 1.0


class Sum:
    """Terms added up in the order given. They must be the caller's to give away."""

    def __init__(self) -> None:
        self._total: torch.Tensor | None = None

    def add(self, term: torch.Tensor) -> None:
        """One more."""
        self._total = term if self._total is None else self._total.add_(term)

    @property
    def total(self) -> torch.Tensor:
        """Of one term at least."""
        assert self._total is not None  # noqa: S101 - the docstring asks for it
        return self._total


def added(parts: Iterable[Part], divisor: Divisor | None) -> torch.Tensor:
    """Σwᵢxᵢ, divided by what the kept entries weigh, or how many they are, if asked to. One part at least."""
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
    """The same of those entries only that have the elected sign: that of Σwᵢxᵢ, or of Σxᵢ; plus if that is 0.

    Entries that are 0 have no sign, and so no part in it. One part at least.
    """
    weighted = election == "weighted"
    voters = [(scaled(part.values, part.weight) if weighted else part.values, part) for part in parts]
    # What follows is arithmetic on sign bits, because masks and torch.where take several times as long.
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
        # Where no entry has the elected sign, 0 is divided by something. Weights that may cancel need a closer look.
        least = min(part.share(divisor) for _, part in voters)
        total /= weights.clamp_min_(least) if least > 0 else _without_zeros(weights)
    total.view(lost.dtype).bitwise_xor_(lost)
    return total


def _sign_bits(voters: Sequence[tuple[torch.Tensor, Part]]) -> torch.Tensor:
    """Integers with the upper bit set where the sum is below 0."""
    votes = voters[0][0].clone()
    for entries, _ in voters[1:]:
        votes += entries
    integers = INTEGERS[votes.dtype]
    return votes.view(integers).bitwise_and_(torch.iinfo(integers).min)


def scaled(values: torch.Tensor, factor: float) -> torch.Tensor:
    """The values times a number, and the values themselves if that is 1."""
    return values if factor == 1 else values * factor


def _without_zeros(weights: torch.Tensor) -> torch.Tensor:
    """1 where there is 0."""
    return weights + (weights == 0)


def negative(values: torch.Tensor) -> torch.Tensor:
    """Integers all of whose bits are set where a value has a minus sign, and none elsewhere."""
    integers = INTEGERS[values.dtype]
    return values.view(integers) >> (torch.iinfo(integers).bits - 1)


def either(first: torch.Tensor, second: torch.Tensor, takes_second: torch.Tensor) -> torch.Tensor:
    """One or the other, bit by bit: several times as fast as ``torch.where``. Writes to the second."""
    a, b = (values.view(takes_second.dtype) for values in (first, second))
    return b.bitwise_xor_(a).bitwise_and_(takes_second).bitwise_xor_(a).view(first.dtype)
