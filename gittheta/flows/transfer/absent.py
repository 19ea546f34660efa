"""Manifests whose objects are nowhere: which of them stand for a checkpoint, and which are only text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

from gittheta.flows.transfer.needs import Needs
from gittheta.git.history import changes_of, filters_at, tips
from gittheta.wording import counted, shown

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.git.entries import Entry
    from gittheta.model import ObjectId

_ATTRIBUTES = ".gitattributes"


@dataclass(frozen=True)
class Absence:
    """A manifest of history that needs objects which are nowhere."""

    path: str
    oid: str
    objects: frozenset[ObjectId]
    #: Whether a commit that has it gives the filter to its path: then it stands for a checkpoint.
    filtered: bool

    def warning(self) -> str:
        """What to tell where it is only text."""
        objects = counted(len(self.objects), "object")
        return (
            f"{shown(self.path)}: no commit gives the filter to this manifest; nowhere to be found: {objects}"
            "\n  if it is a text that you keep on purpose, nothing is to be done"
        )


def lost(workspace: Workspace, revisions: Iterable[str], absent: Collection[ObjectId]) -> Iterator[Absence]:
    """Every manifest in the history and in the trees of some revisions that needs one of the absent objects."""
    revisions, absent = list(revisions), frozenset(absent)
    needs = Needs(workspace)
    trees = tips(workspace.repository.git, revisions)
    found: dict[str, tuple[str, frozenset[ObjectId]]] = {}
    for need in chain(needs.within(revisions, only_here=True), needs.within(trees, only_here=True)):
        objects = absent & need.objects.keys()
        if objects:
            found.setdefault(need.blob.oid, (need.blob.path or need.blob.oid, objects))
    filtered = Filtered(workspace, revisions).of(found)
    for oid, (path, objects) in found.items():
        yield Absence(path, oid, objects, oid in filtered)


@dataclass
class Filtered:
    """Which blobs of a history have the filter: by the attributes of a commit that has them, and the user's own."""

    workspace: Workspace
    revisions: list[str]
    _known: dict[tuple[tuple[str, str], ...], dict[str, str]] = field(default_factory=lambda: defaultdict(dict))

    def of(self, oids: Collection[str]) -> set[str]:
        """Those of some blobs that have it at some path. Looks at trees that may have changed this only."""
        left = set(oids)
        git = self.workspace.repository.git.as_stored()
        trees = chain(tips(git, self.revisions), changes_of(git, self.revisions, left, _ATTRIBUTES)) if left else ()
        for tree in trees:
            left -= self._in_tree(tree, left)
            if not left:
                break
        return set(oids) - left

    def _in_tree(self, tree: str, oids: set[str]) -> set[str]:
        entries = list(self.workspace.repository.tree(tree))
        paths = {entry.path: entry.oid for entry in entries if entry.oid in oids}
        if not paths:
            return set()
        filters = self._filters(tree, _attributes(entries), list(paths))
        return {oid for path, oid in paths.items() if filters.get(path) == "theta"}

    def _filters(self, tree: str, attributes: tuple[tuple[str, str], ...], paths: list[str]) -> dict[str, str]:
        """Trees with the same attributes are asked once for each path."""
        known = self._known[attributes]
        unknown = [path for path in paths if path not in known]
        if unknown:
            scratch = self.workspace.tensors.store.temporary()
            known.update(filters_at(self.workspace.repository.git.as_stored(), tree, unknown, scratch))
        return known


def _attributes(entries: Iterable[Entry]) -> tuple[tuple[str, str], ...]:
    return tuple((entry.path, entry.oid) for entry in entries if entry.path.rpartition("/")[2] == _ATTRIBUTES)
