"""A migration from its beginning to the moved refs. Killed anywhere, it goes on when it is called again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.errors import ConfigError, GitError, ObjectMissing
from gittheta.flows.maintain.migrate.converted import ConvertedBlobs
from gittheta.flows.maintain.migrate.directions import Direction, Import, refuse_missing
from gittheta.flows.maintain.migrate.rewriting import Rewriting
from gittheta.git.attributes import FILE
from gittheta.git.history import walk
from gittheta.git.rewriting.compare import RewrittenCommit, compared
from gittheta.git.rewriting.content import disk_sizes
from gittheta.git.rewriting.history import rewrite
from gittheta.git.rewriting.refs import (
    ORIGINALS,
    Move,
    Ref,
    branches_and_tags,
    move_all,
    other_refs,
    refs_below,
    rewritten_tag,
    show_copies,
)
from gittheta.git.rewriting.worktree import follow, refuse_incomplete, refuse_unclean
from gittheta.storage.files import sync, translated, write_all
from gittheta.storage.temporary import lock
from gittheta.wording import shown

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace

_MAP = "commit-map"
_MOVING = "moving"
#: What a pointer of Git LFS takes up at most, in bytes.
_POINTER = 1024


@dataclass(frozen=True)
class Migration:
    """What a migration did, or would do."""

    commits: int
    rewritten: int
    versions: int
    files: int
    #: Bytes that the versions take up, before and after.
    before: int
    after: int
    moves: tuple[Move, ...]
    map: Path
    #: What does not stand in the new history any more, in words.
    lost: tuple[str, ...] = ()
    #: Refs that stay as they are.
    left: tuple[str, ...] = ()
    moved: bool = False


@dataclass
class _Folder:
    """Where a migration keeps what it knows, below the store."""

    path: Path
    _made: list[str] = field(default_factory=list)

    def scratch(self, name: str) -> Path:
        """A new folder."""
        folder = self.path / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self._made.append(name)
        return folder

    def tidy(self) -> None:
        """Take away what only this process needs."""
        for name in self._made:
            shutil.rmtree(self.path / name, ignore_errors=True)
        (self.path / "marks").unlink(missing_ok=True)


def migrate(workspace: Workspace, direction: Direction, *, move: bool) -> Migration:
    """Write all branches and tags anew, compare them, and let copies stand beside them; with ``move``, move them.

    Raises GitError in a repository that is not ready for that, and a ThetaError that names commit or file if something
    cannot be converted. Then nothing has moved, and what was converted is kept for the next call.
    """
    with _held(workspace) as folder:
        _finish_move(workspace, folder)
        _refuse(workspace, direction)
        refs = branches_and_tags(workspace.repository)
        converted = ConvertedBlobs.read(folder.path / f"converted-{direction.name}", workspace.repository.git)
        rewriting = Rewriting(workspace, direction, converted, folder.scratch)
        git = workspace.repository.git.as_stored()
        new_of = rewrite(git, [ref.commit for ref in refs if ref.commit], rewriting.edit, folder.path / "marks")
        lost = _checked(rewriting, compared(git, new_of))
        moves, lost_tags = _moves(workspace, refs, new_of)
        _write_map(workspace, folder, new_of)
        show_copies(git, moves)
        result = Migration(
            len(new_of),
            sum(old != new for old, new in new_of.items()),
            len(rewriting.used),
            len(rewriting.paths),
            *_sizes(workspace, rewriting, direction),
            tuple(moves),
            folder.path / _MAP,
            (*lost, *lost_tags),
            tuple(_left(workspace, refs)),
            move,
        )
        if move and moves:
            _note_move(workspace, folder, moves, new_of)
            _finish_move(workspace, folder)
            converted.path.unlink(missing_ok=True)
        return result


@contextmanager
def _held(workspace: Workspace) -> Iterator[_Folder]:
    path = workspace.repository.common_dir / "theta" / "migrate"
    with translated(path):
        workspace.permissions.make_folders(path)
        descriptor = workspace.permissions.append_to(path / "lock")
    folder = _Folder(path)
    try:
        if lock(descriptor, wait=False) is False:
            raise GitError("another migration is going on here", hint="wait until it has ended")
        yield folder
    finally:
        folder.tidy()
        os.close(descriptor)


def _refuse(workspace: Workspace, direction: Direction) -> None:
    repository = workspace.repository
    if not repository.setting("filter.theta.process"):
        raise ConfigError("Git does not know the filter yet", hint="git theta install")
    refuse_incomplete(repository.git)
    refuse_unclean(repository)
    if refs_below(repository.git, ORIGINALS):
        raise GitError(
            f"{ORIGINALS} holds what an earlier migration has moved",
            hint="if that is no longer needed: "
            f"git for-each-ref --format='delete %(refname)' {ORIGINALS} | git update-ref --stdin",
        )
    if isinstance(direction, Import) and direction.from_lfs:
        blobs = walk(repository.git.as_stored(), ["--branches", "--tags"])
        refuse_missing(workspace, direction, [(blob.path, blob.oid) for blob in blobs if blob.size < _POINTER])


def _checked(rewriting: Rewriting, commits: Iterable[RewrittenCommit]) -> list[str]:
    """Raise GitError if a commit is otherwise than it should be; returns what is lost, in words."""
    lost: dict[str, list[str]] = {}
    for commit in commits:
        for header in sorted(commit.lost):
            lost.setdefault(header, []).append(commit.old[:12])
        wrong = next((change for change in commit.changes if not _is_expected(rewriting, change)), None)
        if wrong or not commit.alike:
            path = (wrong.old or wrong.new).path if wrong else "its message or authors"  # type: ignore[union-attr]
            raise GitError(
                f"commit {commit.old} would have become another one: {shown(path)}",
                hint="nothing was moved; report this",
            )
    names = {"gpgsig": "the signature", "gpgsig-sha256": "the signature", "mergetag": "the signed tag that was merged"}
    return [f"{names.get(header, f'the header {header}')} of {_listed(found)}" for header, found in lost.items()]


def _is_expected(rewriting: Rewriting, change: object) -> bool:
    from gittheta.git.trees import TreeChange

    assert isinstance(change, TreeChange)  # noqa: S101
    old, new = change.old, change.new
    path = (old or new).path  # type: ignore[union-attr]
    if path.rpartition("/")[2] == FILE:
        return rewriting.lines.get((path, old.oid if old else "")) == (new.oid if new else "")
    conversion = rewriting.used.get(old.oid) if old else None
    return bool(conversion and old and new and old.mode == new.mode and conversion.new == new.oid)


def _listed(commits: list[str]) -> str:
    more = f" and {len(commits) - 5} more" if len(commits) > 5 else ""
    return f"commit{'s' if len(commits) > 1 else ''} {', '.join(commits[:5])}{more}"


def _moves(workspace: Workspace, refs: Iterable[Ref], new_of: Mapping[str, str]) -> tuple[list[Move], list[str]]:
    moves: list[Move] = []
    lost: list[str] = []
    for ref in refs:
        if not ref.commit or new_of[ref.commit] == ref.commit:
            continue
        new = new_of[ref.commit]
        if ref.is_tag_object:
            tag = rewritten_tag(workspace.repository.git.as_stored(), ref.oid, new_of)
            new = tag.oid
            lost += [f"the signature of the tag {ref.name.removeprefix('refs/tags/')}"] if tag.lost_signature else []
        moves.append(Move(ref.name, ref.oid, new))
    return moves, lost


def _left(workspace: Workspace, refs: Iterable[Ref]) -> Iterator[str]:
    yield from (ref.name for ref in refs if not ref.commit)
    yield from other_refs(workspace.repository.git)


def _sizes(workspace: Workspace, rewriting: Rewriting, direction: Direction) -> tuple[int, int]:
    """The bytes of all versions as they are, and as they will be."""
    git = workspace.repository.git
    changed = [used for used in rewriting.used.values() if used.old != used.new]
    raw = [used.old if direction.name == "import" else used.new for used in changed]
    texts = [used.new if direction.name == "import" else used.old for used in changed]
    plain = disk_sizes(git, raw) + sum(used.size for used in changed if used.from_lfs)
    ours = disk_sizes(git, texts) + _object_bytes(workspace, texts)
    return (plain, ours) if direction.name == "import" else (ours, plain)


def _object_bytes(workspace: Workspace, texts: Iterable[str]) -> int:
    """The bytes of the objects that some manifests need. Raises ObjectMissing if one is not here."""
    store = workspace.tensors.store
    needed: dict[str, int] = {}
    for oid in texts:
        manifest = workspace.read_stored(oid)
        for object_id, size in manifest.objects().items() if manifest else ():
            if object_id not in needed:
                path = store.find(object_id)
                if path is None or path.stat().st_size < size:
                    raise ObjectMissing(f"object {object_id} is not in the store", hint="run the command again")
                needed[object_id] = path.stat().st_size
    return sum(needed.values())


def _write_map(workspace: Workspace, folder: _Folder, new_of: Mapping[str, str]) -> None:
    _write(workspace, folder.path / _MAP, "old new\n" + "".join(f"{old} {new}\n" for old, new in new_of.items()))


def _write(workspace: Workspace, path: Path, text: str) -> None:
    with translated(path), workspace.permissions.replacing(path) as descriptor:
        write_all(descriptor, text.encode())
        sync(descriptor)


def _note_move(workspace: Workspace, folder: _Folder, moves: list[Move], new_of: Mapping[str, str]) -> None:
    """Write down what is to move, so that whoever comes next can finish it."""
    commits = {ref.old: ref.new for ref in moves} | dict(new_of)
    text = json.dumps({"moves": [[move.name, move.old, move.new] for move in moves], "commits": commits})
    _write(workspace, folder.path / _MOVING, text)


def _finish_move(workspace: Workspace, folder: _Folder) -> None:
    """Move what was written down, and let the work trees follow."""
    note = folder.path / _MOVING
    if not note.exists():
        return
    with translated(note):
        content = json.loads(note.read_text())
    move_all(workspace.repository.git, [Move(*words) for words in content["moves"]])
    follow(workspace.repository, content["commits"])
    note.unlink()
