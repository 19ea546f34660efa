"""How fast each kind of change of a committed model is added, and how fast a chain of changes is checked out."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.bench import Bench
from tests.bench.changes import (
    APPENDED,
    ELEMENTS,
    FINE_TUNE,
    IA3,
    LORA_OF_TWO,
    REINFORCED,
    Change,
    write_version,
)
from tests.bench.kept import Kept
from tests.bench.peak import can_measure, peaks
from tests.bench.worlds import FILE, THETA, World, sha256

SPEEDS = (FINE_TUNE, LORA_OF_TWO, IA3, ELEMENTS, REINFORCED, APPENDED)
#: What follows the model in each chain of four.
CHAINS = {"fine-tunes": (FINE_TUNE,) * 3, "mixed": (FINE_TUNE, ELEMENTS, REINFORCED)}


def measure_speeds(bench: Bench) -> None:
    """Add of every kind of change, the peaks of one, and checkouts of chains."""
    kept = {world: Kept(world) for world in bench.worlds}
    for world in kept:
        world.expect_file(bench.digest)
        kept[world].keep()
    for change in SPEEDS:
        _measure_add(bench, kept, change)
    for key, changes in CHAINS.items():
        _measure_chain(bench, kept, key, changes)
    for world in kept:
        kept[world].forget()
        shutil.copyfile(bench.model, world.file)


def _measure_add(bench: Bench, kept: Mapping[World, Kept], change: Change) -> None:
    digest = _put_version(bench, bench.model, change)
    key = f"change {change.key}"

    def add(world: World) -> dict[str, float]:
        kept[world].restore()
        took = world.seconds("add", FILE)
        world.expect_stored()
        return {key: took}

    def memory(world: World) -> dict[str, float]:
        kept[world].restore()
        found = peaks(["git", "add", FILE], world.repository, world.environment)
        return {f"{key} {role}": float(peak) for role, peak in found.items()}

    bench.by_turns(add)
    _check(bench, key, digest)
    if change is FINE_TUNE and can_measure():
        bench.by_turns(memory, 1)


def _put_version(bench: Bench, base: Path, change: Change, seed: int = 0) -> str:
    """Put the next version into each work tree; returns its SHA-256."""
    version = bench.folder / f"next-{FILE}"
    write_version(version, base, change, seed)
    digest = sha256(version)
    first, *others = bench.worlds
    for world in others:
        shutil.copyfile(version, world.file)
    os.replace(version, first.file)
    return digest


def _check(bench: Bench, key: str, digest: str) -> None:
    """Refuse to go on if gittheta does not give back what was added last; say how it stored it."""
    for world in bench.worlds:
        if world.tool is THETA:
            world.commit("changed")
            (told,) = json.loads(world.git("theta", "du", "--json", "HEAD^..HEAD", FILE))
            how = "+".join(sorted(told["added"], key=lambda name: -told["added"][name]))
            bench.samples.remarks[key] = f"{how} {told['bytes_added'] / told['bytes_changed']:.4f}"
            world.file.unlink()
            world.git("checkout", "--", FILE)
            world.expect_file(digest)


def _measure_chain(bench: Bench, kept: Mapping[World, Kept], key: str, changes: Sequence[Change]) -> None:
    for world in bench.worlds:
        kept[world].restore()
    base, digest = bench.model, bench.digest
    for seed, change in enumerate(changes):
        digest = _put_version(bench, base, change, seed)
        base = bench.worlds[0].file
        for world in bench.worlds:
            world.git("add", FILE)
            world.expect_stored()
            world.commit(change.key)

    def checkout(world: World) -> dict[str, float]:
        world.file.unlink()
        took = world.seconds("checkout", "--", FILE)
        world.expect_file(digest)
        return {f"chain {key}": took}

    bench.by_turns(checkout)
    bench.samples.remarks[f"chain {key}"] = _links(bench)


def _links(bench: Bench) -> str:
    """How long gittheta's recipes are."""
    for world in bench.worlds:
        if world.tool is THETA:
            shown: dict[str, Any] = json.loads(world.git("theta", "show", "--json", FILE))
            return f"{max(len(tensor['stored']) for tensor in shown['tensors'])} links"
    return ""
