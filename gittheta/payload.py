"""Frames: how the blocks of a tensor lie in a payload. Specified in ``docs/spec/object.md``.

A payload is a sequence of frames, one for each block of the tensor. A frame carries the length of its body, the
length of the raw block, and the first 16 bytes of the raw block's BLAKE3 digest. Frames never straddle objects.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from gittheta.errors import PayloadError
from gittheta.model import block_bytes, digest_of

_HEAD = struct.Struct("<II16s")
HEAD_LENGTH = _HEAD.size
CHECK_LENGTH = 16
#: No raw block may be larger: what a hostile payload can make a reader allocate.
MAX_BLOCK = 1 << 26

__all__ = ["CHECK_LENGTH", "HEAD_LENGTH", "MAX_BLOCK", "FrameHead", "block_bytes", "check_of", "frame_head", "parse_head"]


@dataclass(frozen=True, slots=True)
class FrameHead:
    """The head of one frame: bytes of its body, bytes of the raw block, and the block's check."""

    body: int
    raw: int
    check: bytes


def check_of(block: bytes | memoryview) -> bytes:
    """The 16 bytes by which a raw block is recognised."""
    return digest_of(block)[:CHECK_LENGTH]


def frame_head(body: bytes, raw: int, check: bytes) -> bytes:
    """The bytes that precede a body."""
    return _HEAD.pack(len(body), raw, check)


def parse_head(data: bytes) -> FrameHead:
    """Read a frame's head. Raises PayloadError if it is cut short or claims an absurd block."""
    if len(data) != HEAD_LENGTH:
        raise PayloadError("a payload ends within a frame's head")
    head = FrameHead(*_HEAD.unpack(data))
    if not 0 < head.raw <= MAX_BLOCK:
        raise PayloadError(f"a block of {head.raw} bytes, which is none")
    return head
