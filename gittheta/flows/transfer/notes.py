"""Notes in a store that several repositories push to: who pushes, and what is about to be deleted.

What each note means, and in which order they are read and written, is specified in ``docs/spec/store.md``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from gittheta.errors import RemoteError, TemporaryRemoteError
from gittheta.model import ObjectId
from gittheta.wording import counted

if TYPE_CHECKING:
    from gittheta.remotes.managed import PatientManager

PUSHER, CANDIDATES, KEPT, DELETING = "pusher-", "candidates-", "kept-", "deleting-"
#: How often notes are read while others change them.
_ATTEMPTS = 20
_FIRST = "gittheta note 1"


@dataclass(frozen=True)
class Notes:
    """All notes of a store, as they stood when they were read."""

    #: The repositories that push, by note.
    pushers: Mapping[str, str] = field(default_factory=dict)
    #: When each object came onto a list, in seconds since the epoch.
    candidates: Mapping[ObjectId, float] = field(default_factory=dict)
    kept: frozenset[ObjectId] = frozenset()
    #: The objects of each collection that is deleting, by note.
    deleting: Mapping[str, frozenset[ObjectId]] = field(default_factory=dict)
    #: The names of all lists of candidates and of what is kept.
    lists: tuple[str, ...] = ()

    @property
    def collected(self) -> bool:
        """Whether garbage was ever collected there."""
        return bool(self.lists or self.deleting)


def read_notes(manager: PatientManager) -> Notes:
    """All notes of a store. Raises RemoteError, also for one of a later format."""
    lines = _all(manager)
    dates: dict[ObjectId, float] = {}
    for line in _of(lines, CANDIDATES):
        object_id, _, date = line.partition(" ")
        dates[ObjectId(object_id)] = max(float(date), dates.get(ObjectId(object_id), 0))
    return Notes(
        {name: text[0] for name, text in lines.items() if name.startswith(PUSHER) and text},
        dates,
        frozenset(map(ObjectId, _of(lines, KEPT))),
        {name: frozenset(map(ObjectId, text)) for name, text in lines.items() if name.startswith(DELETING)},
        tuple(name for name in lines if name.startswith((CANDIDATES, KEPT))),
    )


def _all(manager: PatientManager) -> dict[str, list[str]]:
    """Every note. If one goes while they are read, another one that takes its place may not have been seen."""
    for _ in range(_ATTEMPTS):
        names = manager.notes()
        read = dict(manager.read_notes(names))
        if len(read) == len(names):
            return {name: _lines(name, data) for name, data in read.items()}
    raise TemporaryRemoteError("the notes there change all the time", hint="run the command again in some minutes")


def write_list(manager: PatientManager, kind: str, now: float, lines: Iterable[str]) -> str:
    """Write a note of a kind; returns its name. Raises RemoteError."""
    name = f"{kind}{now:.0f}-{os.urandom(8).hex()}"
    manager.write_note(name, "".join(f"{line}\n" for line in (_FIRST, *lines)).encode())
    return name


def announce(manager: PatientManager, url: str) -> None:
    """Let others know that the refs of a repository need objects of this store. Raises RemoteError."""
    name = f"{PUSHER}{hashlib.sha256(url.encode()).hexdigest()[:32]}"
    if name not in manager.notes(PUSHER):
        manager.write_note(name, f"{_FIRST}\n{url}\n".encode())


def rely_on(manager: PatientManager, objects: Iterable[ObjectId], now: float) -> bool:
    """Keep a collection from deleting objects that are there. Says whether one may have deleted some already.

    Raises TemporaryRemoteError if one is deleting some of them right now.
    """
    needed = frozenset(objects)
    notes = read_notes(manager)
    _refuse_deleting(notes, needed)
    listed = needed & notes.candidates.keys()
    if listed - notes.kept:
        write_list(manager, KEPT, now, sorted(listed))
        _refuse_deleting(read_notes(manager), needed)
    return notes.collected


def _refuse_deleting(notes: Notes, needed: frozenset[ObjectId]) -> None:
    doomed = needed & frozenset().union(*notes.deleting.values())
    if doomed:
        raise TemporaryRemoteError(
            f"garbage is being collected there, {counted(len(doomed), 'object')} of this push among it",
            hint="push again in some minutes; if it was cut short, run it once more: git theta gc --remote NAME",
        )


def canonical_url(url: str, base: Path) -> str:
    """A repository's URL as notes have it: without a password, and a path on this machine in full."""
    scheme, separator, rest = url.partition("://")
    if scheme == "file" and separator:
        return _full_path(Path(unquote(rest)))
    if separator:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        user = f"{parts.username}@" if parts.username and scheme not in ("http", "https") else ""
        return urlunsplit((scheme, user + host, parts.path.rstrip("/").removesuffix(".git"), "", ""))
    if ":" in url.partition("/")[0]:
        return url.rstrip("/").removesuffix(".git")
    return _full_path(base / url)


def _full_path(path: Path) -> str:
    if not path.is_dir() and path.with_name(f"{path.name}.git").is_dir():
        path = path.with_name(f"{path.name}.git")
    return str(path.resolve())


def _of(lines: Mapping[str, list[str]], kind: str) -> Iterator[str]:
    for name, text in lines.items():
        if name.startswith(kind):
            yield from text


def _lines(name: str, data: bytes) -> list[str]:
    first, *rest = data.decode(errors="replace").splitlines() or [""]
    if first != _FIRST:
        raise RemoteError(f"the note {name} there is of another version", hint="upgrade gittheta")
    return rest
