"""Merges of two full fine-tunes as whole git commands, beside mergekit's of the bare files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.bench.bench import Bench
from tests.bench.changes import fine_tune, write_version
from tests.bench.kept import Kept
from tests.bench.merge_toolkit import NAME, Toolkit, equal_share, find_toolkit
from tests.bench.model import HIDDEN, decoder_shapes, write_model
from tests.bench.peak import can_measure, peaks
from tests.bench.worlds import FILE, THETA, World

#: Of the larger matrices' 0.02: most weights move by a few units in the last place.
MERGED_STEP = 0.0006
#: Seconds of mergekit for such a merge of 400 MB on another machine, for scale.
REFERENCE = 34
_SIDES = ("a", "b")
_STRATEGY = ("merge", "--quiet", "-m", "merged", "-s", "theta")


@dataclass(frozen=True)
class Merge:
    """A git command that merges, and where it starts."""

    key: str
    words: tuple[str, ...]
    start: str = "main"


TIES = Merge("git ties", (*_STRATEGY, "-X", "method=ties", "-X", "density=0.2", *_SIDES))
MERGES = (
    TIES,
    Merge("git global", (*_STRATEGY, "-X", "method=ties", "-X", "density=0.2", "-X", "scope=global", *_SIDES)),
    Merge("git linear", (*_STRATEGY, "-X", "method=linear", *_SIDES)),
    Merge("git driver", ("merge", "--quiet", "-m", "merged", "b"), "a"),
)


def merge_git_size(size: int) -> int:
    """Bytes of the model, about: 400 MB of 1 GB, and at least those of one layer."""
    return max(size * 2 // 5, 32 << 20)


def measure_merge_git(bench: Bench) -> None:
    """Wall time and peaks of each merge; that of `ties` by turns with mergekit's."""
    command = find_toolkit()
    toolkit = Toolkit(command, bench.folder / NAME) if command else None
    world = _world(bench, toolkit)
    kept = Kept(world)
    kept.keep()
    for merge in MERGES:
        for _ in range(bench.runs):
            bench.samples.add(THETA.name, {merge.key: _seconds(world, kept, merge)})
            if merge is TIES and toolkit:
                bench.samples.add(NAME, {merge.key: toolkit.seconds("base", _SIDES)})
        if merge is TIES and toolkit:
            bench.samples.add(THETA.name, {"git equal": equal_share(world.file, toolkit.result / FILE)})
        if can_measure():
            bench.samples.add(THETA.name, _peaks(world, kept, merge))
    size = world.file.stat().st_size
    bench.notes.append(f"merges by git: a model of {size / 1e6:.0f} MB, both sides changed every tensor")
    absent = "" if toolkit else "absent (put it on PATH, or set MERGEKIT_PYTHON); "
    bench.notes.append(f"mergekit: {absent}for ties of 400 MB it took {REFERENCE} s on another machine")
    for folder in (world.folder, bench.folder / NAME):
        shutil.rmtree(folder, ignore_errors=True)


def _world(bench: Bench, toolkit: Toolkit | None) -> World:
    """A repository with a model, and on each branch a fine-tune; the same as bare files for mergekit."""
    world = World(bench.folder / "merges", THETA)
    world.renew()
    base = bench.folder / "base.safetensors"
    write_model(base, decoder_shapes(merge_git_size(bench.size)) | {"model.norm.weight": (HIDDEN,)})
    _commit(world, base, "base", toolkit)
    for seed, branch in enumerate(_SIDES, 1):
        world.git("checkout", "--quiet", "-b", branch, "main")
        version = bench.folder / f"{branch}.safetensors"
        write_version(version, base, fine_tune(MERGED_STEP), seed)
        _commit(world, version, branch, toolkit)
        version.unlink()
    base.unlink()
    if toolkit:
        toolkit.warm_up()
    return world


def _commit(world: World, version: Path, name: str, toolkit: Toolkit | None) -> None:
    shutil.copyfile(version, world.file)
    world.git("add", FILE)
    world.expect_stored()
    world.commit(name)
    if toolkit:
        toolkit.put(name, version)


def _prepare(world: World, kept: Kept, merge: Merge) -> None:
    """Nothing is merged yet, and nothing is left in the store of what was merged before."""
    kept.restore()
    world.git("checkout", "--quiet", "--force", merge.start)
    world.expect_quiet()


def _seconds(world: World, kept: Kept, merge: Merge) -> float:
    _prepare(world, kept, merge)
    took = world.seconds(*merge.words)
    world.expect_stored()
    world.expect_quiet()
    if len(world.git("rev-list", "--parents", "-1", "HEAD").split()) != 1 + len(_SIDES):
        raise SystemExit(f"git {' '.join(merge.words)}: made no merge commit")
    return took


def _peaks(world: World, kept: Kept, merge: Merge) -> Mapping[str, float]:
    _prepare(world, kept, merge)
    found = peaks(["git", *merge.words], world.repository, world.environment)
    return {f"{merge.key} {role}": float(peak) for role, peak in found.items()}
