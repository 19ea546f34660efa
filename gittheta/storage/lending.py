"""Who relies on a store besides its own repository: those that borrow from it, and those that push to it.

A repository that borrows (``git clone --shared``) leaves its path in the lender's store, in ``borrowers/``; a push into
a store leaves the empty file ``pushed-to`` there. Garbage collection asks for both.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gittheta.storage.permissions import Permissions

_BORROWERS = "borrowers"
_PUSHED_TO = "pushed-to"


def note_borrower(lender: Path, borrower: Path, permissions: Permissions) -> None:
    """Leave a note in a lender's store that the repository at ``borrower`` relies on it, if that can be written."""
    with suppress(OSError):
        name = hashlib.sha256(os.fsencode(borrower)).hexdigest()
        note = lender / _BORROWERS / name
        if note.exists() or not lender.is_dir():
            return
        permissions.make_folders(note.parent)
        with permissions.replacing(note) as descriptor:
            os.write(descriptor, os.fsencode(borrower))


def borrowers(root: Path) -> Iterator[tuple[Path, Path]]:
    """Each note in a store, and the repository that it names. Raises OSError."""
    folder = root / _BORROWERS
    for note in sorted(folder.iterdir()) if folder.is_dir() else ():
        if len(note.name) == len(hashlib.sha256().hexdigest()):
            yield note, Path(os.fsdecode(note.read_bytes()))


def note_push(root: Path, permissions: Permissions) -> None:
    """Leave a note that others push into a store. Raises OSError."""
    if not (root / _PUSHED_TO).exists():
        permissions.make_folders(root)
        os.close(permissions.append_to(root / _PUSHED_TO))


def is_pushed_to(root: Path) -> bool:
    """Whether others have pushed into a store."""
    return (root / _PUSHED_TO).exists()
