"""Whole trees merged as Git merges them; index and work tree stay as they are until all is known.

Checkpoints are left alone: for these, Git is told of a driver that always fails, so that what nobody else settles is
a conflict.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gittheta.errors import GitError
from gittheta.git.entries import Entry
from gittheta.git.locked_index import locked_index, put_entries

if TYPE_CHECKING:
    from gittheta.git.process import Git
    from gittheta.git.repository import Repository

_NO = ("false", "no", "off", "0")
_NO_DRIVER = ("-c", "merge.theta.driver=false")
#: Synthetic commits are for Git's eyes only; nobody need have a name for them.
_NOBODY = {f"GIT_{who}_{what}": "gittheta" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


@dataclass(frozen=True)
class TreeChange:
    """A file in one tree and in another; None where it is not there. Their paths differ if it was renamed."""

    old: Entry | None
    new: Entry | None


@dataclass(frozen=True)
class Message:
    """What Git says about some paths."""

    paths: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class MergedTrees:
    """What Git makes of two trees: a tree for the work tree, and the index's stages of what is in conflict."""

    tree: str
    unmerged: tuple[Entry, ...] = ()
    messages: tuple[Message, ...] = ()

    def without(self, paths: Iterable[str]) -> MergedTrees:
        """The same, silent about some paths."""
        settled = set(paths)
        unmerged = tuple(entry for entry in self.unmerged if entry.path not in settled)
        messages = tuple(message for message in self.messages if not settled.issuperset(message.paths))
        return MergedTrees(self.tree, unmerged, messages)


def trees_of(git: Git, names: Iterable[str]) -> list[str]:
    """The trees of commits. Raises GitError."""
    return git.run("rev-parse", *(f"{name}^{{tree}}" for name in names)).decode().split()


def empty_tree(git: Git) -> str:
    """The tree without files."""
    return git.line("hash-object", "-t", "tree", "--stdin")


def tree_changes(git: Git, old: str, new: str) -> dict[str, TreeChange]:
    """What differs between two trees, by path; a rename counts as a file that went and one that came."""
    return dict(_changes(git, "--no-renames", old, new))


def tree_renames(git: Git, old: str, new: str) -> dict[str, TreeChange]:
    """The files that have another name in the new tree, by their old path."""
    return dict(_changes(git, "-M", "--diff-filter=R", old, new))


def follows_renames(repository: Repository) -> bool:
    """Whether merges in a repository look for files that were renamed."""
    follow = repository.setting("merge.renames") or repository.setting("diff.renames") or ""
    return follow.lower() not in _NO


def _changes(git: Git, *words: str) -> Iterator[tuple[str, TreeChange]]:
    listed = git.run("diff-tree", "-r", "-z", "--raw", "--no-abbrev", *words)
    items = iter(os.fsdecode(listed).split("\0")[:-1])
    for item in items:
        old_mode, mode, old_oid, oid, status = item[1:].split(" ")
        old_path = next(items)
        path = next(items) if status.startswith("R") else old_path
        old, new = Entry(old_mode, old_oid, old_path), Entry(mode, oid, path)
        yield old_path, TreeChange(old if old_oid.strip("0") else None, new if oid.strip("0") else None)


def commit_tree(git: Git, tree: str, *parents: str) -> str:
    """A commit that no branch will ever name."""
    named = git.with_environment(**_NOBODY)
    return named.line("commit-tree", "-m", "gittheta", *(word for each in parents for word in ("-p", each)), tree)


def merge_commits(git: Git, ours: str, theirs: str) -> MergedTrees:
    """Merge two commits. Raises GitError if Git cannot even begin."""
    words = ("merge-tree", "--write-tree", "-z", "--messages", "--allow-unrelated-histories", ours, theirs)
    done = git.attempt(*_NO_DRIVER, *words)
    if done.returncode > 1:
        said = done.stderr.decode(errors="replace").strip()
        raise GitError(f"git merge-tree failed with status {done.returncode}: {said}")
    tree, *items = os.fsdecode(done.stdout).split("\0")[:-1]
    end = items.index("") if "" in items else len(items)
    return MergedTrees(tree, tuple(map(_staged, items[:end])), tuple(_messages(items[end + 1 :])))


