"""HTTP for the LFS client: Git's own settings, one pool of connections, and who is told the password."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import IO, TYPE_CHECKING
from urllib.parse import urljoin, urlsplit, urlunsplit

import urllib3

from gittheta.api import RemoteContext, RemoteError, TemporaryRemoteError
from gittheta.remotes.lfs.endpoint import NoSuchRange, origin_of
from gittheta.runtime import lazy

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

    from gittheta.api import Credential

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_PASSING = (408, 425, 429, 500, 502, 503, 504, 509)
#: Bytes of a body that are read and sent at a time.
_BLOCK = 1 << 20
#: Connections that are kept to one host.
_KEPT = 64


@dataclass(frozen=True)
class Caller:
    """Makes requests. Safe to use from several threads."""

    context: RemoteContext
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)
    #: By origin: the credential that is in use.
    _credentials: dict[str, Credential] = field(default_factory=dict, repr=False, compare=False)
    _approved: set[str] = field(default_factory=set, repr=False, compare=False)
    _pools: dict[str, urllib3.PoolManager] = field(default_factory=dict, repr=False, compare=False)

    @contextmanager
    def call(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | IO[bytes] | None = None,
        *,
        login: bool = True,
    ) -> Iterator[BaseHTTPResponse]:
        """The answer to a request, of which the body is still to be read.

        With ``login``, a server that asks for a password gets what ``git credential`` says. Raises RemoteError.
        """
        origin = origin_of(url)
        used = self._credential(origin)
        answer = self._follow(method, url, headers, body, login=login)
        if answer.status == 401 and login and self._log_in(url, used):
            answer.drain_conn()
            _rewind(body)
            answer = self._follow(method, url, headers, body, login=login)
            if answer.status == 401:
                self._log_out(url)
        try:
            self._judge(answer, url, origin)
            with _translated(url):
                yield answer
        finally:
            answer.release_conn()

    def _follow(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | IO[bytes] | None, *, login: bool
    ) -> BaseHTTPResponse:
        """Redirects are followed; what lets us in goes to no other host."""
        first = origin_of(url)
        for _ in range(_MOST_REDIRECTS):
            same = origin_of(url) == first
            sent = dict(headers) if same else {name: text for name, text in headers.items() if not _is_secret(name)}
            if same and login:
                sent = {**self.context.network.http(url).headers, **self._authorization(first), **sent}
            with _translated(url):
                answer = self._pool(url).request(
                    method, url, headers=sent, body=body, redirect=False, retries=False, preload_content=False
                )
            target = answer.headers.get("Location")
            if answer.status not in _REDIRECTS or not target:
                return answer
            answer.drain_conn()
            following = urljoin(url, target)
            if urlsplit(following).scheme not in ("http", "https") or (
                url.startswith("https://") and not following.startswith("https://")
            ):
                raise RemoteError(f"{shown(url)} leads to a place that is not as safe", hint="ask whoever runs it")
            url = following
            _rewind(body)
        raise RemoteError(f"{shown(url)} leads from one place to another", hint="check the URL")

    def _pool(self, url: str) -> urllib3.PoolManager:
        origin = origin_of(url)
        with self._lock:
            if origin not in self._pools:
                self._pools[origin] = self._made(url)
            return self._pools[origin]

    def _made(self, url: str) -> urllib3.PoolManager:
        http = self.context.network.http(url)
        options = {
            "maxsize": _KEPT,
            "blocksize": _BLOCK,
            "timeout": urllib3.Timeout(connect=30, read=120),
            "cert_reqs": "CERT_REQUIRED" if http.verify else "CERT_NONE",
            "ca_certs": str(http.ca_file) if http.ca_file else None,
            "ca_cert_dir": str(http.ca_folder) if http.ca_folder else None,
            "cert_file": str(http.certificate) if http.certificate else None,
            "key_file": str(http.key) if http.key else None,
        }
        if not http.verify and url.startswith("https://"):
            self.context.reporter.warn(f"http.sslVerify is off for {shown(url)}: whoever is in between can read along")
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        if http.proxy:
            return urllib3.ProxyManager(http.proxy, **options)  # type: ignore[arg-type]
        return urllib3.PoolManager(**options)  # type: ignore[arg-type]

    def _credential(self, origin: str) -> Credential | None:
        with self._lock:
            return self._credentials.get(origin)

    def _authorization(self, origin: str) -> dict[str, str]:
        credential = self._credential(origin)
        if credential is None:
            return {}
        pair = f"{credential.username}:{credential.password}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}

    def _log_in(self, url: str, used: Credential | None) -> bool:
        """Ask for a credential in place of the one that was refused; says whether there is one to try."""
        origin = origin_of(url)
        with self._asking:
            present = self._credential(origin)
            if present != used:  # another thread has asked meanwhile
                return present is not None
            if used is not None:
                self._log_out(url)
            credential = self.context.network.credential(url)
            if credential is None or credential == used:
                return False
            with self._lock:
                self._credentials[origin] = credential
            return True

    def _log_out(self, url: str) -> None:
        """Forget the credential, and let helpers forget it."""
        with self._lock:
            refused = self._credentials.pop(origin_of(url), None)
            self._approved.discard(origin_of(url))
        if refused is not None:
            self.context.network.reject(url, refused)

    @lazy
    def _asking(self) -> Lock:
        """Of several threads that are refused, one asks at a time."""
        return Lock()

    def _judge(self, answer: BaseHTTPResponse, url: str, origin: str) -> None:
        """Raise what a status means."""
        status = answer.status
        if status < 400:
            self._approve(url, origin)
            return
        told = f"{shown(url)} answers {status} {answer.reason or ''}".rstrip()
        answer.drain_conn()
        if status in _PASSING:
            after = answer.headers.get("Retry-After", "")
            raise TemporaryRemoteError(told, hint="try again later", after=float(after) if after.isdigit() else None)
        if status == 416:
            raise NoSuchRange(told, hint="push the object again from a clone that has it whole")
        if status in (401, 403):
            raise RemoteError(told, hint="check the credentials that `git fetch` uses, and what they allow")
        if status == 404:
            raise RemoteError(told, hint="check the URL: is there an LFS server? `git config lfs.url` names another")
        raise RemoteError(told, hint="ask whoever runs the server")

    def _approve(self, url: str, origin: str) -> None:
        with self._lock:
            credential = self._credentials.get(origin)
            news = credential is not None and origin not in self._approved
            self._approved.add(origin)
        if news and credential is not None:
            self.context.network.approve(url, credential)

    def close(self) -> None:
        """End all connections."""
        with self._lock:
            for pool in self._pools.values():
                pool.clear()


def shown(url: str) -> str:
    """A URL without what may be a secret: user, password, query."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def _is_secret(header: str) -> bool:
    return header.lower() in ("authorization", "cookie", "private-token", "proxy-authorization")


def _rewind(body: bytes | IO[bytes] | None) -> None:
    if body is not None and not isinstance(body, bytes):
        body.seek(0)


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except urllib3.exceptions.SSLError as error:
        raise RemoteError(
            f"{shown(url)}: the certificate is not trusted", hint="git config http.sslCAInfo FILE"
        ) from error
    except urllib3.exceptions.HTTPError as error:
        raise TemporaryRemoteError(
            f"{shown(url)}: {type(error).__name__}", hint="check the network, then run the command again"
        ) from error
