"""Objects on the Git LFS server of a Git remote, by the batch API and the transfer ``basic``.

The protocol is that of git-lfs: ``docs/api/batch.md`` and ``docs/api/basic-transfers.md`` there.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import IO, TYPE_CHECKING, Any, ClassVar

from gittheta.api import Advance, ObjectId, RemoteContext, RemoteError, TemporaryRemoteError
from gittheta.errors import MissingExtra
from gittheta.remotes.counted import CountedFile
from gittheta.remotes.lfs.endpoint import Endpoint, NoSuchRange, Operation, address_of, endpoint_at, origin_of
from gittheta.storage.files import translated

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from urllib3 import BaseHTTPResponse

    from gittheta.remotes.lfs.http import Caller

_JSON = "application/vnd.git-lfs+json"
_PART = 1 << 20
#: Requests at a time that ask where many objects are.
_QUESTIONS = 4
#: The most bytes of an answer to such a question.
_MOST = 16 << 20


@dataclass(frozen=True)
class _Action:
    """Where to send or fetch something, and with which headers."""

    href: str
    header: Mapping[str, str] = field(repr=False)

    @classmethod
    def parse(cls, told: object) -> _Action | None:
        """What a server tells; None where it tells nothing of use."""
        if not isinstance(told, dict) or not isinstance(told.get("href"), str):
            return None
        header = told.get("header") or {}
        return cls(told["href"], {str(name): str(value) for name, value in header.items()})


@dataclass(frozen=True)
class _Told:
    """What a server tells of one object."""

    size: int
    actions: Mapping[str, _Action]
    #: Why it is not to be had or not taken; None: all is well.
    wrong: str | None = None
    code: int = 0


@dataclass(frozen=True)
class LfsRemote:
    """The LFS server of a Git remote. Safe to use from several threads."""

    name: ClassVar[str] = "lfs"
    verifies: ClassVar[bool] = False
    batch: ClassVar[int] = 100

    address: str
    context: RemoteContext
    caller: Caller
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)
    _endpoints: dict[Operation, Endpoint] = field(default_factory=dict, repr=False, compare=False)
    #: Of objects that were asked about: where they can be fetched.
    _downloads: dict[ObjectId, _Action] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, url: str, context: RemoteContext) -> LfsRemote | None:
        """The server of a Git remote by HTTP or SSH; None for other URLs, and for an SSH without LFS.

        Raises RemoteError, or MissingExtra without urllib3.
        """
        if context.chosen:
            return None
        address = address_of(url, context)
        if address is None:
            return None
        try:
            import urllib3  # noqa: F401  the modules that use it are imported where it is there
        except ImportError as error:
            raise MissingExtra("lfs", "the LFS server of a Git remote needs urllib3") from error
        from gittheta.remotes.lfs.http import Caller

        remote = cls(address, context, Caller(context))
        endpoint = endpoint_at(address, "download", context)
        if endpoint is None:
            return None
        remote._endpoints["download"] = endpoint
        return remote

    def sizes(self, objects: Collection[ObjectId]) -> Mapping[ObjectId, int]:
        """A request for each hundred."""
        claims = self._claims(objects)
        names = list(claims)
        chunks = [
            {name: claims[name] for name in names[at : at + self.batch]} for at in range(0, len(names), self.batch)
        ]
        with ThreadPoolExecutor(_QUESTIONS, "gittheta-lfs") as pool:
            answers = list(pool.map(lambda chunk: self._ask("download", chunk), chunks))
        sizes: dict[ObjectId, int] = {}
        for answer in answers:
            for object_id, told in answer.items():
                action = told.actions.get("download")
                if action is not None and told.wrong is None:
                    sizes[object_id] = max(told.size, claims[object_id])
                    with self._lock:
                        self._downloads[object_id] = action
        return sizes

    def _claims(self, objects: Collection[ObjectId]) -> dict[ObjectId, int]:
        """The sizes that the server is told, exact ones as far as they are known: some servers compare them."""
        least = dict(objects) if isinstance(objects, Mapping) else dict.fromkeys(objects, 0)
        return {**least, **self.context.known_sizes(least)}

    def upload(self, object_id: ObjectId, source: Path, advance: Advance) -> None:
        """Ask where to, send, and tell the server to look."""
        self._send(object_id, source, advance, self._ask("upload", {object_id: source.stat().st_size}))

    def upload_batch(self, sources: Mapping[ObjectId, Path], advance: Advance) -> None:
        """One question for all; those that the server refuses are left out."""
        told = self._ask("upload", {object_id: path.stat().st_size for object_id, path in sources.items()})
        for object_id, source in sources.items():
            try:
                self._send(object_id, source, advance, told)
            except RemoteError as error:
                self.context.reporter.trace(f"object {object_id}: {error.what}")

    def _send(self, object_id: ObjectId, source: Path, advance: Advance, answer: Mapping[ObjectId, _Told]) -> None:
        told = self._judged(object_id, answer)
        size = source.stat().st_size
        action = told.actions.get("upload")
        if action is None:  # the server has it already
            advance(size)
            return
        headers = {"Content-Type": "application/octet-stream", **action.header, "Content-Length": str(size)}
        with CountedFile(source, advance) as file, self._call("PUT", action.href, headers, file) as done:
            done.drain_conn()
        verify = told.actions.get("verify")
        if verify is not None:
            body = json.dumps({"oid": object_id, "size": size}).encode()
            headers = {"Content-Type": _JSON, "Accept": _JSON, **verify.header}
            with self._call("POST", verify.href, headers, body) as done:
                done.drain_conn()

    def download(self, object_id: ObjectId, target: Path, advance: Advance) -> None:
        """Behind what is there already, if the server sends ranges."""
        begin = target.stat().st_size if target.exists() else 0
        headers = {"Range": f"bytes={begin}-"} if begin else {}
        try:
            with self._fetching(object_id, headers) as answer:
                goes_on = begin and answer.status == 206
                advance(begin if goes_on else 0)
                with translated(target), open(target, "ab" if goes_on else "wb", buffering=0) as file:
                    for part in answer.stream(_PART):
                        file.write(part)
                        advance(len(part))
        except NoSuchRange:  # all of it was there, or more than that: whoever checks it knows
            if target.stat().st_size != self._size(object_id):
                target.unlink()
                raise TemporaryRemoteError(
                    f"object {object_id} is fetched anew", hint="run the command again"
                ) from None
            advance(begin)

    def download_batch(self, targets: Mapping[ObjectId, Path], advance: Advance) -> None:
        """One question for those that were not asked about yet."""
        with self._lock:
            unknown = [object_id for object_id in targets if object_id not in self._downloads]
        if unknown:
            self.sizes(unknown)
        for object_id, target in targets.items():
            try:
                self.download(object_id, target, advance)
            except RemoteError as error:
                self.context.reporter.trace(f"object {object_id}: {error.what}")

    def read(self, object_id: ObjectId, offset: int, length: int) -> bytes:
        """By a range; where the server does not send ranges, from the beginning."""
        if not length:
            if offset > self._size(object_id):
                raise self._shorter(object_id, offset)
            return b""
        try:
            with self._fetching(object_id, {"Range": f"bytes={offset}-{offset + length - 1}"}) as answer:
                left = 0 if answer.status == 206 else offset
                while left:
                    skipped = len(answer.read(min(left, _PART)))
                    if not skipped:
                        break
                    left -= skipped
                data = b"".join(_pieces(answer, length))
        except NoSuchRange:
            raise self._shorter(object_id, offset + length) from None
        if len(data) != length:
            raise self._shorter(object_id, offset + length)
        return data

    def close(self) -> None:
        """End all connections."""
        self.caller.close()

    def _fetching(self, object_id: ObjectId, headers: Mapping[str, str]) -> AbstractContextManager[BaseHTTPResponse]:
        with self._lock:
            action = self._downloads.pop(object_id, None)
        if action is None:
            action = self._judged(object_id, self._ask("download", self._claims([object_id]))).actions.get("download")
        if action is None:
            raise RemoteError(f"{self.address} does not say where object {object_id} is", hint="ask whoever runs it")
        return self._call("GET", action.href, {**action.header, **headers})

    def _size(self, object_id: ObjectId) -> int:
        sizes = self.sizes([object_id])
        if object_id not in sizes:
            raise self._absent(object_id, "404 not found")
        return sizes[object_id]

    def _judged(self, object_id: ObjectId, answer: Mapping[ObjectId, _Told]) -> _Told:
        told = answer.get(object_id)
        if told is None:
            raise RemoteError(f"{self.address} says nothing of object {object_id}", hint="ask whoever runs the server")
        if told.wrong is None:
            return told
        if told.code in (404, 410):
            raise self._absent(object_id, told.wrong)
        if told.code == 429 or told.code >= 500:
            raise TemporaryRemoteError(f"object {object_id}: {told.wrong}", hint="try again later")
        raise RemoteError(f"object {object_id}: {told.wrong}", hint="ask whoever runs the server")

    def _absent(self, object_id: ObjectId, why: str) -> RemoteError:
        return RemoteError(
            f"object {object_id} is not at {self.address}: {why}",
            hint="push it from a clone that has it: git theta push --all",
        )

    def _shorter(self, object_id: ObjectId, size: int) -> RemoteError:
        return RemoteError(
            f"object {object_id} at {self.address} is shorter than {size} bytes",
            hint="push it again from a clone that has it: git theta push --all",
        )

    def _endpoint(self, operation: Operation) -> Endpoint:
        with self._lock:
            endpoint = self._endpoints.get(operation)
        if endpoint is None or not endpoint.is_fresh():
            endpoint = endpoint_at(self.address, operation, self.context)
            if endpoint is None:
                raise RemoteError("the LFS server has gone", hint="ask whoever runs it")
            with self._lock:
                self._endpoints[operation] = endpoint
        return endpoint

    def _ask(self, operation: Operation, sizes: Mapping[ObjectId, int]) -> dict[ObjectId, _Told]:
        """The batch API."""
        endpoint = self._endpoint(operation)
        question = {
            "operation": operation,
            "transfers": ["basic"],
            "hash_algo": "sha256",
            "objects": [{"oid": object_id, "size": size} for object_id, size in sizes.items()],
        }
        headers = {"Accept": _JSON, "Content-Type": _JSON, **endpoint.headers}
        body = json.dumps(question).encode()
        login = not endpoint.headers
        with self.caller.call("POST", f"{endpoint.url}/objects/batch", headers, body, login=login) as answer:
            text = answer.read(_MOST)
        try:
            return dict(_parsed(json.loads(text), sizes))
        except (ValueError, TypeError, AttributeError) as error:
            raise RemoteError(
                f"{self.address} answers something else than an LFS server does", hint="check the URL"
            ) from error

    def _call(
        self, method: str, href: str, headers: Mapping[str, str], body: bytes | IO[bytes] | None = None
    ) -> AbstractContextManager[BaseHTTPResponse]:
        """A request of an action. Our own login goes only to the server itself, and never beside an action's own."""
        endpoint = self._endpoint("download")
        own = any(name.lower() == "authorization" for name in headers)
        ours = origin_of(href) == origin_of(endpoint.url) and not own
        extra = endpoint.headers if ours else {}
        return self.caller.call(method, href, {**extra, **headers}, body, login=ours and not extra)


def _parsed(answer: dict[str, Any], asked: Mapping[ObjectId, int]) -> Iterator[tuple[ObjectId, _Told]]:
    for entry in answer["objects"]:
        object_id = ObjectId(str(entry.get("oid")))
        if object_id not in asked:
            continue
        wrong = entry.get("error")
        actions = {
            str(name): action
            for name, told in (entry.get("actions") or {}).items()
            if (action := _Action.parse(told)) is not None
        }
        size = entry.get("size")
        yield (
            object_id,
            _Told(
                size if isinstance(size, int) else 0,
                actions,
                f"{wrong.get('code')} {wrong.get('message')}"[:200] if isinstance(wrong, dict) else None,
                int(wrong.get("code") or 0) if isinstance(wrong, dict) else 0,
            ),
        )


def _pieces(answer: BaseHTTPResponse, length: int) -> Iterator[bytes]:
    while length:
        piece = answer.read(min(length, _PART))
        if not piece:
            return
        length -= len(piece)
        yield piece
