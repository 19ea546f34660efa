"""pkt-line: how Git and a long-running filter talk.

Format: https://git-scm.com/docs/protocol-common#_pkt_line_format

Reads go through one large buffer in which packets are parsed in place; writes gather many packets in one call.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from gittheta.errors import GitError

MAX_PAYLOAD = 65516
_BUFFER = 1 << 20
_LENGTH = re.compile(rb"[0-9a-fA-F]{4}")
_PACKETS_A_WRITE = 32
_FULL_HEAD = b"%04x" % (MAX_PAYLOAD + 4)


class PacketReader:
    """Packets from a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._begin = 0
        self._end = 0

    def packet(self) -> memoryview | None:
        """The payload of the next packet, valid until the next call; None for a flush packet.

        Raises EOFError at the end of the input.
        """
        self._have(4)
        head = self._buffer[self._begin : self._begin + 4]
        if not _LENGTH.fullmatch(head):
            raise GitError("git does not speak the filter protocol")
        length = int(head, 16)
        if length == 0:
            self._begin += 4
            return None
        if length < 4:
            raise GitError(f"a packet of length {length}, which the filter protocol does not have")
        self._have(length)
        payload = self._view[self._begin + 4 : self._begin + length]
        self._begin += length
        return payload

    def lines(self) -> list[bytes]:
        """Text packets up to a flush, without their line ends."""
        found = []
        while (packet := self.packet()) is not None:
            found.append(bytes(packet).removesuffix(b"\n"))
        return found

    def _have(self, size: int) -> None:
        while self._end - self._begin < size:
            if self._begin + size > _BUFFER:
                left = self._end - self._begin
                self._buffer[:left] = self._buffer[self._begin : self._end]
                self._begin, self._end = 0, left
            got = _read_into(self._descriptor, self._view[self._end :])
            if not got:
                raise EOFError
            self._end += got


class PacketContent:
    """The content of one file, up to its flush packet, as something that fills buffers."""

    def __init__(self, reader: PacketReader) -> None:
        self._reader = reader
        self._rest = memoryview(b"")
        self._over = False

    def readinto(self, buffer: memoryview, /) -> int:
        """Some bytes, 0 at the end. Raises EOFError if git goes away in the middle."""
        while not self._rest:
            if self._over:
                return 0
            packet = self._reader.packet()
            if packet is None:
                self._over = True
                return 0
            self._rest = packet
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def drain(self) -> None:
        """Read what is left: git writes everything before it listens."""
        self._rest = memoryview(b"")
        while not self._over:
            self._over = self._reader.packet() is None


class PacketWriter:
    """Packets to a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def lines(self, *texts: str) -> None:
        """Text packets, then a flush."""
        packets = b"".join(b"%04x%s\n" % (len(line) + 5, line) for line in map(os.fsencode, texts))
        self._write([packets + b"0000"])

    def content(self, parts: Iterable[bytes | memoryview]) -> None:
        """The content of a file in full packets, then a flush."""
        waiting: list[bytes | memoryview] = []
        for part in parts:
            view = memoryview(part)
            for at in range(0, len(view), MAX_PAYLOAD):
                piece = view[at : at + MAX_PAYLOAD]
                waiting += [_FULL_HEAD if len(piece) == MAX_PAYLOAD else b"%04x" % (len(piece) + 4), piece]
                if len(waiting) >= 2 * _PACKETS_A_WRITE:
                    self._write(waiting)
                    waiting = []
        self._write([*waiting, b"0000"])

    def flush(self) -> None:
        """A flush packet alone."""
        self._write([b"0000"])

    def _write(self, parts: list[bytes | memoryview]) -> None:
        left = [memoryview(part) for part in parts]
        while left:
            written = _write_from(self._descriptor, left)
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if left:
                left[0] = left[0][written:]


def _read_into(descriptor: int, buffer: memoryview) -> int:
    if hasattr(os, "readv"):
        return os.readv(descriptor, [buffer])
    data = os.read(descriptor, len(buffer))
    buffer[: len(data)] = data
    return len(data)


def _write_from(descriptor: int, parts: list[memoryview]) -> int:
    if hasattr(os, "writev"):
        return os.writev(descriptor, parts)
    return os.write(descriptor, parts[0])
