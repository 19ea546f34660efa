"""Where the LFS server of a Git remote is, as git-lfs finds it."""

from __future__ import annotations

import json
import re
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

from gittheta.api import RemoteContext, RemoteError, TemporaryRemoteError

if TYPE_CHECKING:
    from collections.abc import Mapping

Operation = Literal["download", "upload"]
#: ``user@host:path``, as Git and scp write it: no slash before the colon.
_SHORT = re.compile(r"((?:[^/@:]+@)?(?:\[[^\]/]+\]|[^/:\[\]]{2,})):(?!:)(?!//)(.+)")
#: What a server says that has no LFS beside its SSH.
_UNKNOWN = re.compile(
    r"not found|unrecognized command|unknown command|not allowed|no such|invalid command|illegal", re.I
)
#: Seconds before the end of a token's time at which a new one is asked for.
_EARLY = 30.0


class NoSuchRange(RemoteError):
    """An object ends before the range begins that was asked for."""


@dataclass(frozen=True)
class Endpoint:
    """The URL of an LFS server, and the headers with which a login over SSH has answered."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: When the headers are of no use any more, in seconds of the monotonic clock; None: never.
    until: float | None = None

    def is_fresh(self) -> bool:
        """Whether its headers still serve."""
        return self.until is None or time.monotonic() < self.until


def address_of(url: str, context: RemoteContext) -> str | None:
    """The URL at which a Git remote's LFS server is asked for: by HTTP, or by SSH for the way there; None without one.

    The user's settings come first. What ``.lfsconfig`` says counts only for the host of the Git remote itself.
    """
    keys = ("lfs.url", f"remote.{context.name}.lfsurl")
    chosen = next((value for key in keys if (value := context.setting(key))), None)
    if chosen is None:
        suggested = next((value for key in keys if (value := context.suggestion(key))), None)
        chosen = suggested if suggested and _host(suggested) == _host(url) is not None else None
    if chosen is not None:
        return chosen.rstrip("/")
    if url.startswith(("http://", "https://")):
        return f"{url.rstrip('/').removesuffix('.git')}.git/info/lfs"
    return url if _ssh_words(url) is not None else None


def endpoint_at(address: str, operation: Operation, context: RemoteContext) -> Endpoint | None:
    """The server at an address; None if the other end of SSH has none. Raises RemoteError."""
    if address.startswith(("http://", "https://")):
        return Endpoint(address)
    words = _ssh_words(address)
    if words is None:
        raise RemoteError("an LFS server is reached by https:// or ssh://", hint="git config lfs.url URL")
    options, path = words
    command = [*context.network.ssh, *options, f"git-lfs-authenticate {_quoted(path)} {operation}"]
    answer = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    said = answer.stderr.decode(errors="replace").strip()
    if answer.returncode == 127 or (answer.returncode and _UNKNOWN.search(said)):
        return None
    if answer.returncode:
        last = said.splitlines()[-1] if said else "ended without a word"
        kind = TemporaryRemoteError if answer.returncode == 255 and "denied" not in said else RemoteError
        raise kind(f"ssh for the LFS server: {last}", hint="try the same by hand: `git fetch`")
    return _told(answer.stdout)


def _told(answer: bytes) -> Endpoint:
    try:
        told = json.loads(answer)
        headers = {str(name): str(value) for name, value in (told.get("header") or {}).items()}
        seconds = told.get("expires_in")
        until = time.monotonic() + float(seconds) - _EARLY if seconds else None
        return Endpoint(str(told["href"]).rstrip("/"), headers, until)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RemoteError(
            "git-lfs-authenticate answers something else than LFS does", hint="ask whoever runs the server"
        ) from error


def _ssh_words(url: str) -> tuple[list[str], str] | None:
    """Options and host for ssh, and the path there; None for a URL of another kind. Raises RemoteError."""
    if "://" not in url:
        short = _SHORT.fullmatch(url)
        return (_checked([], short[1]), short[2]) if short else None
    parts = urlsplit(url)
    if parts.scheme not in ("ssh", "git+ssh", "ssh+git"):
        return None
    login = f"{unquote(parts.username)}@{parts.hostname}" if parts.username else parts.hostname or ""
    port = ["-p", str(parts.port)] if parts.port else []
    return _checked(port, login), unquote(parts.path)


def _checked(options: list[str], login: str) -> list[str]:
    if not login or login.startswith("-") or "@-" in login:
        raise RemoteError("not the URL of a repository over SSH", hint="ssh://USER@HOST/PATH")
    return [*options, "--", login]


def _quoted(path: str) -> str:
    """A path as a word of the shell at the other end."""
    return path if re.fullmatch(r"[\w./~-]+", path) else "'" + path.replace("'", "'\\''") + "'"


def _host(url: str) -> str | None:
    short = None if "://" in url else _SHORT.fullmatch(url)
    return short[1].rpartition("@")[2].lower() if short else urlsplit(url).hostname


def origin_of(url: str) -> str:
    """Scheme, host and port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or {'https': 443}.get(parts.scheme, 80)}"
