"""Modes: what umask and `core.sharedRepository` say, for all that is created, and nothing of others is changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gittheta.errors import ConfigError, ObjectCorrupt
from gittheta.model import ObjectId
from gittheta.storage.objects import ObjectStore
from gittheta.storage.packs import PackWriter
from gittheta.storage.permissions import Permissions

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def modes(root: Path) -> tuple[set[str], set[str]]:
    """The modes of all folders and of all files."""
    found = [path.lstat().st_mode for path in (root, *root.rglob("*"))]
    folders = {f"{stat.S_IMODE(mode):04o}" for mode in found if stat.S_ISDIR(mode)}
    return folders, {f"{stat.S_IMODE(mode):04o}" for mode in found if stat.S_ISREG(mode)}


@pytest.mark.parametrize(
    ("setting", "mask", "folders", "files"),
    [
        (None, 0o022, "0755", "0444"),
        ("umask", 0o077, "0700", "0400"),
        ("false", 0o002, "0775", "0444"),
        ("group", 0o022, "2775", "0444"),
        ("true", 0o077, "2770", "0440"),
        ("1", 0o077, "2770", "0440"),
        ("all", 0o077, "2775", "0444"),
        ("2", 0o027, "2775", "0444"),
        ("0640", 0o022, "2750", "0440"),
        ("0660", 0o000, "2770", "0440"),
    ],
)
def test_a_store_has_the_modes_that_git_gives_its_own_objects(
    tmp_path: Path, setting: str | None, mask: int, folders: str, files: str
) -> None:
    with umask(mask):
        store = ObjectStore(tmp_path / "theta", permissions=Permissions.parse(setting))
        pack = PackWriter(store, 1 << 20)
        pack.append((b"something",))
        pack.finish()
        store.close()
    assert modes(tmp_path / "theta") == ({folders}, {files})


@pytest.mark.parametrize("setting", ["0440", "077", "group-writable", "9"])
def test_a_setting_without_meaning_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match="sharedRepository"):
        Permissions.parse(setting)


def test_the_mode_of_a_file_with_other_names_is_not_changed(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_bytes(b"gittheta-pack-1\nx")
    theirs.chmod(0o640)
    name = ObjectId("1e1a9a5f7ec1a9d1c39d7bd0d9fb2d9f" * 2)
    store = ObjectStore(tmp_path / "theta")
    temporary = store.temporary()
    os.link(theirs, temporary)
    store.adopt(temporary, name)
    assert stat.S_IMODE(theirs.stat().st_mode) == 0o640
    assert stat.S_IMODE(store.home_of(name).stat().st_mode) == 0o640


def test_the_times_of_a_file_with_other_names_are_not_changed(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_bytes(b"gittheta-pack-1\nx")
    os.utime(theirs, (1, 1))
    name = ObjectId("a" * 64)
    store = ObjectStore(tmp_path / "theta")
    temporary = store.temporary()
    os.link(theirs, temporary)
    store.adopt(temporary, name)
    assert store.reusable(name)
    assert theirs.stat().st_mtime == 1
    assert store.last_used(name) > 1
    assert store.remove(name, before=2) == 0


@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
def test_only_a_regular_file_is_an_object(tmp_path: Path, kind: str) -> None:
    store = ObjectStore(tmp_path / "theta")
    pack = PackWriter(store, 1 << 20)
    pack.append((b"something",))
    (name,) = pack.finish()
    home, kept = store.home_of(name), tmp_path / "kept"
    home.rename(kept)
    if kind == "link":
        home.symlink_to(kept)
    elif kind == "folder":
        home.mkdir()
    else:
        os.mkfifo(home)
    assert store.find(name) is None
    assert kind.lower() in str(store.absent(name)).lower()
    with pytest.raises(ObjectCorrupt, match="a link"):
        store.import_file(name, lambda target: target.symlink_to(kept))


def test_a_removed_object_was_not_used_since(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path / "theta")
    pack = PackWriter(store, 1 << 20)
    pack.append((b"something",))
    (name,) = pack.finish()
    home = store.home_of(name)
    assert store.remove(name, before=1) == 0
    assert home.exists()
    os.utime(home, (1, 1))
    assert store.remove(name, before=2) > 0
    assert not home.exists()
