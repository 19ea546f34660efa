"""The cache of facts: what it was told comes back, and nothing that happens to its file matters to anyone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gittheta.storage.facts import FactCache

FACTS = {f"question {number}".encode(): f"answer {number}".encode() * number for number in range(9)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the cache of a store lies; the folder is made when it is needed."""
    return tmp_path / "theta/facts"


def _told(path: Path, facts: dict[bytes, bytes], most: int = 1 << 20) -> FactCache:
    cache = FactCache(path, most=most)
    for question, answer in facts.items():
        cache.put(question, answer)
    cache.flush()
    return cache


def _known(path: Path) -> set[bytes]:
    cache = FactCache(path)
    answers = {question: cache.get(question) for question in FACTS}
    assert all(answer in (None, FACTS[question]) for question, answer in answers.items()), answers
    return {question for question, answer in answers.items() if answer is not None}


def test_another_process_knows_what_was_recorded(path: Path) -> None:
    cache = _told(path, FACTS)
    assert cache.get(b"question 3") == FACTS[b"question 3"]
    assert _known(path) == set(FACTS)
    assert FactCache(path).get(b"another question") is None


def test_what_two_processes_learn_adds_up(path: Path) -> None:
    one, two = FactCache(path), FactCache(path)
    for number, (question, answer) in enumerate(FACTS.items()):
        (one, two)[number % 2].put(question, answer)
    one.flush()
    two.flush()
    assert _known(path) == set(FACTS)


@pytest.mark.parametrize("at", [0, 20, 40, 90, 200])
def test_damage_costs_no_more_than_what_follows_it_and_is_mended(path: Path, at: int) -> None:
    _told(path, FACTS)
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)
    left = _known(path)
    assert left < set(FACTS)
    cache = FactCache(path)
    for question, answer in FACTS.items():
        if cache.get(question) is None:
            cache.put(question, answer)
    cache.flush()
    assert _known(path) == set(FACTS)


def test_a_record_that_was_cut_off_does_not_hide_what_comes_later(path: Path) -> None:
    _told(path, FACTS)
    path.write_bytes(path.read_bytes()[:-3])
    _told(path, {b"question 8": FACTS[b"question 8"]})
    assert b"question 8" in _known(path)


@pytest.mark.parametrize("kind", ["folder", "fifo", "link to nowhere", "text", "empty"])
def test_whatever_stands_in_its_place_nobody_fails_or_waits(path: Path, kind: str) -> None:
    path.parent.mkdir()
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link to nowhere":
        path.symlink_to("x/y")
    else:
        path.write_bytes(b"something else\n" if kind == "text" else b"")
    assert _known(path) == set()
    _told(path, FACTS)


def test_a_folder_that_cannot_be_made_costs_nothing_but_the_cache(tmp_path: Path) -> None:
    (tmp_path / "theta").write_bytes(b"a file")
    assert _told(tmp_path / "theta/facts", FACTS).get(b"question 2") == FACTS[b"question 2"]


def test_it_never_grows_beyond_its_bound_and_keeps_what_is_used(path: Path) -> None:
    for number in range(50):
        _told(path, {b"old %d" % number: bytes(100)}, most=2000)
        assert path.stat().st_size <= 2000
    _told(path, {b"question 2": FACTS[b"question 2"]}, most=2000)
    assert _known(path) == {b"question 2"}
