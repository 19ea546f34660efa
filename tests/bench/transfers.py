"""What travels: a sparse update to a hub, pushes after a long history, and a patch between two files."""

from __future__ import annotations

import shutil
import time

from tests.bench.bench import Bench
from tests.bench.changes import REINFORCED, write_version
from tests.bench.histories import write_history
from tests.bench.samples import Unit
from tests.bench.worlds import FILE, THETA, World, folder_bytes, sha256

#: Of the history that pushes go on from, and tensors of each version in it.
COMMITS = 1000
_TENSORS = 100
#: What is measured, what the table calls it, its unit, and its bound.
KEYS: dict[str, tuple[str, Unit, float | None]] = {
    "push update": ("push of an update that moves few elements by a unit, to a folder", "s", 3),
    "push update size": ("what that sends", "of file", 0.01),
    "push nothing": (f"push of nothing after {COMMITS} commits", "s", 1),
    "push one": (f"push of one commit more after {COMMITS}", "s", 1.5),
    "patch": ("git theta patch of that update", "s", None),
    "patch size": ("its file", "of file", 0.01),
    "patch applied": ("git theta apply-patch", "s", None),
    "patch in place": ("the same with --in-place", "s", None),
}


def measure_transfers(bench: Bench) -> None:
    """Pushes to a hub on this disk, and a patch."""
    for _ in range(bench.runs):
        bench.samples.add(THETA.name, _update(bench) | _after_a_history(bench))


def _update(bench: Bench) -> dict[str, float]:
    world = World(bench.folder / "transfers", THETA)
    world.renew()
    shutil.copyfile(bench.model, world.file)
    world.git("add", FILE)
    world.commit("the model")
    hub = world.folder / "hub.git"
    world.git("init", "--quiet", "--bare", str(hub))
    world.git("remote", "add", "origin", str(hub))
    world.git("config", "remote.origin.thetaUrl", hub.as_uri())  # not by hard links: every byte is written
    world.git("push", "--quiet", "origin", "main")
    old, new = world.folder / "old", world.folder / "new"
    shutil.copyfile(bench.model, old)
    write_version(new, bench.model, REINFORCED)
    shutil.copyfile(new, world.file)
    world.git("add", FILE)
    world.commit("an update")
    before = folder_bytes(hub)
    found = {"push update": world.seconds("push", "--quiet", "origin", "main")}
    size = bench.model.stat().st_size
    found["push update size"] = (folder_bytes(hub) - before) / size
    found["patch"] = world.seconds("theta", "patch", str(old), str(new), "-o", "../step.patch")
    found["patch size"] = (world.folder / "step.patch").stat().st_size / size
    for key, words in (("patch applied", ()), ("patch in place", ("--in-place",))):
        shutil.copyfile(bench.model, old)
        found[key] = world.seconds("theta", "apply-patch", *words, "../step.patch", str(old))
        if sha256(old) != sha256(new):
            raise SystemExit("a patch leads to other bytes")
    shutil.rmtree(world.folder)
    return found


def _after_a_history(bench: Bench) -> dict[str, float]:
    world = World(bench.folder / "transfers", THETA)
    world.renew()
    long, hub = world.folder / "long.git", world.folder / "hub.git"
    write_history(long, COMMITS, _TENSORS)
    world.git("clone", "--quiet", "--mirror", str(long), str(hub))
    shutil.copytree(long / "theta", hub / "theta", dirs_exist_ok=True)
    world.git("remote", "add", "origin", str(hub))
    world.git("fetch", "--quiet", "origin")
    world.git("theta", "fetch", "--all")
    world.git("reset", "--quiet", "origin/main")
    began = time.perf_counter()
    world.git("push", "--quiet", "origin", "HEAD:main")
    found = {"push nothing": time.perf_counter() - began}
    world.git("commit", "--quiet", "--allow-empty", "-m", "one more")
    found["push one"] = world.seconds("push", "--quiet", "origin", "HEAD:main")
    shutil.rmtree(world.folder)
    return found
