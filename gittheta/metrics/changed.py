"""``changed``: the share of the elements whose bits differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

if TYPE_CHECKING:
    from gittheta.api import BlockPair, TensorSpec


@dataclass(frozen=True)
class Changed:
    """Counts elements of any dtype whose bits differ: +0 and -0 differ; two NaNs of the same bits do not.

    For packed dtypes, whose elements share bytes, it counts bytes; for block dtypes, it counts blocks.
    """

    name: ClassVar[str] = "changed"
    unit: ClassVar[Literal["element", "tensor"]] = "element"

    def applies(self, spec: TensorSpec) -> bool:
        """True: it applies to every tensor."""
        return True

    def look(self, pair: BlockPair) -> tuple[int, int]:
        """The number of elements that differ, and of all elements of the block."""
        size = pair.spec.dtype.itemsize
        old, new = (np.frombuffer(data, np.uint8).reshape(-1, size) for data in (pair.old, pair.new))
        return int(np.any(old != new, axis=1).sum()), len(old)

    def conclude(self, spec: TensorSpec, parts: Iterable[tuple[int, int]]) -> Mapping[str, float]:
        """The number ``changed``, from 0 to 1; 0 for a tensor without elements."""
        changed = total = 0
        for part in parts:
            changed += part[0]
            total += part[1]
        return {"changed": changed / total if total else 0.0}
