"""Large blobs, as a stream; and what their compressed bytes take up."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from gittheta.errors import GitError

if TYPE_CHECKING:
    from gittheta.git.process import Git


@contextmanager
def blob_stream(git: Git, oid: str) -> Iterator[IO[bytes]]:
    """The bytes of a blob, which need not fit into memory. Raises GitError at the end if it cannot be read."""
    process = subprocess.Popen(
        ["git", "cat-file", "blob", oid], cwd=git.directory, env=git.environment, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout  # noqa: S101 - it was asked for as a pipe
        try:
            yield process.stdout
        except BaseException:
            process.kill()
            raise
        process.stdout.read()
    if process.returncode:
        raise GitError(f"blob {oid} cannot be read", hint="run `git fsck`")


def write_file(git: Git, file: Path) -> str:
    """The object id of a blob with a file's bytes, which is stored."""
    return git.line("hash-object", "-w", "--no-filters", "--", str(file))


def disk_sizes(git: Git, oids: Iterable[str]) -> int:
    """The bytes that some objects take up in Git's object database."""
    stdin = "".join(f"{oid}\n" for oid in dict.fromkeys(oids)).encode()
    listed = git.run("cat-file", "--batch-check=%(objectsize:disk)", "--buffer", stdin=stdin).split()
    return sum(int(size) for size in listed if size.isdigit())


def objects_here(git: Git, oids: Iterable[str]) -> set[str]:
    """Those of some objects that Git has."""
    stdin = "".join(f"{oid}\n" for oid in dict.fromkeys(oids)).encode()
    listed = git.run("cat-file", "--batch-check=%(objectname) %(objecttype)", "--buffer", stdin=stdin).decode()
    return {line.split(" ")[0] for line in listed.splitlines() if not line.endswith(" missing")}
