"""Conformance suites for plugins. Subclass one in a test module, set the plugin to test, and let pytest run it.

::

    from gittheta.testing import EncodingConformance

    class TestMine(EncodingConformance):
        encoding = Mine()

All that the suites need of pytest is that it collects classes whose names begin with ``Test``; every method can also be
called by hand. A failure names the dtype, the shape or the damaged payload.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gittheta.conformance.common import block_values, tensor
from gittheta.conformance.encodings import EncodingConformance
from gittheta.conformance.faulty_remote import Fault, FaultyRemote
from gittheta.conformance.formats import FormatConformance, check_layout
from gittheta.conformance.metrics import MetricConformance
from gittheta.conformance.predictors import PredictorConformance
from gittheta.conformance.remotes import RemoteConformance
from gittheta.conformance.values import InMemory
from gittheta.errors import needing_torch

if TYPE_CHECKING:
    from gittheta.conformance.merges import MergeConformance

__all__ = [
    "EncodingConformance",
    "Fault",
    "FaultyRemote",
    "FormatConformance",
    "InMemory",
    "MergeConformance",
    "MetricConformance",
    "PredictorConformance",
    "RemoteConformance",
    "block_values",
    "check_layout",
    "tensor",
]


def __getattr__(name: str) -> Any:
    """Load the suite for merge methods on first use: it needs torch, which is slow to import."""
    if name == "MergeConformance":
        with needing_torch("MergeConformance"):
            from gittheta.conformance.merges import MergeConformance

        return MergeConformance
    raise AttributeError(f"module 'gittheta.testing' has no attribute '{name}'")
