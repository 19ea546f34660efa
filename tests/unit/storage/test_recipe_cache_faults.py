"""The cache of recipes: many threads ask and record at once, and whatever has become of its file, nobody fails."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier

import pytest

from gittheta.model import Digest, Link, ObjectId, Place, Recipe, digest_of
from gittheta.storage.recipe_cache import RecipeCache

THREADS = 16
SUFFIXES = ("", "-wal", "-shm", "-journal")
NOBODY = 65534


def recipe(number: int) -> Recipe:
    return (Link("dense", (Place(ObjectId(f"{number:064x}"), 16, 9 + number),)),)


def digest(number: int) -> Digest:
    return digest_of(str(number).encode())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a cache with a thousand recipes lies, all of them in the file itself."""
    path = tmp_path / "theta" / "known.sqlite"
    fill(path)
    return path


def fill(path: Path) -> None:
    cache = RecipeCache(path)
    cache.record((digest(at), recipe(at)) for at in range(1000))
    cache.record_manifest(digest(2000), compared=True)
    cache.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def crowd(work: Callable[[int], object]) -> list[object]:
    """What something answers that many threads begin at the same moment."""
    barrier = Barrier(THREADS)

    def wait_and_work(number: int) -> object:
        barrier.wait(30)
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(wait_and_work, range(THREADS)))


def use(cache: RecipeCache, number: int) -> None:
    """Ask and record as an add does; the answers are right, or there are none."""
    for at in range(number, number + 200, 7):
        assert cache.recipe(digest(at)) in (None, recipe(at))
        mine = 5000 + 1000 * number + at
        cache.record([(digest(mine), recipe(mine))], [(digest(mine + 1), digest(mine), recipe(mine))])
        assert cache.recipe(digest(mine)) in (None, recipe(mine))
        assert cache.by_first_block(digest(mine + 1)) in (None, (digest(mine), recipe(mine)))
        cache.record_manifest(digest(mine), compared=True)
        assert cache.manifest(digest(mine)) in (None, True)


def test_many_threads_ask_and_record(path: Path) -> None:
    """With nothing wrong, each finds what it recorded, and what was there before."""
    cache = RecipeCache(path)

    def work(number: int) -> bool:
        use(cache, number)
        mine = 5000 + 1000 * number + number
        return cache.recipe(digest(mine)) == recipe(mine) and cache.recipe(digest(number)) == recipe(number)

    assert all(crowd(work))
    cache.close()
    again = RecipeCache(path)
    assert all(again.recipe(digest(5000 + 1001 * number)) == recipe(5000 + 1001 * number) for number in range(THREADS))
    again.close()


def test_a_cache_may_be_closed_while_others_use_it(path: Path) -> None:
    cache = RecipeCache(path)

    def work(number: int) -> None:
        if number % 4:
            use(cache, number)
        else:
            cache.close()

    crowd(work)
    cache.close()


def flipped(data: bytes, begin: int, end: int) -> bytes:
    return data[:begin] + bytes(byte ^ 0x80 for byte in data[begin:end]) + data[end:]


#: What may become of the file's bytes, all of which SQLite notices.
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "header": lambda data: flipped(data, 4, 5),
    "schema": lambda data: flipped(data, data.index(b"CREATE TABLE") + 2, data.index(b"CREATE TABLE") + 3),
    "name of a table": lambda data: flipped(data, data.index(b"tablemanifest") + 7, data.index(b"tablemanifest") + 9),
    "all but the first page": lambda data: flipped(data, int.from_bytes(data[16:18], "big"), len(data)),
    "cut in half": lambda data: data[: len(data) // 2 + 7],
    "text": lambda data: b"this is not a database\n" * 500,
}


def put(path: Path, data: bytes) -> None:
    for suffix in SUFFIXES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.write_bytes(data)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("first", ["ask", "record"])
