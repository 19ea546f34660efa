"""sparsify: replace a checkpoint of the work tree by a base plus its compressed task vector. Lossy, when asked for.

Of the task vector's elements the largest are kept (see ``taskvector``); all others become the base's again, bit by bit.

- ``topk``: what is kept keeps its exact bits.
- ``compeft``: what is kept moves from the base by the sign of its change times one scalar for the file, alpha times the
  standard deviation of the task vector (Yadav et al. 2023, https://arxiv.org/abs/2311.13171).

Infinite elements and NaNs keep their new bits. Memory: a few blocks, and one tensor of the base up to 64 MiB.
"""

from __future__ import annotations

import math
import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from gittheta.api import Format
from gittheta.errors import ConfigError, FormatError, GitError, ManifestError, StoreError, ThetaError
from gittheta.floats import has_arithmetic
from gittheta.flows.clean import SNIFF, check_layout
from gittheta.flows.materialise import manifest_text
from gittheta.flows.stream import ByteStream
from gittheta.flows.taskvector import Choice, Loss, Pair, TaskVector, check_scalar, sparse
from gittheta.flows.transfer import fetch_missing
from gittheta.flows.workspace import Workspace
from gittheta.model import Digest, Layout, Manifest
from gittheta.store import translated, write_all

METHODS = ("compeft", "topk")
_STEP = 1 << 20


@dataclass(frozen=True)
class Options:
    """What the user chose."""

    #: The revision whose version of the file is the base.
    base: str
    density: float = 0.05
    method: str = "compeft"
    #: ``compeft``: what the standard deviation of the task vector is multiplied by.
    alpha: float = 1.0
    #: Go on although the values are stored nowhere else.
    force: bool = False

    def check(self) -> None:
        """Raise ConfigError for a number without meaning."""
        if not 0 < self.density <= 1:
            raise ConfigError(
                f"the density is {self.density:g}", mend="a number above 0, and 1 at most: --density 0.05"
            )
        if not 0 < self.alpha < math.inf:
            raise ConfigError(f"alpha is {self.alpha:g}", mend="a number above 0; usual is --alpha 1")
        if self.method not in METHODS:
            raise ConfigError(f"no method is named '{self.method}'", mend=f"one of {', '.join(METHODS)}")


@dataclass(frozen=True)
class Report:
    """What was done. ``left`` counts the tensors that stayed whole, by reason; ``scalar`` is None for ``topk``."""

    scalar: float | None
    not_finite: int
    whole: Loss
    tensors: list[Loss]
    left: dict[str, int]


def sparsify(workspace: Workspace, path: str, options: Options) -> Report:
    """Replace a file of the work tree. Raises a ThetaError, and then the file is as it was."""
    options.check()
    top = workspace.repository.top
    if top is None:
        raise GitError("a bare repository has no files", mend="run it in a work tree")
    try:
        base = _base(workspace, path, options.base)
        with translated(top / path), _opened(top / path) as descriptor:
            work = _Work(workspace, path, top / path, descriptor, base)
            work.check_stored(options.force)
            fetch_missing(workspace, base)
            return work.run(options)
    except ThetaError as error:
        raise error.located(path=path) from None


def _base(workspace: Workspace, path: str, revision: str) -> Manifest:
    asked = ("rev-parse", "--verify", "-q", "--end-of-options", f"{revision}^{{commit}}")
    found = workspace.repository.git.attempt(*asked)
    if found.returncode:
        raise GitError(f"'{revision}' is no commit", mend="name a branch, a tag or a commit: --base REV")
    manifest = workspace.read_manifest(f"{found.stdout.decode().strip()}:{path}")
    if manifest is None:
        raise ManifestError(
            f"no checkpoint of that name in {revision}", mend=f"`git theta ls-files {revision}` lists them"
        )
    return manifest


