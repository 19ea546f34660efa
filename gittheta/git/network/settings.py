"""Git's own settings of the network, as a remote for objects must respect them (``gittheta.api.Network``)."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gittheta.api.network import Credential, HttpSettings
from gittheta.errors import RemoteError
from gittheta.git.network import credentials
from gittheta.runtime import lazy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gittheta.git.process import Git

_FALSE = ("false", "no", "off", "0")


@dataclass(frozen=True)
class GitNetwork:
    """The network of a repository. Safe to use from several threads."""

    git: Git

    @property
    def ssh(self) -> tuple[str, ...]:
        """The words by which Git calls ssh: ``GIT_SSH_COMMAND``, ``core.sshCommand``, ``GIT_SSH``, or ssh."""
        environment = self.git.environment
        command = environment.get("GIT_SSH_COMMAND") or self._config("core.sshCommand")
        if command:
            try:
                return tuple(shlex.split(command)) or ("ssh",)
            except ValueError as error:
                raise RemoteError(
                    f"the command for ssh cannot be read: {error}", hint="git config core.sshCommand, GIT_SSH_COMMAND"
                ) from error
        return (environment.get("GIT_SSH") or "ssh",)

    def http(self, url: str) -> HttpSettings:
        """What ``http.*`` and Git's variables say about a URL. Raises RemoteError if a header has no name."""
        found, environment = self._for_url(url), self.git.environment
        verify = (found.get("http.sslverify") or ["true"])[-1].lower() not in _FALSE
        return HttpSettings(
            verify=verify and not environment.get("GIT_SSL_NO_VERIFY"),
            ca_file=_path(environment.get("GIT_SSL_CAINFO") or _last(found, "http.sslcainfo")),
            ca_folder=_path(environment.get("GIT_SSL_CAPATH") or _last(found, "http.sslcapath")),
            certificate=_path(environment.get("GIT_SSL_CERT") or _last(found, "http.sslcert")),
            key=_path(environment.get("GIT_SSL_KEY") or _last(found, "http.sslkey")),
            proxy=_proxy(_last(found, "http.proxy"), url, environment),
            headers=_headers(found.get("http.extraheader", [])),
        )

    def credential(self, url: str) -> Credential | None:
        """What ``git credential fill`` says; None if there is none."""
        return credentials.fill(self.git, url)

    def approve(self, url: str, credential: Credential) -> None:
        """Helpers may keep it."""
        credentials.tell(self.git, "approve", url, credential)

    def reject(self, url: str, credential: Credential) -> None:
        """Helpers forget it."""
        credentials.tell(self.git, "reject", url, credential)

    def _config(self, key: str) -> str:
        answer = self.git.attempt("config", "--get", key)
        return os.fsdecode(answer.stdout).rstrip("\n") if answer.returncode == 0 else ""

    def _for_url(self, url: str) -> Mapping[str, list[str]]:
        """Every setting ``http.*`` for a URL, by lower-case name: the most special section wins, as Git says."""
        results: dict[str, list[str]] = {}
        answer = self.git.attempt("config", "-z", "--get-urlmatch", "http", url)
        for entry in os.fsdecode(answer.stdout).split("\0"):
            key, _, value = entry.partition("\n")
            if key:
                results.setdefault(key.lower(), []).append(value)
        if "http.extraheader" in results:
            # That names one value a key; headers add up, and an empty one takes back those before it.
            results["http.extraheader"] = self._all_headers(url)
        return results

    def _all_headers(self, url: str) -> list[str]:
        results: list[str] = []
        for key, value in self._headers:
            section = key.removeprefix("http.").removesuffix("extraheader").removesuffix(".")
            if not section or _covers(section, url):
                results = [*results, value] if value else []
        return results

    @lazy
    def _headers(self) -> list[tuple[str, str]]:
        answer = self.git.attempt("config", "-z", "--get-regexp", r"^http\.(.*\.)?extraheader$")
        parts = (entry.partition("\n") for entry in os.fsdecode(answer.stdout).split("\0") if entry)
        return [(key, value) for key, _, value in parts]


def _covers(section: str, url: str) -> bool:
    """Whether a section's URL is the other's beginning: same scheme, host and port, and whole parts of the path."""
    one, other = urlsplit(section), urlsplit(url)
    if (one.scheme, one.hostname, one.port) != (other.scheme, other.hostname, other.port):
        return False
    path = one.path.rstrip("/")
    return other.path == path or other.path.startswith(f"{path}/")


def _last(found: Mapping[str, list[str]], key: str) -> str | None:
    values = found.get(key)
    return values[-1] if values else None


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser() if text else None


def _proxy(setting: str | None, url: str, environment: Mapping[str, str]) -> str | None:
    """The proxy for a URL, as curl finds it: the setting, else the variable of the scheme, unless ``no_proxy`` says."""
    if setting is not None:
        return setting or None
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    spared = [name.strip().lower().lstrip(".") for name in _variable(environment, "no_proxy").split(",")]
    if any(name == "*" or (name and (host == name or host.endswith(f".{name}"))) for name in spared):
        return None
    scheme = "https_proxy" if parts.scheme == "https" else "http_proxy"
    # HTTP_PROXY in capitals may come from a request to a CGI program; curl does not heed it either.
    proxy = environment.get("http_proxy", "") if scheme == "http_proxy" else _variable(environment, scheme)
    return proxy or _variable(environment, "all_proxy") or None


def _variable(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name) or environment.get(name.upper()) or ""


def _headers(lines: list[str]) -> dict[str, str]:
    results = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            # The line may be a secret: it is not shown.
            raise RemoteError(
                "http.extraHeader has a line without a name", hint="git config --get-all http.extraHeader"
            )
        results[name.strip()] = value.strip()
    return results
