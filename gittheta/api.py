"""What a plugin sees: the values of the model, and one small Protocol for each kind of plugin.

A plugin is a frozen dataclass that satisfies one of these Protocols. Its fields are its options, ``name`` is its
permanent id (in manifests and settings), and its methods are pure. Register it under the entry-point group
``gittheta.formats``, ``gittheta.encodings``, ``gittheta.merges``, ``gittheta.metrics`` or ``gittheta.remotes``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal, Protocol, TypeGuard, TypeVar, runtime_checkable

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

if TYPE_CHECKING:
    from pathlib import Path

    import torch

Result = TypeVar("Result")

#: Raised by one when a Protocol below changes so that older plugins no longer fit.
API_VERSION = 1

__all__ = [
    "API_VERSION",
    "DTYPES",
    "RAW",
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


class Format(Protocol):
    """Knows where the tensors of one file format lie. The core does the rest and guarantees exactness."""

    name: ClassVar[str]

    def matches(self, head: bytes) -> bool:
        """Whether a file that begins with these bytes (a few thousand, or the whole file) claims this format."""
        ...

    def split(self, file: BinaryIO) -> Layout:
        """Say where the tensors lie. ``file`` stands at its beginning, can only be read forwards, and may be cut short.

        Read no more than the header. Raises FormatError if the file breaks a rule of the format.
        """
        ...

    def merge_skeletons(
        self, base: bytes | None, ours: bytes, theirs: bytes, wanted: Sequence[TensorSpec]
    ) -> bytes | None:
        """A skeleton for a file that holds the ``wanted`` tensors in that order, or None if that cannot be done.

        Called when both sides of a merge changed the skeleton, each in its own way.
        """
        ...


class Encoding(Protocol):
    """A lossless way to write a block of a tensor down, perhaps as a change to the same block of a base."""

    name: ClassVar[str]
    needs_base: ClassVar[bool]

    def encode(self, new: Tensor, base: Tensor | None) -> bytes | None:
        """The block's payload, or None if this encoding does not apply. Deterministic."""
        ...

    def decode(self, payload: memoryview, spec: TensorSpec, base: Tensor | None) -> Tensor:
        """The block again, ``spec.nbytes`` bytes. ``payload`` is hostile input: raises PayloadError, never more.

        May not allocate more than a small multiple of ``spec.nbytes``.
        """
        ...


class Values(Protocol):
    """A whole tensor that is read in parts, because it may be larger than memory."""

    @property
    def spec(self) -> TensorSpec:
        """Dtype and shape."""
        ...

    def read(self, begin: int, end: int) -> memoryview:
        """The raw bytes from offset ``begin`` to ``end``, row-major. Cheapest in blocks of 2^20 elements."""
        ...


@dataclass(frozen=True)
class Finding:
    """In what way a tensor came of its base: bytes for the store, and what the manifest says beside them."""

    payload: bytes
    #: In the order of their keys; keys are ``[a-z][a-z0-9_]*``, values of letters, digits and ``._:,+-``.
    parameters: tuple[tuple[str, str], ...] = ()


class Prediction(Protocol):
    """What a tensor should be, told from a base."""

    def read(self, begin: int, end: int, base: Values) -> memoryview:
        """The raw bytes from offset ``begin`` to ``end`` (whole elements) of the predicted tensor.

        The same bits on every machine, whatever the number of threads and the library for linear algebra. Allocates no
        more than a small multiple of ``end - begin``, of one row, and of the payload.
        """
        ...


@runtime_checkable
class Predictor(Protocol):
    """An encoding of a whole tensor: tells from a base, in few bytes, what the tensor should be.

    It need not get every bit right: the core corrects the prediction with another encoding, block by block. Registered
    among the encodings.
    """

    name: ClassVar[str]

    def find(self, new: Values, base: Values) -> Finding | None:
        """How the tensor came of the base, or None if not in this way. Says so quickly, from samples."""
        ...

    def base_spec(self, spec: TensorSpec, parameters: Mapping[str, str]) -> TensorSpec:
        """Dtype and shape of the base that a tensor of this spec was told from. Raises PayloadError."""
        ...

    def open(self, payload: memoryview, spec: TensorSpec, parameters: Mapping[str, str]) -> Prediction:
        """Read a payload. ``payload`` and ``parameters`` are hostile input: raises PayloadError, never more."""
        ...


def is_predictor(plugin: Encoding | Predictor) -> TypeGuard[Predictor]:
    """Which of the two kinds an encoding is. (Asking a Protocol itself takes a hundred times as long.)"""
    return hasattr(plugin, "find")


def is_blockwise(plugin: Encoding | Predictor) -> TypeGuard[Encoding]:
    """The other."""
    return not hasattr(plugin, "find")


