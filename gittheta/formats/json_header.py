"""A JSON object read member by member, so that memory follows what is kept of it and not what it says.

``json.loads`` makes a Python object of every value: a list of empty lists takes twenty times its text. Here the text is
cut into the members of the outermost object; each is for the caller to judge, and small before it is parsed.
"""

from __future__ import annotations

import json
import re
from array import array
from codecs import getincrementaldecoder
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np

from gittheta.api import FormatError

#: The longest text of one value that is parsed as a whole.
MAX_VALUE = 1 << 16
_SPACE = re.compile(rb"[ \t\n\r]*+")
_STRING = re.compile(rb'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+"')
#: An object without objects in it: between its texts stand no braces.
_FLAT = re.compile(rb'\{[^{}"]*+(?:%b[^{}"]*+)*+\}' % _STRING.pattern)
#: One pair of a table of texts, and what follows it.
_PAIR = re.compile(rb"[ \t\n\r]*+(%b)[ \t\n\r]*+:[ \t\n\r]*+(%b)[ \t\n\r]*+([,}])" % (_STRING.pattern, _STRING.pattern))
#: The escape of a half of a character; a pair of them is a whole one.
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_STEP = 1 << 20


class Members:
    """The members of a JSON object, in order: each name, then its value by one of the methods. For one thread."""

    def __init__(self, text: bytes) -> None:
        """Raises FormatError unless the text is UTF-8 and begins an object."""
        _check_utf8(text)
        self._text = text
        self._at = 0
        self._expect(b"{", "an object")

    def names(self) -> Iterator[str]:
        """The names. After each, one value must be taken. Raises FormatError, also for a name that comes twice."""
        seen = set()
        if self._next() != b"}":
            while True:
                name = self._name()
                if name in seen:
                    raise FormatError("the header has a name twice")
                seen.add(name)
                self._expect(b":", "':' after a name")
                yield name
                if self._next() != b",":
                    break
                self._at += 1
        self._expect(b"}", "',' or '}' after a value")
        if self._next():
            _refuse("something stands behind it")

    def flat(self) -> dict[str, Any] | None:
        """The value, if it is an object of at most 64 KiB without objects in it; None if it is something else."""
        self._next()
        found = _FLAT.match(self._text, self._at, self._at + MAX_VALUE)
        if not found:
            return None
        self._at = found.end()
        return load(found[0])

    def texts(self) -> bool:
        """Pass over the value, a table of texts; says whether it was one.

        Takes eight bytes for each pair, however long the table is. Raises FormatError for a key that comes twice.
        """
        if self._next() != b"{":
            is_null = self._text.startswith(b"null", self._at)
            self._at += 4 * is_null
            return is_null
        self._at += 1
        if self._next() == b"}":
            self._at += 1
            return True
        hashes = array("q")
        begin = self._at
        end = b","
        while end == b",":
            pair = _PAIR.match(self._text, self._at)
            if not pair or _has_half(pair[1]) or _has_half(pair[2]):
                return False
            hashes.append(hash(_loaded(pair[1])))
            self._at, end = pair.end(), pair[3]
        self._check_twice(hashes, begin)
        return True

    def _check_twice(self, hashes: array[int], begin: int) -> None:
        ordered = np.sort(np.frombuffer(hashes, np.int64))
        suspect = set(ordered[:-1][ordered[1:] == ordered[:-1]].tolist())
        seen: set[str] = set()
        at = begin
        while suspect and (pair := _PAIR.match(self._text, at)):
            key = _loaded(pair[1])
            if hash(key) in suspect:
                if key in seen:
                    raise FormatError("the header has a name twice")
                seen.add(key)
            at = pair.end()
            if pair[3] == b"}":
                break

    def _name(self) -> str:
        self._next()
        found = _STRING.match(self._text, self._at)
        if not found:
            _refuse("no name where one should be")
        self._at = found.end()
        return _loaded(found[0])

    def _next(self) -> bytes:
        """The next byte that is no space; empty at the end."""
        space = _SPACE.match(self._text, self._at)
        self._at = space.end() if space else self._at
        return self._text[self._at : self._at + 1]

    def _expect(self, byte: bytes, what: str) -> None:
        if self._next() != byte:
            _refuse(f"it lacks {what}")
        self._at += 1


def load(text: bytes) -> dict[str, Any]:
    """A small JSON object. Raises FormatError."""
    try:
        value = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except UnicodeDecodeError:
        raise FormatError("the header is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        _refuse(str(error))
    if not isinstance(value, dict):
        raise FormatError("the header is not a JSON object")
    return value


def _loaded(text: bytes) -> str:
    return text[1:-1].decode() if b"\\" not in text else str(json.loads(text))


def _has_half(text: bytes) -> bool:
    """Whether a text has a half of a character, which no UTF-8 can hold."""
    return bool(_HALF.search(text)) and any("\ud800" <= character <= "\udfff" for character in _loaded(text))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise FormatError("the header has a name twice")
    return table


def _check_utf8(text: bytes) -> None:
    decoder = getincrementaldecoder("utf-8")()
    try:
        for at in range(0, len(text), _STEP):
            decoder.decode(text[at : at + _STEP])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise FormatError("the header is not UTF-8") from None


def _refuse(problem: str) -> NoReturn:
    raise FormatError(f"the header is not JSON: {problem}")
