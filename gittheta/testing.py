"""Conformance suites for plugins. Subclass one in a test module, name what is to be tested, and let pytest run it.

::

    from gittheta.testing import EncodingConformance

    class TestMine(EncodingConformance):
        encoding = Mine()

The suites need nothing of pytest but that it collects classes whose names begin with ``Test``; every method can be
called by hand too. A failure says which dtype, shape or damaged payload it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gittheta.conformance.common import block_values, tensor
from gittheta.conformance.encodings import EncodingConformance
from gittheta.conformance.formats import FormatConformance, check_layout
from gittheta.conformance.predictors import PredictorConformance
from gittheta.conformance.values import InMemory
from gittheta.errors import needing_torch

if TYPE_CHECKING:
    from gittheta.conformance.merges import MergeConformance

__all__ = [
    "EncodingConformance",
    "FormatConformance",
    "InMemory",
    "MergeConformance",
    "PredictorConformance",
    "block_values",
    "check_layout",
    "tensor",
]


def __getattr__(name: str) -> Any:
    """The suite for merge methods is loaded when it is asked for: it needs torch, which takes its time."""
    if name == "MergeConformance":
        with needing_torch("MergeConformance"):
            from gittheta.conformance.merges import MergeConformance

        return MergeConformance
    raise AttributeError(f"module 'gittheta.testing' has no attribute '{name}'")
