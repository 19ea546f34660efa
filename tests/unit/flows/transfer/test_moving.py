"""Objects on their way: several at a time, in batches where they can be, and never one that is not whole."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

from gittheta.api import Advance, ObjectId, RemoteError, TemporaryRemoteError
from gittheta.errors import ObjectCorrupt
from gittheta.flows.transfer.moving import Mover
from gittheta.flows.workspace import Workspace
from gittheta.remotes.directory import DirectoryRemote
from gittheta.remotes.wrapper import Wrapper
from gittheta.testing import Fault, FaultyRemote
from tests.support.repository import Repo


class Batching(DirectoryRemote):
    """A folder that takes many objects at once, and leaves every third out."""

    batch = 10
    calls: list[int] = []  # noqa: RUF012  a test looks at it

    def upload_batch(self, sources: Mapping[ObjectId, Path], advance: Advance) -> None:
        self.calls.append(len(sources))
        for number, (object_id, path) in enumerate(sources.items()):
            if number % 3 != 2:
                self.upload(object_id, path, advance)

    def download_batch(self, targets: Mapping[ObjectId, Path], advance: Advance) -> None:
        self.calls.append(len(targets))
        for number, (object_id, target) in enumerate(targets.items()):
            if number % 3 == 0:
                self.download(object_id, target, advance)
            elif number % 3 == 1:
                target.write_bytes(b"cut short")
        raise TemporaryRemoteError("the line is cut", hint="again")


class Counting(Wrapper):
    """Knows how many transfers went on at the same time."""

    most = 0
    now = 0
    lock = threading.Lock()
    both = threading.Barrier(2, timeout=10)

    def upload(self, object_id: ObjectId, source: Path, advance: Advance) -> None:
        with self.lock:
            Counting.now += 1
            Counting.most = max(self.most, self.now)
        self.both.wait()
        super().upload(object_id, source, advance)
        with self.lock:
            Counting.now -= 1


@pytest.fixture
def workspace(repo: Repo) -> Iterator[Workspace]:
    with repo.open() as workspace:
        yield workspace


def sources(folder: Path, count: int) -> dict[ObjectId, Path]:
    results = {}
    for number in range(count):
        data = b"%d" % number * 100
        path = folder / f"source-{number}"
        path.write_bytes(data)
        results[ObjectId(hashlib.sha256(data).hexdigest())] = path
    return results


def sizes(files: Mapping[ObjectId, Path]) -> dict[ObjectId, int]:
    return {object_id: path.stat().st_size for object_id, path in files.items()}


def store(workspace: Workspace, files: Collection[ObjectId]) -> int:
    return sum(workspace.tensors.store.find(object_id) is not None for object_id in files)


@pytest.mark.parametrize("kind", [DirectoryRemote, Batching])
def test_all_that_is_sent_is_there_and_comes_back(
    workspace: Workspace, tmp_path: Path, kind: type[DirectoryRemote]
) -> None:
    files = sources(tmp_path, 40)
    Batching.calls.clear()
    mover = Mover(workspace, Wrapper(kind(tmp_path / "hub" / "theta")), 4)
    assert mover.send(files) == {}
    assert dict(mover.remote.sizes(files)) == sizes(files)
    assert mover.receive(sizes(files)) == {}
    assert store(workspace, files) == 40
    assert Batching.calls == ([10] * 8 if kind is Batching else [])
    assert not list((workspace.tensors.store.root / "incoming").glob("*"))


def test_few_objects_are_spread_over_all_connections(workspace: Workspace, tmp_path: Path) -> None:
    Batching.calls.clear()
    Mover(workspace, Wrapper(Batching(tmp_path / "hub" / "theta")), 4).send(sources(tmp_path, 4))
    assert Batching.calls == [1, 1, 1, 1]


def test_several_travel_at_a_time(workspace: Workspace, tmp_path: Path) -> None:
    Mover(workspace, Counting(DirectoryRemote(tmp_path / "hub" / "theta")), 2).send(sources(tmp_path, 8))
    assert Counting.most == 2


def test_what_is_damaged_here_is_told_of_and_the_rest_is_sent(workspace: Workspace, tmp_path: Path) -> None:
    files = sources(tmp_path, 5)
    bad = min(files)
    files[bad].write_bytes(b"damaged")
    mover = Mover(workspace, Wrapper(DirectoryRemote(tmp_path / "hub" / "theta")), 2)
    assert set(mover.send(files)) == {bad}
    assert mover.remote.sizes(files).keys() == files.keys() - {bad}


def test_what_arrives_damaged_once_is_fetched_again(workspace: Workspace, tmp_path: Path) -> None:
    files = sources(tmp_path, 3)
    hub = DirectoryRemote(tmp_path / "hub" / "theta")
    Mover(workspace, Wrapper(hub), 2).send(files)
    faulty = FaultyRemote(hub, [Fault("flip", "download")])
    assert Mover(workspace, Wrapper(faulty), 2).receive(sizes(files)) == {}
    assert faulty.calls["download"] == 4
    assert store(workspace, files) == 3


def test_what_never_arrives_whole_is_told_of(workspace: Workspace, tmp_path: Path) -> None:
    files = sources(tmp_path, 3)
    hub = DirectoryRemote(tmp_path / "hub" / "theta")
    Mover(workspace, Wrapper(hub), 2).send(files)
    for kind, error in (("flip", ObjectCorrupt), ("refuse", RemoteError)):
        faulty = FaultyRemote(hub, [Fault(kind, "download", times=100)])  # type: ignore[arg-type]
        wrong = Mover(workspace, Wrapper(faulty), 2).receive(sizes(files))
        assert wrong.keys() == files.keys()
        assert all(isinstance(told, error) for told in wrong.values())
        assert store(workspace, files) == 0


def test_a_push_ends_with_the_first_upload_that_fails(workspace: Workspace, tmp_path: Path) -> None:
    faulty = FaultyRemote(DirectoryRemote(tmp_path / "hub" / "theta"), [Fault("refuse", "upload", times=100)])
    with pytest.raises(RemoteError):
        Mover(workspace, Wrapper(faulty), 2).send(sources(tmp_path, 50))
    assert faulty.calls["upload"] < 50
