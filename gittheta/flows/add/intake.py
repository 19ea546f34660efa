"""The tensors of one file on their way in: compared with what is stored, digested, and encoded where they are new.

Every tensor takes the same way: from the stream into a :class:`Spool`, from there to the workers for its digests, then,
unless it is stored already, to the encoder. Only a tensor that agrees with a stored one, block by block, is not held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain, cycle, repeat
from typing import TYPE_CHECKING

from gittheta.codec.decode import Decoder
from gittheta.codec.encode import Encoder, PendingTensor
from gittheta.codec.readers import HeldReader, PartReader
from gittheta.codec.spool import Spool
from gittheta.codec.stream import ByteStream, rechunked
from gittheta.errors import StoreError, ThetaError
from gittheta.model import (
    EMPTY_DIGEST,
    SKELETON,
    Digest,
    Link,
    ObjectId,
    Place,
    RunningDigest,
    Stanza,
    TensorSpec,
    digest_of,
    flat_spec,
    piece_spec,
    recipe_keys,
)

if TYPE_CHECKING:
    from gittheta.api import TensorReader
    from gittheta.codec.tensor_store import TensorStore
    from gittheta.flows.add.again import FileAgain
    from gittheta.flows.add.bases import Bases
    from gittheta.flows.add.stored import ComparableTensor, StoredTensors
    from gittheta.storage.frames import Frame

#: The object of what is not stored. No object has this name.
_NOWHERE = ObjectId("0" * 64)
#: Blocks that are read ahead of their digests while a file is compared with what is stored.
_BUFFERS = 4


@dataclass(frozen=True)
class Digests:
    """Of a tensor, and of each of its blocks."""

    whole: Digest
    blocks: tuple[Digest, ...]


@dataclass
class Piece:
    """A tensor on its way in. ``found`` is where it is stored already, or how it is being stored."""

    spec: TensorSpec
    #: Bytes of skeleton between the tensor before it and this one.
    skip: int
    digest: Digest = EMPTY_DIGEST
    found: Stanza | PendingTensor | None = None

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


@dataclass(frozen=True)
class _Waiting:
    """A piece whose bytes are all here, and whose digests may still be on their way."""

    piece: Piece
    values: TensorReader
    #: Bytes of memory that it takes.
    held: int
    digests: Digests | Future[Digests]


class Intake:
    """Takes tensors from a stream, in file order; ``pieces`` are complete after :meth:`finish`. For one thread."""

    def __init__(
        self, tensors: TensorStore, stream: ByteStream, stored: StoredTensors, bases: Bases, again: FileAgain
    ) -> None:
        self.pieces: list[Piece] = []
        #: Whether all is stored; otherwise the result is for looking only.
        self.kept = True
        #: Whether every frame that the result relies on was written here, or compared with its block.
        self.compared = True
        self._tensors = tensors
        self._limits = tensors.limits
        self._stream = stream
        self._stored = stored
        self._bases = bases
        self._again = again
        self._encoder = Encoder(tensors)
        self._pending: dict[Digest, PendingTensor] = {}
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._buffers = [memoryview(b"")]

    def finish(self) -> None:
        """Make what is new durable. Raises StoreError."""
        self._drain_pending()
        self._tensors.reporter.trace(f"{len(self.pieces)} tensors read, {len(self._pending)} of them new")
        self._encoder.finish()

    def abort(self) -> None:
        """Leave nothing behind, unless all is finished."""
        self._encoder.abort()

    def bytes(self, spec: TensorSpec, data: bytearray | memoryview) -> Piece:
        """A tensor that was read already."""
        size = self._limits.block_bytes(spec.dtype)
        view = memoryview(data)
        held = HeldReader(spec, [view[at : at + size] for at in range(0, len(data), size)])
        return self._add_read(spec, held, 0, held=len(data))

    def tensor(self, spec: TensorSpec, skip: int) -> bool:
        """Read one tensor. Says whether all of it was there; what was there is kept in any case.

        As long as it agrees, block by block, with a stored tensor, nothing is held and nothing encoded. Where they
        part, what agreed is read back from the store.
        """
        block_size = self._limits.block_bytes(spec.dtype)
        stored = self._comparable(spec, block_size)
        begin = self._stream.position
        blocks = self._stream.blocks(spec.nbytes, block_size)
        if stored is not None:
            agreed, rest = self._agreement(stored)
            if agreed == len(stored.frames):
                self._add_stored(spec, stored, skip)
                return True
            again = self._read_back(spec, stored, agreed, begin)
            done = sum(frame.head.raw for frame in stored.frames[:agreed]) + sum(map(len, rest))
            blocks = rechunked(chain(again, rest, self._stream.blocks(spec.nbytes - done, block_size)), block_size)
        spool = Spool(self._tensors, spec, self._limits.held)
        try:
            # A tensor in memory is digested by the workers, while the next is read; one in a file, on its way there.
            digests = _digested(blocks, spool) if spec.nbytes > self._limits.held else None
            if digests is None:
                _fill(blocks, spool)
        except BaseException:
            spool.close()
            raise
        if spool.size < spec.nbytes:
            self._cut_short(spool, skip)
            return False
        self._add_read(spec, spool, skip, spool.in_memory, digests)
        return True

    def _comparable(self, spec: TensorSpec, block_size: int) -> ComparableTensor | None:
        """A stored tensor of several blocks that this one may be."""
        stored = self._stored.comparable(spec) if spec.nbytes > block_size else None
        if stored is None and spec.nbytes > self._limits.held:
            stored = self._stored.opening(spec, digest_of(self._stream.peek(block_size)))
        return stored

    def _agreement(self, stored: ComparableTensor) -> tuple[int, list[memoryview]]:
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
                reading.append((frame, block, self._tensors.digesters.submit(digest_of, block)))
        return agreed, []

    def _read_back(self, spec: TensorSpec, stored: ComparableTensor, agreed: int, begin: int) -> Iterator[memoryview]:
        """The first blocks of a tensor that begins at offset ``begin`` of the file: those that agreed with the store.

        What cannot be read there is read from the file once more. Raises ThetaError if that is not possible either;
        then the next command does not compare with what is stored.
        """
        left = list(stored.frames[:agreed])
        try:
            for block in Decoder(self._tensors).first_blocks(spec, stored.recipe, agreed):
                begin += len(block)
                del left[0]
                yield block
        except ThetaError as error:
            self._stored.doubt(stored, error)
            for frame in left:
                found = self._again.block(begin, frame.head.raw, frame.head.digest)
                if found is None:
                    self._stored.forget(spec, stored)
                    raise error.but(hint="run the command again: the file is stored anew then") from None
                begin += len(found)
                yield found

    def _add_stored(self, spec: TensorSpec, stored: ComparableTensor, skip: int) -> None:
        found = self._stored.stanza(spec, stored.digest, skip)
        self._add(Piece(spec, skip, stored.digest, found or Stanza(spec, stored.digest, stored.recipe, skip)))

    def _add_read(
        self, spec: TensorSpec, values: TensorReader, skip: int, held: int, digests: Digests | None = None
    ) -> Piece:
        """A tensor whose bytes are all here: digested, on a worker if that pays, and stored later if it is new."""
        piece = Piece(spec, skip)
        step = self._limits.block_bytes(spec.dtype)
        waiting: Digests | Future[Digests]
        if digests is not None:
            waiting = digests
        elif spec.nbytes < self._limits.digest_inline:
            waiting = _digests(values, step)
        else:
            waiting = self._tensors.digesters.submit(_digests, values, step)
        self._add(piece)
        self._waiting.append(_Waiting(piece, values, held, waiting))
        self._waiting_bytes += held
        self._drain_pending(self._limits.digest_waiting if digests is None else 0)
        return piece

    def _add(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self._tensors.reporter.advance(piece.spec.nbytes)

    def _cut_short(self, spool: Spool, skip: int) -> None:
        """Of a tensor that the file breaks off in: its whole elements, then the bytes that make up none."""
        bits = spool.spec.dtype.bits
        whole = spool.size * 8 // bits * bits // 8
        if whole * 8 % bits:  # elements of less than a byte, an odd number of them
            whole = 0
        for spec, begin in ((flat_spec(spool.spec, whole), 0), (piece_spec(0, spool.size - whole), whole)):
            if spec.nbytes:
                self._add_read(spec, PartReader(spec, spool, begin), skip if not begin else 0, spool.in_memory)

    def as_opaque(self, skeleton: bytearray, lead: int) -> None:
        """Name what was read, skeleton and tensors in turn, by where it lies; then read the rest of the stream."""
        self._drain_pending()
        taken, self.pieces = self.pieces, []
        view, at = memoryview(skeleton), lead
        offset = self._add_opaque(0, view[:at])
        for piece in taken:
            offset = self._add_opaque(offset, view[at : at + piece.skip])
            at += piece.skip
            self.pieces.append(piece.renamed(offset))
            offset += piece.spec.nbytes
        self._add_opaque(offset, view[at:])
        while self._stream.peek(1):
            self.tensor(piece_spec(self._stream.position, self._limits.piece), 0)
        self.pieces = [piece for piece in self.pieces if piece.spec.nbytes]

    def _add_opaque(self, offset: int, data: memoryview) -> int:
        self.bytes(piece_spec(offset, len(data)), data)
        return offset + len(data)

    def _drain_pending(self, limit: int = 0) -> None:
        """Find or encode what was read, in order, until no more than ``limit`` bytes wait for their digests."""
        while self._waiting and (self._waiting_bytes > limit or not limit):
            waiting = self._waiting.popleft()
            self._waiting_bytes -= waiting.held
            digests = waiting.digests if isinstance(waiting.digests, Digests) else waiting.digests.result()
            piece, spec = waiting.piece, waiting.piece.spec
            piece.digest = digests.whole
            piece.found = self._find(piece, digests.blocks)
            if piece.found is None and spec.nbytes:
                piece.found = self._encoded(piece, waiting.values, digests)

    def _encoded(self, piece: Piece, values: TensorReader, digests: Digests) -> Stanza | PendingTensor:
        """A new tensor on its way into the store; where nothing can be stored, what a manifest would say of it."""
        spec = piece.spec
        if not self._tensors.keeps:
            self.kept = False
            return Stanza(spec, piece.digest, (Link("dense", (Place(_NOWHERE, 0, spec.nbytes),)),), piece.skip)
        candidates = self._bases.of(spec) if spec.name != SKELETON else ()
        pending = self._encoder.add(values, digests.blocks, candidates)
        self._pending[recipe_keys(piece.digest, spec)[bool(candidates)]] = pending
        return pending

    def _find(self, piece: Piece, blocks: Sequence[Digest]) -> Stanza | PendingTensor | None:
        """Where a tensor is stored already, or how it is being stored."""
        for key in recipe_keys(piece.digest, piece.spec):
            if key in self._pending:
                return self._pending[key]
        stanza = self._stored.stanza(piece.spec, piece.digest, piece.skip)
        if stanza and len(blocks) > 1:
            self.compared = self.compared and self._stored.frames_hold(stanza.recipe, blocks)
        return stanza


def _fill(blocks: Iterator[memoryview], spool: Spool) -> None:
    """Put blocks into a spool."""
    for block in blocks:
        spool.append(block)


def _digested(blocks: Iterator[memoryview], spool: Spool) -> Digests:
    """Put blocks into a spool and digest them on the way."""
    whole = RunningDigest(parallel=True)
    found = []
    for block in blocks:
        whole.update(block)
        found.append(digest_of(block))
        spool.append(block)
    return Digests(whole.digest(), tuple(found))


def _digests(values: TensorReader, step: int) -> Digests:
    size = values.spec.nbytes
    if size <= step:
        only = digest_of(values.read(0, size))
        return Digests(only, (only,))
    whole = RunningDigest()
    found = []
    for begin in range(0, size, step):
        block = values.read(begin, min(begin + step, size))
        whole.update(block)
        found.append(digest_of(block))
    return Digests(whole.digest(), tuple(found))
