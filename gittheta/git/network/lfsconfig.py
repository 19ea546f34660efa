"""What a repository's ``.lfsconfig`` suggests: where its LFS server is."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gittheta.git.repository import Repository

_FILE = ".lfsconfig"
#: The keys that git-lfs follows too, out of many that it calls unsafe.
_SAFE = re.compile(r"lfs\.url|remote\..+\.lfsurl")


def suggestions(repository: Repository) -> dict[str, str]:
    """The safe settings of the file in the work tree, else of the one in HEAD, by lower-case key."""
    file = repository.top / _FILE if repository.top is not None else None
    if file is not None and file.is_file() and not file.is_symlink():
        source = ["--file", str(file)]
    else:
        source = ["--blob", f"HEAD:{_FILE}"]
    answer = repository.git.attempt("config", *source, "--no-includes", "-z", "--list")
    pairs = (entry.partition("\n") for entry in os.fsdecode(answer.stdout).split("\0"))
    return {key.lower(): value for key, _, value in pairs if _SAFE.fullmatch(key.lower())}
