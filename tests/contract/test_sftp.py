"""A folder over SSH keeps what every remote owes, with a real server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from gittheta.api import ObjectId, Remote, RemoteContext, RemoteError
from gittheta.api.network import DefaultNetwork
from gittheta.remotes.sftp import SftpRemote
from gittheta.testing import RemoteConformance
from tests.support.ssh_server import SshServer, ssh_server
from tests.support.stores import object_file


@dataclass(frozen=True)
class Network(DefaultNetwork):
    """Git is told to call ssh in another way."""

    words: tuple[str, ...] = ("ssh",)

    @property
    def ssh(self) -> tuple[str, ...]:
        return self.words


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("sshd")) as server:
        yield server


def opened(server: SshServer, folder: Path) -> SftpRemote:
    remote = SftpRemote.open(server.url(folder), RemoteContext(folder, network=Network(server.command)))
    assert remote is not None
    return remote


class TestSftp(RemoteConformance):
    plugin = SftpRemote
    foreign = ("https://host/path", "/srv/models", "./host:path", "C:/models", "ext::ssh://host/path", "s3://host/path")
    server: ClassVar[SshServer]

    @pytest.fixture(autouse=True)
    def _served(self, server: SshServer) -> None:
        type(self).server = server

    def open_remote(self, folder: Path) -> Remote:
        return opened(self.server, folder / "some folder")

    def plant(self, folder: Path, object_id: ObjectId, data: bytes) -> bool:
        object_file(folder / "some folder", object_id).write_bytes(data)
        return True


def test_a_download_goes_on_where_it_stopped(server: SshServer, tmp_path: Path) -> None:
    remote = opened(server, tmp_path)
    name, data = ObjectId("ab" * 32), bytes(range(256)) * 4000
    path = object_file(tmp_path, name)
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    target = tmp_path / "target"
    target.write_bytes(b"?" * 1000)
    counted: list[int] = []
    remote.download(name, target, counted.append)
    assert target.read_bytes() == b"?" * 1000 + data[1000:]
    assert sum(counted) == len(data)
    remote.close()


@pytest.mark.parametrize(
    "url", ["sftp://-oProxyCommand=x/y", "sftp://-l@host/y", "sftp://u:secret@host/y", "sftp:///y", "-oX=y:path"]
)
def test_hosts_and_users_that_are_options_are_refused(url: str) -> None:
    with pytest.raises(RemoteError) as error:
        SftpRemote.open(url, RemoteContext(Path.cwd()))
    assert "secret" not in str(error.value)


def test_options_of_ssh_are_told_to_sftp() -> None:
    network = Network(("/usr/bin/ssh", "-p", "2222", "-l", "me", "-i", "key", "-4", "-oPort=1"))
    remote = SftpRemote.open("sftp://host/~/models", RemoteContext(Path.cwd(), network=network))
    assert remote is not None
    words = ("-P", "2222", "-oUser=me", "-i", "key", "-4", "-o", "Port=1", "-S", "/usr/bin/ssh")
    assert remote.command == ("sftp", *words, "-b", "-")
    assert remote.path == "models"


def test_who_is_not_let_in_is_told_what_to_try(server: SshServer, tmp_path: Path) -> None:
    words = ("ssh", "-F", "none", "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={tmp_path}/known")
    context = RemoteContext(tmp_path, network=Network((*words, "-o", "IdentitiesOnly=yes", "-i", "/nothing")))
    remote = SftpRemote.open(server.url(tmp_path), context)
    assert remote is not None
    with pytest.raises(RemoteError, match="denied") as error:
        remote.sizes([ObjectId("ab" * 32)])
    assert "ssh" in (error.value.hint or "")
    remote.close()


@pytest.mark.parametrize(
    ("url", "login", "port", "path"),
    [
        ("host:models.git", "host", None, "models.git"),
        ("me@host:/srv/models.git/", "me@host", None, "/srv/models.git"),
        ("me@[::1]:~/models", "me@[::1]", None, "models"),
        ("ssh://me@host:22/srv/my%20models", "me@host", 22, "/srv/my models"),
        ("ssh://[::1]/~/models", "[::1]", None, "models"),
    ],
)
def test_repositories_over_ssh(url: str, login: str, port: int | None, path: str) -> None:
    remote = SftpRemote.open(url, RemoteContext(Path.cwd()))
    assert remote is not None
    assert (remote.host, remote.path, remote.in_repository) == (login, path, True)
    assert remote.command == (("sftp", "-P", str(port), "-b", "-") if port else ("sftp", "-b", "-"))
