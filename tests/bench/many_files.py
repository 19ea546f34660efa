"""How long many small checkpoints take, a file: their first add, an add in which each gains a tensor, and a clone."""

from __future__ import annotations

import shutil

import numpy as np

from tests.bench.bench import Bench
from tests.bench.worlds import THETA, World
from tests.support.safetensors_file import safetensors

#: A file must cost the same however many others there are.
COUNTS = (100, 1000)
#: Files of the clone.
CLONED = 5000
TENSORS = 8
#: What is measured, in seconds for a thousand files, and what the table calls it.
KEYS = {
    **{f"many add {count}": f"git add of {count} small files: a thousand of them" for count in COUNTS},
    **{f"many fresh {count}": f"a new tensor in each of {count} files: a thousand of them" for count in COUNTS},
    f"many clone {CLONED}": f"git clone of {CLONED} small files: a thousand of them",
}


def _write(world: World, count: int, *, fresh: bool = False) -> None:
    for number in range(count):
        rng = np.random.default_rng(number)
        names = [f"file.{number}.layer.{at}" for at in range(TENSORS)] + ["fresh"] * fresh
        tensors = [(name, "F32", (16,), rng.normal(size=16).astype("<f4").tobytes()) for name in names]
        (world.repository / f"m{number}.safetensors").write_bytes(safetensors(tensors))


def measure_many_files(bench: Bench) -> None:
    """Adds of many small files, twice; and a clone of very many."""
    for count in COUNTS:
        world = World(bench.folder / "many", THETA)
        world.renew()
        for key, fresh in (("add", False), ("fresh", True)):
            _write(world, count, fresh=fresh)
            _keep(bench, f"many {key} {count}", world.seconds("add", "."), count)
            world.git("commit", "--quiet", "-m", key)
        shutil.rmtree(world.folder)
    _measure_clone(bench)
    bench.notes.append(f"many small files: {TENSORS} tensors of 16 float32 each; seconds for a thousand files")


def _measure_clone(bench: Bench) -> None:
    world = World(bench.folder / "many", THETA)
    world.renew()
    _write(world, CLONED)
    world.git("add", ".")
    world.git("commit", "--quiet", "-m", "all")
    hub, clone = world.folder / "hub.git", world.folder / "clone"
    world.git("init", "--quiet", "--bare", str(hub))
    world.git("push", "--quiet", str(hub), "main")
    took = world.seconds("clone", "--quiet", hub.as_uri(), str(clone), cwd=world.folder)
    if any(path.read_bytes() != (clone / path.name).read_bytes() for path in world.repository.glob("*.safetensors")):
        raise SystemExit("a file of the clone has other bytes")
    _keep(bench, f"many clone {CLONED}", took, CLONED)
    shutil.rmtree(world.folder)


def _keep(bench: Bench, key: str, took: float, count: int) -> None:
    bench.samples.add(THETA.name, {key: 1000 * took / count})
