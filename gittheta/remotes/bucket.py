"""Objects in a bucket or on a web server: S3, Google Cloud Storage, Azure, WebDAV, and plain HTTP to read from.

All by the library obstore, in the layout of every store (``docs/spec/store.md``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gittheta.api import Advance, ObjectId, RemoteContext, RemoteError, TemporaryRemoteError
from gittheta.remotes.counted import CountedFile
from gittheta.remotes.places import LARGE, Bucket, bucket_at
from gittheta.storage.files import translated

if TYPE_CHECKING:
    from obstore import ListStream
    from obstore.store import ObjectStore

#: Objects that are asked for one by one, this many at a time, where that takes fewer requests than to list them all.
_AT_ONCE = 8
_NAME = 64
#: Objects on a page of a listing.
_PAGE = 1000
#: What a service says where the same call may succeed a little later.
_PASSING = re.compile(
    r"\b(408|429|5\d\d)\b|timed? ?out|error sending request|connection|slow ?down|server error|incomplete|decod",
    re.IGNORECASE,
)
#: What may follow a question mark in a URL: signatures and tokens.
_QUERY = re.compile(r"\?[^\s\"')]*")


@dataclass(frozen=True)
class BucketRemote:
    """A bucket, or a folder in one. Safe to use from several threads."""

    name: ClassVar[str] = "bucket"
    wants_pointers: ClassVar[bool] = False
    verifies: ClassVar[bool] = False

    bucket: Bucket

    @classmethod
    def open(cls, url: str, context: RemoteContext) -> BucketRemote | None:
        """The bucket at ``s3://``, ``gs://``, ``az://``, ``dav(s)://``; ``http(s)://`` where the user has chosen that.

        None for other URLs. Raises RemoteError, or MissingExtra without obstore.
        """
        bucket = bucket_at(url, context)
        return cls(bucket) if bucket is not None else None

    def sizes(self, objects: Collection[ObjectId]) -> Mapping[ObjectId, int]:
        """Some are asked for one by one; for many, the bucket is listed, as far as that is the shorter way."""
        wanted = set(objects)
        sizes: dict[ObjectId, int] = {}
        unseen = wanted
        with self._translated():
            if self.bucket.can_list and len(wanted) > _AT_ONCE:
                sizes, unseen = self._listed(wanted)
        with ThreadPoolExecutor(_AT_ONCE, "gittheta-head") as pool:
            answers = zip(sorted(unseen), pool.map(self._size, sorted(unseen)), strict=True)
            return sizes | {object_id: size for object_id, size in answers if size is not None}

    def _listed(self, wanted: set[ObjectId]) -> tuple[dict[ObjectId, int], set[ObjectId]]:
        """Sizes by the pages of a listing, and the objects of which it did not get far enough to tell."""
        import obstore

        sizes: dict[ObjectId, int] = {}
        pages: ListStream[Any] = obstore.list(self._store, "objects", chunk_size=_PAGE)
        for number, page in enumerate(pages):
            if number * _AT_ONCE >= len(wanted):
                return sizes, wanted - sizes.keys()
            for entry in page:
                name = ObjectId(entry["path"].rpartition("/")[2])
                if name in wanted and entry["path"].endswith(_home(name)):
                    sizes[name] = entry["size"]
        return sizes, set()

    def _size(self, object_id: ObjectId) -> int | None:
        import obstore

        with self._translated(object_id):
            try:
                return int(obstore.head(self._store, _home(object_id))["size"])
            except FileNotFoundError:
                return None

    def upload(self, object_id: ObjectId, source: Path, advance: Advance) -> None:
        """In one request, or in several parts if it is large; nobody sees it before it is complete."""
        import obstore

        if not self.bucket.can_write:
            raise RemoteError(
                f"{self.bucket.shown} is a folder to read from",
                hint="push to a place that takes objects: git config remote.NAME.thetaUrl URL",
            )
        in_parts = self.bucket.takes_parts and source.stat().st_size > LARGE
        with self._translated(object_id), CountedFile(source, advance) as file:
            obstore.put(
                self._store, _home(object_id), file, use_multipart=in_parts, chunk_size=LARGE, max_concurrency=2
            )

    def download(self, object_id: ObjectId, target: Path, advance: Advance) -> None:
        """Behind what is there already, by a range."""
        import obstore

        with self._translated(object_id):
            begin = self._kept(object_id, target)
            if begin is None:
                advance(target.stat().st_size)
                return
            advance(begin)
            answer = obstore.get(self._store, _home(object_id), options={"range": {"offset": begin}} if begin else None)
            with translated(target), open(target, "ab" if begin else "wb", buffering=0) as file:
                for part in answer.stream(min_chunk_size=1 << 20):
                    file.write(part)
                    advance(len(part))

    def _kept(self, object_id: ObjectId, target: Path) -> int | None:
        """How many bytes of what is there already to keep; None if nothing is missing."""
        present = target.stat().st_size if target.exists() else 0
        if not present:
            return 0
        size = self._size(object_id)
        if size == present:
            return None
        return present if size is not None and present < size else 0

    def read(self, object_id: ObjectId, offset: int, length: int) -> bytes:
        """One request for the range."""
        import obstore

        size = self._size(object_id) if not length else None
        with self._translated(object_id):
            if length:
                data = bytes(obstore.get_range(self._store, _home(object_id), start=offset, length=length))
            else:
                data = b""
        if len(data) != length or (size is not None and offset > size):
            raise self._shorter(object_id, offset + length)
        if not length and size is None:
            raise self._absent(object_id)
        return data

    @property
    def manages(self) -> bool:
        """Not where nothing can be listed, or nothing written."""
        return self.bucket.can_list and self.bucket.can_write

    def reservation(self) -> str:
        """Whoever relies on a bucket leaves a note."""
        return ""

    def names(self) -> Iterator[tuple[ObjectId, int]]:
        """By the pages of a listing."""
        for path, size in self._files("objects"):
            name = ObjectId(path.rpartition("/")[2])
            if len(name) == _NAME and path.endswith(_home(name)):
                yield name, size

    def remove(self, object_id: ObjectId) -> None:
        """One request."""
        self._delete(_home(object_id))

    def notes(self) -> list[str]:
        """One request for a thousand of them."""
        return sorted(path.rpartition("/")[2] for path, _ in self._files("notes"))

    def read_note(self, name: str) -> bytes | None:
        """One request."""
        import obstore

        with self._translated():
            try:
                return bytes(obstore.get(self._store, f"notes/{name}").bytes())
            except FileNotFoundError:
                return None

    def write_note(self, name: str, data: bytes) -> None:
        """One request."""
        import obstore

        with self._translated():
            obstore.put(self._store, f"notes/{name}", data, use_multipart=False)

    def remove_note(self, name: str) -> None:
        """One request."""
        self._delete(f"notes/{name}")

    def _files(self, folder: str) -> Iterator[tuple[str, int]]:
        import obstore

        with self._translated():
            pages: ListStream[Any] = obstore.list(self._store, folder, chunk_size=_PAGE)
            for page in pages:
                for entry in page:
                    yield entry["path"], entry["size"]

    def _delete(self, path: str) -> None:
        import obstore

        with self._translated():
            try:
                obstore.delete(self._store, path)
            except FileNotFoundError:
                return

    def close(self) -> None:
        """Connections end by themselves."""

    @property
    def _store(self) -> ObjectStore:
        return self.bucket.store

    def _absent(self, object_id: ObjectId) -> RemoteError:
        return RemoteError(
            f"object {object_id} is not at {self.bucket.shown}",
            hint="push it from a clone that has it: git theta push --all",
        )

    def _shorter(self, object_id: ObjectId, size: int) -> RemoteError:
        return RemoteError(
            f"object {object_id} at {self.bucket.shown} is shorter than {size} bytes",
            hint="push it again from a clone that has it: git theta push --all",
        )

    @contextmanager
    def _translated(self, object_id: ObjectId | None = None) -> Iterator[None]:
        """Errors of obstore as RemoteErrors, without what could be a secret."""
        from obstore import exceptions

        try:
            yield
        except FileNotFoundError as error:
            text = str(error)
            if object_id is None or "NoSuchBucket" in text or "ContainerNotFound" in text:
                raise RemoteError(f"there is nothing at {self.bucket.shown}", hint="create the bucket first") from None
            raise self._absent(object_id) from None
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise RemoteError(
                f"{self.bucket.shown} refuses: {_told(error)}", hint=f"check the credentials: {self.bucket.login}"
            ) from None
        except (exceptions.BaseError, ValueError, OSError) as error:
            told = _told(error)
            if "416" in told or "out of range" in told.lower() or "InvalidRange" in told:
                raise self._shorter(object_id or ObjectId(""), 0) from None
            if _PASSING.search(told) and "NoSuchBucket" not in told:
                raise TemporaryRemoteError(
                    f"{self.bucket.shown}: {told}", hint="check the network and the service, then run the command again"
                ) from None
            raise RemoteError(f"{self.bucket.shown}: {told}", hint=f"check the URL and {self.bucket.login}") from None


def _home(object_id: ObjectId) -> str:
    return f"objects/{object_id[:2]}/{object_id[2:4]}/{object_id}"


def _told(error: Exception) -> str:
    """The gist of what obstore says, which can be long."""
    text = " ".join(str(error).split("Debug source")[0].split())
    return _QUERY.sub("?...", text)[:300]
