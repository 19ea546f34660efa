"""The method that a tensor really gets: tensors that a method for matrices is not meant for get the mean."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gittheta.api import Merge, TensorSpec, Traits

#: Names of embeddings: ``embed`` anywhere, or one of the others as a word of its own.
_EMBEDDING = re.compile(r"embed|(^|[._])(wte|wpe|wpm|shared|relative_attention_bias)([._]|$)")


def fallback(method: Merge, spec: TensorSpec) -> Merge:
    """The method itself, or the mean if the method is for matrices and this tensor is not one."""
    if not Traits.of(method).matrices or is_matrix(spec):
        return method
    from gittheta.merges.linear import Linear

    return Linear()


def statistics_based(method: Merge, known: Sequence[Mapping[str, object]]) -> Merge:
    """The method itself, or the mean if the method is for matrices and no side has statistics of this one.

    Not every matrix belongs to a layer of which statistics are collected. If only some sides have them, the method is
    returned, and its merge will fail.
    """
    traits = Traits.of(method)
    if not traits.matrices or not traits.kinds or not known or any(known):
        return method
    from gittheta.merges.linear import Linear

    return Linear()


def is_matrix(spec: TensorSpec) -> bool:
    """Whether a tensor is a linear map: two-dimensional, real, and by its name not an embedding."""
    return len(spec.shape) == 2 and spec.dtype.kind == "float" and not _EMBEDDING.search(spec.name)
