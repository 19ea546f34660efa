"""What a plugin for an encoding is: block by block, or a predictor of whole tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeGuard, runtime_checkable

from gittheta.api.tensors import Values
from gittheta.model import (
    Tensor,
    TensorSpec,
)


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
