"""A ref of a commit whose tree lists pointers of Git LFS: what Git itself does for it, here and at a remote."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING
from uuid import uuid4

from gittheta.git.process import BlobReader

if TYPE_CHECKING:
    from gittheta.git.process import Git

#: The most bytes of a pointer.
_MOST = 1024
_SIZE = re.compile(rb"^size ([0-9]{1,18})$", re.MULTILINE)


def path_of(object_id: str) -> str:
    """Where a tree lists an object."""
    return f"{object_id[:2]}/{object_id[2:4]}/{object_id}"


def pointer(object_id: str, size: int) -> bytes:
    """The text by which LFS servers know an object."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{object_id}\nsize {size}\n".encode()


def listed(git: Git, commit: str) -> set[str]:
    """The names of all objects that a commit lists."""
    paths = git.run("ls-tree", "-r", "-z", "--name-only", "--full-tree", commit).decode().split("\0")
    return {path.rpartition("/")[2] for path in paths if path}


def sizes(git: Git, commit: str, objects: Iterable[str]) -> dict[str, int]:
    """The sizes in bytes that a commit tells of some objects."""
    results: dict[str, int] = {}
    with BlobReader.open(git) as reader:
        for object_id in objects:
            text = reader.read(f"{commit}:{path_of(object_id)}", _MOST)
            size = _SIZE.search(text or b"")
            if size:
                results[object_id] = int(size[1])
    return results


def extended(git: Git, base: str | None, objects: Mapping[str, int]) -> str:
    """A commit that lists what ``base`` lists and these objects, by their sizes. Equal for equal trees and parents."""
    scratch = f"refs/theta/scratch/{uuid4().hex}"
    lines = [
        f"commit {scratch}\ncommitter gittheta <gittheta@localhost> 0 +0000\ndata 0\n".encode(),
        *([f"from {base}\n".encode()] if base else []),
    ]
    for object_id, size in sorted(objects.items()):
        text = pointer(object_id, size)
        lines.append(f"M 100644 inline {path_of(object_id)}\ndata {len(text)}\n".encode() + text + b"\n")
    git.run("fast-import", "--quiet", "--force", stdin=b"".join(lines))
    commit = git.line("rev-parse", scratch)
    git.run("update-ref", "-d", scratch)
    return commit


def present(git: Git, ref: str) -> str | None:
    """The commit that a ref names here."""
    answer = git.attempt("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    return os.fsdecode(answer.stdout).strip() or None


def keep(git: Git, ref: str, commit: str) -> None:
    """Let a ref here name a commit."""
    git.run("update-ref", ref, commit)


def at_remote(git: Git, url: str, ref: str) -> str | None:
    """The commit that a ref names at a remote; None without one. Raises GitError."""
    answer = git.run("ls-remote", "--", url, ref).decode()
    return answer.split()[0] if answer.strip() else None


def fetch(git: Git, url: str, ref: str, into: str) -> bool:
    """Fetch a ref; says whether that worked."""
    words = (
        "fetch",
        "--quiet",
        "--no-tags",
        "--no-write-fetch-head",
        "--no-auto-maintenance",
        "--",
        url,
        f"+{ref}:{into}",
    )
    return git.attempt(*words).returncode == 0


def send(git: Git, url: str, commit: str, ref: str) -> str | None:
    """Move a ref at a remote forward; returns why that was refused, None if it was not."""
    answer = git.attempt("push", "--quiet", "--no-verify", "--porcelain", "--", url, f"{commit}:{ref}")
    if answer.returncode == 0:
        return None
    text = answer.stdout + b"\n" + answer.stderr
    lines = [line.strip() for line in text.decode(errors="replace").splitlines() if "!" in line or "error" in line]
    return lines[0] if lines else "refused"
