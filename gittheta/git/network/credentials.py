"""Passwords and tokens, from whom Git has them: ``git credential``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from gittheta.api.network import Credential

if TYPE_CHECKING:
    from gittheta.git.process import Git


def fill(git: Git, url: str) -> Credential | None:
    """A credential for a URL, from a helper or from the user; None if there is none."""
    answer = git.attempt("credential", "fill", stdin=_words(url))
    if answer.returncode:
        return None
    fields = dict(line.partition("=")[::2] for line in os.fsdecode(answer.stdout).splitlines())
    if "username" not in fields or "password" not in fields:
        return None
    return Credential(fields["username"], fields["password"])


def tell(git: Git, what: Literal["approve", "reject"], url: str, credential: Credential) -> None:
    """Tell the helpers whether a credential worked."""
    known = f"username={credential.username}\npassword={credential.password}\n"
    git.attempt("credential", what, stdin=_words(url) + os.fsencode(known))


def _words(url: str) -> bytes:
    # A line feed in a URL would let it speak for another host.
    return os.fsencode(f"url={url.replace(chr(10), '').replace(chr(13), '')}\n")
