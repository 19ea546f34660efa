"""The refs of a history that is written anew: which there are, copies to look at, and the move of all at once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gittheta.git.process import Git
    from gittheta.git.repository import Repository

#: Where the rewritten refs stand until they are moved, and where the former ones are kept.
COPIES = "refs/theta/migrate/"
ORIGINALS = "refs/original/theta/"
_SIGNATURE = re.compile(rb"^-----BEGIN (?:PGP|SSH|SIGNED) [A-Z]+-----$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Ref:
    """A branch or a tag, what it names, and the commit that this leads to: empty for a tag of something else."""

    name: str
    oid: str
    commit: str
    is_tag_object: bool = False

    @property
    def short(self) -> str:
        """The name without ``refs/``."""
        return self.name.removeprefix("refs/")


@dataclass(frozen=True, slots=True)
class Move:
    """A ref, what it names now, and what it is to name."""

    name: str
    old: str
    new: str


@dataclass(frozen=True)
class RewrittenTag:
    """A tag object that was written anew."""

    oid: str
    lost_signature: bool


def branches_and_tags(repository: Repository) -> list[Ref]:
    """Every branch and tag, but for symbolic ones."""
    form = "--format=%(refname)%00%(objectname)%00%(objecttype)%00%(symref)"
    lines = os.fsdecode(repository.git.run("for-each-ref", form, "refs/heads", "refs/tags")).splitlines()
    rows = [tuple(line.split("\0")) for line in lines]
    rows = [row for row in rows if not row[3]]
    commits = repository.commits(*(row[1] for row in rows))
    return [Ref(row[0], row[1], commit, row[2] == "tag") for row, commit in zip(rows, commits, strict=True)]


def other_refs(git: Git) -> list[str]:
    """Every ref that is neither a branch nor a tag, nor one of those that a migration makes."""
    names = os.fsdecode(git.run("for-each-ref", "--format=%(refname)")).splitlines()
    ours = ("refs/heads/", "refs/tags/", COPIES, ORIGINALS)
    return [name for name in names if not name.startswith(ours)]


def refs_below(git: Git, prefix: str) -> dict[str, str]:
    """The refs whose names begin like this, and what they name."""
    listed = os.fsdecode(git.run("for-each-ref", "--format=%(objectname) %(refname)", prefix.rstrip("/")))
    pairs = (line.partition(" ") for line in listed.splitlines())
    return {name: oid for oid, _, name in pairs}


def rewritten_tag(git: Git, oid: str, new: Mapping[str, str]) -> RewrittenTag:
    """A tag object, and those that it names, for the new commit; without a signature, which would not hold."""
    content = git.run("cat-file", "tag", oid)
    first, _, rest = content.partition(b"\n")
    target = first.removeprefix(b"object ").decode()
    lost = False
    if rest.startswith(b"type tag\n"):
        inner = rewritten_tag(git, target, new)
        target, lost = inner.oid, inner.lost_signature
    else:
        target = new[target]
    signature = _SIGNATURE.search(rest)
    kept = rest[: signature.start()] if signature else rest
    written = git.line("hash-object", "-t", "tag", "-w", "--stdin", stdin=f"object {target}\n".encode() + kept)
    return RewrittenTag(written, lost or signature is not None)


def show_copies(git: Git, moves: Iterable[Move]) -> None:
    """Let refs stand beside the user's own that name what these would name. Former copies go."""
    lines = [f"delete {name}" for name in refs_below(git, COPIES)]
    _update(git, lines)
    _update(git, [f"create {_copy(move.name)} {move.new}" for move in moves])


def move_all(git: Git, moves: Iterable[Move]) -> None:
    """Move refs in one transaction and keep what they named. Those that have moved already are passed over.

    Raises GitError, and moves none, if one of them names something else by now.
    """
    moves = list(moves)
    present = refs_below(git, "refs/heads") | refs_below(git, "refs/tags")
    kept, copies = refs_below(git, ORIGINALS), refs_below(git, COPIES)
    lines = []
    for move in moves:
        original = ORIGINALS + move.name.removeprefix("refs/")
        if original not in kept:
            lines.append(f"create {original} {move.old}")
        if present.get(move.name) != move.new:
            lines.append(f"update {move.name} {move.new} {move.old}")
    _update(git, lines)
    _update(git, [f"delete {name}" for name in copies])


def _copy(name: str) -> str:
    return COPIES + name.removeprefix("refs/")


def _update(git: Git, lines: list[str]) -> None:
    if lines:
        text = os.fsencode("".join(f"{line}\n" for line in lines))
        git.run("update-ref", "-m", "theta migrate", "--stdin", stdin=text)
