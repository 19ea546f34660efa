"""The tensors of all checkpoints in HEAD: looked up once for all files that a command adds, however many those are."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gittheta.errors import GitError
from gittheta.git.process import AttributeReader
from gittheta.model import EMPTY_DIGEST, Stanza, TensorSpec
from gittheta.runtime import close_parts, lazy
from gittheta.storage.manifest import MAX_TEXT, format_stanza, stanza_heads

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from gittheta.flows.workspace import Workspace
    from gittheta.git.entries import Entry

#: The attribute that names a tracked file from which another one is derived.
ATTRIBUTE = "theta-base"
#: The most checkpoints that are read to find tensors of different values under one name.
_READ = 4
#: Checkpoints whose tensors are kept for the next question, which is mostly about the same ones.
_KEPT = 4
#: Greater than every part of a path.
_LAST = chr(0x10FFFF)


class Committed:
    """What HEAD holds, and what Git says of files. Kept for the life of a process. For one thread."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._tables: dict[str, _Table] = {}

    def base_of(self, path: str) -> str | None:
        """The file that the attribute of a file names, if it names one."""
        value = self._attributes.read(path)
        return None if value in ("unspecified", "set", "unset") else value

    def like(self, path: str, spec: TensorSpec, most: int) -> list[Stanza]:
        """At most ``most`` tensors of this name, dtype and shape, of different values, in other checkpoints of HEAD.

        Those that lie nearest come first: with the most leading folders in common, then by path.
        """
        found: list[Stanza] = []
        for stanza in self._table().like(self._workspace, path, spec):
            if all(other.digest != stanza.digest for other in found):
                found.append(stanza)
            if len(found) == most:
                break
        return found

    def close(self) -> None:
        """End what was started."""
        close_parts(self, "_attributes")

    @lazy
    def _attributes(self) -> AttributeReader:
        return AttributeReader.open(self._workspace.repository.git, ATTRIBUTE)

    def _table(self) -> _Table:
        """The table of HEAD, which moves while this process lives if Git picks one commit after the other."""
        head = self._workspace.blobs.resolve("HEAD^{commit}") or ""
        if head not in self._tables:
            self._tables = {head: _Table.of(self._workspace, head)}
        return self._tables[head]


@dataclass(frozen=True)
class _Table:
    """Which checkpoints have a tensor: a few bytes for each, whatever their names are."""

    #: In the order of their folders, so that those lie together that have folders in common.
    files: tuple[Entry, ...]
    paths: tuple[tuple[str, ...], ...]
    #: Of each tensor a hash of name, dtype and shape, ascending, and the index of its checkpoint.
    hashes: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]
    _kept: OrderedDict[str, dict[str, Stanza]] = field(default_factory=OrderedDict)

    @classmethod
    def of(cls, workspace: Workspace, head: str) -> _Table:
        import numpy as np  # a file without anything new does without it

        files = sorted(_tracked(workspace, head), key=lambda entry: entry.path.split("/"))
        hashes, owners = array("q"), array("q")
        for index, entry in enumerate(files):
            for head_lines in stanza_heads(workspace.blobs.read(entry.oid, MAX_TEXT) or b""):
                hashes.append(hash(head_lines))
                owners.append(index)
        order = np.argsort(np.frombuffer(hashes, np.int64), kind="stable")
        paths = tuple(tuple(entry.path.split("/")) for entry in files)
        return cls(tuple(files), paths, np.frombuffer(hashes, np.int64)[order], np.frombuffer(owners, np.int64)[order])

    def like(self, workspace: Workspace, path: str, spec: TensorSpec) -> Iterator[Stanza]:
        """The tensors of this name, dtype and shape in other checkpoints, of a few that lie nearest."""
        key = hash(_head(spec))
        begin, end = self.hashes.searchsorted(key, "left"), self.hashes.searchsorted(key, "right")
        for index in self._nearest(tuple(path.split("/")), self.owners[begin:end]):
            stanza = self._tensors(workspace, self.files[index].oid).get(spec.name)
            if stanza and stanza.spec == spec:
                yield stanza

    def _nearest(self, own: tuple[str, ...], owners: npt.NDArray[np.int64]) -> list[int]:
        """A few of the owners, those first that share the most folders with a path."""
        found: dict[int, None] = {}
        for depth in range(len(own) - 1, -1, -1):
            low = bisect_left(self.paths, own[:depth])
            high = bisect_left(self.paths, (*own[:depth], _LAST))
            begin, end = owners.searchsorted((low, high))
            near = owners[begin : min(end, begin + len(found) + _READ + 1)].tolist()
            found |= dict.fromkeys(index for index in near if self.paths[index] != own)
            if len(found) >= _READ:
                break
        return list(found)[:_READ]

    def _tensors(self, workspace: Workspace, oid: str) -> dict[str, Stanza]:
        if oid not in self._kept:
            manifest = workspace.try_manifest(oid)
            self._kept[oid] = {stanza.spec.name: stanza for stanza in manifest.stanzas} if manifest else {}
        self._kept.move_to_end(oid)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return self._kept[oid]


def _tracked(workspace: Workspace, head: str) -> list[Entry]:
    repository = workspace.repository
    try:
        entries = [entry for entry in repository.tree(head) if entry.mode.startswith("100")] if head else []
    except GitError:
        return []
    filters = repository.attributes(["filter"], [entry.path for entry in entries])
    return [entry for entry in entries if filters[entry.path]["filter"] == "theta"]


def _head(spec: TensorSpec) -> bytes:
    name, second, *_ = format_stanza(Stanza(spec, EMPTY_DIGEST, ()))
    return f"{name}\n{second.partition(' b3:')[0]}".encode()
