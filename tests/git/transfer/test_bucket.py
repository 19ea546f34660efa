"""Objects in a bucket: plain push, clone and checkout, with a service like S3 on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gittheta.flows.maintain.gc import DAY
from gittheta.flows.maintain.gc_remote import collect_remote
from gittheta.flows.workspace import Workspace
from tests.support.checkpoints import model, sha256
from tests.support.moto_server import KEYS, S3Server, s3_server
from tests.support.world import Repo, World

pytest.importorskip("obstore")


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def repo(world: World, server: S3Server) -> Repo:
    world.env.update(KEYS)
    bucket = server.new_bucket()
    for key, value in {"theta.s3.endpoint": server.endpoint, "theta.url": f"s3://{bucket}/models"}.items():
        world.place().git("config", "--global", key, value)
    repo = world.repo()
    repo.git("remote", "add", "origin", str(world.bare()))
    return repo


def test_push_and_clone(world: World, repo: Repo, server: S3Server) -> None:
    for seed in range(3):
        repo.commit(model(seed))
    server.requests.clear()
    repo.git("push", "-q", "origin", "main")
    count = len(repo.objects())
    assert server.requests["PUT"] == count + 1, "each object goes once, and a note of who pushes"
    assert not (world.root / "hub.git" / "theta" / "objects").exists()
    server.requests.clear()
    repo.git("push", "-q", "origin", "main")
    assert not server.requests, "nothing new, nothing asked"
    clone = world.clone(world.root / "hub.git")
    for seed in range(3):
        clone.git("checkout", "-q", f"origin/main~{2 - seed}")
        assert clone.sha() == sha256(model(seed))
    clone.healthy()


def test_what_no_ref_needs_is_deleted(
    world: World, repo: Repo, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("HOME", "GIT_CONFIG_NOSYSTEM", *KEYS):
        monkeypatch.setenv(key, world.env[key])
    repo.commit(model(1))
    repo.git("push", "-q", "origin", "main")
    repo.git("checkout", "-q", "-b", "side")
    repo.commit(model(2))
    repo.git("push", "-q", "origin", "side")
    repo.git("push", "-q", "origin", ":side")
    now = 2_000_000_000.0
    with Workspace.open(repo.path) as workspace:
        url = workspace.repository.remotes()["origin"]
        listed = collect_remote(workspace, "origin", url, now).listed
        assert listed
        assert collect_remote(workspace, "origin", url, now + 15 * DAY).deleted == listed
    repo.git("theta", "fsck", "--remote", "origin")
    repo.git("push", "-q", "origin", "side")
    clone = world.clone(world.root / "hub.git")
    clone.git("checkout", "-q", "side")
    assert clone.sha() == sha256(model(2))


def test_a_push_without_the_right_keys_moves_no_ref(world: World, repo: Repo, server: S3Server) -> None:
    repo.commit(model(1))
    repo.git("config", "theta.url", "s3://there-is-no-such-bucket")
    said = repo.fails("push", "-q", "origin", "main")
    assert "s3://there-is-no-such-bucket" in said
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in said
    assert repo.git("ls-remote", "origin") == ""


def test_a_committed_file_never_chooses_where_the_keys_go(world: World, repo: Repo, server: S3Server) -> None:
    repo.write("theta.toml", b'[store]\nurl = "s3://elsewhere"\n[s3]\nendpoint = "http://evil.example"\n')
    repo.git("add", "theta.toml")
    repo.commit(model(1))
    repo.git("push", "-q", "origin", "main")
    assert server.requests["PUT"]


def test_a_damaged_object_in_the_bucket_is_noticed_and_mended(world: World, repo: Repo, server: S3Server) -> None:
    repo.commit(model(1))
    repo.git("push", "-q", "origin", "main")
    from obstore import put
    from obstore.store import S3Store

    url = repo.git("config", "theta.url").strip()
    name = repo.objects()[0].name
    store = S3Store(
        url.split("/")[2],
        prefix="models",
        endpoint=server.endpoint,
        access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    size = repo.objects()[0].stat().st_size
    put(store, f"objects/{name[:2]}/{name[2:4]}/{name}", b"?" * size)
    assert name in repo.attempt("git", "theta", "fsck", "--remote", "origin").stderr
    repo.git("theta", "fsck", "--remote", "origin", "--repair")
    repo.git("theta", "fsck", "--remote", "origin")
