"""Where tensors are stored and what is needed to bring them there and back; no repository."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from gittheta.api import NullReporter, Reporter
from gittheta.limits import Limits
from gittheta.registry import Registry
from gittheta.runtime import close_parts, lazy
from gittheta.storage.objects import ObjectReader, ObjectStore
from gittheta.storage.recipe_cache import RecipeCache

#: What is tried for a changed tensor, in this order; of two as small, the first is taken.
ENCODINGS = ("sparse", "ternary", "delta", "scale", "lowrank", "resize", "dense")


@dataclass
class TensorStore:
    """Objects, the cache of recipes, plugins, workers, limits, and where to report. Safe to use from several threads.

    Each part is made when it is first needed; :meth:`close` ends those that were.
    """

    store: ObjectStore
    registry: Registry = field(default_factory=Registry)
    reporter: Reporter = field(default_factory=NullReporter)
    limits: Limits = field(default_factory=Limits)
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    encodings: tuple[str, ...] = ENCODINGS

    @classmethod
    def at(cls, root: Path, limits: Limits | None = None) -> TensorStore:
        """The tensor store in a folder, with everything else as it is by default."""
        return cls(ObjectStore(root), limits=limits or Limits())

    @lazy
    def reader(self) -> ObjectReader:
        """Open objects."""
        return ObjectReader(self.store)

    @lazy
    def recipes(self) -> RecipeCache:
        """How tensors were stored before."""
        return RecipeCache(self.store.root / "known.sqlite", self.reporter.trace)

    @lazy
    def workers(self) -> ThreadPoolExecutor:
        """Threads for encoding and decoding."""
        return ThreadPoolExecutor(self.threads, "gittheta-worker")

    @lazy
    def digesters(self) -> ThreadPoolExecutor:
        """Threads for digests, which must not wait behind what there is to encode."""
        return ThreadPoolExecutor(self.threads, "gittheta-digest")

    def close(self) -> None:
        """End the workers, close files."""
        close_parts(self, "workers", "digesters", "reader", "recipes")

    def __enter__(self) -> TensorStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
