"""What a plugin for an encoding is: one that works block by block, or a predictor of whole tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from gittheta.api.tensors import TensorReader
from gittheta.model import Tensor, TensorSpec


class BlockCoder(Protocol):
    """Codes one block over one base. Used by one thread at a time.

    It may keep what it found out about the base: whoever encodes a block decodes it at once to check it.
    """

    def encode(self, new: Tensor) -> bytes | None:
        """The block's payload, or None if the encoding does not apply. Deterministic."""
        ...

    def decode(self, payload: memoryview, spec: TensorSpec) -> Tensor:
        """The block again, ``spec.nbytes`` bytes. ``payload`` is hostile input: raises PayloadError, nothing else.

        May not allocate more than a small multiple of ``spec.nbytes``.
        """
        ...


class Encoding(Protocol):
    """A lossless way to write a block of a tensor down, perhaps as a change to the same block of a base.

    Safe to use from several threads: all state lies in the coders.
    """

    name: ClassVar[str]
    kind: ClassVar[Literal["blockwise"]]
    needs_base: ClassVar[bool]

    def over(self, base: Tensor | None) -> BlockCoder:
        """What codes blocks over this base: the same block of the base tensor, or None if there is none."""
        ...


@dataclass(frozen=True)
class Finding:
    """In what way a tensor came of its base: bytes for the store, and what the manifest says beside them."""

    payload: bytes
    #: In the order of their keys; keys are ``[a-z][a-z0-9_]*``, values consist of letters, digits and ``._:,+-``.
    parameters: tuple[tuple[str, str], ...] = ()


class Prediction(Protocol):
    """What a tensor should be, computed from a base."""

    def read(self, begin: int, end: int, base: TensorReader) -> memoryview:
        """The raw bytes from offset ``begin`` to ``end`` (whole elements) of the predicted tensor.

        The same bits on every machine, whatever the number of threads and the library for linear algebra. Allocates no
        more than a small multiple of ``end - begin``, of one row, and of the payload.
        """
        ...


class Predictor(Protocol):
    """An encoding of a whole tensor: computes from a base, given few bytes, what the tensor should be.

    It need not get every bit right: the core corrects the prediction with another encoding, block by block. Registered
    among the encodings.
    """

    name: ClassVar[str]
    kind: ClassVar[Literal["predictor"]]

    def find(self, new: TensorReader, base: TensorReader) -> Finding | None:
        """How the tensor came of the base, or None if not in this way. Decides quickly, from samples."""
        ...

    def base_spec(self, spec: TensorSpec, parameters: Mapping[str, str]) -> TensorSpec:
        """Dtype and shape of the base over which a tensor of this spec was predicted. Raises PayloadError."""
        ...

    def open(self, payload: memoryview, spec: TensorSpec, parameters: Mapping[str, str]) -> Prediction:
        """Read a payload. ``payload`` and ``parameters`` are hostile input: raises PayloadError, nothing else."""
        ...
