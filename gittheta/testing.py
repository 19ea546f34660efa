"""Conformance suites for plugins. Subclass one in a test module, name what is to be tested, and let pytest run it.

::

    from gittheta.testing import EncodingConformance

    class TestMine(EncodingConformance):
        encoding = Mine()

The suites need nothing of pytest but that it collects classes whose names begin with ``Test``; every method can be
called by hand too. A failure says which dtype, shape or damaged payload it was.
"""

from __future__ import annotations

from gittheta.conformance.common import block_values, tensor
from gittheta.conformance.encodings import EncodingConformance
from gittheta.conformance.formats import FormatConformance, check_layout
from gittheta.conformance.predictors import PredictorConformance
from gittheta.conformance.values import InMemory

__all__ = [
    "EncodingConformance",
    "FormatConformance",
    "InMemory",
    "PredictorConformance",
    "block_values",
    "check_layout",
    "tensor",
]
