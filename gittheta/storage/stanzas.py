"""Stanzas that were parsed before, by their text: versions of a checkpoint share most of theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gittheta.model import Stanza

#: Bytes of text that are remembered.
_MOST = 16 << 20


class KnownStanzas:
    """Stanzas by their text, a bounded number of them. For one thread."""

    def __init__(self, most: int = _MOST) -> None:
        """``most``: bytes of text that are remembered; beyond them it begins anew."""
        self._most = most
        self._size = 0
        self._by_text: dict[bytes, Stanza] = {}
        #: The stanza of a text, or None.
        self.get = self._by_text.get

    def put(self, text: bytes, stanza: Stanza) -> None:
        """Remember a stanza that is valid by itself."""
        if self._size > self._most:
            self._by_text.clear()
            self._size = 0
        self._by_text[text] = stanza
        self._size += len(text)
