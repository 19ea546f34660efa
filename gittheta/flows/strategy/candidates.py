"""Which checkpoints several sides of a merge have changed, and under which name the result goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gittheta.git.trees import TreeChange, follows_renames, tree_changes, tree_renames
from gittheta.storage.manifest import MAX_TEXT, claims_to_be_manifest

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.git.entries import Entry


@dataclass(frozen=True)
class MergeCandidate:
    """A checkpoint that more than one side changed, or that is picked."""

    #: Where the result goes: a side may have renamed it.
    path: str
    base: Entry | None
    #: What each side has; None where it was deleted, or never was.
    sides: tuple[Entry | None, ...]
    #: The sides that have other content than the base, or deleted it.
    changed: tuple[int, ...]

    @property
    def paths(self) -> frozenset[str]:
        """Every name that it has anywhere."""
        return frozenset({self.path} | {entry.path for entry in (self.base, *self.sides) if entry})

    @property
    def mode(self) -> str:
        """The permissions that the result gets: what any side made of them."""
        modes = [entry.mode for entry in self.sides if entry]
        return next((mode for mode in modes if self.base and mode != self.base.mode), modes[0])

    @property
    def alike(self) -> bool:
        """Whether all that changed it have the same."""
        return len({entry.oid if entry else None for entry in map(self.sides.__getitem__, self.changed)}) == 1


def candidates(workspace: Workspace, base: str, trees: Sequence[str], *, picked: bool) -> list[MergeCandidate]:
    """The checkpoints that are to be merged by us. Everything else, even what is odd about checkpoints, is for Git.

    If a change is ``picked``, what only the last side changed takes part: it may have to be scaled.
    """
    return _Survey(workspace, base, trees, picked).candidates()


@dataclass
class _Survey:
    workspace: Workspace
    base: str
    trees: Sequence[str]
    picked: bool
    #: For each side, what it changed.
    changes: list[dict[str, TreeChange]] = field(init=False)
    _claims: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        git = self.workspace.repository.git
        self.changes = [tree_changes(git, self.base, tree) for tree in self.trees]

    def candidates(self) -> list[MergeCandidate]:
        self._follow_renames(self._wanted())
        there = [candidate for candidate in map(self._contest, self._wanted()) if candidate]
        targets = Counter(candidate.path for candidate in there)
        return [candidate for candidate in there if targets[candidate.path] == 1 and not self._in_the_way(candidate)]

    def _wanted(self) -> list[str]:
        """Paths of checkpoints that are changed often enough."""
        counts = Counter(path for changes in self.changes for path in changes)
        last = self.changes[-1] if self.picked else {}
        return [path for path, count in counts.items() if (count > 1 or path in last) and self._is_checkpoint(path)]

    def _is_checkpoint(self, path: str) -> bool:
        """Whether any version of a file is a manifest."""
        there = [changes[path] for changes in self.changes if path in changes]
        entries = [there[0].old, *(change.new for change in there)]
        return any(self._claims_to_be(entry) for entry in entries if entry)

    def _claims_to_be(self, entry: Entry) -> bool:
        if not entry.mode.startswith("100"):
            return False
        if entry.oid not in self._claims:
            text = self.workspace.blobs.read(entry.oid, MAX_TEXT)
            self._claims[entry.oid] = text is not None and claims_to_be_manifest(text)
        return self._claims[entry.oid]

    def _follow_renames(self, wanted: list[str]) -> None:
        """Where a side deleted one of these, look whether it stands elsewhere now."""
        repository = self.workspace.repository
        if not follows_renames(repository):
            return
        for changes, tree in zip(self.changes, self.trees, strict=True):
            if any(path in changes and changes[path].new is None for path in wanted):
                for old, change in tree_renames(repository.git, self.base, tree).items():
                    if old in wanted and change.new:
                        changes[old] = change
                        del changes[change.new.path]

    def _contest(self, path: str) -> MergeCandidate | None:
        """None for what is Git's business: other kinds of files, two new names, what only one side changed."""
        base = next(changes[path].old for changes in self.changes if path in changes)
        sides = tuple(changes[path].new if path in changes else base for changes in self.changes)
        changed = tuple(index for index, side in enumerate(sides) if _oid(side) != _oid(base))
        there = [side for index in changed if (side := sides[index])]
        modes = {entry.mode[:3] for entry in (base, *sides) if entry}
        names = {side.path for side in sides if side and side.path != path}
        enough = len(changed) > 1 or (self.picked and len(sides) - 1 in changed)
        plain = modes == {"100"} and len(names) < 2
        if not (enough and plain and any(map(self._claims_to_be, there))):
            return None
        return MergeCandidate(min(names, default=path), base, sides, changed)

    def _in_the_way(self, candidate: MergeCandidate) -> bool:
        """Whether a side has something else where the result is to go, or above, or below."""
        path = candidate.path
        renamed = candidate.base is not None and candidate.base.path != path
        news = [change.new.path for changes in self.changes for change in changes.values() if change.new]
        return any(new.startswith(path + "/") or path.startswith(new + "/") for new in news) or (
            renamed and any(path in changes for changes in self.changes)
        )


def _oid(entry: Entry | None) -> str | None:
    return entry.oid if entry else None
