"""The table of known tensors is a cache: whatever happens to its file, nothing wrong comes out of it."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from gittheta.model import Digest, Link, ObjectId, Place, Recipe, digest_of
from gittheta.storage.recipe_cache import RecipeCache


def recipe(number: int) -> Recipe:
    return (Link("dense", (Place(ObjectId(f"{number:064x}"), 16, 9 + number),)),)


def digest(number: int) -> Digest:
    return digest_of(str(number).encode())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "theta" / "known.sqlite"


def filled(path: Path, count: int = 50) -> None:
    known = RecipeCache(path)
    known.record(((digest(at), recipe(at)) for at in range(count)), [(digest(1000), digest(1), recipe(1))])
    known.record_manifest(digest(2000), compared=True)
    known.close()


def edit(path: Path, sql: str, *values: object) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(sql, values)
    connection.close()


def test_what_was_recorded_is_found_by_the_next_process(path: Path) -> None:
    filled(path)
    known = RecipeCache(path)
    assert [known.recipe(digest(at)) for at in range(50)] == [recipe(at) for at in range(50)]
    assert known.recipe(digest(50)) is None
    assert known.by_first_block(digest(1000)) == (digest(1), recipe(1))
    assert known.by_first_block(digest(1)) is None
    assert known.manifest(digest(2000)) is True
    assert known.manifest(digest(1)) is None
    known.close()


def test_a_manifest_may_be_known_without_its_frames_having_been_compared(path: Path) -> None:
    known = RecipeCache(path)
    known.record_manifest(digest(1), compared=False)
    assert known.manifest(digest(1)) is False
    known.record_manifest(digest(1), compared=True)
    assert known.manifest(digest(1)) is True
    known.close()


def test_newer_recipes_win(path: Path) -> None:
    filled(path)
    known = RecipeCache(path)
    assert known.recipe(digest(1)) == recipe(1)
    known.record([(digest(1), recipe(77))])
    assert known.recipe(digest(1)) == recipe(77)
    known.close()


def test_what_one_process_records_another_finds(path: Path) -> None:
    one, two = RecipeCache(path), RecipeCache(path)
    one.record([(digest(1), recipe(1))])
    two.record([(digest(2), recipe(2))])
    one.close()
    two.close()
    known = RecipeCache(path)
    assert (known.recipe(digest(1)), known.recipe(digest(2))) == (recipe(1), recipe(2))
    known.close()


@pytest.mark.parametrize(
    "content", [b"", b"not a database at all, but text\n" * 99, b"SQLite format 3\0" + bytes(4096)]
)
def test_a_file_that_is_not_a_database_is_replaced(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    known = RecipeCache(path)
    assert known.recipe(digest(1)) is None
    known.record([(digest(1), recipe(1))])
    assert known.recipe(digest(1)) == recipe(1)
    known.close()


def test_a_truncated_or_overwritten_file_gives_right_answers_or_none(path: Path) -> None:
    filled(path, 2000)
    whole = path.read_bytes()
    for cut in (100, 512, 4096, 5000, len(whole) // 2, len(whole) - 1):
        for damaged in (whole[:cut], whole[:cut] + os.urandom(700) + whole[cut + 700 :]):
            for suffix in ("", "-wal", "-shm", "-journal"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            path.write_bytes(damaged)
            known = RecipeCache(path)
            for at in range(0, 2000, 37):
                assert known.recipe(digest(at)) in (None, recipe(at))
            known.by_first_block(digest(1000))
            known.manifest(digest(2000))
            known.record([(digest(9999), recipe(9999))])
            known.record_manifest(digest(3), compared=False)
            known.close()


def test_rows_that_were_tampered_with_are_ignored(path: Path) -> None:
    filled(path)
    edit(path, "UPDATE tensor SET recipe = replace(recipe, '+10', '+11') WHERE digest = ?", digest(1))
    edit(
        path,
        "UPDATE tensor SET recipe = (SELECT recipe FROM tensor WHERE digest = ?) WHERE digest = ?",
        digest(3),
        digest(2),
    )
    edit(path, "UPDATE tensor SET recipe = 5 WHERE digest = ?", digest(4))
    edit(path, "UPDATE tensor SET recipe = CAST(recipe AS BLOB) WHERE digest = ?", digest(6))
    known = RecipeCache(path)
    assert [known.recipe(digest(at)) for at in range(8)] == [
        recipe(0), None, None, recipe(3), None, recipe(5), None, recipe(7)
    ]  # fmt: skip
    known.close()


def test_text_that_is_not_a_recipe_is_ignored_even_with_the_right_check(path: Path) -> None:
    filled(path)
    for number, text in enumerate(("dense x\n", "", "../../etc/passwd")):
        check = digest_of(digest(number) + text.encode())[:16]
        edit(path, "UPDATE tensor SET recipe = ?, sum = ? WHERE digest = ?", text, check, digest(number))
    known = RecipeCache(path)
    assert [known.recipe(digest(at)) or None for at in range(4)] == [None, None, None, recipe(3)]
    known.close()


def test_several_writers_at_once(path: Path) -> None:
    """A row may get lost in the throng, as anything in a cache; none may come out wrong, and nobody may fail."""
    failures: list[BaseException] = []

    def write(first: int) -> None:
        try:
            known = RecipeCache(path)
            for at in range(first, first + 20):
                known.record([(digest(at), recipe(at))])
                assert known.recipe(digest(at)) in (None, recipe(at))
            known.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(20 * at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    known = RecipeCache(path)
    assert {known.recipe(digest(at)) in (None, recipe(at)) for at in range(80)} == {True}
    known.record((digest(at), recipe(at)) for at in range(80))
    assert [known.recipe(digest(at)) for at in range(80)] == [recipe(at) for at in range(80)]
    known.close()


def test_a_place_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    known = RecipeCache(tmp_path / "file" / "known.sqlite")
    known.record([(digest(1), recipe(1))])
    assert known.recipe(digest(1)) is None
    known.close()


def test_a_table_of_another_shape_does_no_harm(path: Path) -> None:
    path.parent.mkdir()
    edit(path, "CREATE TABLE tensor (something TEXT)")
    known = RecipeCache(path)
    known.record([(digest(1), recipe(1))])
    assert known.recipe(digest(1)) is None
    known.close()
