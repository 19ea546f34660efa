"""Objects on their way: several at a time, many in a request where the service takes them, each checked on arrival."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gittheta.api import BatchRemote, TemporaryRemoteError
from gittheta.errors import ObjectCorrupt, RemoteError, StoreError

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.model import ObjectId
    from gittheta.storage.objects import ObjectStore

Item = TypeVar("Item")
Answer = TypeVar("Answer")
#: How often an object is fetched that arrives damaged: the first time, the line may have done it.
_ATTEMPTS = 2


@dataclass(frozen=True)
class Mover:
    """Moves objects between the store of a workspace and one remote. For one thread, which it multiplies."""

    workspace: Workspace
    remote: BatchRemote
    #: The most transfers at a time.
    transfers: int

    def send(self, sources: Mapping[ObjectId, Path]) -> dict[ObjectId, ObjectCorrupt]:
        """Upload files; returns what is wrong with those that are damaged here, which are not sent.

        Raises RemoteError as soon as one upload has failed for good; no further one begins then.
        """
        sizes = {object_id: path.stat().st_size for object_id, path in sources.items()}
        self.workspace.reporter.start("Uploading model objects", sum(sizes.values()))
        left = dict(sources)
        if self.remote.batch > 1 < len(left):
            self._in_batches(left, lambda some: self.remote.upload_batch(some, uncounted))
            present = self.remote.sizes(left)
            left = {object_id: path for object_id, path in left.items() if present.get(object_id) != sizes[object_id]}
        damaged: dict[ObjectId, ObjectCorrupt] = {}

        def upload(object_id: ObjectId) -> None:
            try:
                self.remote.upload(object_id, left[object_id], uncounted)
            except ObjectCorrupt as error:
                damaged[object_id] = error

        self._side_by_side(upload, left)
        return damaged

    def receive(self, sizes: Mapping[ObjectId, int]) -> dict[ObjectId, StoreError | RemoteError]:
        """Download objects of these sizes in bytes into the store; returns what is wrong with those that it lacks.

        A full disk or one that fails ends it: raises StoreError.
        """
        self.workspace.reporter.start("Downloading model objects", sum(sizes.values()))
        left = dict(sizes)
        if self.remote.batch > 1 < len(left):
            self._in_batches(left, self._download_batch)
            left = {object_id: size for object_id, size in left.items() if not self._store.holds(object_id, size)}
        answers = self._side_by_side(self._download, left)
        return {object_id: error for object_id, error in zip(left, answers, strict=True) if error is not None}

    @property
    def _store(self) -> ObjectStore:
        return self.workspace.tensors.store

    def _download(self, object_id: ObjectId) -> ObjectCorrupt | RemoteError | None:
        wrong: ObjectCorrupt | None = None
        for _ in range(_ATTEMPTS):
            try:
                self._store.receive(object_id, lambda target: self.remote.download(object_id, target, uncounted))
            except ObjectCorrupt as error:
                wrong = error
            except RemoteError as error:
                return error
            else:
                return None
        return wrong

    def _in_batches(self, items: Mapping[ObjectId, Item], move: Callable[[Mapping[ObjectId, Item]], None]) -> None:
        """Move what can be moved together. What goes wrong here goes right, or is told of, one by one."""
        each = max(1, min(self.remote.batch, -(-len(items) // self.transfers)))
        names = list(items)
        chunks = [{name: items[name] for name in names[at : at + each]} for at in range(0, len(names), each)]

        def attempt(chunk: Mapping[ObjectId, Item]) -> None:
            with suppress(TemporaryRemoteError, ObjectCorrupt):
                move(chunk)

        self._side_by_side(attempt, chunks)

    def _download_batch(self, sizes: Mapping[ObjectId, int]) -> None:
        with self._arriving(sizes) as targets:
            try:
                self.remote.download_batch(targets, uncounted)
            finally:
                for object_id, target in targets.items():
                    if target.is_file() and target.stat().st_size >= sizes[object_id]:
                        with suppress(ObjectCorrupt):
                            self._store.arrived(object_id, target)

    @contextmanager
    def _arriving(self, objects: Iterable[ObjectId]) -> Iterator[dict[ObjectId, Path]]:
        targets: dict[ObjectId, Path] = {}
        try:
            for object_id in objects:
                targets[object_id] = self._store.arriving(object_id)
            yield targets
        finally:
            for object_id, target in targets.items():
                self._store.set_aside(object_id, target)

    def _side_by_side(self, call: Callable[[Item], Answer], items: Iterable[Item]) -> list[Answer]:
        """The answers in order. If one call fails, those that have not begun never do."""
        pool = ThreadPoolExecutor(self.transfers, "gittheta-transfer")
        try:
            return list(pool.map(call, items))
        finally:
            pool.shutdown(cancel_futures=True)


def uncounted(amount: int) -> None:
    """For transfers of an opened remote, which tells the reporter itself."""
