"""A list that one process rewrites while others append to it."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

import pytest

from gittheta.storage.permissions import BY_UMASK
from gittheta.storage.shared_list import SharedList


def test_what_is_appended_while_the_list_is_worked_off_stays(tmp_path: Path) -> None:
    path = tmp_path / "list"
    ours, theirs = SharedList(path, BY_UMASK), SharedList(path, BY_UMASK)
    ours.append(b"one\0two\0")
    before = path.read_bytes()
    theirs.append(b"three\0")
    ours.replace(before, b"two\0")
    assert path.read_bytes() == b"two\0three\0"
    ours.replace(b"two\0three\0", b"")
    assert not path.exists()
    assert [file.name for file in tmp_path.iterdir()] == []


def test_nothing_is_lost_between_many_writers(tmp_path: Path) -> None:
    path = tmp_path / "list"
    done: list[bytes] = []

    def write(number: int) -> None:
        for index in range(50):
            SharedList(path, BY_UMASK).append(b"%d.%d\0" % (number, index))

    writers = [Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers) or path.exists():
        try:
            before = path.read_bytes()
        except FileNotFoundError:
            continue
        before = before[: before.rfind(b"\0") + 1]
        done += before.split(b"\0")[:-1]
        SharedList(path, BY_UMASK).replace(before, b"")
    assert sorted(done) == sorted(b"%d.%d" % (number, index) for number in range(4) for index in range(50))


def test_a_link_to_nothing_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "list").symlink_to("gone")
    with pytest.raises(FileExistsError):
        SharedList(tmp_path / "list", BY_UMASK).append(b"one\0")
