"""What every remote owes."""

# ruff: noqa: S101 - assertions are what these modules are for
from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier

from gittheta.api import ObjectId, Remote, RemoteContext, RemoteError, RemotePlugin, TemporaryRemoteError
from gittheta.conformance.common import random_of
from gittheta.errors import ObjectCorrupt
from gittheta.remotes.managed import managed
from gittheta.remotes.verify import VerifyingRemote

#: No object has this name.
MISSING = ObjectId("0" * 64)
#: An object that takes several reads and writes to transfer.
_LARGE = (9 << 20) + 5


class _CutShortError(Exception):
    """What an upload is interrupted with."""


@dataclass
class RemoteUnderTest:
    """A remote, a second client of the same place, the folder that the place belongs to, and one for other files."""

    remote: Remote
    second: Remote
    root: Path
    folder: Path
    data: dict[ObjectId, bytes] = field(default_factory=dict)

    def make(self, seed: int, size: int = 1000) -> ObjectId:
        """An object that is nowhere yet but in a file."""
        data = random_of(seed).randbytes(size)
        object_id = ObjectId(hashlib.sha256(data).hexdigest())
        self.data[object_id] = data
        self.source(object_id).write_bytes(data)
        return object_id

    def put(self, seed: int, size: int = 1000) -> ObjectId:
        """An object that is on the remote."""
        object_id = self.make(seed, size)
        self.remote.upload(object_id, self.source(object_id), _uncounted)
        return object_id

    def source(self, object_id: ObjectId) -> Path:
        """The file that holds an object's bytes."""
        return self.folder / object_id

    def fetch(self, remote: Remote, object_id: ObjectId, name: str = "fetched") -> bytes:
        """The bytes that a download gives."""
        target = self.folder / name
        try:
            remote.download(object_id, target, _uncounted)
            return target.read_bytes()
        finally:
            target.unlink(missing_ok=True)

    def check(self, remote: Remote, object_id: ObjectId) -> None:
        """The object is there, and whole."""
        data = self.data[object_id]
        assert dict(remote.sizes([object_id])) == {object_id: len(data)}
        assert self.fetch(remote, object_id, f"{object_id}.{id(remote)}") == data, "a download gave other bytes"
        assert remote.read(object_id, 0, len(data)) == data, "read() gave other bytes"


