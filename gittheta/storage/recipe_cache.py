"""The table of known tensors: digest -> recipe, for every tensor that this repository ever stored or checked out.

A recipe that does for bytes of any meaning stands under their digest, any other under one that covers dtype and shape
too (:func:`gittheta.model.recipe_keys`).

It is a cache beside the store, shared by worktrees, and may be deleted at any time. A row that does not match its own
check is ignored, and so is any trouble with the file: the tensor is then encoded anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gittheta.errors import ManifestError
from gittheta.model import Digest, Recipe, digest_of
from gittheta.storage.manifest import format_recipe, parse_recipe

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tensor (digest BLOB PRIMARY KEY, recipe TEXT NOT NULL, sum BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS opening (first BLOB PRIMARY KEY, digest BLOB NOT NULL, recipe TEXT NOT NULL,
  sum BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS manifest (digest BLOB PRIMARY KEY, compared INTEGER NOT NULL) WITHOUT ROWID;
"""


@dataclass
class Known:
    """The table at ``path``, opened when first needed."""

    path: Path
    _connection: sqlite3.Connection | None = None

    def recipe(self, digest: Digest) -> Recipe | None:
        """How the tensor of that digest was stored before."""
        for text, check in self._query("SELECT recipe, sum FROM tensor WHERE digest = ?", (digest,)):
            if isinstance(text, str) and check == _sum(digest, text):
                with suppress(ManifestError):
                    return parse_recipe(text)
        return None

    def by_first_block(self, first: Digest) -> tuple[Digest, Recipe] | None:
        """A large tensor that begins with a block of that digest, and a recipe whose frames were compared with it."""
        for digest, text, check in self._query("SELECT digest, recipe, sum FROM opening WHERE first = ?", (first,)):
            if isinstance(text, str) and check == _sum(first + digest, text):
                with suppress(ManifestError):
                    return Digest(digest), parse_recipe(text)
        return None

    def record(
        self, tensors: Iterable[tuple[Digest, Recipe]], openings: Iterable[tuple[Digest, Digest, Recipe]] = ()
    ) -> None:
        """Remember recipes whose objects are durable; newer ones win."""
        rows = [(digest, text, _sum(digest, text)) for digest, text in _texts(tensors)]
        begins = [
            (first, digest, text, _sum(first + digest, text))
            for first, digest, recipe in openings
            for text in (format_recipe(recipe),)
        ]
        with suppress(sqlite3.Error, OSError), self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO tensor VALUES (?, ?, ?)", rows)
            connection.executemany("INSERT OR REPLACE INTO opening VALUES (?, ?, ?, ?)", begins)

    def manifest(self, digest: Digest) -> bool | None:
        """Whether the blocks of this manifest's tensors were compared with their frames; None if it is not known."""
        rows = self._query("SELECT compared FROM manifest WHERE digest = ?", (digest,))
        return bool(rows[0][0]) if rows else None

    def record_manifest(self, digest: Digest, compared: bool) -> None:
        """Remember that all tensors of this manifest text are recorded."""
        with suppress(sqlite3.Error, OSError), self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO manifest VALUES (?, ?)", (digest, int(compared)))

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _query(self, sql: str, values: tuple[bytes, ...]) -> list[tuple[Any, ...]]:
        try:
            connection = self._connect()
            if not connection.in_transaction:
                # One snapshot for many questions: asking one by one takes and drops the file's lock each time.
                connection.execute("BEGIN")
            return connection.execute(sql, values).fetchall()
        except (sqlite3.Error, OSError):
            return []

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connect()
        if connection.in_transaction:
            connection.commit()
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._create()
        return self._connection

    def _create(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=30)
        try:
            # Readers keep their snapshot for the length of a file and must not hold up another process's writes.
            connection.execute("PRAGMA journal_mode = WAL")
            # Losing the last rows to a power cut costs an encoding; syncing each time would cost every add.
            connection.execute("PRAGMA synchronous = OFF")
            connection.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            connection.close()
            if "malformed" not in str(error) and "not a database" not in str(error):
                raise
            self.path.unlink(missing_ok=True)
            connection = sqlite3.connect(self.path, timeout=30)
            connection.executescript(_SCHEMA)
        return connection


def _texts(tensors: Iterable[tuple[Digest, Recipe]]) -> Iterable[tuple[Digest, str]]:
    return ((digest, format_recipe(recipe)) for digest, recipe in tensors)


def _sum(digest: bytes, text: str) -> bytes:
    return digest_of(digest + text.encode())[:16]
