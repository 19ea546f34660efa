"""Objects: nothing under a name that is not whole, nothing left behind, nothing damaged passed off as whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gittheta.errors import ObjectCorrupt, ObjectMissing, StoreError
from gittheta.model import ObjectId, Place
from gittheta.storage.files import check_file
from gittheta.storage.objects import ObjectReader, ObjectStore
from gittheta.storage.packs import OBJECT_HEAD, PackWriter, PendingPlace, places

GONE = ObjectId("0" * 64)


def files(root: Path) -> list[Path]:
    """All files but the claims of processes that live."""
    return [path for path in root.rglob("*") if path.is_file() and path.parent.name != "claims"]


def packed(store: ObjectStore, *parts: bytes) -> ObjectId:
    pack = PackWriter(store, 1 << 26)
    for part in parts:
        pack.append((part,))
    return pack.finish()[0]


def spoil(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "theta")


def test_an_object_is_its_head_and_what_was_appended(store: ObjectStore) -> None:
    name = packed(store, b"abc", b"defg")
    path = store.home_of(name)
    assert path.read_bytes() == b"gittheta-pack-1\nabcdefg"
    assert name == hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    assert path.parent == store.root / "objects" / name[:2] / name[2:4]
    assert path.stat().st_mode & 0o777 == 0o444
    assert files(store.root) == [path]
    assert list(store.all()) == [name]


def test_pending_places_say_where_parts_lie(store: ObjectStore) -> None:
    pack = PackWriter(store, 1 << 26)
    assert pack.append((b"abc", b"d")) == PendingPlace(0, len(OBJECT_HEAD), 4)
    assert pack.append((b"xyz",)) == PendingPlace(0, len(OBJECT_HEAD) + 4, 3)
    assert pack.cut() == 1
    assert pack.append((b"q",)) == PendingPlace(1, len(OBJECT_HEAD), 1)
    names = pack.finish()
    reader = ObjectReader(store)
    assert reader.read(names[0], len(OBJECT_HEAD), 7) == b"abcdxyz"
    assert reader.read(names[1], len(OBJECT_HEAD), 1) == b"q"
    reader.close()


def test_a_full_object_is_followed_by_another(store: ObjectStore) -> None:
    pack = PackWriter(store, 100)
    pending = [pack.append((bytes([at]) * 30,)) for at in range(10)]
    names = pack.finish()
    assert len(names) == len(set(names)) == 4
    assert [place.index for place in pending] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]


def test_neighbours_become_one_place() -> None:
    names = [ObjectId("a" * 64), ObjectId("b" * 64)]
    pending = [PendingPlace(0, 16, 4), PendingPlace(0, 20, 6), PendingPlace(0, 30, 1), PendingPlace(1, 31, 2)]
    assert places(pending, names) == (Place(names[0], 16, 10), Place(names[0], 30, 1), Place(names[1], 31, 2))


def test_nothing_has_an_objects_name_before_the_end(store: ObjectStore) -> None:
    pack = PackWriter(store, 100)
    for _ in range(10):
        pack.append((os.urandom(30),))
        assert list(store.all()) == []
    assert len(files(store.root)) == 4
    assert len(pack.finish()) == len(list(store.all())) == 4
    assert len(files(store.root)) == 4


def test_an_aborted_pack_leaves_nothing(store: ObjectStore) -> None:
    pack = PackWriter(store, 1 << 26)
    pack.append((b"abc",))
    pack.cut()
    pack.append((b"defg",))
    pack.abort()
    assert files(store.root) == []


def test_an_empty_pack_makes_no_object(store: ObjectStore) -> None:
    assert PackWriter(store, 1 << 26).finish() == []
    assert files(store.root) == []


def test_discarded_objects_are_gone_and_others_stay(store: ObjectStore) -> None:
    pack = PackWriter(store, 1 << 26)
    kept = pack.append((b"kept",))
    at = pack.cut()
    pack.append((b"discarded",))
    pack.cut()
    pack.append((b"discarded too",))
    pack.discard_from(at)
    after = pack.append((b"after",))
    names = pack.finish()
    assert (kept.index, after.index, len(names)) == (0, 1, 2)
    assert [store.home_of(name).read_bytes()[16:] for name in names] == [b"kept", b"after"]
    assert len(files(store.root)) == 2


def test_the_same_object_twice_is_one_file(store: ObjectStore) -> None:
    assert packed(store, b"same") == packed(store, b"same")
    assert len(files(store.root)) == 1


def test_writing_an_object_again_mends_a_damaged_one(store: ObjectStore) -> None:
    name = packed(store, b"same")
    spoil(store.home_of(name), b"damaged")
    packed(store, b"same")
    store.check(name)


def test_whole_objects_pass_the_check_and_others_do_not(store: ObjectStore) -> None:
    name = packed(store, b"some bytes", b"and more")
    path = store.home_of(name)
    whole = path.read_bytes()
    progress: list[int] = []
    store.check(name, progress.append)
    assert sum(progress) == len(whole)
    for at in range(len(whole)):
        spoil(path, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ObjectCorrupt, match=name):
            store.check(name)
    for damaged in (whole[:-1], whole + b"\0", b""):
        spoil(path, damaged)
        with pytest.raises(ObjectCorrupt):
            check_file(path, name)
    with pytest.raises(ObjectMissing, match=GONE):
        store.check(GONE)


def test_reading_beyond_an_objects_end_is_an_error(store: ObjectStore) -> None:
    name = packed(store, b"0123456789")
    reader = ObjectReader(store)
    assert reader.read(name, 16, 10) == b"0123456789"
    for offset, length in ((16, 11), (25, 2), (26, 1), (1000, 1)):
        with pytest.raises(ObjectCorrupt, match="truncated"):
            reader.read(name, offset, length)
    with pytest.raises(ObjectMissing) as caught:
        reader.read(GONE, 0, 1)
    assert caught.value.hint
    reader.close()


def test_a_reader_keeps_few_files_open(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gittheta.storage.objects._OPEN_FILES", 2)
    names = [packed(store, bytes([at])) for at in range(6)]
    reader = ObjectReader(store)
    before = len(os.listdir("/dev/fd"))
    for _ in range(2):
        for at, name in enumerate(names):
            assert reader.read(name, 16, 1) == bytes([at])
    assert len(os.listdir("/dev/fd")) <= before + 2
    reader.close()
    assert len(os.listdir("/dev/fd")) == before


def test_what_is_missing_or_too_short(store: ObjectStore) -> None:
    name = packed(store, b"0123456789")
    assert store.missing({name: 26, GONE: 1}) == {GONE}
    assert store.missing({name: 27}) == {name}
    assert store.holds(name)
    assert not store.holds(GONE)


def test_alternates_are_read_and_never_written(tmp_path: Path) -> None:
    lender = ObjectStore(tmp_path / "lender")
    name = packed(lender, b"lent")
    store = ObjectStore(tmp_path / "mine", [tmp_path / "lender"])
    assert store.find(name) == lender.home_of(name)
    assert store.missing({name: 20}) == set()
    assert list(store.all()) == []
    store.check(name)
    reader = ObjectReader(store)
    assert reader.read(name, 16, 4) == b"lent"
    reader.close()
    assert not store.root.exists()


def writer(data: bytes) -> Callable[[Path], None]:
    """Writes these bytes to the file that it is called with."""

    def write(target: Path) -> None:
        target.write_bytes(data)

    return write


def test_imported_files_are_checked_first(store: ObjectStore) -> None:
    data = OBJECT_HEAD + b"imported"
    name = ObjectId(hashlib.sha256(data).hexdigest())
    store.import_file(name, writer(data))
    store.check(name)
    for wrong in (b"", data[:-1], data + b"x"):
        with pytest.raises(ObjectCorrupt):
            store.import_file(GONE, writer(wrong))

    def stumble(target: Path) -> None:
        target.write_bytes(b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.import_file(GONE, stumble)
    assert files(store.root) == [store.home_of(name)]


def test_a_place_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "theta").write_text("a file where the folder should be")
    with pytest.raises((StoreError, OSError)) as caught:
        PackWriter(ObjectStore(tmp_path / "theta"), 1 << 26).append((b"abc",))
    assert isinstance(caught.value, StoreError), "an OSError is for the store to translate"
    assert caught.value.hint


def test_unfinished_files_stay_as_long_as_their_process_lives(store: ObjectStore) -> None:
    paused = ObjectStore(store.root)
    unfinished = paused.temporary()
    unfinished.write_bytes(b"unfinished")
    for path in (unfinished, *store.root.rglob("*")):
        os.utime(path, (1, 1))
    packed(store, b"something")
    assert unfinished.exists()
    paused.close()
    packed(store, b"something else")
    assert not unfinished.exists()


def test_files_without_a_claim_go_a_day_after_their_last_change(store: ObjectStore) -> None:
    packed(store, b"something")
    old, fresh = store.root / "tmp" / "old", store.root / "tmp" / "fresh"
    for path in (old, fresh):
        path.write_bytes(b"of an older version")
    os.utime(old, (1, 1))
    packed(store, b"something else")
    assert fresh.exists()
    assert not old.exists()


def test_where_there_are_no_locks_the_clock_decides(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gittheta.storage.temporary.lock", lambda descriptor, wait: None)
    others = [ObjectStore(store.root) for _ in range(2)]
    old, fresh = [other.temporary() for other in others]
    for path in (old, fresh):
        path.write_bytes(b"unfinished")
    for path in (old, store.root / "claims" / old.name.partition("-")[0]):
        os.utime(path, (1, 1))
    packed(store, b"something")
    assert fresh.exists()
    assert not old.exists()


def test_other_files_among_the_objects_are_not_objects(store: ObjectStore) -> None:
    name = packed(store, b"something")
    (store.home_of(name).parent / "notes.txt").write_text("hello")
    assert list(store.all()) == [name]
