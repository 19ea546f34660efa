"""What a plugin for an encoding is: one that works block by block, or a predictor of whole tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from gittheta.api.tensors import TensorReader
    from gittheta.model import Tensor, TensorSpec


class BlockCoder(Protocol):
    """Encodes and decodes one block over one base. Used by one thread at a time.

    It may keep its analysis of the base: a block that was encoded is decoded at once, to check it.
    """

    def encode(self, new: Tensor) -> bytes | None:
        """The payload of a block, or None if the encoding does not apply. The same block gives the same payload."""
        ...

    def decode(self, payload: memoryview, spec: TensorSpec) -> Tensor:
        """The block that the payload stands for: ``spec.nbytes`` bytes.

        ``payload`` is hostile input. Raises PayloadError and nothing else, and never allocates more than a small
        multiple of ``spec.nbytes`` bytes.
        """
        ...


class Encoding(Protocol):
    """A lossless way to store a block of a tensor, by itself or as a change to the same block of a base.

    Safe to use from several threads: all state lies in the coders.
    """

    name: ClassVar[str]
    kind: ClassVar[Literal["blockwise"]]
    needs_base: ClassVar[bool]

    def over(self, base: Tensor | None) -> BlockCoder:
        """A coder over this base, which is the same block of the base tensor, or None if there is no base."""
        ...


@dataclass(frozen=True)
class Finding:
    """How to compute a tensor from its base: a payload for the store, and parameters for the manifest."""

    payload: bytes
    #: Sorted by key; keys are ``[a-z][a-z0-9_]*``, values consist of letters, digits and ``._:,+-``.
    parameters: tuple[tuple[str, str], ...] = ()


class Prediction(Protocol):
    """A tensor as computed from its base. It may miss some bits of the true one. Safe to use from several threads."""

    def read(self, begin: int, end: int, base: TensorReader) -> memoryview:
        """The raw bytes from offset ``begin`` to ``end`` (whole elements) of the predicted tensor.

        The same bits on every machine, whatever the number of threads and the library for linear algebra. Allocates no
        more than a small multiple of ``end - begin`` bytes, of one row, and of the payload.
        """
        ...


class Predictor(Protocol):
    """An encoding of a whole tensor: predicts it from a base and a payload of few bytes.

    It need not get every bit right: the core corrects the prediction with another encoding, block by block. Registered
    among the encodings.
    """

    name: ClassVar[str]
    kind: ClassVar[Literal["predictor"]]

    def find(self, new: TensorReader, base: TensorReader) -> Finding | None:
        """How to compute ``new`` from ``base``, or None if this predictor does not apply.

        Looks at samples first, so that it says None quickly.
        """
        ...

    def base_spec(self, spec: TensorSpec, parameters: Mapping[str, str]) -> TensorSpec:
        """Dtype and shape of the base from which a tensor of this spec was predicted. Raises PayloadError."""
        ...

    def open(self, payload: memoryview, spec: TensorSpec, parameters: Mapping[str, str]) -> Prediction:
        """Read a payload. ``payload`` and ``parameters`` are hostile input. Raises PayloadError and nothing else."""
        ...
