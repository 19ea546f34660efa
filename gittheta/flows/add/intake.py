"""The tensors of one file on their way in: compared with what is stored, digested, and encoded where they are new."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain, cycle, repeat

from blake3 import blake3

from gittheta.codec.chain import Frame
from gittheta.codec.choose import Candidate
from gittheta.codec.decode import HOLD, Decoder
from gittheta.codec.encode import Encoder, Ticket
from gittheta.codec.spool import Spool
from gittheta.codec.stream import ByteStream, rechunked
from gittheta.errors import StoreError
from gittheta.flows.add.bases import Bases
from gittheta.flows.add.stored import Recall, Stored
from gittheta.flows.workspace import Workspace
from gittheta.model import (
    EMPTY_DIGEST,
    RAW,
    SKELETON,
    Digest,
    Stanza,
    TensorSpec,
    block_bytes,
    digest_of,
    flat_spec,
    recipe_keys,
)

#: Blocks that are read ahead of their digests while a file is compared with what is stored.
_BUFFERS = 4
#: Bytes that may wait for their digests; few enough to stay in the processor's cache.
_WAITING = 16 << 20
#: Tensors below this size are digested sooner than a worker could be asked to.
_SMALL = 1 << 17


@dataclass(frozen=True)
class Digests:
    """Of a tensor, and of each of its blocks."""

    whole: Digest
    blocks: tuple[Digest, ...]


_NO_BYTES = Digests(EMPTY_DIGEST, ())


@dataclass
class Piece:
    """A tensor on its way in. ``found`` is where it is stored already, or the ticket under which it is being stored.

    Until the digest is known, ``digesting`` yields it, or ``digests`` has it, and ``blocks`` hold the bytes.
    """

    spec: TensorSpec
    skip: int
    digest: Digest = EMPTY_DIGEST
    found: Stanza | Ticket | None = None
    digests: Digests = field(default_factory=lambda: _NO_BYTES)
    digesting: Future[Digests] | None = None
    blocks: list[memoryview] = field(default_factory=list)

    def stanza(self) -> Stanza:
        """The piece as it stands in the manifest."""
        if isinstance(self.found, Stanza):
            return self.found
        recipe = self.found.recipe() if self.found else ()
        if self.spec.nbytes and not recipe:
            raise StoreError("the tensor was read but not stored; nothing was added", tensor=self.spec.name)
        return Stanza(self.spec, self.digest, recipe, self.skip)

    def renamed(self, offset: int) -> Piece:
        """The same bytes as a piece of an opaque file."""
        spec = TensorSpec(str(offset), self.spec.dtype, self.spec.shape)  # which a recipe may need
        found = Stanza(spec, self.digest, self.found.recipe) if isinstance(self.found, Stanza) else self.found
        return Piece(spec, 0, self.digest, found)


class Intake:
    """Takes tensors from a stream, in file order; ``pieces`` are complete after :meth:`finish`."""

    def __init__(self, workspace: Workspace, stream: ByteStream, recall: Recall, bases: Bases) -> None:
        self.pieces: list[Piece] = []
        #: Whether every frame that the result relies on was written here, or compared with its block.
        self.compared = True
        self._workspace = workspace
        self._stream = stream
        self._recall = recall
        self._bases = bases
        self._encoder = Encoder(workspace)
        self._tickets: dict[Digest, Ticket] = {}
        self._waiting: deque[Piece] = deque()
        self._waiting_bytes = 0
        self._buffers = [memoryview(b"")]

    def finish(self) -> None:
        """Make what is new durable. Raises StoreError."""
        self.settle()
        self._workspace.reporter.trace(f"{len(self.pieces)} tensors read, {len(self._tickets)} of them new")
        with self._workspace.timed("making their objects durable"):
            self._encoder.finish()

    def abort(self) -> None:
        """Leave nothing behind, unless all is finished."""
        self._encoder.abort()

    def bytes(self, spec: TensorSpec, data: bytearray | memoryview) -> Piece:
        """A tensor that was read already."""
        size = block_bytes(spec.dtype)
        return self._hold(spec, [memoryview(data)[at : at + size] for at in range(0, len(data), size)], 0)

    def tensor(self, spec: TensorSpec, skip: int) -> bool:
        """Read one tensor. Says whether all of it was there; what was there is kept in any case.

        As long as it agrees, block by block, with a stored tensor, nothing is held and nothing encoded. Where they
        part, what agreed is read back from the store.
        """
        block_size = block_bytes(spec.dtype)
        stored = self._recall.comparable(spec) if spec.nbytes > block_size else None
        if stored is None and spec.nbytes > HOLD:
            stored = self._recall.opening(spec, digest_of(self._stream.peek(block_size)))
        blocks = self._stream.blocks(spec.nbytes, block_size)
        if stored is not None:
            agreed, rest = self._agreement(stored)
            if agreed == len(stored.frames):
                found = self._recall.stanza(spec, stored.digest, skip)
                found = found or Stanza(spec, stored.digest, stored.recipe, skip)
                self._add(Piece(spec, skip, stored.digest, found))
                return True
            again = Decoder(self._workspace).first_blocks(spec, stored.recipe, agreed)
            done = sum(frame.head.raw for frame in stored.frames[:agreed]) + sum(map(len, rest))
            blocks = rechunked(chain(again, rest, self._stream.blocks(spec.nbytes - done, block_size)), block_size)
        if spec.nbytes > HOLD:
            candidates = self._bases.of(spec)
            return self._spooled(spec, blocks, skip, candidates) if candidates else self._streamed(spec, blocks, skip)
        held = list(blocks)
        if sum(map(len, held)) == spec.nbytes:
            self._hold(spec, held, skip)
            return True
        held[-1:], odd = _split_odd(spec, held[-1:])
        self._hold(flat_spec(spec, sum(map(len, held))), held, skip)
        self._hold(raw_spec(0, len(odd)), [odd], 0)
        return False

    def _agreement(self, stored: Stored) -> tuple[int, list[memoryview]]:
        """How many of the next blocks are those of a stored tensor, and those that were read but are not.

        Blocks are read into a few buffers in turn, which stay in the processor's cache, and digested on the workers.
        """
        longest = max(frame.head.raw for frame in stored.frames)
        if len(self._buffers[0]) < longest:
            self._buffers = [memoryview(bytearray(longest)) for _ in range(_BUFFERS)]
        buffers = cycle(self._buffers)
        reading: deque[tuple[Frame, memoryview, Future[Digest]]] = deque()
        agreed = 0
        for frame in chain(stored.frames, repeat(None)):
            if frame is None or len(reading) == _BUFFERS:
                if not reading:
                    break
                expected, block, digesting = reading.popleft()
                if len(block) != expected.head.raw or digesting.result() != expected.head.digest:
                    return agreed, [memoryview(bytes(left)) for left in (block, *(entry[1] for entry in reading))]
                agreed += 1
            if frame is not None:
                buffer = next(buffers)[: frame.head.raw]
                block = buffer[: self._stream.fill(buffer)]
                reading.append((frame, block, self._workspace.digesters.submit(digest_of, block)))
        return agreed, []

    def _hold(self, spec: TensorSpec, blocks: list[memoryview], skip: int) -> Piece:
        """A tensor whose bytes are all in memory: digested, on a worker if that pays, and stored later if it is new."""
        piece = Piece(spec, skip, blocks=blocks)
        if spec.nbytes < _SMALL:
            piece.digests = _digests(blocks)
        else:
            piece.digesting = self._workspace.digesters.submit(_digests, blocks)
        self._add(piece)
        self._waiting.append(piece)
        self._waiting_bytes += spec.nbytes
        self.settle(_WAITING)
        return piece

    def _spooled(
        self, spec: TensorSpec, blocks: Iterator[memoryview], skip: int, candidates: tuple[Candidate, ...]
    ) -> bool:
        """A tensor too large to hold that may have come from another: kept in a file until it is stored."""
        self.settle()
        spool = Spool(self._workspace.store, spec)
        try:
            hashed = blake3(max_threads=blake3.AUTO)
            digests = []
            for block in blocks:
                hashed.update(block)
                digests.append(digest_of(block))
                spool.append(block)
            if spool.size < spec.nbytes:
                # Cut short: what is there is a part of an opaque file.
                whole = spool.size * 8 // spec.dtype.bits * spec.dtype.bits // 8
                self._streamed(spec, spool.blocks(0, whole), skip)
                if whole < spool.size:
                    odd = spool.read(whole, spool.size)
                    self._hold(raw_spec(0, len(odd)), [odd], 0)
                return False
            piece = Piece(spec, skip, Digest(hashed.digest()))
            piece.found = self._find(piece, digests)
            if piece.found is None:
                piece.found = self._encoder.add_changed(spool, candidates, digests)
                self._tickets[recipe_keys(piece.digest, spec)[1]] = piece.found
            self._add(piece)
        finally:
            spool.close()
        return True

    def _streamed(self, spec: TensorSpec, blocks: Iterator[memoryview], skip: int) -> bool:
        """A tensor too large to hold: encoded as it comes, and forgotten again if it turns out to be known."""
        self.settle()
        hashed = blake3(max_threads=blake3.AUTO)
        size = 0
        ticket = self._encoder.begin(spec)
        odd = memoryview(b"")
        for taken in blocks:
            whole, odd = _split_odd(spec, [taken])
            for block in whole:
                hashed.update(block)
                size += len(block)
                self._encoder.feed(ticket, block)
        complete = size == spec.nbytes
        piece = Piece(spec if complete else flat_spec(spec, size), skip, Digest(hashed.digest()))
        self._encoder.end()
        piece.found = self._find(piece, ticket.digests)
        if piece.found or not size:
            self._encoder.discard(ticket)
        else:
            piece.found = self._tickets[piece.digest] = ticket
        self._add(piece)
        if odd:
            self._hold(raw_spec(0, len(odd)), [odd], 0)
        return complete

    def _add(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self._workspace.reporter.advance(piece.spec.nbytes)

    def settle(self, limit: int = 0) -> None:
        """Find or encode held tensors, in order, until no more than ``limit`` bytes wait for their digests."""
        while self._waiting and self._waiting_bytes > limit:
            piece = self._waiting.popleft()
            self._waiting_bytes -= piece.spec.nbytes
            if piece.digesting:
                piece.digests = piece.digesting.result()
            piece.digest = piece.digests.whole
            piece.found = self._find(piece, piece.digests.blocks)
            if piece.found is None and piece.spec.nbytes:
                candidates = self._bases.of(piece.spec) if piece.spec.name != SKELETON else ()
                piece.found = self._encoder.add(piece.spec, piece.blocks, piece.digests.blocks, candidates)
                self._tickets[recipe_keys(piece.digest, piece.spec)[bool(candidates)]] = piece.found
            piece.blocks = []

    def _find(self, piece: Piece, blocks: Sequence[Digest]) -> Stanza | Ticket | None:
        """Where a tensor is stored already, or being stored."""
        for key in recipe_keys(piece.digest, piece.spec):
            if key in self._tickets:
                return self._tickets[key]
        stanza = self._recall.stanza(piece.spec, piece.digest, piece.skip)
        if stanza and len(blocks) > 1:
            self.compared = self.compared and self._recall.frames_hold(stanza.recipe, blocks)
        return stanza


def _split_odd(spec: TensorSpec, blocks: list[memoryview]) -> tuple[list[memoryview], memoryview]:
    """At most one block, without the bytes at its end that make up no element; and those bytes."""
    if not blocks:
        return [], memoryview(b"")
    bits = spec.dtype.bits
    odd = len(blocks[0]) % (bits // 8) if bits >= 8 else len(blocks[0]) * 8 % bits and len(blocks[0])
    whole = len(blocks[0]) - odd
    return [blocks[0][:whole]] if whole else [], blocks[0][whole:]


def _digests(blocks: Sequence[memoryview]) -> Digests:
    if len(blocks) == 1:
        whole = digest_of(blocks[0])
        return Digests(whole, (whole,))
    hashed = blake3()
    for block in blocks:
        hashed.update(block)
    return Digests(Digest(hashed.digest()), tuple(map(digest_of, blocks)))


def raw_spec(offset: int, length: int) -> TensorSpec:
    """A piece of an opaque file."""
    return TensorSpec(str(offset), RAW, (length,))
