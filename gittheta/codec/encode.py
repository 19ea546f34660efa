"""Put tensors into the store: encode them on the workers, check by decoding, pack them in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from gittheta.codec.chain import NOTHING
from gittheta.codec.choose import BaseCandidate, Chooser, Derivation, EncodingChoice, Estimate
from gittheta.codec.damage import doubt
from gittheta.codec.encode_tensor import EncodedBlock, EncodedTensor, Work
from gittheta.errors import ObjectCorrupt, ObjectMissing, ObjectUnreadable, PayloadError, ThetaError
from gittheta.model import Digest, Link, ObjectId, Recipe, RunningDigest, TensorSpec, digest_of
from gittheta.pipeline import in_order
from gittheta.runtime import lazy
from gittheta.storage.frames import frame_head
from gittheta.storage.packs import PackWriter, PendingPlace, places

if TYPE_CHECKING:
    from gittheta.api import TensorReader
    from gittheta.codec.tensor_store import TensorStore


@dataclass
class PendingTensor:
    """A tensor on its way into the store; :meth:`recipe` is complete once the encoder has finished."""

    spec: TensorSpec
    choice: EncodingChoice
    places: list[PendingPlace] = field(default_factory=list)
    #: Where a predictor's payload lies, and the digest of the tensor as predicted.
    derived_at: PendingPlace | None = None
    predicted: Digest | None = None
    #: Names of the objects, in the order in which they were packed.
    names: list[ObjectId] = field(default_factory=list)

    def recipe(self) -> Recipe:
        """The tensor's recipe; only after :meth:`Encoder.finish`."""
        if not self.places:
            return ()
        candidate, derivation = self.choice.candidate, self.choice.derivation
        name, blocks = self.choice.encoding.name, places(self.places, self.names)
        if candidate is None:
            return (Link(name, blocks),)
        if derivation is None or self.derived_at is None:
            return (Link(name, blocks, (), candidate.digest), *candidate.recipe)
        payload = places([self.derived_at], self.names)
        below = Link(derivation.predictor, payload, derivation.finding.parameters, candidate.digest)
        return (Link(name, blocks, (), self.predicted), below, *candidate.recipe)


#: Work for one worker: it encodes a tensor, or a block of one.
_Job = Callable[[], EncodedTensor | EncodedBlock]


