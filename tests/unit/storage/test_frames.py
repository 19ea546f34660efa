"""Frames: forty bytes before each body."""

from __future__ import annotations

import pytest

from gittheta.errors import PayloadError
from gittheta.model import digest_of
from gittheta.storage.frames import HEAD_LENGTH, MAX_BLOCK, FrameHead, frame_head, parse_head


def test_a_heads_bytes() -> None:
    digest = digest_of(b"raw block")
    head = frame_head(b"body!", 0x01020304, digest)
    assert head == b"\x05\0\0\0" + b"\x04\x03\x02\x01" + digest
    assert len(head) == HEAD_LENGTH == 40
    assert parse_head(head) == FrameHead(5, 0x01020304, digest)


@pytest.mark.parametrize("size", [*range(40), 41, 80])
def test_heads_cut_short(size: int) -> None:
    with pytest.raises(PayloadError):
        parse_head((frame_head(b"body!", 9, digest_of(b"")) * 2)[:size])


@pytest.mark.parametrize("raw", [0, MAX_BLOCK + 1, 0xFFFFFFFF])
def test_absurd_blocks(raw: int) -> None:
    with pytest.raises(PayloadError, match=str(raw)):
        parse_head(frame_head(b"", raw, digest_of(b"")))


@pytest.mark.parametrize("raw", [1, MAX_BLOCK])
def test_the_smallest_and_the_largest_block(raw: int) -> None:
    assert parse_head(frame_head(b"", raw, digest_of(b""))).raw == raw
