"""What a plugin sees: the values of the model, and one small Protocol for each kind of plugin.

A plugin is a frozen dataclass that satisfies one of these Protocols. Its fields are its options, ``name`` is its
permanent id (in manifests and settings), and its methods are pure. Register it under the entry-point group
``gittheta.formats``, ``gittheta.encodings``, ``gittheta.merges``, ``gittheta.metrics`` or ``gittheta.remotes``.
"""

from __future__ import annotations

from gittheta.api.encodings import Encoding, Finding, Prediction, Predictor, is_blockwise, is_predictor
from gittheta.api.formats import Format
from gittheta.api.merges import NEEDS_NO_BASE, SIDECAR, Blocks, Group, Merge, Traits
from gittheta.api.metrics import Metric
from gittheta.api.remotes import Remote
from gittheta.api.reporting import Reporter
from gittheta.api.tensors import Values
from gittheta.errors import FormatError, MergeError, PayloadError, RemoteError, ThetaError
from gittheta.model import (
    DTYPES,
    RAW,
    Digest,
    Dtype,
    Layout,
    ObjectId,
    Segment,
    Tensor,
    TensorSpec,
    digest_of,
)

#: Raised by one when a Protocol below changes so that older plugins no longer fit.
API_VERSION = 1

__all__ = [
    "API_VERSION",
    "DTYPES",
    "NEEDS_NO_BASE",
    "RAW",
    "SIDECAR",
    "Blocks",
    "Digest",
    "Dtype",
    "Encoding",
    "Finding",
    "Format",
    "FormatError",
    "Group",
    "Layout",
    "Merge",
    "MergeError",
    "Metric",
    "ObjectId",
    "PayloadError",
    "Prediction",
    "Predictor",
    "Remote",
    "RemoteError",
    "Reporter",
    "Segment",
    "Tensor",
    "TensorSpec",
    "ThetaError",
    "Traits",
    "Values",
    "digest_of",
    "is_blockwise",
    "is_predictor",
]
