"""What a plugin for a checkpoint format is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, ClassVar, Protocol

if TYPE_CHECKING:
    from gittheta.model import Layout, TensorSpec


@dataclass(frozen=True)
class Composed:
    """A newly laid out file: its skeleton (every byte outside the tensors), and where the tensors lie in it."""

    skeleton: bytes
    layout: Layout


class Format(Protocol):
    """Knows where the tensors lie in files of one format. The core does the rest and guarantees exactness.

    A file is hostile input: nothing in it is ever executed. Safe to use from several threads.
    """

    name: ClassVar[str]
    #: Whether the index of tensors may stand elsewhere than at the beginning of a file. ``split`` then gets the whole
    #: file, and may seek in it.
    needs_whole_file: ClassVar[bool]

    def matches(self, head: bytes) -> bool:
        """Whether a file that begins with these bytes claims to have this format.

        ``head`` is a few thousand bytes, or the whole file if it is shorter.
        """
        ...

    def split(self, file: BinaryIO) -> Layout:
        """Where the tensors lie.

        ``file`` stands at its beginning and may be cut short. Unless ``needs_whole_file`` is set, it can only be read
        forwards: read no more than the header. Raises FormatError if the file breaks a rule of the format.
        """
        ...

    def metadata(self, skeleton: bytes) -> Mapping[str, str]:
        """What the file says besides names, dtypes and shapes of tensors: texts by key, in the file's order.

        The skeleton is every byte of the file outside the tensors. When versions of a checkpoint are merged, their
        metadata is merged key by key. Raises FormatError if the metadata is not texts by key; such files are merged
        only if their skeletons are equal.
        """
        ...

    def compose(self, specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> Composed | None:
        """Lay out a new file for tensors of these specs, in this order, with this metadata.

        None if the format cannot hold them, or if the plugin cannot write new files.
        """
        ...