@dataclass(frozen=True)
class Group:
    """One parameter group to be merged, or a block of it, on the device where the merge runs.

    ``base`` is θ0, or None where the sides have no common ancestor; ``sides`` are the θᵢ. The values arrive in the
    dtype in which one accumulates: float32, or float64 for f32 and f64. What a method returns is rounded once.
    """

    name: str
    base: torch.Tensor | None
    sides: tuple[torch.Tensor, ...]
    #: One for each side.
    weights: tuple[float, ...]
    #: BLAKE3-256 of each whole side: keys for random numbers that do not depend on the order of the sides.
    digests: tuple[Digest, ...] = ()
    #: Dtype and shape of the whole tensor.
    spec: TensorSpec | None = None
    #: Where the block's first element stands in the whole tensor, row-major.
    start: int = 0
    #: What ``measure`` of the method gave; None if it has none.
    measured: Any = None
    #: For each side what its sidecars say about this tensor, by kind (``fisher``, ``gram``, ...).
    statistics: tuple[Mapping[str, torch.Tensor], ...] = ()
    #: What the user calls the sides.
    labels: tuple[str, ...] = ()

    @property
    def deltas(self) -> tuple[torch.Tensor, ...]:
        """The task vectors δᵢ = θᵢ − θ0. Raises MergeError without a base."""
        if self.base is None:
            raise MergeError("there is no merge base, and so no task vector", tensor=self.name, mend=NEEDS_NO_BASE)
        return tuple(side - self.base for side in self.sides)


#: Where the statistics of ``model.safetensors`` lie unless an option says so: ``model.fisher.safetensors``.
SIDECAR = "{stem}.{kind}{suffix}"

NEEDS_NO_BASE = "choose a method that needs none, such as linear, or `take`"


class Blocks(Protocol):
    """A tensor to be merged, or all tensors of a model, block by block and as often as needed."""

    @property
    def elements(self) -> int:
        """How many elements one side has in all blocks together."""
        ...

    def map(self, look: Callable[[Group], Result]) -> Iterator[Result]:
        """What ``look`` gives for each block, in their order; it is called for several blocks at once."""
        ...

    def block(self, index: int) -> Group:
        """One block again."""
        ...


class Merge(Protocol):
    """A merge method. Only ``name`` and ``merge`` must be there; the rest has the defaults of :class:`Traits`."""

    name: ClassVar[str]

    def merge(self, group: Group) -> torch.Tensor:
        """The merged values, shaped and typed like the sides in the group. Raises MergeError where it cannot apply.

        Sees a whole tensor, or a block of it if ``unit`` says so.
        """
        ...


@dataclass(frozen=True)
class Traits:
    """What the core wants to know of a merge method: attributes of these names, each of which it may leave out.

    A method may also have ``measure(blocks: Blocks) -> object``. It is called before ``merge`` and sees all blocks, as
    often as it likes; what it returns is ``group.measured``. With a field ``scope`` that says ``"global"`` the blocks
    are those of all tensors that the method merges, by name, and what it returns serves them all.
    """

    #: The least that ``merge`` must see at once. ``tensor``: all of it, in its shape; ``row``: some rows, two
    #: dimensions (a row is all elements with the same first index; a vector is one row); ``element``: any run, flat.
    #: Runs begin at multiples of 65536 elements.
    unit: Literal["tensor", "row", "element"] = "tensor"
    #: Whether θ0 is needed.
    needs_base: bool = False
    #: Whether θ0 is not looked at; it is not read then.
    ignores_base: bool = False
    #: How many sides it takes; None for any number.
    side_count: int | None = None
    #: Whether the order of the sides means something. If not, they arrive in one that does not depend on the user's.
    ordered: bool = False
    #: Whether sides that are all alike give just that.
    idempotent: bool = False
    #: Whether it is only for matrices that are multiplied with. Others (vectors, embeddings) get the mean.
    matrices: bool = False
    #: Kinds of statistics that it reads of each side.
    kinds: tuple[str, ...] = ()
    #: ``tensor`` or ``global``.
    scope: Literal["tensor", "global"] = "tensor"

    @classmethod
    def of(cls, method: Merge | type[Merge]) -> Traits:
        """The traits of a method: of its class, or as its options say."""
        found: dict[str, Any] = {each.name: getattr(method, each.name, each.default) for each in fields(cls)}
        return cls(**found)


class Metric(Protocol):
    """What a numeric diff can measure about two versions of a tensor."""

    name: ClassVar[str]

    def measure(self, old: torch.Tensor, new: torch.Tensor) -> float:
        """One number."""
        ...


class Remote(Protocol):
    """A place that keeps objects, beside a Git remote.

    Every method raises RemoteError with a mend. ``upload`` returns only when the object is durable there and whole;
    ``download`` writes to ``target`` what it has, and the caller checks it. Retrying is the caller's part.
    """

    name: ClassVar[str]

    @classmethod
    def at(cls, url: str, base: Path) -> Remote | None:
        """The remote behind a URL, relative paths from ``base``; None if URLs of that kind are not its own."""
        ...

    def missing(self, objects: Mapping[ObjectId, int]) -> set[ObjectId]:
        """Those of the objects that the remote does not have, or has with fewer bytes than the given number."""
        ...

    def upload(self, object_id: ObjectId, source: Path, advance: Callable[[int], None]) -> None:
        """Send one object; ``advance`` is told of bytes as they go."""
        ...

    def download(self, object_id: ObjectId, target: Path, advance: Callable[[int], None]) -> None:
        """Fetch one object into a new file."""
        ...


class Reporter(Protocol):
    """Where the library tells what it is doing. It never prints itself."""

    def warn(self, message: str) -> None:
        """Something the user should know."""
        ...

    def trace(self, message: str) -> None:
        """Something a developer may want to know."""
        ...

    def start(self, what: str, total: int) -> None:
        """A piece of work of ``total`` bytes begins (0: unknown)."""
        ...

    def advance(self, amount: int) -> None:
        """So many bytes more are done."""
        ...
