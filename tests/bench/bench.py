"""One run of the suite, which every measurement is handed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tests.bench.model import decoder_shapes, write_model
from tests.bench.samples import Samples
from tests.bench.worlds import FILE, Tool, World, folder_bytes, sha256

FULL = 1 << 30


@dataclass
class Bench:
    """One run of the suite: where, how large, how often, with which tools, and what came out."""

    folder: Path
    size: int
    runs: int
    tools: tuple[Tool, ...]
    samples: Samples = field(default_factory=Samples)
    #: Words about what was measured, for below the table.
    notes: list[str] = field(default_factory=list)

    @property
    def full(self) -> bool:
        """Whether the model is as large as the bounds are meant for."""
        return self.size >= FULL

    @cached_property
    def model(self) -> Path:
        """The generated checkpoint."""
        path = self.folder / FILE
        write_model(path, decoder_shapes(self.size))
        return path

    @cached_property
    def digest(self) -> str:
        """Its SHA-256."""
        return sha256(self.model)

    @cached_property
    def worlds(self) -> tuple[World, ...]:
        """A world for each tool, with the model added and committed."""
        worlds = tuple(World(self.folder / tool.name, tool) for tool in self.tools)
        for world in worlds:
            world.repository.mkdir(parents=True)
            shutil.copyfile(self.model, world.file)
            add(world)
        return worlds

    def by_turns(self, step: Callable[[World], Mapping[str, float]], runs: int | None = None) -> None:
        """Measure A B A B ..."""
        for _ in range(self.runs if runs is None else runs):
            for world in self.worlds:
                assert world.tool is not None
                self.samples.add(world.tool.name, step(world))


def add(world: World) -> dict[str, float]:
    """Add the file to a repository with an empty store, and commit it."""
    world.renew()
    before = folder_bytes(world.repository / ".git")
    took = world.seconds("add", FILE)
    stored = folder_bytes(world.repository / ".git") - before
    world.expect_stored()
    world.commit("the model")
    return {"add": took, "stored": stored / world.file.stat().st_size}
