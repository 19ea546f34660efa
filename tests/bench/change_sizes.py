"""How small each kind of change is stored: a chain of versions, and published updates, of a model of one layer."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.bench.bench import Bench
from tests.bench.changes import (
    APPENDED,
    ELEMENTS,
    FINE_TUNE,
    IA3,
    LORA,
    REINFORCED,
    ROWS,
    TRIMMED,
    write_adapter,
    write_version,
)
from tests.bench.model import BF16, F32, HIDDEN, Dtype, Shapes, layer_shapes, write_model
from tests.bench.samples import Samples
from tests.bench.worlds import FILE, THETA, World, folder_bytes, sha256

FEED_FORWARD = 2816
VOCABULARY = 8192
ADAPTER = "adapter"
NEW = "new"
SPARSIFIED = ("compeft", "topk")
_CHANGES = {
    BF16: (FINE_TUNE, LORA, IA3, ELEMENTS, REINFORCED, APPENDED, TRIMMED),
    F32: (FINE_TUNE, LORA, IA3, ELEMENTS, APPENDED, TRIMMED),
}


def size_key(key: str, dtype: Dtype) -> str:
    """The row for a kind of change."""
    return f"size {key} {dtype.name.lower()}"


def measure_sizes(bench: Bench) -> None:
    """What each version takes, of the bytes of the tensors that changed; every version is checked out again."""
    for dtype in _CHANGES:
        world = World(bench.folder / f"sizes-{dtype.name}", THETA)
        world.renew()
        chain = _Chain(world, dtype, bench.samples)
        chain.grow()
        chain.measure()
        chain.check_store()
        chain.check_out()
        for method in SPARSIFIED:
            chain.sparsify(method)
        shutil.rmtree(world.folder)


def _shapes() -> Shapes:
    return {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), **layer_shapes("model.layers.0.", FEED_FORWARD)}


@dataclass(frozen=True)
class _Version:
    key: str
    commit: str
    digest: str


@dataclass
class _Chain:
    """Versions of one file, each a change of the one before."""

    world: World
    dtype: Dtype
    samples: Samples
    versions: list[_Version] = field(default_factory=list)
    adapter_bytes: int = 0

    def grow(self) -> None:
        """Make all versions, and commit them."""
        write_model(self.world.file, _shapes(), self.dtype)
        self.commit(NEW)
        later = self.world.folder / FILE
        for change in _CHANGES[self.dtype]:
            write_version(later, self.world.file, change, len(self.versions))
            os.replace(later, self.world.file)
            self.commit(change.key)
            if change is LORA:
                self.apply_adapter()

    def apply_adapter(self) -> None:
        """A LoRA again, which this time gittheta is told of."""
        folder = self.world.folder / ADAPTER
        self.adapter_bytes = write_adapter(folder, self.world.file, LORA.names, len(self.versions))
        self.world.git("theta", "apply", str(folder), FILE)
        self.commit(ADAPTER)

    def commit(self, key: str) -> None:
        """Add the file and commit it."""
        digest = sha256(self.world.file)
        self.world.git("add", FILE)
        self.world.expect_stored()
        self.world.commit(key)
        self.versions.append(_Version(key, self.world.git("rev-parse", "HEAD").decode().strip(), digest))

    def measure(self) -> None:
        """Take down what each version added to the store."""
        for version, row in zip(self.versions, self.usage("HEAD"), strict=True):
            if version.commit != row["commit"]:
                raise SystemExit(f"git theta du tells of {row['commit']} in place of {version.commit}")
            self.take(version.key, self.share(version.key, row), row["added"])

    def share(self, key: str, row: Mapping[str, Any]) -> float:
        """Of the changed tensors' bytes, or of the adapter's; of appended rows, beyond what they take by themselves."""
        added, changed = int(row["bytes_added"]), int(row["bytes_changed"])
        if key == ADAPTER:
            return added / self.adapter_bytes
        if key == APPENDED.key:
            added -= self.dense_rows()
        return added / changed

    def dense_rows(self) -> int:
        """Bytes that the appended rows take as a tensor of their own."""
        world = World(self.world.folder / "rows", THETA)
        world.renew()
        write_model(world.file, {"rows": (ROWS, HIDDEN)}, self.dtype)
        world.git("add", FILE)
        world.expect_stored()
        (tensor,) = json.loads(world.git("theta", "show", "--json", FILE))["tensors"]
        size: int = tensor["stored_bytes"]
        return size

    def take(self, key: str, value: float, added: Mapping[str, int]) -> None:
        """Add a sample, and by which encodings it came about."""
        row = size_key(key, self.dtype)
        self.samples.add(THETA.name, {row: value})
        self.samples.remarks[row] = "+".join(sorted(added, key=lambda name: -added[name]))

    def usage(self, revisions: str) -> list[dict[str, Any]]:
        """What ``git theta du`` tells, oldest first."""
        rows: list[dict[str, Any]] = json.loads(self.world.git("theta", "du", "--json", revisions, FILE))
        return rows

    def check_store(self) -> None:
        """Refuse to go on if the store is not as large as all versions together are said to be."""
        told = sum(row["bytes_added"] for row in self.usage("HEAD"))
        there = folder_bytes(self.world.repository / ".git" / "theta" / "objects")
        if not told <= there <= 1.001 * told + (1 << 12):
            raise SystemExit(f"git theta du tells of {told} bytes, but the store holds {there}")

    def check_out(self) -> None:
        """Refuse to go on if a version does not come back as it was."""
        for version in self.versions:
            self.world.git("checkout", "--quiet", version.commit)
            self.world.expect_file(version.digest)

    def sparsify(self, method: str) -> None:
        """Publish the fine-tune as a cheap update of the new model: so many times less than the model takes."""
        base, tuned = self.versions[:2]
        self.world.git("checkout", "--quiet", tuned.commit)
        self.world.git("theta", "sparsify", FILE, "--base", base.commit, "--method", method, "--density", "0.05")
        self.commit(method)
        dense, *_, update = self.usage("HEAD")
        self.take(method, dense["bytes_added"] / update["bytes_added"], update["added"])
        self.world.file.unlink()
        self.world.git("checkout", "--", FILE)
        self.world.expect_file(self.versions.pop().digest)
