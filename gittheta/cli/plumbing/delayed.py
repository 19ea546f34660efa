"""Small checkpoints that Git writes last: what all of them need is fetched at once, rather than file by file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.model import Manifest, ObjectId

#: Bytes of manifests that wait in memory; what comes beyond that is written at once.
_MOST = 64 << 20


@dataclass
class DelayedFiles:
    """Manifests whose checkpoints Git will ask for once more. For one thread."""

    most: int = _MOST
    _texts: dict[str, bytes] = field(default_factory=dict)
    _size: int = 0
    _needed: dict[ObjectId, int] = field(default_factory=dict)

    def add(self, path: str, text: bytes, manifest: Manifest) -> bool:
        """Let a file wait, if there is room for it; says whether there was."""
        if self._size + len(text) > self.most:
            return False
        self._texts[path] = text
        self._size += len(text)
        for object_id, size in manifest.objects().items():
            self._needed[object_id] = max(size, self._needed.get(object_id, 0))
        return True

    def ready(self, workspace: Workspace) -> list[str]:
        """Fetch what is missing, and name the files that wait; none once all of them were taken."""
        needed, self._needed = self._needed, {}
        if workspace.tensors.store.missing(needed):
            from gittheta.flows.transfer.fetch import fetch_objects

            fetch_objects(workspace, needed)
        return list(self._texts)

    def take(self, path: str) -> bytes | None:
        """The manifest of a file that waited; None if it did not."""
        text = self._texts.pop(path, None)
        self._size -= len(text or b"")
        return text
