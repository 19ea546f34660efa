"""Buckets keep what every remote owes, with a real client and a service like S3 on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from gittheta.api import ObjectId, Remote, RemoteContext, RemoteError
from gittheta.remotes.bucket import BucketRemote
from gittheta.testing import RemoteConformance
from tests.support.moto_server import KEYS, S3Server, s3_server

obstore = pytest.importorskip("obstore")


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


def context_of(server: S3Server, folder: Path, **environment: str) -> RemoteContext:
    settings = {"theta.s3.endpoint": server.endpoint}
    return RemoteContext(folder, settings.get, environment=environment or KEYS)


def opened(server: S3Server, url: str, folder: Path, **environment: str) -> BucketRemote:
    remote = BucketRemote.open(url, context_of(server, folder, **environment))
    assert remote is not None
    return remote


class TestS3(RemoteConformance):
    plugin = BucketRemote
    foreign = ("/srv/models", "file:///srv/models", "ssh://host/path", "host:path", "hf://buckets/a/b")
    server: ClassVar[S3Server]

    @pytest.fixture(autouse=True)
    def _served(self, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        type(self).server = server
        for name, value in KEYS.items():
            monkeypatch.setenv(name, value)

    def open_remote(self, folder: Path) -> Remote:
        note = folder / "bucket"
        if not note.exists():
            note.write_text(self.server.new_bucket())
        return opened(self.server, f"s3://{note.read_text()}/some/folder", folder)

    def plant(self, folder: Path, object_id: ObjectId, data: bytes) -> bool:
        remote = self.open_remote(folder)
        assert isinstance(remote, BucketRemote)
        obstore.put(remote.bucket.store, f"objects/{object_id[:2]}/{object_id[2:4]}/{object_id}", data)
        return True


def test_a_profile_of_the_command_line_is_found(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("[team]\naws_access_key_id = a\naws_secret_access_key = b\n")
    (tmp_path / ".aws" / "config").write_text("[profile team]\nregion = eu-west-1\n")
    bucket = server.new_bucket()
    remote = opened(server, f"s3://{bucket}", tmp_path, HOME=str(tmp_path), AWS_PROFILE="team")
    assert dict(remote.sizes([ObjectId("ab" * 32)])) == {}
    with pytest.raises(RemoteError, match="other"):
        opened(server, f"s3://{bucket}", tmp_path, HOME=str(tmp_path), AWS_PROFILE="other")


def test_a_bucket_that_is_not_there_is_told_of(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    remote = opened(server, "s3://nobody-has-made-this", tmp_path)
    (tmp_path / "source").write_bytes(b"x")
    with pytest.raises(RemoteError) as error:
        remote.upload(ObjectId("ab" * 32), tmp_path / "source", lambda _: None)
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in str(error.value)


@pytest.mark.parametrize("url", ["https://host/models.git", "http://host/models.git"])
def test_the_url_of_a_git_remote_is_no_folder_to_read_from(tmp_path: Path, url: str) -> None:
    assert BucketRemote.open(url, RemoteContext(tmp_path, chosen=False)) is None


@pytest.mark.parametrize("url", ["s3://", "s3:///folder", "s3://key:secret@bucket/folder"])
def test_urls_without_a_bucket_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(RemoteError) as error:
        BucketRemote.open(url, RemoteContext(tmp_path))
    assert "secret" not in str(error.value)
