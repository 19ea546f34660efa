"""An LFS server keeps what every remote owes, with dulwich's server."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from gittheta.api import ObjectId, Remote, RemoteContext, RemoteError
from gittheta.remotes.lfs.endpoint import address_of
from gittheta.remotes.lfs.remote import LfsRemote
from gittheta.remotes.retry import RetryingRemote
from gittheta.testing import RemoteConformance
from tests.support.forge import Forge, forge
from tests.support.stores import object_file

pytest.importorskip("urllib3")


def opened(place: Forge) -> LfsRemote:
    def sizes(objects: Collection[ObjectId]) -> Mapping[ObjectId, int]:
        """Of what is there: this server believes any size that it is told."""
        files = {object_id: object_file(place.folder / "lfs", object_id) for object_id in objects}
        return {object_id: file.stat().st_size for object_id, file in files.items() if file.exists()}

    remote = LfsRemote.open(place.url(), RemoteContext(place.folder, known_sizes=sizes, chosen=False))
    assert remote is not None
    return remote


class TestLfs(RemoteConformance):
    plugin = LfsRemote
    foreign = ("/srv/models", "file:///srv/models", "s3://bucket/path", "sftp://host/path", "./host:path")

    @pytest.fixture(autouse=True)
    def _forges(self) -> Iterator[None]:
        self.places: dict[Path, Forge] = {}
        with ExitStack() as self.stack:
            yield

    def open_remote(self, folder: Path) -> Remote:
        if folder not in self.places:
            self.places[folder] = self.stack.enter_context(forge(folder))
        # Where two uploads make the same folder, this server drops the connection of one.
        return RetryingRemote(opened(self.places[folder]), sleep=lambda _: time.sleep(0.05))

    def plant(self, folder: Path, object_id: ObjectId, data: bytes) -> bool:
        return False  # the server takes no object again that it has


def context(folder: Path, settings: dict[str, str] | None = None, **suggested: str) -> RemoteContext:
    keys = {"url": "lfs.url", "lfsurl": "remote.origin.lfsurl"}
    suggestions = {keys[name]: value for name, value in suggested.items()}
    return RemoteContext(folder, (settings or {}).get, suggestion=suggestions.get, name="origin", chosen=False)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://host/team/models", "https://host/team/models.git/info/lfs"),
        ("https://host/team/models.git/", "https://host/team/models.git/info/lfs"),
        ("ssh://git@host/models.git", "ssh://git@host/models.git"),
        ("git@host:models.git", "git@host:models.git"),
        ("/srv/models.git", None),
    ],
)
def test_the_server_is_found_by_the_url(tmp_path: Path, url: str, address: str | None) -> None:
    assert address_of(url, context(tmp_path)) == address


def test_settings_come_first(tmp_path: Path) -> None:
    url = "https://host/models.git"
    assert address_of(url, context(tmp_path, {"remote.origin.lfsurl": "https://a/x"})) == "https://a/x"
    both = {"remote.origin.lfsurl": "https://a/x", "lfs.url": "https://b/y/"}
    assert address_of(url, context(tmp_path, both)) == "https://b/y"


def test_a_committed_file_names_only_the_remote_s_own_host(tmp_path: Path) -> None:
    own = "https://host/models.git/info/lfs"
    for url in ("https://host/models.git", "git@host:models.git"):
        assert address_of(url, context(tmp_path, url="https://host/other/lfs")) == "https://host/other/lfs"
    assert address_of("https://host/models.git", context(tmp_path, url="https://evil.example/lfs")) == own
    assert address_of("https://host/models.git", context(tmp_path, url="not a url")) == own


def test_a_url_that_the_user_chose_for_objects_is_no_lfs_server(tmp_path: Path) -> None:
    assert LfsRemote.open("https://host/folder", RemoteContext(tmp_path)) is None


@pytest.mark.parametrize("url", ["ssh://-oProxyCommand=x/y", "-oX=y:path"])
def test_hosts_that_are_options_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(RemoteError):
        LfsRemote.open(url, context(tmp_path))


def test_hundreds_of_objects_are_a_request_each_and_few_more(tmp_path: Path) -> None:
    with forge(tmp_path) as place:
        remote = opened(place)
        files = {}
        for number in range(300):
            path = tmp_path / f"source-{number}"
            path.write_bytes(b"%d" % number)
            files[ObjectId(hashlib.sha256(path.read_bytes()).hexdigest())] = path
        names = list(files)
        for at in range(0, 300, 100):
            remote.upload_batch({name: files[name] for name in names[at : at + 100]}, lambda _: None)
        assert place.requests == {"POST batch": 3, "PUT lfs": 300, "POST lfs": 300}, "this server wants to verify"
        place.requests.clear()
        targets = {name: tmp_path / f"target-{name}" for name in names}
        assert len(remote.sizes(dict.fromkeys(names, 1))) == 300
        for at in range(0, 300, 100):
            remote.download_batch({name: targets[name] for name in names[at : at + 100]}, lambda _: None)
        assert place.requests == {"POST batch": 3, "GET lfs": 300}
        assert all(targets[name].read_bytes() == files[name].read_bytes() for name in names)
        remote.close()


def test_objects_lie_as_git_lfs_lays_them(tmp_path: Path) -> None:
    with forge(tmp_path) as place:
        source = tmp_path / "source"
        source.write_bytes(b"x")
        name = ObjectId(hashlib.sha256(b"x").hexdigest())
        opened(place).upload(name, source, lambda _: None)
        assert object_file(tmp_path / "lfs", name).exists()