@contextmanager
def _opened(target: Path) -> Iterator[int]:
    if manifest_text(target) is not None:
        raise ManifestError("only its manifest stands in the work tree", mend="run `git theta pull`")
    if not stat.S_ISREG(target.lstat().st_mode):
        raise StoreError("not a file of its own", mend="name the file itself, not a link or a folder")
    descriptor = os.open(target, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _layout(workspace: Workspace, descriptor: int, size: int) -> Layout:
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        stream = ByteStream(file)
        layout = _format(workspace, stream.peek(SNIFF)).split(stream.head())
    check_layout(layout)
    if layout.length != size:
        raise FormatError(f"the header promises {layout.length} bytes, but there are {size}")
    return layout


def _format(workspace: Workspace, head: bytes) -> Format:
    for name in workspace.registry.names("formats"):
        if (found := workspace.registry.format(name)).matches(head):
            return found
    raise FormatError("not a checkpoint of a known format", mend="`git theta plugins` lists the formats")


@dataclass
class _Work:
    """One file, compared with its base and written anew."""

    workspace: Workspace
    path: str
    target: Path
    descriptor: int
    base: Manifest
    pairs: list[Pair] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.before = os.fstat(self.descriptor)
        self.size = self.before.st_size
        stanzas = {stanza.spec.name: stanza for stanza in self.base.stanzas}
        for segment in _layout(self.workspace, self.descriptor, self.size).segments:
            spec, stanza = segment.spec, stanzas.get(segment.spec.name)
            if stanza is None:
                self.left["not in the base"] += 1
            elif stanza.spec != spec:
                self.left["of another dtype or shape in the base"] += 1
            elif not has_arithmetic(spec.dtype):
                self.left["not of floats"] += 1
            else:
                self.pairs.append(Pair(spec, segment.offset, stanza.digest, stanza.recipe))
        if not any(pair.spec.elements for pair in self.pairs):
            raise FormatError("it has no float tensor in common with the base", mend="choose another: --base REV")
        self.tau = TaskVector(self.workspace, self.pairs, self._read)

    def check_stored(self, force: bool) -> None:
        """What Git holds for the file must have the values that are about to go, unless ``force`` is set."""
        names = (f":0:{self.path}", f"HEAD:{self.path}")
        held = [self.base, *filter(None, map(self.workspace.try_manifest, names))]
        digests = {stanza.digest for manifest in held for stanza in manifest.stanzas}
        if all(self._digest(pair) in digests for pair in self.pairs):
            return
        what = "the values that it has now are stored nowhere else, and nothing gives them back"
        if not force:
            raise StoreError(what, mend="`git add` the file first, or use --force")
        self.workspace.reporter.warn(f"{self.path}: {what}")

    def _digest(self, pair: Pair) -> Digest:
        hashed = blake3(max_threads=blake3.AUTO)
        for data in self._parts(pair.offset, pair.offset + pair.spec.nbytes):
            hashed.update(data)
        return Digest(hashed.digest())

    def run(self, options: Options) -> Report:
        """Choose what is kept, then write it."""
        choice = self.tau.choose(options.density, options.alpha)
        if options.method == "compeft":
            check_scalar(choice)
        temporary = self.workspace.store.temporary()
        if temporary.parent.stat().st_dev != self.target.parent.stat().st_dev:
            temporary = self.target.with_name(f".{temporary.name}.gittheta")
        try:
            report = self._write(temporary, choice, options.method)
            os.chmod(temporary, stat.S_IMODE(self.before.st_mode))
            self._check_unchanged()
            os.replace(temporary, self.target)
        finally:
            temporary.unlink(missing_ok=True)
        return report

    def _check_unchanged(self) -> None:
        now = self.target.lstat()
        if (now.st_ino, now.st_size, now.st_mtime_ns) != (self.before.st_ino, self.size, self.before.st_mtime_ns):
            raise StoreError("the file was changed in the meantime, and is left like that", mend="run it again")

    def _write(self, temporary: Path, choice: Choice, method: str) -> Report:
        """Every byte of the file, the pairs made sparse."""
        losses = {pair.spec.name: Loss(pair.spec.name) for pair in self.pairs}
        scalar = choice.scalar if method == "compeft" else None
        at = not_finite = 0
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        try:
            for block in self.tau.blocks(f"Writing {self.path}"):
                self._copy(descriptor, at, block.offset)
                kept = choice.of(block)
                data = sparse(block, kept, scalar)
                write_all(descriptor, data)
                at = block.offset + len(data)
                not_finite += int((~block.finite).sum())
                losses[block.pair.spec.name].add(block, kept, data)
            self._copy(descriptor, at, self.size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        tensors = list(losses.values())
        return Report(scalar, not_finite, Loss.total(tensors), tensors, dict(self.left))

    def _copy(self, descriptor: int, begin: int, end: int) -> None:
        for data in self._parts(begin, end):
            write_all(descriptor, data)

    def _parts(self, begin: int, end: int) -> Iterator[bytes]:
        for at in range(begin, end, _STEP):
            yield self._read(at, min(_STEP, end - at))

    def _read(self, offset: int, length: int) -> bytes:
        data = os.pread(self.descriptor, length, offset)
        if len(data) < length:
            raise StoreError("the file became shorter while it was read", mend="run it again")
        return data
