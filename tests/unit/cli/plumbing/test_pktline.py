"""pkt-line over real pipes."""

from __future__ import annotations

import os
import random
import threading
import time

import pytest

from gittheta.cli.plumbing.pktline import MAX_PAYLOAD, PacketContent, PacketReader, PacketWriter
from gittheta.errors import GitError


def read_end(data: bytes, cuts: tuple[int, ...] = (), pause: float = 0.0) -> int:
    """A descriptor that yields the data, written in pieces."""
    read, write = os.pipe()

    def feed() -> None:
        at = 0
        for cut in (*cuts, len(data)):
            while at < cut:
                at += os.write(write, data[at:cut])
            time.sleep(pause)
        os.close(write)

    threading.Thread(target=feed, daemon=True).start()
    return read


def written(write: object) -> bytes:
    """What a function given a writer writes."""
    read, descriptor = os.pipe()
    got = bytearray()

    def collect() -> None:
        while piece := os.read(read, 1 << 16):
            got.extend(piece)

    thread = threading.Thread(target=collect)
    thread.start()
    write(PacketWriter(descriptor))  # type: ignore[operator]
    os.close(descriptor)
    thread.join()
    os.close(read)
    return bytes(got)


def content(reader: PacketReader, size: int) -> bytes:
    source, result = PacketContent(reader), bytearray()
    buffer = memoryview(bytearray(size))
    while got := source.readinto(buffer):
        result += buffer[:got]
    assert source.readinto(buffer) == 0
    return bytes(result)


TALK = b"0012command=clean\n" + b"0010pathname=a b" + b"0000" + b"0009hello" + b"0005!" + b"0000" + b"0000"


def check_talk(descriptor: int) -> None:
    reader = PacketReader(descriptor)
    assert reader.lines() == [b"command=clean", b"pathname=a b"]
    assert content(reader, 3) == b"hello!"
    assert reader.lines() == []
    with pytest.raises(EOFError):
        reader.packet()
    os.close(descriptor)


def test_packets_cut_at_every_position() -> None:
    for cut in range(len(TALK)):
        check_talk(read_end(TALK, (cut,), pause=0.001))
    check_talk(read_end(TALK, tuple(range(len(TALK)))))


def test_input_that_ends_anywhere_is_the_end() -> None:
    for size in range(len(TALK)):
        descriptor = read_end(TALK[:size])
        reader = PacketReader(descriptor)
        with pytest.raises(EOFError):
            list(iter(reader.packet, "never"))
        os.close(descriptor)


def test_content_cut_short_is_not_a_shorter_file() -> None:
    descriptor = read_end(b"0009hello0009wor")
    source = PacketContent(PacketReader(descriptor))
    buffer = memoryview(bytearray(100))
    assert source.readinto(buffer) == 5
    with pytest.raises(EOFError):
        source.readinto(buffer)
    os.close(descriptor)


@pytest.mark.parametrize(
    "head", [b"zzzz", b"0001", b"0002", b"0003", b"-001", b"+009", b"0x0a", b" 00a", b"00_9", b"\n\n\n\n"]
)
def test_what_is_not_a_packet(head: bytes) -> None:
    descriptor = read_end(head + b"hello" * 9)
    with pytest.raises(GitError):
        PacketReader(descriptor).packet()
    os.close(descriptor)


def test_an_empty_packet_is_not_a_flush() -> None:
    descriptor = read_end(b"0004" + b"0005x" + b"0004" + b"0000")
    reader = PacketReader(descriptor)
    assert content(reader, 10) == b"x"
    os.close(descriptor)


def test_lines_as_git_reads_them() -> None:
    assert written(lambda writer: writer.lines("status=success")) == b"0013status=success\n0000"
    assert written(lambda writer: writer.lines("a", "ü")) == b"0006a\n0007\xc3\xbc\n0000"
    assert written(lambda writer: writer.lines()) == b"0000"
    assert written(lambda writer: writer.flush()) == b"0000"


@pytest.mark.parametrize(
    "size", [0, 1, MAX_PAYLOAD - 1, MAX_PAYLOAD, MAX_PAYLOAD + 1, 3 * MAX_PAYLOAD, 40 * MAX_PAYLOAD + 5]
)
def test_content_comes_through_whole(size: int) -> None:
    data = random.Random(size).randbytes(size)
    packets = written(lambda writer: writer.content([data]))
    assert packets.endswith(b"0000")
    if size >= MAX_PAYLOAD:
        assert packets.startswith(b"fff0" + data[:100])
    descriptor = read_end(packets)
    assert content(PacketReader(descriptor), 100_000) == data
    os.close(descriptor)


def test_content_of_many_parts() -> None:
    parts = [random.Random(at).randbytes(at % 7 * 9999) for at in range(200)]
    packets = written(lambda writer: writer.content(memoryview(part) for part in parts))
    descriptor = read_end(packets)
    assert content(PacketReader(descriptor), 77_777) == b"".join(parts)
    os.close(descriptor)


def test_full_packets_across_the_readers_buffer() -> None:
    data = random.Random(1).randbytes(5 << 20)
    packets = written(lambda writer: writer.content([data]))
    descriptor = read_end(b"0005x" + packets)
    reader = PacketReader(descriptor)
    assert bytes(reader.packet() or b"") == b"x"
    assert content(reader, 1 << 20) == data
    os.close(descriptor)


def test_drained_content_leaves_the_next_request() -> None:
    descriptor = read_end(b"0009hello0009world0000" + TALK)
    reader = PacketReader(descriptor)
    source = PacketContent(reader)
    assert source.readinto(memoryview(bytearray(2))) == 2
    source.drain()
    assert reader.lines() == [b"command=clean", b"pathname=a b"]
    os.close(descriptor)
