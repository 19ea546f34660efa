"""Objects at ``objects/aa/ID``, as stores kept them before they took over the layout of Git LFS."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import pytest

from gittheta.errors import ObjectCorrupt
from gittheta.model import ObjectId
from gittheta.storage.objects import ObjectReader, ObjectStore, former_place


def placed(store: ObjectStore, data: bytes) -> ObjectId:
    """An object of a store at its former place."""
    name = ObjectId(hashlib.sha256(data).hexdigest())
    path = former_place(store.root, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return name


def writer(data: bytes) -> Callable[[Path], None]:
    """Writes a whole file, whatever stands there."""

    def write(target: Path) -> None:
        target.write_bytes(data)

    return write


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "theta")


def test_they_are_read_counted_and_removed(store: ObjectStore) -> None:
    name = placed(store, b"one")
    assert ObjectReader(store).read(name, 0, 3) == b"one"
    assert list(store.all()) == [name]
    assert not store.borrows(name)
    assert store.own_size(name) == 3
    assert store.last_used(name) <= time.time()
    assert store.remove(name, time.time() + 1) == 3
    assert list(store.all()) == []


def test_an_object_in_use_goes_back_to_where_it_was(store: ObjectStore) -> None:
    name = placed(store, b"one")
    assert store.remove(name, 0) == 0
    assert store.find(name) == former_place(store.root, name)


def test_a_lender_may_have_them(tmp_path: Path, store: ObjectStore) -> None:
    name = placed(store, b"one")
    borrower = ObjectStore(tmp_path / "other", [store.root])
    assert borrower.borrows(name)
    borrower.keep(name)
    assert borrower.find(name) == borrower.home_of(name)


def test_they_move_when_asked_and_are_found_all_the_while(store: ObjectStore) -> None:
    names = [placed(store, b"%d" % number) for number in range(200)]
    done = Event()
    lost: list[ObjectId] = []

    def look() -> None:
        while not done.is_set():
            lost.extend(name for name in names if store.find(name) is None)

    watcher = Thread(target=look)
    watcher.start()
    assert store.lay_out() == 200
    done.set()
    watcher.join()
    assert lost == []
    assert store.lay_out() == 0
    assert [store.home_of(name).read_bytes() for name in names] == [b"%d" % number for number in range(200)]
    assert list(store.all()) == sorted(names)


def test_of_two_copies_the_whole_one_stays(store: ObjectStore) -> None:
    for present in (b"one", b"damaged"):
        name = placed(store, b"one")
        store.home_of(name).parent.mkdir(parents=True, exist_ok=True)
        store.home_of(name).unlink(missing_ok=True)
        store.home_of(name).write_bytes(present)
        store.lay_out()
        assert store.home_of(name).read_bytes() == b"one"
        assert not former_place(store.root, name).exists()


def test_an_object_that_is_stored_anew_loses_its_former_copy(store: ObjectStore) -> None:
    name = placed(store, b"one")
    former_place(store.root, name).write_bytes(b"damaged")
    store.import_file(name, writer(b"one"))
    assert not former_place(store.root, name).exists()
    assert ObjectReader(store).read(name, 0, 3) == b"one"


def test_what_arrived_before_the_line_was_cut_is_there_the_next_time(store: ObjectStore) -> None:
    data = os.urandom(1000)
    name = ObjectId(hashlib.sha256(data).hexdigest())

    def cut(target: Path) -> None:
        target.write_bytes(data[:400])
        raise ConnectionError

    with pytest.raises(ConnectionError):
        store.receive(name, cut)
    assert list(store.all()) == []

    def go_on(target: Path) -> None:
        assert target.read_bytes() == data[:400]
        with open(target, "ab") as file:
            file.write(data[400:])

    store.receive(name, go_on)
    assert ObjectReader(store).read(name, 0, 1000) == data
    assert not (store.root / "incoming" / name).exists()


def test_what_a_killed_process_had_fetched_stays_too(store: ObjectStore) -> None:
    name = ObjectId(hashlib.sha256(b"whole").hexdigest())
    killed = (
        "import os, sys, pathlib; from gittheta.storage.objects import ObjectStore; "
        "ObjectStore(pathlib.Path(sys.argv[1])).receive(sys.argv[2], lambda t: (t.write_bytes(b'wh'), os._exit(0)))"
    )
    subprocess.run([sys.executable, "-c", killed, store.root, name], check=True)
    store.remove_abandoned()
    seen = []

    def fetch(target: Path) -> None:
        seen.append(target.read_bytes())
        target.write_bytes(b"whole")

    store.receive(name, fetch)
    assert seen == [b"wh"]


def test_what_arrived_damaged_does_not_stay(store: ObjectStore) -> None:
    name = ObjectId(hashlib.sha256(b"whole").hexdigest())
    with pytest.raises(ObjectCorrupt):
        store.receive(name, writer(b"wrong"))

    def from_the_start(target: Path) -> None:
        assert not target.exists()
        target.write_bytes(b"whole")

    store.receive(name, from_the_start)
    assert list(store.all()) == [name]
