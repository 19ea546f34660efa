"""Regular expressions of an adapter's configuration: hostile ones could keep the matching busy for ever."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass

#: The most steps that matching may take: about a tenth of a second.
MAX_STEPS = 1_000_000
_MAX_PATTERN = 4096
#: An escaped character, a class of characters, what opens and closes a group, and repetitions.
_PIECE = re.compile(r"\\(?P<back>[1-9]|g)|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|(?P<mark>[()|*+?{])|.", re.DOTALL)


def matches(pattern: str, text: str) -> bool:
    """Whether a pattern matches the whole text.

    Raises ValueError for a pattern that is not a regular expression, or that could take too long for a text of this
    length: with a repeated group that can match in several ways, with a reference back, or with many repetitions.
    """
    if len(pattern) > _MAX_PATTERN:
        raise ValueError(f"it is longer than {_MAX_PATTERN} characters")
    repetitions = _repetitions(pattern)
    if repetitions is None or (len(text) + 1) ** repetitions > MAX_STEPS:
        raise ValueError("it could take for ever to match; write the modules' names out")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a later Python will read in another way
            return re.fullmatch(pattern, text) is not None
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"it is not a regular expression: {error}") from None


@dataclass
class _Group:
    """What stands in a pair of brackets, as far as it was read."""

    repetitions: int = 0
    #: Whether it can match the same text in several ways.
    choices: bool = False


def _repetitions(pattern: str) -> int | None:
    """How many repetitions follow each other in a pattern; None if one is nested in another, or it refers back."""
    groups = [_Group()]
    closed: _Group | None = None
    for piece in _PIECE.finditer(pattern):
        mark = piece["mark"]
        if piece["back"]:
            return None
        if mark == "(":
            groups.append(_Group())
        elif mark == ")" and len(groups) > 1:
            closed = groups.pop()
            groups[-1].repetitions += closed.repetitions
            groups[-1].choices |= closed.choices
            continue
        elif mark in ("|", "?"):
            groups[-1].choices = True
        elif mark in ("*", "+", "{"):
            if closed and (closed.repetitions or closed.choices):
                return None
            groups[-1].repetitions += 1
        closed = None
    return groups[0].repetitions
