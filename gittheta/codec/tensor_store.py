"""The store of tensors and everything that encoding and decoding need; no repository."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir

from gittheta.api import NullReporter, Reporter
from gittheta.errors import StoreError
from gittheta.limits import Limits
from gittheta.registry import Registry
from gittheta.runtime import close_parts, lazy
from gittheta.storage.objects import ObjectReader, ObjectStore
from gittheta.storage.recipe_cache import RecipeCache

#: Encodings that are tried for a changed tensor. Of two of the same size, the one that comes first here is taken.
ENCODINGS = ("sparse", "ternary", "delta", "scale", "lowrank", "resize", "dense")


@dataclass
class TensorStore:
    """Objects, the cache of recipes, plugins, workers, limits and the reporter. Safe to use from several threads.

    Each part is made when it is first needed; :meth:`close` closes those that were made.
    """

    store: ObjectStore
    registry: Registry = field(default_factory=Registry)
    reporter: Reporter = field(default_factory=NullReporter)
    limits: Limits = field(default_factory=Limits)
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    encodings: tuple[str, ...] = ENCODINGS
    #: Whether new tensors are stored; if not, they are only digested, as for `git status` in what is read-only.
    keeps: bool = True

    @classmethod
    def at(cls, root: Path, limits: Limits | None = None) -> TensorStore:
        """The tensor store in a folder, with default settings."""
        return cls(ObjectStore(root), limits=limits or Limits())

    @lazy
    def reader(self) -> ObjectReader:
        """Reads objects; keeps some of them open."""
        return ObjectReader(self.store)

    @lazy
    def recipes(self) -> RecipeCache:
        """Recipes of tensors that were stored before, by digest."""
        return RecipeCache(self.store.root / "known.sqlite", self.reporter.trace, self.store.permissions)

    @lazy
    def workers(self) -> ThreadPoolExecutor:
        """Threads for encoding and decoding."""
        return ThreadPoolExecutor(self.threads, "gittheta-worker")

    @lazy
    def digesters(self) -> ThreadPoolExecutor:
        """Threads for digests, which must not wait for encoding to finish."""
        return ThreadPoolExecutor(self.threads, "gittheta-digest")

    def scratch(self) -> Path:
        """A path for a file that vanishes when it is closed: in the store if that can be written. Raises StoreError."""
        try:
            return self.store.temporary()
        except StoreError:
            if self.keeps:
                raise
            return Path(gettempdir()) / f"gittheta-{os.urandom(16).hex()}"

    def close(self) -> None:
        """End the workers and close files."""
        close_parts(self, "workers", "digesters", "reader", "recipes")
        self.store.close()

    def __enter__(self) -> TensorStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