class RemoteConformance:
    """What every remote owes. Set :meth:`open_remote`, and ``plugin`` where the remote is to be found by URL."""

    plugin: type[RemotePlugin] | None = None
    #: URLs that belong to other plugins.
    foreign: Sequence[str] = ("unknown-scheme://host/path",)

    def open_remote(self, folder: Path) -> Remote:
        """A remote whose place belongs to this folder, which is empty at first.

        Opened twice with one folder, it gives two clients of the same place.
        """
        raise NotImplementedError

    def plant(self, folder: Path, object_id: ObjectId, data: bytes) -> bool:
        """Put bytes under a name behind the back of the remote of a folder. False where a test cannot do that."""
        return False

    @contextmanager
    def place(self) -> Iterator[RemoteUnderTest]:
        """A fresh remote and what is needed beside it."""
        with tempfile.TemporaryDirectory() as scratch:
            root, files = Path(scratch, "remote"), Path(scratch, "files")
            root.mkdir()
            files.mkdir()
            remote, second = self.open_remote(root), self.open_remote(root)
            try:
                yield RemoteUnderTest(remote, second, root, files)
            finally:
                remote.close()
                second.close()

    def refusal(self, call: Callable[[], object], what: str) -> RemoteError:
        """The RemoteError that a call fails with, which has a hint."""
        try:
            call()
        except RemoteError as error:
            refused = error
        else:
            raise AssertionError(f"{what} is not an error")
        assert refused.hint, f"{what}: '{refused}' has no hint"
        return refused

    def check_refused(self, call: Callable[[], object], what: str) -> None:
        """A call fails with a RemoteError that has a hint, and that does not ask to be tried again."""
        refused = self.refusal(call, what)
        assert not isinstance(refused, TemporaryRemoteError), f"{what}: to try again does not help"

    def test_is_a_plugin(self) -> None:
        """Its name can stand in settings, and URLs of other plugins are left to them."""
        if self.plugin is None:
            return
        assert re.fullmatch("[a-z][a-z0-9_]*", self.plugin.name), f"'{self.plugin.name}' is not a name for a plugin"
        for url in self.foreign:
            assert self.plugin.open(url, RemoteContext(Path.cwd())) is None, f"{url} belongs to another plugin"

    def test_what_was_uploaded_is_there_for_everybody(self) -> None:
        """Whole, at once, for this client and for others."""
        with self.place() as place:
            for size in (1, 1000, _LARGE):
                object_id = place.make(size, size)
                assert not place.remote.sizes([object_id])
                place.remote.upload(object_id, place.source(object_id), _uncounted)
                place.check(place.second, object_id)
                place.check(place.remote, object_id)

    def test_sizes_of_thousands_of_objects(self) -> None:
        """Of those that are there; asked for in any collection, twice, or for none."""
        with self.place() as place:
            sizes = {place.put(seed, 10 + seed): 10 + seed for seed in range(12)}
            absent = [ObjectId(hashlib.sha256(b"%d" % number).hexdigest()) for number in range(2500)]
            names = [*sizes, *absent]
            random_of(1).shuffle(names)
            assert dict(place.remote.sizes(names)) == sizes
            few = [*sizes, *absent[:8], *sizes]
            for objects in (few, set(few), dict.fromkeys(few), tuple(few)):
                assert dict(place.remote.sizes(objects)) == sizes, f"asked for in a {type(objects).__name__}"
            assert dict(place.remote.sizes([])) == {}
            assert dict(place.remote.sizes(absent[:8])) == {}

    def test_bytes_are_counted(self) -> None:
        """Progress adds up to the size, both ways."""
        with self.place() as place:
            for size in (1000, _LARGE):
                object_id = place.make(size, size)
                up: list[int] = []
                down: list[int] = []
                place.remote.upload(object_id, place.source(object_id), up.append)
                place.remote.download(object_id, place.folder / f"target-{size}", down.append)
                assert sum(up) == size, f"{sum(up)} bytes of {size} were told of while sending"
                assert sum(down) == size, f"{sum(down)} bytes of {size} were told of while receiving"

    def test_ranges(self) -> None:
        """Exactly the bytes that were asked for."""
        with self.place() as place:
            object_id = place.put(1, 70_000)
            data = place.data[object_id]
            random = random_of(1)
            ranges = [(0, 70_000), (0, 1), (69_999, 1), (65_535, 2), (5, 0)]
            begins = [random.randrange(70_000) for _ in range(30)]
            ranges += [(begin, random.randrange(1, 70_001 - begin)) for begin in begins]
            for offset, length in ranges:
                found = place.remote.read(object_id, offset, length)
                assert found == data[offset : offset + length], f"{length} bytes from {offset}"

    def test_ranges_beyond_the_end(self) -> None:
        """An error, never fewer bytes."""
        with self.place() as place:
            object_id = place.put(1)
            for offset, length in ((0, 1001), (999, 2), (1000, 1), (5000, 10), (1 << 40, 1)):
                what = f"to read {length} bytes from {offset} of an object of 1000"
                self.check_refused(lambda at=offset, size=length: place.remote.read(object_id, at, size), what)  # type: ignore[misc]

    def test_what_is_not_there(self) -> None:
        """An error with a hint; and no file that looks like an object."""
        with self.place() as place:
            target = place.folder / "target"
            self.check_refused(lambda: place.remote.download(MISSING, target, _uncounted), "to fetch a missing object")
            assert not target.exists() or not target.stat().st_size
            self.check_refused(lambda: place.remote.read(MISSING, 0, 1), "to read a missing object")
            assert dict(place.remote.sizes([MISSING])) == {}

    def test_every_call_may_be_made_again(self) -> None:
        """An answer may have been lost."""
        with self.place() as place:
            object_id = place.put(1)
            for remote in (place.remote, place.second, place.remote):
                remote.upload(object_id, place.source(object_id), _uncounted)
                place.check(remote, object_id)

    def test_an_upload_that_is_cut_short_is_never_seen(self) -> None:
        """Whatever stops it; and the next one succeeds."""
        with self.place() as place:
            object_id = place.make(1, _LARGE)

            def cut(_: int) -> None:
                raise _CutShortError

            with suppress(_CutShortError, RemoteError):
                place.remote.upload(object_id, place.source(object_id), cut)
            for remote in (place.remote, place.second):
                if remote.sizes([object_id]):  # it was sent whole before anything was told of
                    place.check(remote, object_id)
            place.remote.upload(object_id, place.source(object_id), _uncounted)
            place.check(place.second, object_id)

    def test_an_upload_under_way_is_never_seen(self) -> None:
        """Others see nothing under the name, or all of it."""
        with self.place() as place:
            object_id = place.make(1, _LARGE)
            seen = []
            place.remote.upload(
                object_id, place.source(object_id), lambda _: seen.append(place.second.sizes([object_id]))
            )
            for sizes in seen:
                assert dict(sizes) in ({}, {object_id: _LARGE}), "others saw an object that was still being sent"

    def test_several_clients_send_the_same_object(self) -> None:
        """At the same time; it is whole for each that returns."""
        with self.place() as place, ThreadPoolExecutor(4) as pool:
            barrier = Barrier(4)

            def send(remote: Remote, object_id: ObjectId) -> dict[ObjectId, int]:
                barrier.wait()
                remote.upload(object_id, place.source(object_id), _uncounted)
                return dict(remote.sizes([object_id]))

            for seed in range(4):
                object_id = place.make(seed, 1 << 20)
                sizes = list(pool.map(send, [place.remote, place.second] * 2, [object_id] * 4))
                assert sizes == [{object_id: 1 << 20}] * 4, f"what those see who have sent it: {sizes}"
                place.check(place.remote, object_id)

    def test_many_threads(self) -> None:
        """Send, ask, fetch and read at the same time."""
        with self.place() as place:
            objects = [place.make(seed, 1000 * seed + 1) for seed in range(40)]

            def there_and_back(object_id: ObjectId) -> None:
                place.remote.upload(object_id, place.source(object_id), _uncounted)
                place.check(place.remote, object_id)

            with ThreadPoolExecutor(8) as pool:
                list(pool.map(there_and_back, objects))
            assert len(place.second.sizes(objects)) == 40

    def test_damaged_objects_are_not_sent(self) -> None:
        """Behind a wrapper that verifies, as all remotes are used; one that looks itself may refuse them by itself."""
        with self.place() as place:
            object_id = place.make(1)
            place.source(object_id).write_bytes(place.data[object_id][:-1] + b"?")
            for remote in (VerifyingRemote(place.remote), place.remote):
                with suppress(ObjectCorrupt, RemoteError):
                    remote.upload(object_id, place.source(object_id), _uncounted)
                    assert remote is place.remote, "a damaged object was sent"

    def test_damaged_objects_are_not_accepted(self) -> None:
        """What was damaged at the place itself is refused by the wrapper that verifies, and mended by an upload."""
        with self.place() as place:
            object_id = place.put(1)
            target = place.folder / "target"
            for damaged in (place.data[object_id][:-1], place.data[object_id][:-1] + b"?", b""):
                if not self.plant(place.root, object_id, damaged):
                    return
                verifying = VerifyingRemote(place.remote)
                self.refusal(lambda: verifying.download(object_id, target, _uncounted), "to fetch a damaged object")  # noqa: B023
                assert not target.exists(), "a damaged object was left behind"
                place.remote.upload(object_id, place.source(object_id), _uncounted)
                place.check(place.second, object_id)

    def test_objects_can_be_listed_and_deleted(self) -> None:
        """Of a :class:`ManagedRemote`: by one client, for all; what is not there may be deleted."""
        with self.place() as place:
            manager, other = managed(place.remote), managed(place.second)
            if manager is None or other is None:
                return
            assert manager.names() == {}, "an empty place has no objects"
            objects = {place.put(seed, size): size for seed, size in enumerate((1, 1000, 5000))}
            assert other.names() == objects
            first, *rest = objects
            for _ in range(2):
                manager.remove(first)
            assert other.names() == {object_id: objects[object_id] for object_id in rest}
            assert first not in place.second.sizes([first]), "a deleted object is still there"
            place.remote.upload(first, place.source(first), _uncounted)
            place.check(place.second, first)

    def test_notes(self) -> None:
        """Of a :class:`ManagedRemote`: whole, at once, for all; never among the objects."""
        with self.place() as place:
            manager, other = managed(place.remote), managed(place.second)
            if manager is None or other is None:
                return
            assert manager.notes() == []
            names = ["kept-1-a", "pusher-0123456789abcdef0123456789abcdef"]
            for name in names:
                manager.write_note(name, name.encode() * 100)
            assert other.notes() == names
            assert dict(other.read_notes([*names, "absent"])) == {name: name.encode() * 100 for name in names}
            other.write_note(names[0], b"new")
            assert dict(manager.read_notes(names[:1])) == {names[0]: b"new"}
            assert other.names() == {}, "a note is listed as an object"
            for _ in range(2):
                other.remove_note(names[0])
            assert manager.notes() == names[1:]

    def test_closing_twice(self) -> None:
        """Does no harm; nor does closing one client to another."""
        with self.place() as place:
            object_id = place.put(1)
            place.remote.close()
            place.remote.close()
            place.check(place.second, object_id)


def _uncounted(amount: int) -> None:
    """For transfers that nobody watches."""
