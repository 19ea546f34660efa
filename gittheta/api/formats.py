"""What a plugin for a checkpoint format is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, ClassVar, Protocol

from gittheta.model import Layout, TensorSpec


@dataclass(frozen=True)
class Composed:
    """A file that was laid out anew: every byte that belongs to no tensor, and where the tensors go between these."""

    skeleton: bytes
    layout: Layout


class Format(Protocol):
    """Knows where the tensors of one file format lie. The core does the rest and guarantees exactness.

    Nothing of a file may ever be executed, whatever it holds: a file is hostile input. Safe to use from several threads.
    """

    name: ClassVar[str]
    #: Whether the tensors' places stand elsewhere than at the beginning of a file: ``split`` then gets all of it, and
    #: may seek in it.
    needs_whole_file: ClassVar[bool]

    def matches(self, head: bytes) -> bool:
        """Whether a file that begins with these bytes (a few thousand, or the whole file) claims this format."""
        ...

    def split(self, file: BinaryIO) -> Layout:
        """Say where the tensors lie.

        ``file`` stands at its beginning and may be cut short. Unless ``needs_whole_file`` is set it can only be read
        forwards: read no more than the header. Raises FormatError if the file breaks a rule of the format.
        """
        ...

    def metadata(self, skeleton: bytes) -> Mapping[str, str]:
        """What the file says besides names, dtypes and shapes of tensors, as texts by key, in the file's order.

        A skeleton is every byte of a file that belongs to no tensor. Where several versions of a checkpoint are merged,
        so are these, key by key. Raises FormatError for metadata that is not texts by key; such files are not merged
        unless their skeletons agree.
        """
        ...

    def compose(self, specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> Composed | None:
        """A file for tensors of these specs, in this order, and this metadata.

        None if the format cannot hold them, or if files of this format cannot be laid out anew.
        """
        ...
