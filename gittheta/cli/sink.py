"""Where text leaves the program: what is shown is encoded for the terminal, the pipe or the file that it goes to."""

from __future__ import annotations

import io
import sys
from typing import TextIO

from gittheta.wording import escaped, visible


class Sink(io.TextIOBase):
    r"""A text stream that takes every text, whatever the stream below it can hold, and lets no control pass.

    Characters that are not seen, or that the stream cannot encode, are written as JSON writes them (``\u202e``), so
    that JSON still means the same. As safe to use from several threads as the stream below.
    """

    #: What it takes; the stream below may take less.
    encoding = "utf-8"
    errors = "strict"

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write all of a text."""
        self.stream.write(fitting(visible(text), self.stream.encoding or "ascii"))
        return len(text)

    def writable(self) -> bool:
        """Always."""
        return True

    def flush(self) -> None:
        """Hand over what waits."""
        self.stream.flush()

    def isatty(self) -> bool:
        """Whether the stream below is a terminal."""
        return self.stream.isatty()

    def fileno(self) -> int:
        """The descriptor of the stream below."""
        return self.stream.fileno()


def fitting(text: str, encoding: str) -> str:
    """A text with each character escaped that an encoding lacks."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(character if _fits(character, encoding) else escaped(character) for character in text)
    return text


def _fits(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def use_sinks() -> None:
    """Let everything that is printed from now on, tracebacks too, go through a sink."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Sink):
            setattr(sys, name, Sink(stream))


def terminal(stream: TextIO) -> TextIO:
    """The stream below a sink, for what is to move the cursor: its texts must be :func:`visible` already."""
    return stream.stream if isinstance(stream, Sink) else stream
