"""What a plugin for a checkpoint format is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO, ClassVar, Protocol

from gittheta.model import (
    Layout,
    TensorSpec,
)


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
