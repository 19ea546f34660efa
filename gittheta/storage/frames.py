"""Frames: how the blocks of a tensor lie in a payload. Specified in ``docs/spec/object.md``.

A payload is a sequence of frames, one for each block of the tensor. A frame carries the length of its body, the
length of the raw block, and the raw block's BLAKE3-256 digest. Frames never straddle objects.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gittheta.errors import PayloadError
from gittheta.model import Digest, Link, ObjectId

if TYPE_CHECKING:
    from gittheta.storage.objects import ObjectReader

_HEAD = struct.Struct("<II32s")
HEAD_LENGTH = _HEAD.size
#: The most bytes of a raw block: this bounds what a hostile payload can make a reader allocate.
MAX_BLOCK = 1 << 26
#: The most bytes by which a body may be longer than its raw block.
MAX_OVERHEAD = 1 << 16


@dataclass(frozen=True, slots=True)
class FrameHead:
    """The head of one frame: length of its body, length of the raw block (both in bytes), digest of the raw block."""

    body: int
    raw: int
    digest: Digest


def frame_head(body: bytes, raw: int, digest: Digest) -> bytes:
    """The bytes of a frame's head; ``raw`` is the length of the raw block in bytes, ``digest`` its digest."""
    return _HEAD.pack(len(body), raw, digest)


def parse_head(data: bytes) -> FrameHead:
    """Read a frame's head. Raises PayloadError if it is cut short, or if its lengths are out of bounds."""
    if len(data) != HEAD_LENGTH:
        raise PayloadError("a payload ends within a frame's head")
    body, raw, digest = _HEAD.unpack(data)
    head = FrameHead(body, raw, Digest(digest))
    if not 0 < head.raw <= MAX_BLOCK:
        raise PayloadError(f"a block of {head.raw} bytes, which is not from 1 to {MAX_BLOCK}")
    if head.body > head.raw + MAX_OVERHEAD:
        raise PayloadError(f"{head.body} bytes for a block of {head.raw}, which no encoding needs")
    return head


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame's head, and the object and offset at which its body lies."""

    head: FrameHead
    object: ObjectId
    body_offset: int


def frames_of(reader: ObjectReader, link: Link) -> Iterator[Frame]:
    """The frames of a link's payload, in order. Raises PayloadError if they do not exactly fill their places."""
    for place in link.places:
        at, end = place.offset, place.offset + place.length
        while at < end:
            head = parse_head(reader.read(place.object, at, min(HEAD_LENGTH, end - at)))
            at += HEAD_LENGTH
            yield Frame(head, place.object, at)
            at += head.body
        if at != end:
            raise PayloadError("a frame reaches beyond its place")
