r"""Names, numbers and guesses as they stand in messages: nothing that a stranger has named rules the terminal.

Two steps keep names harmless. Where a message is put together, a name goes through :func:`shown`, so that it cannot end
the line or the quotes around it. Where text leaves the program, all of it goes through :func:`visible`, so that nothing
that was overlooked can do worse. Both write ``\u001b`` for a character, as JSON does: JSON stays exact.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

# Controls; what changes the direction of text or is not seen at all; separators of lines; halves of characters.
_UNSEEN = (
    "\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff0-\ufffb\ud800-\udfff\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_IN_TEXT = "\x00-\x08\x0b-\x1f"
_IN_NAME = "\x00-\x1f"
#: How alike a word and a name must be for the one to be a slip of the other, from 0 to 1.
_ALIKE = 0.6
#: Comparing takes a while: of more names than this only the first are looked at.
_MOST = 10_000


def escaped(text: str) -> str:
    r"""Each character as JSON writes it in ASCII: ``\u202e``, with two of them for one beyond U+FFFF."""
    units = text.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


@cache
def _odd(controls: str) -> re.Pattern[str]:
    """What must not be shown as it is, made when it is needed: the filter starts with every git command."""
    return re.compile(f"[{controls}{_UNSEEN}]")


def visible(text: str) -> str:
    """A text, of lines perhaps, in which each character that is not seen or moves others is escaped."""
    return _odd(_IN_TEXT).sub(lambda match: escaped(match[0]), text)


def shown(name: str) -> str:
    """A name that can stand anywhere in a line."""
    return _odd(_IN_NAME).sub(lambda match: escaped(match[0]), name)


def quoted(name: str) -> str:
    """A name in quotes, which it cannot end."""
    return f"'{shown(name)}'" if "'" not in name else '"' + shown(name).replace('"', '\\"') + '"'


def shell_word(name: str) -> str:
    """A name as a user can paste it into a shell."""
    plain = shown(name)
    if plain == name:
        from shlex import quote

        return quote(name)
    units = name.encode("utf-8", "surrogatepass" if _is_odd(name) else "surrogateescape")
    return "$'" + "".join(map(_shell_unit, units)) + "'"


def _is_odd(name: str) -> bool:
    """Whether a name has halves of characters that do not stand for bytes."""
    return re.search("[\ud800-\udc7f\udd00-\udfff]", name) is not None


def _shell_unit(byte: int) -> str:
    plain = 0x20 <= byte < 0x7F and byte not in b"'\\"
    return chr(byte) if plain else f"\\x{byte:02x}"


def counted(count: int, thing: str, things: str = "") -> str:
    """A number and what it counts: ``1 object``, ``2 objects``."""
    return f"{count} {thing if count == 1 else things or thing + 's'}"


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name that a word was probably meant to be; None if it is like none of them."""
    from difflib import get_close_matches  # which most commands never need

    known = [name for _, name in zip(range(_MOST), names, strict=False)]
    folded = {name.lower(): name for name in reversed(known)}
    alike = get_close_matches(word.lower(), folded, n=1, cutoff=_ALIKE)
    return folded[alike[0]] if alike else None


def guess(word: str, names: Iterable[str], otherwise: str) -> str:
    """A hint for a word that means nothing: the nearest name, or else another way to find it."""
    name = nearest(word, names)
    return f"do you mean {quoted(name)}? {otherwise}" if name is not None else otherwise
