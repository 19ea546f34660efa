"""Many small checkpoints in one checkout: what they need is looked for once."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint
from tests.support.stores import object_files
from tests.support.world import World

COUNT = 12


def models() -> dict[str, bytes]:
    rng = np.random.default_rng(1)
    return {f"{at}.safetensors": checkpoint({"w": rng.normal(size=9).astype(np.float32)}) for at in range(COUNT)}


def test_a_clone_asks_the_remote_once_for_all(world: World) -> None:
    repo, files = world.repo(), models()
    for name, content in files.items():
        repo.write(name, content)
    repo.git("add", ".")
    repo.git("commit", "-q", "-m", "all")
    hub = world.bare()
    repo.git("push", "-q", str(hub), "main")
    done = world.place().run("clone", "-q", str(hub), "clone", env={"GITTHETA_TRACE": "1"})
    assert "looking for objects" in done.stderr
    assert done.stderr.count("0 objects fetched") == COUNT  # they were here already when each file was written
    assert {name: (world.root / "clone" / name).read_bytes() for name in files} == files


@pytest.mark.slow
def test_a_file_whose_objects_are_nowhere_does_not_keep_the_others_from_their_places(world: World) -> None:
    repo, files = world.repo(), models()
    for name, content in files.items():
        repo.write(name, content)
        repo.git("add", name)
    repo.git("commit", "-q", "-m", "all")
    hub = world.bare()
    repo.git("push", "-q", str(hub), "main")
    lost = repo.manifest("0.safetensors").split(":0+")[0]
    gone = next(path for path in object_files(hub / "theta") if path.name in lost)
    gone.unlink()
    done = world.place().attempt("git", "clone", "-q", str(hub), "clone")
    assert done.returncode
    assert "0.safetensors" in done.stderr
    assert "thetaUrl" in done.stderr
    assert "Traceback" not in done.stderr
