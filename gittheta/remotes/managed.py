"""What is listed, deleted and noted in a store that others use, with the same patience as transfers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gittheta.api import ManagedRemote
from gittheta.remotes.retry import RetryingRemote
from gittheta.remotes.wrapper import Wrapper

if TYPE_CHECKING:
    from tenacity import Retrying

    from gittheta.api import ObjectId, Remote


def managed(remote: Remote) -> PatientManager | None:
    """The part of a remote, however it is wrapped, that lists and deletes; None if it cannot do that."""
    inner = remote
    while isinstance(inner, Wrapper):
        inner = inner.inner
    return PatientManager(inner) if isinstance(inner, ManagedRemote) and inner.manages else None


@dataclass(frozen=True)
class PatientManager:
    """Calls again, after a pause, what may then succeed. Safe to use from several threads."""

    inner: ManagedRemote

    def reservation(self) -> str:
        """As :class:`ManagedRemote` says."""
        return self._again()(self.inner.reservation)

    def names(self) -> dict[ObjectId, int]:
        """Every object, and its size in bytes."""
        return self._again()(lambda: dict(self.inner.names()))

    def remove(self, object_id: ObjectId) -> None:
        """Delete an object, if it is there."""
        self._again()(self.inner.remove, object_id)

    def notes(self, kind: str = "") -> list[str]:
        """The names of notes that begin like this."""
        return [name for name in self._again()(self.inner.notes) if name.startswith(kind)]

    def read_notes(self, names: list[str]) -> Iterator[tuple[str, bytes]]:
        """Notes by name; those that are gone by now are left out."""
        for name in names:
            data = self._again()(self.inner.read_note, name)
            if data is not None:
                yield name, data

    def write_note(self, name: str, data: bytes) -> None:
        """Write a note."""
        self._again()(self.inner.write_note, name, data)

    def remove_note(self, name: str) -> None:
        """Delete a note, if it is there."""
        self._again()(self.inner.remove_note, name)

    def _again(self) -> Retrying:
        return RetryingRemote(self.inner).retrying()
