"""Questions about commits: what they have in common, what they say, what they changed."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.errors import GitError
from gittheta.git.entries import Blob, FileChange

if TYPE_CHECKING:
    from gittheta.git.process import Git

_OID = re.compile(rb"[0-9a-f]{40,64}")
#: What Git writes before the URL in FETCH_HEAD, unless HEAD was fetched.
_NOTE = re.compile(r"^(?:(?:branch|tag|remote-tracking branch) )?'.*?' of ")


def merge_bases(git: Git, one: str, other: str) -> list[str]:
    """The best common ancestors of two commits: several if their histories cross."""
    return git.attempt("merge-base", "--all", one, other).stdout.decode().split()


def octopus_bases(git: Git, heads: Sequence[str]) -> list[str]:
    """The best common ancestors of all heads at once."""
    return git.attempt("merge-base", "--all", "--octopus", *heads).stdout.decode().split()


def independent(git: Git, heads: Iterable[str]) -> list[str]:
    """Those of some commits that no other of them contains."""
    names = list(dict.fromkeys(heads))
    return names if len(names) == 1 else git.run("merge-base", "--independent", *names).decode().split()


def parents(git: Git, commit: str) -> list[str]:
    """The parents of a commit, in order."""
    return git.line("rev-list", "--parents", "-1", commit).split()[1:]


def walk(git: Git, revisions: Iterable[str], *, only_here: bool = False) -> Iterator[Blob]:
    """Every blob that the revisions reach (``^`` excludes), each once, with a path that leads to it.

    What a partial clone lacks is fetched first, all at once; with ``only_here`` it is left out. Raises GitError.
    """
    paths = _reached(git, list(revisions), only_here=only_here)
    if not paths:
        return
    kinds = ("cat-file", "--batch-check=%(objectname) %(objecttype) %(objectsize)", "--buffer")
    for line in git.run(*kinds, stdin=b"\n".join(paths) + b"\n").splitlines():
        oid, kind, *size = line.split(b" ")
        if kind == b"blob":
            yield Blob(oid.decode(), os.fsdecode(paths[oid]), int(size[0]))


def bring(git: Git, revisions: Iterable[str]) -> None:
    """In a partial clone: fetch all that the revisions reach and that is not here, before it is read one by one."""
    if promisors(git):
        _reached(git, list(revisions), only_here=False)


def promisors(git: Git) -> list[str]:
    """The remotes that a partial clone gets from them what it lacks; none of a whole clone."""
    listed = git.attempt("config", "-z", "--get-regexp", r"^remote\..*\.promisor$|^extensions\.partialclone$").stdout
    pairs = (item.partition("\n") for item in os.fsdecode(listed).split("\0"))
    names = (key[7:-9] if key.startswith("remote.") else value for key, _, value in pairs if key and value != "false")
    return list(dict.fromkeys(names))


def _reached(git: Git, words: list[str], *, only_here: bool) -> dict[bytes, bytes]:
    """All objects that some revisions reach, with a path each."""
    options, names = _split(words)
    asked: set[bytes] = set()
    while True:
        paths: dict[bytes, bytes] = {}
        absent: set[bytes] = set()
        listing = ("rev-list", "--objects", "--ignore-missing", "--missing=print", "--stdin", *options)
        for line in git.run(*listing, stdin=names).split(b"\n"):
            oid, _, path = line.partition(b" ")
            if oid.startswith(b"?"):
                absent.add(oid[1:])
            elif _OID.fullmatch(oid):
                paths[oid] = path
        if not absent or (only_here and promisors(git)):
            return paths
        # Trees that were fetched name blobs that are to be fetched too. What was fetched and did not come is nowhere.
        _fetch(git, absent, [] if absent <= asked else promisors(git))
        asked |= absent


def _fetch(git: Git, oids: Iterable[bytes], remotes: Iterable[str]) -> None:
    """Get objects as Git itself does in a partial clone, but all at once; trees come with all trees below them."""
    wanted = sorted(oids)
    quiet = ("-c", "fetch.negotiationAlgorithm=noop", "-c", "maintenance.auto=false", "-c", "gc.auto=0")
    flags = ("--no-tags", "--no-write-fetch-head", "--recurse-submodules=no", "--filter=blob:none", "--stdin")
    said = ""
    for remote in remotes:
        done = git.attempt(*quiet, "fetch", remote, *flags, stdin=b"\n".join(wanted) + b"\n")
        if done.returncode == 0:
            return
        said = f": {done.stderr.decode(errors='replace').strip()}"
    raise GitError(
        f"{len(wanted)} Git objects are not here, {wanted[0].decode()} among them{said}",
        hint="run `git fsck`; in a partial clone `git fetch --refetch` brings what is missing",
    )


def changes_of(git: Git, revisions: Iterable[str], oids: Container[str], name: str) -> Iterator[str]:
    """The commits that put one of some blobs anywhere, or changed a file of this name in any folder; newest first."""
    options, names = _split(revisions)
    commits = git.run("rev-list", "--ignore-missing", "--stdin", *options, stdin=names)
    for commit, _, path, oid in _raw_changes(git, commits, "-m"):
        if oid in oids or path.rpartition("/")[2] == name:
            yield commit


def tips(git: Git, revisions: Iterable[str]) -> list[str]:
    """The trees of the commits, tags and trees that revisions begin with; ``--all`` are all refs and HEAD."""
    names = []
    for word in revisions:
        if word == "--all":
            names += ["HEAD", *git.run("for-each-ref", "--format=%(objectname)").decode().split()]
        elif not word.startswith(("^", "--")):
            names.append(word)
    stdin = b"".join(os.fsencode(f"{name}^{{tree}}\n") for name in names)
    lines = git.run("cat-file", "--batch-check=%(objectname)", stdin=stdin).decode(errors="replace").splitlines()
    return list(dict.fromkeys(line for line in lines if _OID.fullmatch(line.encode())))


def filters_at(git: Git, tree: str, paths: Iterable[str], scratch: Path) -> dict[str, str]:
    """The attribute ``filter`` of some paths, as a tree's own attributes say; ``scratch``: a free path for an index."""
    apart = git.with_environment(GIT_INDEX_FILE=str(scratch))
    try:
        apart.run("read-tree", tree)
        stdin = b"".join(os.fsencode(path) + b"\0" for path in paths)
        answer = os.fsdecode(apart.run("check-attr", "--cached", "-z", "--stdin", "filter", stdin=stdin)).split("\0")
    finally:
        scratch.unlink(missing_ok=True)
    return dict(zip(answer[0::3], answer[2::3], strict=False))


