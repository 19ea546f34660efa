"""sparsify: replace a checkpoint of the work tree by a base plus its compressed task vector. Lossy, when asked for.

Of the task vector's elements the largest are kept (see ``taskvector``); all others become the base's again, bit by bit.

- ``topk``: what is kept keeps its exact bits.
- ``compeft``: what is kept moves from the base by the sign of its change times one scalar for the file, alpha times the
  standard deviation of the task vector (Yadav et al. 2023, https://arxiv.org/abs/2311.13171).

Infinite elements and NaNs keep their new bits. Memory: a few blocks, and one tensor of the base up to 64 MiB.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gittheta.codec.choose import BaseCandidate
from gittheta.codec.readers import FileReader, digest_reader
from gittheta.errors import ConfigError, FormatError, GitError, ManifestError, StoreError, ThetaError
from gittheta.flows.edit.prestore import KnownOrigin, prestore
from gittheta.flows.edit.task_vector import Loss, Pair, Selection, TaskVector, check_scalar, sparse
from gittheta.flows.edit.workfile import WorkFile
from gittheta.flows.transfer.fetch import fetch_missing
from gittheta.git.refs.names import commit_of
from gittheta.numerics.floats import has_arithmetic

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.model import Digest, Manifest

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
                f"the density is {self.density:g}", hint="a number above 0, and 1 at most: --density 0.05"
            )
        if not 0 < self.alpha < math.inf:
            raise ConfigError(f"alpha is {self.alpha:g}", hint="a number above 0; usual is --alpha 1")
        if self.method not in METHODS:
            raise ConfigError(f"no method is named '{self.method}'", hint=f"one of {', '.join(METHODS)}")


@dataclass(frozen=True)
class SparsifyReport:
    """What was done. ``left`` counts the tensors that stayed whole, by reason; ``scalar`` is None for ``topk``."""

    scalar: float | None
    not_finite: int
    whole: Loss
    tensors: list[Loss]
    left: dict[str, int]


def sparsify(workspace: Workspace, path: str, options: Options) -> SparsifyReport:
    """Replace a file of the work tree. Raises a ThetaError, and then the file is as it was."""
    options.check()
    top = workspace.repository.top
    if top is None:
        raise GitError("a bare repository has no files", hint="run it in a work tree")
    try:
        base = _base(workspace, path, options.base)
        with WorkFile.opened(workspace, top / path) as work:
            sparsifying = _Sparsifying(workspace, path, work, base)
            sparsifying.check_stored(force=options.force)
            fetch_missing(workspace, base)
            return sparsifying.run(options)
    except ThetaError as error:
        raise error.located(path=path) from None


def _base(workspace: Workspace, path: str, revision: str) -> Manifest:
    commit = commit_of(workspace.repository, revision)
    manifest = workspace.read_manifest(f"{commit}:{path}")
    if manifest is None:
        raise ManifestError(
            f"no checkpoint of that name in {revision}", hint=f"`git theta ls-files {revision}` lists them"
        )
    return manifest


@dataclass
class _Sparsifying:
    """One file, compared with its base and written anew."""

    workspace: Workspace
    path: str
    work: WorkFile
    base: Manifest
    pairs: list[Pair] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        stanzas = {stanza.spec.name: stanza for stanza in self.base.stanzas}
        for segment in self.work.file.layout.segments:
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
            raise FormatError("it has no float tensor in common with the base", hint="choose another: --base REV")
        self.tau = TaskVector(self.workspace.tensors, self.pairs, self.work.file.read)

    def check_stored(self, *, force: bool) -> None:
        """What Git holds for the file must have the values that are about to go, unless ``force`` is set."""
        names = (f":0:{self.path}", f"HEAD:{self.path}")
        held = [self.base, *filter(None, map(self.workspace.try_manifest, names))]
        digests = {stanza.digest for manifest in held for stanza in manifest.stanzas}
        if all(self._digest(pair) in digests for pair in self.pairs):
            return
        what = "the values that it has now are stored nowhere else, and nothing gives them back"
        if not force:
            raise StoreError(what, hint="`git add` and commit the file first, or use --force")
        self.workspace.reporter.warn(f"{self.path}: {what}")

    def _digest(self, pair: Pair) -> Digest:
        return digest_reader(
            FileReader(pair.spec, self.work.file.descriptor, pair.offset), self.workspace.tensors.limits
        )

    def run(self, options: Options) -> SparsifyReport:
        """Choose what is kept, then write it."""
        choice = self.tau.choose(options.density, options.alpha)
        if options.method == "compeft":
            check_scalar(choice)
        losses = {pair.spec.name: Loss(pair.spec.name) for pair in self.pairs}
        scalar = choice.scalar if options.method == "compeft" else None
        infinite: list[int] = []
        self.work.replace(self._parts(choice, scalar, losses, infinite), self._prestore)
        tensors = list(losses.values())
        return SparsifyReport(scalar, sum(infinite), Loss.total(tensors), tensors, dict(self.left))

    def _parts(
        self, choice: Selection, scalar: float | None, losses: dict[str, Loss], infinite: list[int]
    ) -> Iterator[bytes | memoryview]:
        """Every byte of the new file, the pairs made sparse; what is lost is counted on the way."""
        at = 0
        for block in self.tau.blocks(f"Writing {self.path}"):
            yield from self.work.file.copy(at, block.offset)
            kept = choice.of(block)
            data = sparse(block, kept, scalar)
            yield data
            at = block.offset + len(data)
            infinite.append(int((~block.finite).sum()))
            losses[block.pair.spec.name].add(block, kept, data)
        yield from self.work.file.copy(at, self.work.file.layout.length)

    def _prestore(self, written: int) -> None:
        """Store what was made over what it was made from, whatever HEAD holds when it is added."""
        pairs = (pair for pair in self.pairs if pair.recipe)
        bases = ((pair, BaseCandidate(pair.spec, pair.digest, pair.recipe)) for pair in pairs)
        new = (KnownOrigin(FileReader(pair.spec, written, pair.offset), base) for pair, base in bases)
        prestore(self.workspace.tensors, new)
