"""A cache of facts about what never changes: what a blob of Git needs, and the like, by a digest of the question.

One file to which each process appends what it has learnt; it may be deleted at any time. Whatever happens to the file,
no command fails, waits or changes its result. It takes no lock. Each fact has a checksum: after a damaged one, the rest
is passed over, and the file is written anew. A file that cannot be read counts as empty; one that cannot be written
stays as it is.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from gittheta.model import digest_of
from gittheta.storage.files import reading, write_all
from gittheta.storage.permissions import BY_UMASK, Permissions

_HEAD = b"gittheta facts 1\n"
_KEY, _SUM = 16, 8
_LENGTH = struct.Struct("<I")
#: Bytes that the file may have. One that would grow beyond them keeps what the last process used.
_MOST = 64 << 20


class FactCache:
    """The facts in a file, read when the first is asked for. For one thread; several processes may share the file."""

    def __init__(
        self,
        path: Path,
        trace: Callable[[str], None] = lambda _: None,
        permissions: Permissions = BY_UMASK,
        most: int = _MOST,
    ) -> None:
        """``most``: bytes that the file may have. ``trace`` is told if the file cannot be used."""
        self.path = path
        self._permissions = permissions
        self._trace = trace
        self._most = most
        self._facts: dict[bytes, bytes] | None = None
        #: Bytes of the file that are sound; None if it has to be written anew.
        self._sound: int | None = 0
        self._new: dict[bytes, bytes] = {}
        self._used: set[bytes] = set()

    def get(self, question: bytes) -> bytes | None:
        """The answer that was recorded, or None."""
        if self._facts is None:
            self._facts = self._load()
        key = _key(question)
        answer = self._facts.get(key)
        if answer is not None:
            self._used.add(key)
        return answer

    def put(self, question: bytes, answer: bytes) -> None:
        """Remember an answer; :meth:`flush` records it."""
        key = _key(question)
        self._new[key] = answer
        self._used.add(key)
        if self._facts is not None:
            self._facts[key] = answer

    def flush(self) -> None:
        """Record what is new."""
        new, self._new = self._new, {}
        if not new:
            return
        if self._facts is None:
            self._facts = self._load() | new
        try:
            self._permissions.make_folders(self.path.parent)
            added = b"".join(_records(new))
            if self._sound is None or self._sound + len(added) > self._most:
                self._replace()
            else:
                self._append(added)
        except OSError as error:
            self._trace(f"the cache {self.path} cannot be written: {error}")

    def _append(self, added: bytes) -> None:
        descriptor = self._permissions.append_to(self.path)
        try:
            write_all(descriptor, added if self._sound else _HEAD + added)
        finally:
            os.close(descriptor)
        self._sound = (self._sound or len(_HEAD)) + len(added)

    def _replace(self) -> None:
        """Write the file anew: what was used, the newest first, up to half of what there may be."""
        kept: dict[bytes, bytes] = {}
        room = self._most // 2
        facts = self._facts or {}
        for key in reversed([key for key in facts if key in self._used]):
            room -= _KEY + _LENGTH.size + _SUM + len(facts[key])
            if room < 0:
                break
            kept[key] = facts[key]
        content = _HEAD + b"".join(_records(kept))
        with self._permissions.replacing(self.path) as descriptor:
            write_all(descriptor, content)
        self._sound = len(content)

    def _load(self) -> dict[bytes, bytes]:
        try:
            content = self._read()
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._trace(f"the cache {self.path} cannot be read: {error}")
            self._sound = None
            return {}
        facts: dict[bytes, bytes] = {}
        end = len(_HEAD) if content.startswith(_HEAD) else 0
        if end:
            for key, answer, end in _parsed(content):  # noqa: B007 - where the last sound one ends
                facts[key] = answer
        self._sound = end if end == len(content) else None
        if self._sound is None:
            self._trace(f"the cache {self.path} is damaged after {end} bytes; it will be written anew")
        return facts

    def _read(self) -> bytes:
        with reading(self.path, follow=False) as file:
            if os.fstat(file.fileno()).st_size > 2 * self._most:
                raise OSError("it is too large")
            return file.read()


def _key(question: bytes) -> bytes:
    return digest_of(question)[:_KEY]


def _sum(key: bytes, answer: bytes) -> bytes:
    return digest_of(key + answer)[:_SUM]


def _records(facts: dict[bytes, bytes]) -> Iterator[bytes]:
    for key, answer in facts.items():
        yield b"".join((key, _LENGTH.pack(len(answer)), _sum(key, answer), answer))


def _parsed(content: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """The key and answer of each sound fact up to the first damaged one, and where it ends."""
    at, head = len(_HEAD), _KEY + _LENGTH.size + _SUM
    while at + head <= len(content):
        key = content[at : at + _KEY]
        (length,) = _LENGTH.unpack_from(content, at + _KEY)
        end = at + head + length
        answer = content[at + head : end]
        if end > len(content) or _sum(key, answer) != content[at + _KEY + _LENGTH.size : at + head]:
            return
        yield key, answer, end
        at = end
