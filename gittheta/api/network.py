"""How Git reaches other machines from here: what a remote must respect as Git itself does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class HttpSettings:
    """What Git's ``http.*`` settings and variables say about one URL."""

    #: False only where the user switched that off for this very URL; whoever opens the connection warns of it.
    verify: bool = True
    #: Certificates that are trusted, in place of those of the system.
    ca_file: Path | None = None
    ca_folder: Path | None = None
    #: The user's own certificate, and the file of its key.
    certificate: Path | None = None
    key: Path | None = None
    #: The URL of a proxy; None: none.
    proxy: str | None = None
    #: ``http.extraHeader``, for this URL and no other host. May hold secrets: never printed, never logged.
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Credential:
    """A user and a password or token, as a credential helper gives them."""

    username: str
    password: str = field(repr=False)


class Network(Protocol):
    """What Git's configuration says about the network. Safe to use from several threads."""

    @property
    def ssh(self) -> tuple[str, ...]:
        """The words of the command by which Git calls ssh, without host and command."""
        ...

    def http(self, url: str) -> HttpSettings:
        """The settings for a URL. Raises RemoteError if they make no sense."""
        ...

    def credential(self, url: str) -> Credential | None:
        """What ``git credential fill`` says for a URL; None if there is none, or nobody to ask."""
        ...

    def approve(self, url: str, credential: Credential) -> None:
        """The credential worked: helpers may keep it."""
        ...

    def reject(self, url: str, credential: Credential) -> None:
        """The credential was refused: helpers forget it."""
        ...


@dataclass(frozen=True)
class DefaultNetwork:
    """A network of which nothing is configured, as for a remote that is used without a repository."""

    @property
    def ssh(self) -> tuple[str, ...]:
        """Plain ssh."""
        return ("ssh",)

    def http(self, url: str) -> HttpSettings:
        """All as usual."""
        del url
        return HttpSettings()

    def credential(self, url: str) -> Credential | None:
        """Nobody is asked."""
        del url
        return None

    def approve(self, url: str, credential: Credential) -> None:
        """Nothing is kept."""

    def reject(self, url: str, credential: Credential) -> None:
        """Nothing was kept."""
