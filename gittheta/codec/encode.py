"""From blocks to payloads: encode on the workers, check by decoding, pack in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain, repeat

from blake3 import blake3

from gittheta.api import Values
from gittheta.codec.chain import NOTHING
from gittheta.codec.choose import Candidate, Choice, Chooser, Estimate, Told
from gittheta.codec.decode import ahead
from gittheta.codec.encode_tensor import EncodedBlock, EncodedTensor, Work, encode_all, store_all
from gittheta.codec.spool import Held
from gittheta.errors import ObjectCorrupt, ObjectMissing, PayloadError
from gittheta.flows.workspace import Workspace
from gittheta.model import Digest, Link, ObjectId, Recipe, Tensor, TensorSpec, digest_of, flat_spec
from gittheta.storage.frames import frame_head
from gittheta.storage.packs import PackWriter, Spot, places

#: Raw bytes that may wait for the workers, besides WORKING for each of them; with the tensor being read, this bounds
#: memory.
IN_FLIGHT = 64 << 20
WORKING = 16 << 20
#: Blocks are handed to the workers in batches of at least so many bytes.
BATCH = 1 << 20
#: A changed tensor up to this size is one piece of work; of larger ones each block is.
WHOLE = 16 << 20


@dataclass
class Ticket:
    """A tensor on its way into the store; its recipe is known once the encoder has finished."""

    spec: TensorSpec
    choice: Choice
    spots: list[Spot] = field(default_factory=list)
    #: Where a predictor's payload lies, and the digest of what it predicts.
    told: Spot | None = None
    predicted: Digest | None = None
    names: list[ObjectId] = field(default_factory=list)
    #: Of each block that has been encoded.
    digests: list[Digest] = field(default_factory=list)
    #: The first object that holds this tensor alone, for tensors that are written before their digest is known.
    own_objects: int | None = None

    def recipe(self) -> Recipe:
        """How to rebuild the tensor."""
        if not self.spots:
            return ()
        candidate, told = self.choice.candidate, self.choice.told
        name, found = self.choice.encoding.name, places(self.spots, self.names)
        if candidate is None:
            return (Link(name, found),)
        if told is None or self.told is None:
            return (Link(name, found, (), candidate.digest), *candidate.recipe)
        payload = places([self.told], self.names)
        below = Link(told.predictor, payload, told.finding.parameters, candidate.digest)
        return (Link(name, found, (), self.predicted), below, *candidate.recipe)


class Encoder:
    """Takes tensors in file order. Nothing is in the store, under a name, before :meth:`finish`."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._pool = workspace.pool
        self._limit = IN_FLIGHT + WORKING * workspace.settings.threads
        self._pack = PackWriter(workspace.store)
        self._queue: deque[tuple[list[Ticket], int, Future[list[EncodedBlock | EncodedTensor]]]] = deque()
        self._batch: list[tuple[Ticket, Tensor, Digest | None]] = []
        self._changed: list[tuple[Ticket, Work]] = []
        self._batched = 0
        self._waiting = 0
        self._tickets: list[Ticket] = []

    @cached_property
    def _chooser(self) -> Chooser:
        """Made when there is something to encode: `git status` seldom has anything."""
        return Chooser(self._workspace)

    def add(
        self,
        spec: TensorSpec,
        blocks: Iterable[memoryview],
        digests: Iterable[Digest] = (),
        candidates: Sequence[Candidate] = (),
    ) -> Ticket:
        """A whole tensor at once, with the digests of its blocks if they are known already.

        ``candidates`` are stored tensors that it may have come from. The memory must stay as it is until the encoder
        has finished.
        """
        if self._chooser.has_choice(candidates):
            return self.add_changed(Held(spec, list(blocks)), candidates, list(digests))
        ticket = self._ticket(spec)
        for block, digest in zip(blocks, chain(digests, repeat(None)), strict=False):
            self.feed(ticket, block, digest)
        return ticket

    def add_changed(self, new: Values, candidates: Sequence[Candidate], digests: Sequence[Digest] = ()) -> Ticket:
        """A tensor that can be read in parts, and what it may have come from."""
        return self._add_work(self._ticket(new.spec), new, partial(self._chooser.choose, new, candidates), digests)

    def add_told(self, new: Values, candidate: Candidate, told: Told) -> Ticket:
        """A tensor of which it is known how it came of another."""
        return self._add_work(self._ticket(new.spec), new, partial(self._chooser.given, new, candidate, told), ())

    def _ticket(self, spec: TensorSpec) -> Ticket:
        ticket = Ticket(spec, self._chooser.plain)
        self._tickets.append(ticket)
        return ticket

    def _add_work(
        self, ticket: Ticket, new: Values, choose: Callable[[], tuple[Estimate, ...]], digests: Sequence[Digest]
    ) -> Ticket:
        work = Work(new, choose, digests)
        size = new.spec.nbytes
        if size > WHOLE:
            self._store_large(ticket, work)
            return ticket
        if self._batch:
            self._submit()
        self._make_room(size)
        self._changed.append((ticket, work))
        self._waiting += size
        self._batched += size
        if self._batched >= BATCH:
            self._submit()
        return ticket

    def _store_large(self, ticket: Ticket, work: Work) -> None:
        """Block by block on all workers, without anything else in flight."""
        self._drain()
        *ways, last = self._pool.submit(work.choose).result()
        for way in ways:
            start = self._pack.cut()
            try:
                self._append_large(ticket, work, way.choice)
                return
            except (PayloadError, ObjectMissing, ObjectCorrupt) as error:  # of the encoding, or of the base
                self._workspace.reporter.trace(f"{error.located(tensor=ticket.spec.name)}")
                self._pack.discard_from(start)
        self._append_large(ticket, work, last.choice)

    def _append_large(self, ticket: Ticket, work: Work, choice: Choice) -> None:
        ticket.spots.clear()
        ticket.digests.clear()
        self._accept(ticket, choice)
        hashed = blake3()
        jobs = ((end - begin, partial(work.encode, choice, begin, end)) for begin, end in work.ranges())
        for frame, predicted in ahead(self._pool.submit, jobs):
            self._append(ticket, frame)
            if predicted is not None:
                hashed.update(predicted)
        ticket.predicted = Digest(hashed.digest())

    def begin(self, spec: TensorSpec) -> Ticket:
        """A tensor too large to be held: blocks follow by :meth:`feed`, then :meth:`end` or :meth:`discard`."""
        self._drain()
        ticket = self._ticket(spec)
        ticket.own_objects = self._pack.cut()
        return ticket

    def feed(self, ticket: Ticket, block: memoryview, digest: Digest | None = None) -> None:
        """The next block of a tensor, with its digest if that is known already.

        The memory must stay as it is until the encoder has finished.
        """
        if self._changed:
            self._submit()
        self._make_room(len(block))
        self._batch.append((ticket, Tensor(flat_spec(ticket.spec, len(block)), block.toreadonly()), digest))
        self._waiting += len(block)
        self._batched += len(block)
        if self._batched >= BATCH:
            self._submit()

    def _make_room(self, size: int) -> None:
        while self._queue and self._waiting + size > self._limit:
            self._collect()

    def _submit(self) -> None:
        """Hand what has gathered to a worker: small pieces together, because each handing over costs."""
        if self._batch:
            tickets = [ticket for ticket, _, _ in self._batch]
            blocks = [(block, digest) for _, block, digest in self._batch]
            self._queue.append((tickets, self._batched, self._pool.submit(encode_all, self._chooser.plain, blocks)))
        if self._changed:
            tickets = [ticket for ticket, _ in self._changed]
            works = [work for _, work in self._changed]
            self._queue.append((tickets, self._batched, self._pool.submit(store_all, works)))
        self._batch, self._changed, self._batched = [], [], 0

    def end(self) -> None:
        """No more blocks for a tensor that was begun."""
        self._drain()
        self._pack.cut()

    def discard(self, ticket: Ticket) -> None:
        """Forget a tensor that was begun: it turned out to be known."""
        self._drain()
        if ticket.own_objects is not None:
            self._pack.discard_from(ticket.own_objects)
        self._tickets.remove(ticket)

    def finish(self) -> None:
        """Make everything durable; tickets then have their recipes. Raises StoreError."""
        self._drain()
        names = self._pack.finish()
        for ticket in self._tickets:
            ticket.names = names

    def abort(self) -> None:
        """Leave nothing behind."""
        for _, _, future in self._queue:
            future.cancel()
        self._queue.clear()
        self._pack.abort()

    def _drain(self) -> None:
        self._submit()
        while self._queue:
            self._collect()

    def _collect(self) -> None:
        tickets, size, future = self._queue.popleft()
        self._waiting -= size
        for ticket, result in zip(tickets, future.result(), strict=True):
            if isinstance(result, EncodedBlock):
                self._append(ticket, result)
                continue
            if result.complaint:
                self._workspace.reporter.trace(f"tensor '{ticket.spec.name}': {result.complaint}")
            self._accept(ticket, result.choice)
            ticket.predicted = result.predicted
            for frame in result.frames:
                self._append(ticket, frame)

    def _accept(self, ticket: Ticket, choice: Choice) -> None:
        told = choice.told
        # Neither values of any tensor nor the payload may stay in memory as long as the ticket does.
        kept = replace(told, finding=replace(told.finding, payload=b"")) if told else None
        candidate = replace(choice.candidate, at_hand=NOTHING) if choice.candidate else None
        ticket.choice = replace(choice, candidate=candidate, base=None, told=kept)
        if told:
            payload = told.finding.payload
            ticket.told = self._pack.append((frame_head(payload, len(payload), digest_of(payload)), payload))

    def _append(self, ticket: Ticket, frame: EncodedBlock) -> None:
        ticket.spots.append(self._pack.append((frame.head, frame.body)))
        ticket.digests.append(frame.digest)
