"""Which method a tensor really gets: matrix methods are only for matrices that something is multiplied with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gittheta.api import Merge, TensorSpec, Traits

#: The name of an embedding contains one of these as a word of its own, or within one.
_EMBEDDING = re.compile(r"embed|(^|[._])(wte|wpe|wpm|shared|relative_attention_bias)([._]|$)")


def fallback(method: Merge, spec: TensorSpec) -> Merge:
    """The method itself, or the mean if it is for matrices and this tensor is none."""
    if not Traits.of(method).matrices or is_matrix(spec):
        return method
    from gittheta.merges.linear import Linear

    return Linear()


def statistics_based(method: Merge, known: Sequence[Mapping[str, object]]) -> Merge:
    """The method itself, or the mean if it is for matrices and no side has statistics of this one.

    Not every matrix belongs to a layer of which statistics are taken; one that only some sides know is an error.
    """
    traits = Traits.of(method)
    if not traits.matrices or not traits.kinds or not known or any(known):
        return method
    from gittheta.merges.linear import Linear

    return Linear()


def is_matrix(spec: TensorSpec) -> bool:
    """Whether a tensor is a linear map: two-dimensional, real, and no embedding by its name."""
    return len(spec.shape) == 2 and spec.dtype.kind == "float" and not _EMBEDDING.search(spec.name)
