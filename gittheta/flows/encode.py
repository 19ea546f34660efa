"""From blocks to payloads: encode on the workers, check by decoding, pack in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, repeat

from gittheta.api import Encoding
from gittheta.errors import PayloadError
from gittheta.flows.workspace import Workspace
from gittheta.model import Digest, Link, ObjectId, Recipe, Tensor, TensorSpec, digest_of, flat_spec
from gittheta.payload import MAX_OVERHEAD, frame_head
from gittheta.store import PackWriter, Spot, places

#: Raw bytes that may wait for the workers; with the tensor being read, this bounds memory.
IN_FLIGHT = 96 << 20
#: Blocks are handed to the workers in batches of at least so many bytes.
BATCH = 1 << 20


@dataclass
class Ticket:
    """A tensor on its way into the store; its recipe is known once the encoder has finished."""

    spec: TensorSpec
    encoding: str
    spots: list[Spot] = field(default_factory=list)
    names: list[ObjectId] = field(default_factory=list)
    #: Of each block that has been encoded.
    digests: list[Digest] = field(default_factory=list)
    #: The first object that holds this tensor alone, for tensors that are written before their digest is known.
    own_objects: int | None = None

    def recipe(self) -> Recipe:
        """How to rebuild the tensor."""
        return (Link(self.encoding, places(self.spots, self.names)),) if self.spots else ()


@dataclass
class _Frame:
    head: bytes
    body: bytes
    digest: Digest


class Encoder:
    """Takes tensors in file order. Nothing is in the store, under a name, before :meth:`finish`."""

    def __init__(self, workspace: Workspace) -> None:
        self._pool = workspace.pool
        self._registry = workspace.registry
        self._pack = PackWriter(workspace.store)
        self._queue: deque[tuple[list[Ticket], int, Future[list[_Frame]]]] = deque()
        self._batch: list[tuple[Ticket, Tensor, Digest | None]] = []
        self._batched = 0
        self._waiting = 0
        self._tickets: list[Ticket] = []

    @cached_property
    def _encoding(self) -> Encoding:
        """Loaded when there is something to encode: `git status` seldom has anything."""
        return self._registry.encoding("dense")

    def add(self, spec: TensorSpec, blocks: Iterable[memoryview], digests: Iterable[Digest] = ()) -> Ticket:
        """A whole tensor at once, with the digests of its blocks if they are known already."""
        ticket = Ticket(spec, self._encoding.name)
        self._tickets.append(ticket)
        for block, digest in zip(blocks, chain(digests, repeat(None)), strict=False):
            self.feed(ticket, block, digest)
        return ticket

    def begin(self, spec: TensorSpec) -> Ticket:
        """A tensor too large to be held: blocks follow by :meth:`feed`, then :meth:`end` or :meth:`discard`."""
        self._drain()
        ticket = self.add(spec, ())
        ticket.own_objects = self._pack.cut()
        return ticket

    def feed(self, ticket: Ticket, block: memoryview, digest: Digest | None = None) -> None:
        """The next block of a tensor, with its digest if that is known already.

        The memory must stay as it is until the encoder has finished.
        """
        while self._queue and self._waiting + len(block) > IN_FLIGHT:
            self._collect()
        self._batch.append((ticket, Tensor(flat_spec(ticket.spec, len(block)), block), digest))
        self._waiting += len(block)
        self._batched += len(block)
        if self._batched >= BATCH:
            self._submit()

    def _submit(self) -> None:
        """Hand the blocks that have gathered to a worker: small ones together, because each handing over costs."""
        if self._batch:
            tickets = [ticket for ticket, _, _ in self._batch]
            blocks = [(block, digest) for _, block, digest in self._batch]
            future = self._pool.submit(_encode_all, self._encoding, blocks)
            self._queue.append((tickets, self._batched, future))
            self._batch, self._batched = [], 0

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
        for ticket, frame in zip(tickets, future.result(), strict=True):
            ticket.spots.append(self._pack.append((frame.head, frame.body)))
            ticket.digests.append(frame.digest)


def _encode_all(encoding: Encoding, blocks: list[tuple[Tensor, Digest | None]]) -> list[_Frame]:
    return [_encode(encoding, block, digest or digest_of(block.data)) for block, digest in blocks]


def _encode(encoding: Encoding, block: Tensor, digest: Digest) -> _Frame:
    body = encoding.encode(block, None)
    if body is None or len(body) > len(block.data) + MAX_OVERHEAD:
        raise PayloadError(f"the encoding '{encoding.name}' does not apply", tensor=block.spec.name)
    # Lossless is a promise: what cannot be read back is never accepted.
    if not _same(encoding.decode(memoryview(body), block.spec, None).data, block.data):
        raise PayloadError(
            f"the encoding '{encoding.name}' does not give back what it was given",
            tensor=block.spec.name,
            mend="this is a fault of the encoding; nothing was stored",
        )
    return _Frame(frame_head(body, len(block.data), digest), body, digest)


def _same(one: memoryview, other: memoryview) -> bool:
    """Whether two runs of bytes are equal; several times as fast as to digest one of them."""
    import numpy as np

    return np.array_equal(np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8))
