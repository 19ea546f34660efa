"""A cache of recipes, by digest, for every tensor that this repository ever stored or checked out.

A recipe that gives the same bytes whatever their dtype has their digest as its key; any other has a key that covers
dtype and shape too (:func:`gittheta.model.recipe_keys`).

The cache lies beside the store, is shared by worktrees, and may be deleted at any time. Whatever happens to the file,
no command fails or changes its result. A row that does not match its checksum is ignored. A file that cannot be opened,
locked or written counts as empty; then tensors are encoded again.

A file that is damaged, or not a file, is left where it is, and the next one takes its place: ``known.sqlite.1`` and so
on. No name is ever used twice. Other processes may still have the damaged file open, and SQLite finds the files beside
it (``-wal``, and ``-shm``, which it maps into memory) by name: it would cut those of a new file of that name short, and
end every process that has them mapped.
"""

from __future__ import annotations

import os
import re
import sqlite3
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from gittheta.errors import ManifestError
from gittheta.model import Digest, Recipe, digest_of
from gittheta.storage.files import NotRegular
from gittheta.storage.manifest import format_recipe, parse_recipe
from gittheta.storage.permissions import BY_UMASK, Permissions

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tensor (digest BLOB PRIMARY KEY, recipe TEXT NOT NULL, sum BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS opening (first BLOB PRIMARY KEY, digest BLOB NOT NULL, recipe TEXT NOT NULL,
  sum BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS manifest (digest BLOB PRIMARY KEY, compared INTEGER NOT NULL) WITHOUT ROWID;
"""
#: Seconds to wait for another process that holds the file; after that, this process does without the cache.
_PATIENCE = 1.0
#: Parts of SQLite's messages for a file that is damaged or not a database. Other errors may be temporary.
_DAMAGED = (
    "malformed",
    "not a database",
    "file is encrypted",
    "no such table",
    "no such column",
    "has no column",
    "decode",
    "unsupported file format",
)
#: The end of the name of a file that took a damaged one's place.
_NUMBER = re.compile("[1-9][0-9]{0,8}")
Answer = TypeVar("Answer")


class RecipeCache:
    """The cache in a file, opened on first use. Safe to use from several threads, and by several processes."""

    def __init__(
        self, path: Path, trace: Callable[[str], None] = lambda _: None, permissions: Permissions = BY_UMASK
    ) -> None:
        """``trace`` gets one message if the cache was damaged or cannot be used."""
        self.path = path
        self._permissions = permissions
        self._trace = trace
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None
        #: The number of the file that is, or was last, open.
        self._generation = 0
        #: Why the cache cannot be used; None while it can.
        self._unusable: str | None = None

    def recipe(self, digest: Digest) -> Recipe | None:
        """The recipe stored under a key, or None."""
        for text, check in self._query("SELECT recipe, sum FROM tensor WHERE digest = ?", digest):
            if isinstance(text, str) and check == _sum(digest, text):
                return _parsed(text)
        return None

    def by_first_block(self, first: Digest) -> tuple[Digest, Recipe] | None:
        """The digest and recipe of a large tensor whose first block has this digest, or None.

        The frames of the recipe were compared with the tensor.
        """
        for digest, text, check in self._query("SELECT digest, recipe, sum FROM opening WHERE first = ?", first):
            if isinstance(text, str) and isinstance(digest, bytes) and check == _sum(first + digest, text):
                recipe = _parsed(text)
                return (Digest(digest), recipe) if recipe is not None else None
        return None

    def record(
        self, tensors: Iterable[tuple[Digest, Recipe]], openings: Iterable[tuple[Digest, Digest, Recipe]] = ()
    ) -> None:
        """Store recipes whose objects are durable; they replace older ones.

        ``tensors`` are pairs of key and recipe; ``openings`` are the digest of a first block, the tensor's digest, and
        its recipe.
        """
        texts = ((digest, format_recipe(recipe)) for digest, recipe in tensors)
        rows = [(digest, text, _sum(digest, text)) for digest, text in texts]
        begins = [
            (first, digest, text, _sum(first + digest, text))
            for first, digest, recipe in openings
            for text in (format_recipe(recipe),)
        ]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO tensor VALUES (?, ?, ?)", rows)
            connection.executemany("INSERT OR REPLACE INTO opening VALUES (?, ?, ?, ?)", begins)

        self._write(write)

    def manifest(self, digest: Digest) -> bool | None:
        """Whether the blocks of this manifest's tensors were compared with their frames; None if the cache lacks it."""
        rows = self._query("SELECT compared FROM manifest WHERE digest = ?", digest)
        return bool(rows[0][0]) if rows else None

    def record_manifest(self, digest: Digest, *, compared: bool) -> None:
        """Record that the cache has all tensors of the manifest whose text has this digest."""
        row = (digest, int(compared))
        self._write(lambda connection: connection.execute("INSERT OR REPLACE INTO manifest VALUES (?, ?)", row))

    def forget(self, manifests: Iterable[Digest], openings: Iterable[Digest]) -> None:
        """What these manifests and first blocks promise is not relied on any more."""
        texts, firsts = [(digest,) for digest in manifests], [(digest,) for digest in openings]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM manifest WHERE digest = ?", texts)
            connection.executemany("DELETE FROM opening WHERE first = ?", firsts)

        self._write(write)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._close()

    def _query(self, sql: str, key: bytes) -> list[tuple[Any, ...]]:
        def ask(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            if not connection.in_transaction:
                # One snapshot for many queries: single queries would each take and release the file's lock.
                connection.execute("BEGIN")
            return connection.execute(sql, (key,)).fetchall()

        return self._use(ask) or []

    def _write(self, write: Callable[[sqlite3.Connection], object]) -> None:
        def transaction(connection: sqlite3.Connection) -> None:
            if connection.in_transaction:
                connection.commit()
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                write(connection)

        self._use(transaction)

    def _use(self, use: Callable[[sqlite3.Connection], Answer]) -> Answer | None:
        """The result of ``use``, or None if the cache cannot be used. After damage it tries again with a new file."""
        with self._lock:
            for _ in range(2):
                if self._unusable is not None:
                    return None
                try:
                    return use(self._connect())
                except (sqlite3.Error, OSError, ValueError, TypeError, OverflowError) as error:
                    self._recover(error)
            return None

    def _recover(self, error: Exception) -> None:
        """After an error: begin the next file if this one is damaged; else do without the cache in this process."""
        self._close()
        damaged = any(word in str(error) for word in _DAMAGED) or not isinstance(error, (sqlite3.Error, OSError))
        if damaged or isinstance(error, NotRegular):
            present, following = self._file(self._generation), self._file(self._generation + 1)
            self._trace(f"the cache {present} is damaged ({error}); {following.name} takes its place")
            try:
                self._begin(following)
            except OSError as again:
                self._unusable = str(again)
        else:
            self._unusable = str(error)
        if self._unusable is not None:
            self._trace(f"the cache {self.path} cannot be used ({self._unusable}); tensors are encoded again")

    def _begin(self, following: Path) -> None:
        """Make the next file, and delete those that were damaged before this one. Raises OSError."""
        with suppress(FileExistsError):  # another process was faster
            os.close(self._permissions.create(following))
        for generation in range(self._generation):
            for suffix in ("", "-wal", "-shm", "-journal"):
                former = self._file(generation)
                with suppress(OSError):
                    former.with_name(former.name + suffix).unlink()

    def _file(self, generation: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{generation}") if generation else self.path

    def _newest(self) -> int:
        """The number of the file in use. Raises OSError."""
        parts = (name.rpartition(".") for name in os.listdir(self.path.parent))
        return max(
            (int(end) for start, _, end in parts if start == self.path.name and _NUMBER.fullmatch(end)), default=0
        )

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            # Our lock keeps threads apart, so that SQLite's own check for threads is not needed.
            self._connection = sqlite3.connect(self._created(), timeout=_PATIENCE, check_same_thread=False)
            # Readers keep a snapshot while they read a whole file, and must not block the writes of other processes.
            self._connection.execute("PRAGMA journal_mode = WAL")
            # If a power failure loses the last rows, tensors are encoded once more; syncing would slow down every add.
            self._connection.execute("PRAGMA synchronous = OFF")
            self._connection.executescript(_SCHEMA)
        return self._connection

    def _created(self) -> Path:
        """The file, made with our permissions: SQLite would give it others. Raises NotRegular if it is not a file."""
        self._permissions.make_folders(self.path.parent)
        self._generation = self._newest()
        path = self._file(self._generation)
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            with suppress(FileExistsError):
                os.close(self._permissions.create(path))
        else:
            if not stat.S_ISREG(mode):  # SQLite would wait for a FIFO
                raise NotRegular(path, mode)
        return path

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as error:
                self._trace(f"the cache {self.path} could not be closed: {error}")


def _parsed(text: str) -> Recipe | None:
    try:
        return parse_recipe(text)
    except ManifestError:
        return None


def _sum(digest: bytes, text: str) -> bytes:
    return digest_of(digest + text.encode())[:16]