def _staged(item: str) -> Entry:
    words, _, path = item.partition("\t")
    mode, oid, stage = words.split(" ")
    return Entry(mode, oid, path, int(stage))


def _messages(items: list[str]) -> Iterator[Message]:
    """Number of paths, the paths, what kind of message it is, the message, and so on."""
    at = 0
    while at < len(items):
        end = at + 1 + int(items[at])
        yield Message(tuple(items[at + 1 : end]), items[end + 1].rstrip("\n"))
        at = end + 2


def relabelled(repository: Repository, merged: MergedTrees, labels: Mapping[str, str]) -> MergedTrees:
    """The same with names instead of object ids: in conflict markers, messages, and the paths of what had to move."""
    names = re.compile("|".join(map(re.escape, labels)))
    marker = re.compile(rb"^([<>|])\1{6,} (%s)" % names.pattern.encode(), re.MULTILINE)

    def named(text: str) -> str:
        return names.sub(lambda found: labels[found[0]], text)

    def moved(path: str) -> str:
        return names.sub(lambda found: labels[found[0]].replace("/", "_"), path)

    def marked(found: re.Match[bytes]) -> bytes:
        return found[0].replace(found[2], os.fsencode(labels[found[2].decode()]))

    messages = tuple(Message(message.paths, named(message.text)) for message in merged.messages)
    unmerged = {entry.path for entry in merged.unmerged}
    written = []
    gone = {path for path in unmerged if moved(path) != path}
    for entry in _entries(repository.git, merged.tree, unmerged):
        content = b"" if entry.mode == "160000" else repository.git.run("cat-file", "blob", entry.oid)
        renamed = marker.sub(marked, content)
        if renamed != content or entry.path in gone:
            oid = repository.git.write_blob(renamed) if renamed != content else entry.oid
            written.append(Entry(entry.mode, oid, moved(entry.path)))
    tree = composed(repository, merged.tree, written, gone) if written else merged.tree
    return MergedTrees(tree, tuple(replace(entry, path=moved(entry.path)) for entry in merged.unmerged), messages)


def _entries(git: Git, tree: str, paths: Iterable[str]) -> Iterator[Entry]:
    """The entries of a tree for some paths."""
    wanted = [os.fspath(path) for path in paths]
    if not wanted:
        return
    listed = git.run("--literal-pathspecs", "ls-tree", "-r", "-z", "--full-tree", tree, "--", *wanted)
    for item in os.fsdecode(listed).split("\0")[:-1]:
        words, _, path = item.partition("\t")
        mode, _, oid = words.split(" ")
        yield Entry(mode, oid, path)


def composed(repository: Repository, tree: str, entries: Iterable[Entry], gone: Iterable[str] = ()) -> str:
    """A tree with some files replaced, and others gone."""
    index = repository.git_dir / f"theta-index.{os.getpid()}"
    scratch = repository.git.with_environment(GIT_INDEX_FILE=str(index))
    try:
        scratch.run("read-tree", tree)
        put_entries(scratch, entries, gone, "0" * len(tree))
        return scratch.line("write-tree")
    finally:
        index.unlink(missing_ok=True)


def enter(repository: Repository, old: str, new: str, unmerged: Iterable[Entry]) -> None:
    """Bring index and work tree from one tree to another; the index has stages of what is unmerged.

    What Git and the filter say goes to the user. Raises GitError, and changes nothing, if that would overwrite
    changes that nobody has committed.
    """
    entries = list(unmerged)
    if not entries:
        _read_tree(repository.git, old, new)
        return
    # The index in place never shows a conflict as settled, whenever this ends; nor does anybody write it meanwhile.
    with locked_index(repository) as git:
        _read_tree(git, old, new)
        put_entries(git, entries, {entry.path for entry in entries}, "0" * len(new))


def _read_tree(git: Git, old: str, new: str) -> None:
    if git.show("read-tree", "-m", "-u", old, new):
        raise GitError("nothing was merged", hint="commit or stash what is in the way, then merge again")
