"""``changed``: which share of the elements have other bits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from gittheta.api import BlockPair, TensorSpec


@dataclass(frozen=True)
class Changed:
    """Counts elements whose bits differ, of any dtype: +0 and -0 differ, a NaN and the same NaN do not.

    Of packed dtypes, whose elements share bytes, and of block dtypes, whole bytes and whole blocks are counted.
    """

    name: ClassVar[str] = "changed"
    unit: ClassVar[Literal["element"]] = "element"

    def applies(self, spec: TensorSpec) -> bool:
        """Always."""
        return True

    def look(self, pair: BlockPair) -> tuple[int, int]:
        """How many elements differ, and how many there are."""
        size = pair.spec.dtype.itemsize
        old, new = (np.frombuffer(data, np.uint8).reshape(-1, size) for data in (pair.old, pair.new))
        return int(np.any(old != new, axis=1).sum()), len(old)

    def conclude(self, spec: TensorSpec, parts: Iterable[tuple[int, int]]) -> Mapping[str, float]:
        """``changed``, from 0 to 1; 0 for a tensor without elements."""
        changed = total = 0
        for part in parts:
            changed += part[0]
            total += part[1]
        return {"changed": changed / total if total else 0.0}
