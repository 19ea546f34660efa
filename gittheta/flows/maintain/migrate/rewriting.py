"""What each commit of a migration changes, over its first parent as it is written anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.errors import ConfigError, ThetaError
from gittheta.flows.maintain.migrate.directions import Version
from gittheta.git.attributes import FILE
from gittheta.git.rewriting.attributes import TreeAttributes
from gittheta.git.rewriting.history import Change, ExportedCommit
from gittheta.wording import shown

if TYPE_CHECKING:
    from gittheta.flows.maintain.migrate.converted import Conversion, ConvertedBlobs
    from gittheta.flows.maintain.migrate.directions import Direction
    from gittheta.flows.workspace import Workspace

#: Checkpoints beside a new one that its tensors may have come from.
_OTHERS = 3
_LARGEST = 1 << 20


@dataclass(frozen=True)
class _State:
    """What is known of a commit's tree: its files of attributes before and after, and what is converted in it."""

    attributes: Mapping[str, str] = field(default_factory=dict)
    rewritten: Mapping[str, str] = field(default_factory=dict)
    #: The old blobs, by path.
    selected: Mapping[str, str] = field(default_factory=dict)


class Rewriting:
    """Answers, commit by commit, what it is to change. For one thread."""

    def __init__(
        self, workspace: Workspace, direction: Direction, converted: ConvertedBlobs, scratch: Callable[[str], Path]
    ) -> None:
        """``scratch``: a new folder of that name."""
        self._workspace = workspace
        self._direction = direction
        self.converted = converted
        git = workspace.repository.git.as_stored()
        self._stored = replace(workspace.repository, git=git)
        self._before = TreeAttributes(git, scratch("before"), direction.patterns)
        self._after = TreeAttributes(git, scratch("after"), direction.patterns)
        self._states: dict[str, _State] = {}
        #: What becomes of each file of attributes, by path and blob; the empty blob stands for none.
        self.lines: dict[tuple[str, str], str] = {}
        #: The conversions that this history needs, by old blob.
        self.used: dict[str, Conversion] = {}
        #: The paths of all files that are converted somewhere.
        self.paths: set[str] = set()

    def edit(self, commit: ExportedCommit) -> Iterator[Change]:
        """The changes of a commit: files that go, then files of attributes, then all others. Raises ThetaError."""
        before = self._states[commit.parents[0]] if commit.parents else _State()
        state, changes = self._next(commit, before)
        self._states[commit.oid] = state
        gone = [change for change in commit.changes if not change.mode and not _is_attributes(change.path)]
        gone += [Change(path) for path in before.rewritten.keys() - state.rewritten.keys()]
        yield from gone
        for path, oid in state.rewritten.items():
            if before.rewritten.get(path) != oid:
                yield Change(path, "100644", oid)
        for change in changes:
            yield self._converted(change, before, state) if change.path in state.selected else change

    def _next(self, commit: ExportedCommit, before: _State) -> tuple[_State, list[Change]]:
        """The state after a commit, and the files that it has to write."""
        attributes = dict(before.attributes)
        for change in commit.changes:
            if _is_attributes(change.path):
                attributes.pop(change.path, None)
                if change.mode.startswith("100"):
                    attributes[change.path] = change.oid
        written = [change for change in commit.changes if change.mode and not _counts_as_attributes(change)]
        if commit.parents and attributes == before.attributes:
            selected = self._selected_over(before, commit, written)
            return _State(before.attributes, before.rewritten, selected), written
        return self._under_new_attributes(commit, before, attributes, written)

    def _selected_over(self, before: _State, commit: ExportedCommit, written: list[Change]) -> Mapping[str, str]:
        changed = {change.path for change in commit.changes}
        new = self._selected(before, commit, written)
        if not new and before.selected.keys().isdisjoint(changed):
            return before.selected
        kept = {path: oid for path, oid in before.selected.items() if path not in changed}
        return kept | new

    def _under_new_attributes(
        self, commit: ExportedCommit, before: _State, attributes: Mapping[str, str], written: list[Change]
    ) -> tuple[_State, list[Change]]:
        """Other attributes: every file of the tree may be converted now, or no more."""
        new = self._attributes(attributes)
        tree = self._stored.tree(commit.oid)
        files = [Change(entry.path, entry.mode, entry.oid) for entry in tree]
        files = [change for change in files if not _counts_as_attributes(change)]
        bare = _State(attributes, new)
        state = _State(attributes, new, self._selected(bare, commit, files))
        affected = before.selected.keys() | state.selected.keys()
        listed = {change.path for change in written}
        more = [change for change in files if change.path in affected and change.path not in listed]
        return state, written + more

    def _selected(self, state: _State, commit: ExportedCommit, files: Iterable[Change]) -> dict[str, str]:
        """Those of some files that are to be converted."""
        regular = {change.path: change.oid for change in files if change.mode.startswith("100")}
        old, new = self._before.of(state.attributes, regular), self._after.of(state.rewritten, regular)
        for path in regular:
            if new[path].matched and new[path].filter == "lfs" and self._direction.name == "import":
                raise ConfigError(
                    f"{shown(path)} has the filter lfs in commit {commit.oid[:12]}, by another line of its attributes",
                    hint="name the pattern of that line: git theta migrate import --from-lfs --include PATTERN",
                )
        return {path: oid for path, oid in regular.items() if self._direction.selects(old[path], new[path])}

    def _attributes(self, attributes: Mapping[str, str]) -> dict[str, str]:
        rewritten = {path: self._rewritten_lines(path, oid) for path, oid in {FILE: "", **attributes}.items()}
        return {path: oid for path, oid in rewritten.items() if oid}

    def _rewritten_lines(self, path: str, oid: str) -> str:
        if (path, oid) not in self.lines:
            content = self._workspace.stored_blobs.read(oid, _LARGEST) if oid else None
            folder = path.rpartition("/")[0]
            if oid and content is None:  # Git itself passes over files of attributes as large as this
                self.lines[path, oid] = oid
            else:
                text = self._direction.attributes(self._workspace.repository.git, folder, content)
                unchanged = oid if text == content else None
                new = "" if text is None else unchanged or self._workspace.repository.git.write_blob(text)
                self.lines[path, oid] = new
        return self.lines[path, oid]

    def _converted(self, change: Change, before: _State, state: _State) -> Change:
        conversion = self.converted.get(change.oid)
        if conversion is None:
            try:
                conversion = self._direction.convert(self._workspace, self._version(change, before, state))
            except ThetaError as error:
                raise error.located(path=change.path) from error
            self.converted.add(conversion)
        self.used[change.oid] = conversion
        self.paths.add(change.path)
        return Change(change.path, change.mode, conversion.new)

    def _version(self, change: Change, before: _State, state: _State) -> Version:
        """The blob, with the manifests of the version before, and of checkpoints that lie beside it."""
        own = self._manifest(before.selected.get(change.path, ""))
        beside = {path: oid for path, oid in state.selected.items() if path != change.path and oid in self.used}
        nearest = sorted(beside, key=lambda path: -_common_folders(path, change.path))[:_OTHERS]
        return Version(change.path, change.oid, own, tuple(self.used[beside[path]].new for path in nearest))

    def _manifest(self, old: str) -> str | None:
        conversion = self.converted.get(old)
        return conversion.new if conversion else None


def _is_attributes(path: str) -> bool:
    return path.rpartition("/")[2] == FILE


def _counts_as_attributes(change: Change) -> bool:
    """A file of attributes that Git reads; a link of that name it does not."""
    return _is_attributes(change.path) and change.mode.startswith("100")


def _common_folders(path: str, other: str) -> int:
    pairs = zip(path.split("/")[:-1], other.split("/")[:-1], strict=False)
    count = 0
    for one, two in pairs:
        if one != two:
            break
        count += 1
    return count
