"""A bad network before what keeps the objects: nothing is lost, nothing wrong accepted, the command finishes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.forge import forge
from tests.support.moto_server import KEYS, s3_server
from tests.support.world import Place, Repo, World

#: How often a command may be typed until it has done its work.
TRIES = 12


@dataclass(frozen=True)
class Shaky:
    """A repository and its remote, behind a proxy."""

    repo: Repo
    url: str
    proxy: FaultProxy
    #: What every command is given.
    options: tuple[str, ...] = ()


def version(seed: int) -> bytes:
    """A model whose objects are all its own."""
    values = np.random.default_rng(seed).normal(0, 0.02, (300, 300)).astype(np.float32)
    return checkpoint({"w": values}, {"seed": str(seed)})


def of_objects(method: str, path: str) -> bool:
    """All of an LFS server's and a bucket's, nothing of Git's own."""
    return ".git/" not in path or "/info/lfs/" in path


def in_the_end(place: Place, *words: str) -> None:
    """Type a command until it succeeds."""
    for _ in range(TRIES):
        done = place.attempt("git", *words)
        assert "Traceback" not in done.stderr, done.stderr
        if done.returncode == 0:
            return
    pytest.fail(f"git {words} fails for ever: {done.stderr}")


@pytest.fixture(params=["lfs", "s3"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def shaky(world: World, kind: str, servers: ExitStack, seed: int) -> Shaky:
    repo = world.repo()
    hub = world.bare()
    if kind == "lfs":
        Place(hub, world.env).git("config", "http.receivepack", "true")
        place = servers.enter_context(forge(world.root))
        proxy = servers.enter_context(fault_proxy(place.port, seed, of_objects))
        url = f"http://127.0.0.1:{proxy.port}/hub.git"
        repo.git("remote", "add", "origin", url)
        return Shaky(repo, url, proxy)
    pytest.importorskip("obstore", reason="obstore is not installed")
    server = servers.enter_context(s3_server())
    bucket = server.new_bucket()
    proxy = servers.enter_context(fault_proxy(server.port, seed, of_objects))
    world.env.update(KEYS)
    repo.env.update(KEYS)
    repo.git("remote", "add", "origin", str(hub))
    world.place().git("config", "--global", "theta.s3.endpoint", f"http://127.0.0.1:{proxy.port}")
    world.place().git("config", "--global", "theta.url", f"s3://{bucket}/models")
    return Shaky(repo, str(hub), proxy)


def there_and_back(world: World, place: Shaky, versions: int) -> None:
    shas = []
    for seed in range(versions):
        place.repo.write("m.safetensors", version(seed))
        for part in range(4):
            place.repo.write(f"part{part}.safetensors", version(100 * seed + part + 1000))
        place.repo.git("add", ".")
        place.repo.git("commit", "-q", "-m", f"version {seed}")
        shas.append(hashlib.sha256(version(seed)).hexdigest())
        in_the_end(place.repo, "push", "-q", "origin", "main")
    place.proxy.share /= 2  # a clone that Git gives up is taken away with all that has come
    for number in range(TRIES):
        name = f"clone{number}"
        done = Place(world.root, place.repo.env).attempt("git", "clone", "-q", place.url, name)
        assert "Traceback" not in done.stderr, done.stderr
        if done.returncode == 0:
            break
    clone = Repo(world.root / name, place.repo.env)
    for number, sha in enumerate(reversed(shas)):
        in_the_end(clone, "checkout", "-q", f"main~{number}")
        assert clone.sha() == sha
    place.proxy.share = 0
    clone.git("checkout", "-q", "main")
    clone.healthy()
    place.repo.git("theta", "fsck", "--remote", "origin")


def test_there_and_back(world: World, kind: str, servers: ExitStack) -> None:
    place = shaky(world, kind, servers, 1)
    there_and_back(world, place, 2)
    assert sum(place.proxy.done.values()) > 3


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 8))
def test_there_and_back_again(world: World, kind: str, servers: ExitStack, seed: int) -> None:
    there_and_back(world, shaky(world, kind, servers, seed), 4)