def fetched_urls(git_dir: Path) -> list[str]:
    """Where the last ``git fetch`` or ``git pull`` got something from, as Git wrote it down: without a final `.git`."""
    try:
        text = os.fsdecode((git_dir / "FETCH_HEAD").read_bytes())
    except OSError:
        return []
    notes = (line.split("\t", 2)[-1] for line in text.splitlines() if line.count("\t") >= 2)
    return list(dict.fromkeys(_NOTE.sub("", note) for note in notes))


def _split(words: Iterable[str]) -> tuple[list[str], bytes]:
    """Options of `rev-list`, and the revisions as it reads them from its input."""
    words = list(words)
    options = [word for word in words if word.startswith("--")]
    return options, os.fsencode("".join(f"{word}\n" for word in words if not word.startswith("--")))


def file_changes(git: Git, revisions: Iterable[str]) -> Iterator[FileChange]:
    """The files that commits wrote, oldest commit first; of a merge, those that no parent has like that."""
    listed = git.run("rev-list", "--reverse", "--topo-order", "--format=%cI", *revisions).decode().splitlines()
    dates = {line[len("commit ") :]: date for line, date in zip(listed[0::2], listed[1::2], strict=True)}
    commits = "".join(f"{oid}\n" for oid in dates).encode()
    for commit, before, path, oid in _raw_changes(git, commits, "-c"):
        if oid not in before:
            yield FileChange(commit, dates[commit], path, oid, before)


def _raw_changes(git: Git, commits: bytes, merges: str) -> Iterator[tuple[str, tuple[str, ...], str, str]]:
    """Commit, blobs before, path and blob of each file that commits changed; ``merges``: how these are shown."""
    compared = ("diff-tree", "--stdin", "-r", merges, "--root", "--raw", "--no-abbrev", "--no-renames", "-z")
    items = iter(os.fsdecode(git.run(*compared, stdin=commits)).split("\0"))
    commit = ""
    for item in items:
        if not item.startswith(":"):
            commit = item
            continue
        # One colon for each parent; then the modes and blobs in each parent, those in the commit last.
        count = len(item) - len(item.lstrip(":"))
        words = item[count:].split(" ")
        mode, *oids = words[count : 2 * count + 2]
        before, path = tuple(oid for oid in oids[:-1] if oid.strip("0")), next(items)
        if mode.startswith("100"):
            yield commit, before, path, oids[-1]
