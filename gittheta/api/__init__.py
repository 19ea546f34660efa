"""What a plugin sees: the values of :mod:`gittheta.model`, and one small Protocol for each kind of plugin.

A plugin is a frozen dataclass that satisfies one of these Protocols. Its fields are its options, ``name`` is its
permanent id (in manifests and settings), and its methods are pure. Register it under the entry-point group
``gittheta.formats``, ``gittheta.encodings``, ``gittheta.merges``, ``gittheta.metrics`` or ``gittheta.remotes``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gittheta.api.encodings import BlockCoder, Encoding, Finding, Prediction, Predictor
from gittheta.api.formats import Composed, Format
from gittheta.api.reporting import NullReporter, Reporter, timed
from gittheta.api.tensors import TensorReader
from gittheta.errors import FormatError, MergeError, PayloadError, RemoteError, TemporaryRemoteError, ThetaError
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

if TYPE_CHECKING:
    from gittheta.api.merges import HINT_NO_BASE, SIDECAR, Blocks, Group, Merge, Traits
    from gittheta.api.metrics import BlockPair, Metric
    from gittheta.api.network import Credential, HttpSettings, Network
    from gittheta.api.remotes import Advance, BatchRemote, ManagedRemote, Remote, RemoteContext, RemotePlugin

#: Imported when they are first used: the filter, which starts with every git command, needs none of them.
_LATE = {
    **dict.fromkeys(("HINT_NO_BASE", "SIDECAR", "Blocks", "Group", "Merge", "Traits"), "gittheta.api.merges"),
    **dict.fromkeys(("BlockPair", "Metric"), "gittheta.api.metrics"),
    **dict.fromkeys(("Credential", "HttpSettings", "Network"), "gittheta.api.network"),
    **dict.fromkeys(
        ("Advance", "BatchRemote", "ManagedRemote", "Remote", "RemoteContext", "RemotePlugin"), "gittheta.api.remotes"
    ),
}

#: Raised by one when a Protocol changes so that older plugins no longer fit.
API_VERSION = 2

__all__ = [
    "API_VERSION",
    "DTYPES",
    "HINT_NO_BASE",
    "RAW",
    "SIDECAR",
    "Advance",
    "BatchRemote",
    "BlockCoder",
    "BlockPair",
    "Blocks",
    "Composed",
    "Credential",
    "Digest",
    "Dtype",
    "Encoding",
    "Finding",
    "Format",
    "FormatError",
    "Group",
    "HttpSettings",
    "Layout",
    "ManagedRemote",
    "Merge",
    "MergeError",
    "Metric",
    "Network",
    "NullReporter",
    "ObjectId",
    "PayloadError",
    "Prediction",
    "Predictor",
    "Remote",
    "RemoteContext",
    "RemoteError",
    "RemotePlugin",
    "Reporter",
    "Segment",
    "TemporaryRemoteError",
    "Tensor",
    "TensorReader",
    "TensorSpec",
    "ThetaError",
    "Traits",
    "digest_of",
    "timed",
]


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(_LATE[name]), name)