class Encoder:
    """Takes tensors one after the other and packs them in that order. For one thread.

    No object is complete in the store before :meth:`finish`. Call :meth:`abort` at the end in any case.
    """

    def __init__(self, tensors: TensorStore) -> None:
        self._tensors = tensors
        self._limits = tensors.limits
        self._room = tensors.limits.in_flight + tensors.limits.per_worker * tensors.threads
        self._pack = PackWriter(tensors.store, tensors.limits.object_size)
        #: Batches that the workers are encoding, and their bytes.
        self._queue: deque[tuple[list[PendingTensor], int, Future[list[EncodedTensor | EncodedBlock]]]] = deque()
        self._queued = 0
        #: The next batch.
        self._batch: list[tuple[PendingTensor, _Job]] = []
        self._batched = 0
        self._pending: list[PendingTensor] = []

    @lazy
    def _chooser(self) -> Chooser:
        """Made on first use, because `git status` seldom encodes anything."""
        return Chooser(self._tensors)

    def add(
        self,
        new: TensorReader,
        digests: Sequence[Digest] = (),
        candidates: Sequence[BaseCandidate] = (),
        derivation: Derivation | None = None,
    ) -> PendingTensor:
        """Store a tensor. The bytes that ``new`` returns must not change until the encoder has finished.

        ``digests`` are the digests of its blocks, if known; ``candidates`` are stored tensors that may serve as its
        base; ``derivation`` says how to compute it from the first candidate, if known. Raises ThetaError, also for
        tensors that were added before.
        """
        pending = PendingTensor(new.spec, self._chooser.plain)
        self._pending.append(pending)
        work = Work(new, digests, self._limits.block_bytes(new.spec.dtype))
        if derivation is not None:
            self._add_changed(pending, work, partial(self._chooser.derived, new, candidates[0], derivation))
        elif self._chooser.has_choice(candidates):
            self._add_changed(pending, work, partial(self._chooser.choose, new, candidates))
        else:
            for begin, end in work.ranges():
                self._put(pending, partial(work.encode_block, pending.choice, begin, end), end - begin)
        return pending

    def _add_changed(self, pending: PendingTensor, work: Work, choose: Callable[[], tuple[Estimate, ...]]) -> None:
        size = work.new.spec.nbytes
        if size > self._limits.whole_tensor:
            self._store_large(pending, work, choose)
        else:
            self._put(pending, partial(work.encode_smallest, choose), size)

    def _put(self, pending: PendingTensor, job: _Job, size: int) -> None:
        """Hand a job to the workers, small jobs together in batches; ``size`` is in bytes."""
        while self._queue and self._queued + self._batched + size > self._room:
            self._collect()
        self._batch.append((pending, job))
        self._batched += size
        if self._batched >= self._limits.encode_batch:
            self._submit()

    def _submit(self) -> None:
        if not self._batch:
            return
        owners, jobs = [pending for pending, _ in self._batch], [job for _, job in self._batch]
        self._queue.append((owners, self._batched, self._tensors.workers.submit(_run, jobs)))
        self._queued += self._batched
        self._batch, self._batched = [], 0

    def _collect(self) -> None:
        owners, size, future = self._queue.popleft()
        self._queued -= size
        for pending, result in zip(owners, future.result(), strict=True):
            if isinstance(result, EncodedBlock):
                self._append(pending, result)
                continue
            for choice, error in result.complaints:
                self._complain(pending, choice, error)
            self._accept(pending, result.choice)
            pending.predicted = result.predicted
            for frame in result.frames:
                self._append(pending, frame)

    def _complain(self, pending: PendingTensor, choice: EncodingChoice, error: ThetaError) -> None:
        self._tensors.reporter.trace(f"{error.located(tensor=pending.spec.name)}")
        if choice.candidate is not None:
            doubt(self._tensors, choice.candidate.recipe, error)

    def _drain(self) -> None:
        self._submit()
        while self._queue:
            self._collect()

    def _store_large(self, pending: PendingTensor, work: Work, choose: Callable[[], tuple[Estimate, ...]]) -> None:
        """Encode a tensor block by block on all workers, after all other work is done."""
        self._drain()
        *ways, last = self._tensors.workers.submit(choose).result()
        for way in ways:
            start = self._pack.cut()
            try:
                self._append_large(pending, work, way.choice)
                return
            except (PayloadError, ObjectMissing, ObjectCorrupt, ObjectUnreadable) as error:
                # From the encoding, or from reading the base.
                self._complain(pending, way.choice, error)
                self._pack.discard_from(start)
        self._append_large(pending, work, last.choice)

    def _append_large(self, pending: PendingTensor, work: Work, choice: EncodingChoice) -> None:
        pending.places.clear()
        self._accept(pending, choice)
        predicted = RunningDigest()
        jobs = ((end - begin, partial(work.encode_block, choice, begin, end)) for begin, end in work.ranges())
        for frame in in_order(self._tensors.workers, jobs, self._limits.decoded_ahead):
            self._append(pending, frame)
            if frame.predicted is not None:
                predicted.update(frame.predicted)
        pending.predicted = predicted.digest()

    def _accept(self, pending: PendingTensor, choice: EncodingChoice) -> None:
        derivation = choice.derivation
        # The choice lives until the recipe is read, so it must hold neither tensors nor the payload.
        kept = replace(derivation, finding=replace(derivation.finding, payload=b"")) if derivation else None
        candidate = replace(choice.candidate, at_hand=NOTHING) if choice.candidate else None
        pending.choice = replace(choice, candidate=candidate, base=None, derivation=kept)
        if derivation:
            payload = derivation.finding.payload
            head = frame_head(payload, len(payload), digest_of(payload))
            pending.derived_at = self._pack.append((head, payload))

    def _append(self, pending: PendingTensor, frame: EncodedBlock) -> None:
        pending.places.append(self._pack.append((frame.head, frame.body)))

    def finish(self) -> None:
        """Make all objects durable; pending tensors then have their recipes. Raises ThetaError."""
        self._drain()
        names = self._pack.finish()
        for pending in self._pending:
            pending.names = names

    def abort(self) -> None:
        """Remove everything except what :meth:`finish` has made durable."""
        for _, _, future in self._queue:
            future.cancel()
        self._queue.clear()
        self._pack.abort()


def _run(jobs: list[_Job]) -> list[EncodedTensor | EncodedBlock]:
    return [job() for job in jobs]
