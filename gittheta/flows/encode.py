"""From blocks to payloads: encode on the workers, check by decoding, pack in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property

from gittheta.api import Encoding
from gittheta.errors import PayloadError
from gittheta.flows.workspace import Workspace
from gittheta.model import Link, ObjectId, Recipe, Tensor, TensorSpec, digest_of, flat_spec
from gittheta.payload import frame_head
from gittheta.store import PackWriter, Spot, places

#: Raw bytes that may wait for the workers; with the tensor being read, this bounds memory.
IN_FLIGHT = 96 << 20


@dataclass
class Ticket:
    """A tensor on its way into the store; its recipe is known once the encoder has finished."""

    spec: TensorSpec
    encoding: str
    spots: list[Spot] = field(default_factory=list)
    names: list[ObjectId] = field(default_factory=list)
    #: The first object that holds this tensor alone, for tensors that are written before their digest is known.
    own_objects: int | None = None

    def recipe(self) -> Recipe:
        """How to rebuild the tensor."""
        return (Link(self.encoding, places(self.spots, self.names)),) if self.spots else ()


@dataclass
class _Frame:
    head: bytes
    body: bytes


class Encoder:
    """Takes tensors in file order. Nothing is in the store, under a name, before :meth:`finish`."""

    def __init__(self, workspace: Workspace) -> None:
        self._pool = workspace.pool
        self._registry = workspace.registry
        self._pack = PackWriter(workspace.store)
        self._queue: deque[tuple[Ticket, int, Future[_Frame]]] = deque()
        self._waiting = 0
        self._tickets: list[Ticket] = []

    @cached_property
    def _encoding(self) -> Encoding:
        """Loaded when there is something to encode: `git status` seldom has anything."""
        return self._registry.encoding("dense")

    def add(self, spec: TensorSpec, blocks: Iterable[memoryview]) -> Ticket:
        """A whole tensor at once."""
        ticket = Ticket(spec, self._encoding.name)
        self._tickets.append(ticket)
        for block in blocks:
            self.feed(ticket, block)
        return ticket

    def begin(self, spec: TensorSpec) -> Ticket:
        """A tensor too large to be held: blocks follow by :meth:`feed`, then :meth:`end` or :meth:`discard`."""
        self._drain(0)
        ticket = self.add(spec, ())
        ticket.own_objects = self._pack.cut()
        return ticket

    def feed(self, ticket: Ticket, block: memoryview) -> None:
        """The next block of a tensor. The memory must stay as it is until the encoder has finished."""
        while self._waiting and self._waiting + len(block) > IN_FLIGHT:
            self._collect()
        tensor = Tensor(flat_spec(ticket.spec, len(block)), block)
        future = self._pool.submit(_encode, self._encoding, tensor)
        self._queue.append((ticket, len(block), future))
        self._waiting += len(block)

    def end(self, ticket: Ticket) -> None:
        """No more blocks for a tensor that was begun."""
        self._drain(0)
        self._pack.cut()

    def discard(self, ticket: Ticket) -> None:
        """Forget a tensor that was begun: it turned out to be known."""
        self._drain(0)
        if ticket.own_objects is not None:
            self._pack.discard_from(ticket.own_objects)
        self._tickets.remove(ticket)

    def finish(self) -> None:
        """Make everything durable; tickets then have their recipes. Raises StoreError."""
        self._drain(0)
        names = self._pack.finish()
        for ticket in self._tickets:
            ticket.names = names

    def abort(self) -> None:
        """Leave nothing behind."""
        for _, _, future in self._queue:
            future.cancel()
        self._queue.clear()
        self._pack.abort()

    def _drain(self, limit: int) -> None:
        while self._waiting > limit:
            self._collect()

    def _collect(self) -> None:
        ticket, size, future = self._queue.popleft()
        frame = future.result()
        self._waiting -= size
        ticket.spots.append(self._pack.append((frame.head, frame.body)))


def _encode(encoding: Encoding, block: Tensor) -> _Frame:
    body = encoding.encode(block, None)
    if body is None:
        raise PayloadError(f"the encoding '{encoding.name}' does not apply", tensor=block.spec.name)
    digest = digest_of(block.data)
    # Lossless is a promise: what cannot be read back is never accepted.
    if digest_of(encoding.decode(memoryview(body), block.spec, None).data) != digest:
        raise PayloadError(
            f"the encoding '{encoding.name}' does not give back what it was given",
            tensor=block.spec.name,
            mend="this is a fault of the encoding; nothing was stored",
        )
    return _Frame(frame_head(body, len(block.data), digest), body)