def test_a_new_file_takes_the_place_of_a_damaged_one(path: Path, damage: str, first: str) -> None:
    damaged = DAMAGE[damage](path.read_bytes())
    put(path, damaged)
    traces: list[str] = []
    cache = RecipeCache(path, traces.append)
    if first == "ask":
        for at in range(1000):
            assert cache.recipe(digest(at)) in (None, recipe(at))
    cache.record([(digest(7), recipe(7))])
    cache.record([(digest(8), recipe(8))])
    assert (cache.recipe(digest(7)), cache.recipe(digest(8))) == (recipe(7), recipe(8))
    cache.close()
    assert len(traces) == 1
    assert "takes its place" in traces[0]
    assert path.read_bytes()[: len(damaged) // 2] == damaged[: len(damaged) // 2], "what shows the damage is kept"
    assert path.with_name("known.sqlite.1").exists()
    again = RecipeCache(path, traces.append)
    assert again.recipe(digest(8)) == recipe(8)
    again.close()
    assert len(traces) == 1, "the new file is damaged, too"


@pytest.mark.parametrize("damage", [*DAMAGE, "empty"])
def test_many_threads_find_a_damaged_file(path: Path, damage: str) -> None:
    put(path, DAMAGE[damage](path.read_bytes()) if damage in DAMAGE else b"")
    cache = RecipeCache(path)
    crowd(lambda number: use(cache, number))
    cache.record([(digest(1), recipe(1))])
    assert cache.recipe(digest(1)) == recipe(1)
    cache.close()


def test_several_processes_find_a_damaged_file(path: Path) -> None:
    """Each with a connection of its own; rows may get lost, but nobody fails, and the next one finds a cache."""
    put(path, DAMAGE["all but the first page"](path.read_bytes()))

    def work(number: int) -> None:
        cache = RecipeCache(path)
        use(cache, number)
        cache.close()

    crowd(work)
    check_usable(path)


def check_usable(path: Path) -> None:
    """The next process but one has a cache that works."""
    for _ in range(2):
        cache = RecipeCache(path)
        cache.record([(digest(1), recipe(1))])
        cache.close()
    cache = RecipeCache(path)
    assert cache.recipe(digest(1)) == recipe(1)
    cache.close()


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_file_that_somebody_holds_costs_each_process_a_second_or_two(path: Path, journal: str) -> None:
    """However many threads ask, and however often."""
    holder = sqlite3.connect(path, isolation_level=None)
    if journal == "wal":
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    else:
        holder.execute("PRAGMA journal_mode = DELETE")
    holder.execute("BEGIN EXCLUSIVE")
    holder.execute("CREATE TABLE held (x)")
    traces: list[str] = []
    cache = RecipeCache(path, traces.append)
    began = time.monotonic()
    crowd(lambda number: use(cache, number))
    assert time.monotonic() - began < 6
    assert cache.recipe(digest(1)) is None
    assert len(traces) == 1
    assert "locked" in traces[0]
    cache.close()
    holder.close()
    check_usable(path)


def in_place_of_the_file(kind: str, path: Path) -> None:
    for suffix in SUFFIXES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    if kind == "folder that is not empty":
        path.mkdir()
        (path / "notes.txt").write_text("somebody's")
    if kind == "link to itself":
        path.symlink_to(path)
    if kind == "link to nowhere":
        path.symlink_to(path.parent / "nowhere" / "at all")
    if kind == "pipe":
        os.mkfifo(path)


@pytest.mark.parametrize(
    "kind", ["folder", "folder that is not empty", "link to itself", "link to nowhere", "pipe", "nothing"]
)
def test_something_else_in_place_of_the_file(path: Path, kind: str) -> None:
    in_place_of_the_file(kind, path)
    cache = RecipeCache(path)
    crowd(lambda number: use(cache, number))
    cache.close()
    if "folder" in kind or kind == "nothing":
        check_usable(path)
    if kind == "folder that is not empty":
        assert (path / "notes.txt").read_text() == "somebody's"


def test_damage_may_come_again(path: Path) -> None:
    """Of several damaged files the last one stays; a folder is somebody's, and stays too."""
    for number in range(4):
        newest = path.with_name(f"{path.name}.{number}") if number else path
        put(newest, b"this is not a database\n" * 500)
        cache = RecipeCache(path)
        crowd(lambda number, cache=cache: use(cache, number))  # type: ignore[misc]
        cache.close()
    check_usable(path)
    left = {file.name for file in path.parent.iterdir() if not file.name.endswith(SUFFIXES[1:])}
    assert left == {"known.sqlite.3", "known.sqlite.4"}


def test_a_folder_stands_where_the_next_file_would(path: Path) -> None:
    aside = path.with_name("known.sqlite.1")
    aside.mkdir()
    (aside / "notes.txt").write_text("somebody's")
    put(path, b"this is not a database\n" * 500)
    cache = RecipeCache(path)
    crowd(lambda number: use(cache, number))
    cache.close()
    check_usable(path)
    assert (aside / "notes.txt").exists()


def test_processes_that_find_damage_at_once_do_not_die(path: Path) -> None:
    """SQLite maps a file into memory that it cuts short as soon as another file gets the name of a damaged one."""
    program = (
        "import sys; from pathlib import Path; from tests.unit.storage import test_recipe_cache_faults as faults; "
        "cache = faults.RecipeCache(Path(sys.argv[1])); faults.use(cache, int(sys.argv[2])); cache.close()"
    )
    for damage in ("all but the first page", "cut in half"):
        put(path, DAMAGE[damage](path.read_bytes()))
        crew = [subprocess.Popen([sys.executable, "-c", program, path, str(number)]) for number in range(6)]
        assert [process.wait(60) for process in crew] == [0] * len(crew)
    check_usable(path)


@contextmanager
def somebody_else() -> Iterator[None]:
    """The superuser may do everything, and so becomes nobody."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def owned_path() -> Iterator[Path]:
    """Where a cache lies that belongs to :func:`somebody_else`, and that they can reach."""
    with TemporaryDirectory() as scratch:
        path = Path(scratch, "theta", "known.sqlite")
        fill(path)
        if not os.geteuid():
            for owned in (path.parent.parent, path.parent, path):
                os.chown(owned, NOBODY, NOBODY)
        yield path


@pytest.mark.parametrize("denied", ["file unreadable", "file read-only", "folder read-only", "all read-only", "folder"])
def test_what_permissions_forbid(owned_path: Path, denied: str) -> None:
    path, folder = owned_path, owned_path.parent
    path.chmod({"file unreadable": 0, "file read-only": 0o444, "all read-only": 0o444}.get(denied, 0o644))
    folder.chmod({"folder read-only": 0o555, "all read-only": 0o555, "folder": 0}.get(denied, 0o755))
    try:
        with somebody_else():
            cache = RecipeCache(path)
            crowd(lambda number: use(cache, number))
            cache.close()
    finally:
        folder.chmod(0o700)
        path.chmod(0o644)
    cache = RecipeCache(path)
    assert cache.recipe(digest(1)) == recipe(1), "what could not be used is left as it was"
    cache.close()


def test_a_place_where_no_folder_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = RecipeCache(tmp_path / "file" / "theta" / "known.sqlite")
    crowd(lambda number: use(cache, number))
    cache.close()
