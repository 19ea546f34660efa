"""clean: a checkpoint's bytes -> its manifest, in one pass, within bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, cycle, islice, repeat

from blake3 import blake3

from gittheta.api import Format
from gittheta.errors import FormatError, ManifestError
from gittheta.flows.decode import HOLD, Decoder, Frame
from gittheta.flows.encode import Encoder, Ticket
from gittheta.flows.recall import Recall, Stored, remember
from gittheta.flows.stream import ByteStream, Source, rechunked
from gittheta.flows.workspace import Workspace
from gittheta.manifest import (
    MAX_TENSORS,
    MAX_TEXT,
    VERSION,
    claimed_version,
    claims_to_be_manifest,
    format_manifest,
    parse_manifest,
)
from gittheta.model import (
    EMPTY_DIGEST,
    OPAQUE,
    RAW,
    Digest,
    Layout,
    Manifest,
    Skeleton,
    Stanza,
    TensorSpec,
    block_bytes,
    digest_of,
    flat_spec,
    skeleton_spec,
)

#: What a format sees to decide whether a file is its own.
SNIFF = 4096
#: A file of unknown format is kept in pieces of so many bytes.
PIECE = HOLD
#: Blocks that are read ahead of their digests while a file is compared with what is stored.
_BUFFERS = 4
#: Tensors below this size are digested sooner than a worker could be asked to.
_SMALL = 1 << 17


def clean(workspace: Workspace, path: str, source: Source) -> bytes:
    """The manifest of the bytes that ``source`` yields; ``path`` says which file of the index they belong to.

    What already is a manifest comes back as it is, and an empty file stays empty. A file of no known format, or a
    broken one, is stored as opaque bytes with a warning. Raises StoreError if the objects cannot be written.
    """
    stream = ByteStream(source)
    head = stream.peek(SNIFF)
    if not head:
        return b""
    if claims_to_be_manifest(head) and (text := _as_manifest(workspace, path, stream)) is not None:
        return text
    with workspace.timed("recalling what is stored"):
        cleaning = _Cleaning(workspace, path, stream)
    try:
        manifest = cleaning.run(*_layout(workspace, path, stream, head))
    finally:
        cleaning.encoder.abort()
    text = format_manifest(manifest)
    remember(workspace, manifest, text)
    return text


def _as_manifest(workspace: Workspace, path: str, stream: ByteStream) -> bytes | None:
    """The stream's text if it is a manifest, of this version or a later one; otherwise nothing has been taken."""
    text = stream.peek(MAX_TEXT + 1)
    version = claimed_version(text)
    if version is None or len(text) > MAX_TEXT:
        return None
    if version > VERSION:
        workspace.reporter.warn(
            f"{path}: a manifest of version {version}, kept as it is; upgrade gittheta to check it out"
        )
        return text
    try:
        parse_manifest(text)
    except ManifestError as error:
        workspace.reporter.warn(f"{error.located(path=path)}\n  kept as opaque bytes")
        return None
    return text


def _layout(workspace: Workspace, path: str, stream: ByteStream, head: bytes) -> tuple[str, Layout | None]:
    """The name of the file's format, and where its tensors lie; no layout if it is opaque."""
    for file_format in workspace.registry.formats():
        if file_format.matches(head):
            try:
                return file_format.name, _split(file_format, stream)
            except FormatError as error:
                workspace.reporter.warn(
                    f"{path}: a broken {file_format.name} file, stored as opaque bytes: {error.what}"
                )
                return OPAQUE, None
    workspace.reporter.warn(f"{path}: not a checkpoint of a known format, stored as opaque bytes")
    return OPAQUE, None


def _split(file_format: Format, stream: ByteStream) -> Layout:
    try:
        layout = file_format.split(stream.head())
    except (FormatError, MemoryError):
        raise
    except Exception as error:  # a plugin's fault must not keep `git status` from working
        raise FormatError(f"the format's own code failed: {error!r}") from error
    end = 0
    for segment in layout.segments:
        if segment.offset < end or segment.spec.bits % 8:
            raise FormatError(f"tensor '{segment.spec.name}' overlaps another, or is no whole number of bytes")
        end = segment.offset + segment.spec.nbytes
    if end > layout.length or len(layout.segments) > MAX_TENSORS:
        raise FormatError("more tensors than the file can hold")
    return layout


@dataclass
class _Piece:
    """A tensor on its way in. ``found`` is where it is stored already, or the ticket under which it is being stored.

    Until the digest is known, ``digesting`` yields it and ``blocks`` hold the bytes.
    """

    spec: TensorSpec
    skip: int
    digest: Digest = EMPTY_DIGEST
    found: Stanza | Ticket | None = None
    digesting: Future[Digest] | None = None
    blocks: list[memoryview] = field(default_factory=list)

    def stanza(self) -> Stanza:
        """The piece as it stands in the manifest."""
        if isinstance(self.found, Stanza):
            return self.found
        return Stanza(self.spec, self.digest, self.found.recipe() if self.found else (), self.skip)

    def renamed(self, offset: int) -> _Piece:
        """The same bytes as a piece of an opaque file."""
        spec = TensorSpec(str(offset), self.spec.dtype, (self.spec.elements,))
        found = Stanza(spec, self.digest, self.found.recipe) if isinstance(self.found, Stanza) else self.found
        return _Piece(spec, 0, self.digest, found)


class _Cleaning:
    """One file on its way in."""

    def __init__(self, workspace: Workspace, path: str, stream: ByteStream) -> None:
        self.workspace = workspace
        self.path = path
        self.stream = stream
        self.encoder = Encoder(workspace)
        self.recall = Recall(workspace, _manifests_at_hand(workspace, path))
        self.tickets: dict[Digest, Ticket] = {}
        self.pieces: list[_Piece] = []
        self.waiting: deque[_Piece] = deque()
        self.waiting_bytes = 0
        self.buffers = [memoryview(b"")]
        self.skeleton = bytearray()

    def run(self, format_name: str, layout: Layout | None) -> Manifest:
        """Read everything, store what is new, and say what the file consists of."""
        self.workspace.reporter.start(f"Reading {self.path}", layout.length if layout else 0)
        if layout is not None and not self._read(layout):
            self.workspace.reporter.warn(
                f"{self.path}: a broken {format_name} file, stored as opaque bytes: its header promises "
                f"{layout.length} bytes, but there are {'more' if self.stream.peek(1) else self.stream.position}"
            )
            layout = None
        if layout is None:
            self._read_opaque()
        length, lead, skeleton = self._take_skeleton(layout)
        self._settle(0)
        self.workspace.reporter.trace(f"{len(self.pieces)} tensors read and digested, {len(self.tickets)} of them new")
        with self.workspace.timed("making their objects durable"):
            self.encoder.finish()
        return Manifest(
            format_name if layout is not None else OPAQUE,
            Skeleton(length, lead, skeleton.digest, skeleton.stanza().recipe),
            tuple(piece.stanza() for piece in self.pieces),
        )

    def _read(self, layout: Layout) -> bool:
        """Read the file as its header says. Says whether it has the length that it should."""
        for segment in layout.segments:
            skip = segment.offset - self.stream.position
            self.skeleton += self.stream.take(skip)
            if not self._tensor(segment.spec, skip if self.pieces else 0):
                return False
        self.skeleton += self.stream.take(layout.length - self.stream.position)
        return self.stream.position == layout.length and not self.stream.peek(1)

    def _read_opaque(self) -> None:
        """Name what was read by where it lies, then read the rest."""
        self._settle(0)
        lead, self.skeleton = self.skeleton, bytearray()
        taken, self.pieces = self.pieces, []
        self._held(_piece_spec(0, len(lead)), _views(lead), 0)
        at = len(lead)
        for piece in taken:
            self.pieces.append(piece.renamed(at))
            at += piece.spec.nbytes
        while self.stream.peek(1):
            self._tensor(_piece_spec(self.stream.position, PIECE), 0)
        self.pieces = [piece for piece in self.pieces if piece.spec.nbytes]

    def _take_skeleton(self, layout: Layout | None) -> tuple[int, int, _Piece]:
        length = len(self.skeleton)
        lead = layout.segments[0].offset if layout and layout.segments else length
        self._held(skeleton_spec(length), _views(self.skeleton), 0)
        return length, lead, self.pieces.pop()

    def _tensor(self, spec: TensorSpec, skip: int) -> bool:
        """Read one tensor. Says whether all of it was there; what was there is kept in any case.

        As long as it agrees, block by block, with a stored tensor, nothing is held and nothing encoded. Where they
        part, what agreed is read back from the store.
        """
        block_size = block_bytes(spec.dtype)
        stored = self.recall.comparable(spec) if spec.nbytes > block_size else None
        if stored is None and spec.nbytes > HOLD:
            stored = self.recall.opening(spec, digest_of(self.stream.peek(block_size)))
        blocks = self.stream.blocks(spec.nbytes, block_size)
        if stored is not None:
            agreed, rest = self._agreement(stored)
            if agreed == len(stored.frames):
                self._add(_Piece(spec, skip, stored.digest, self.recall.stanza(spec, stored.digest, skip)))
                return True
            again = islice(Decoder(self.workspace).blocks([(spec, stored.recipe)]), agreed)
            done = sum(frame.head.raw for frame in stored.frames[:agreed]) + sum(map(len, rest))
            blocks = rechunked(chain(again, rest, self.stream.blocks(spec.nbytes - done, block_size)), block_size)
        if spec.nbytes > HOLD:
            return self._streamed(spec, blocks, skip)
        held = list(blocks)
        if sum(map(len, held)) == spec.nbytes:
            self._held(spec, held, skip)
            return True
        held[-1:], odd = _split_odd(spec, held[-1:])
        self._held(flat_spec(spec, sum(map(len, held))), held, 0)
        self._held(_piece_spec(0, len(odd)), [odd], 0)
        return False

    def _agreement(self, stored: Stored) -> tuple[int, list[memoryview]]:
        """How many of the next blocks are those of a stored tensor, and those that were read but are not.

        Blocks are read into a few buffers in turn, which stay in the processor's cache, and digested on the workers.
        """
        longest = max(frame.head.raw for frame in stored.frames)
        if len(self.buffers[0]) < longest:
            self.buffers = [memoryview(bytearray(longest)) for _ in range(_BUFFERS)]
        buffers = cycle(self.buffers)
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
                block = buffer[: self.stream.fill(buffer)]
                reading.append((frame, block, self.workspace.pool.submit(digest_of, block)))
        return agreed, []

    def _held(self, spec: TensorSpec, blocks: list[memoryview], skip: int) -> None:
        """A tensor whose bytes are all in memory: digested, on a worker if that pays, and stored later if it is new."""
        piece = _Piece(spec, skip, blocks=blocks)
        if spec.nbytes < _SMALL:
            piece.digest = _digest(blocks)
        else:
            piece.digesting = self.workspace.pool.submit(_digest, blocks)
        self._add(piece)
        self.waiting.append(piece)
        self.waiting_bytes += spec.nbytes
        self._settle(HOLD)

    def _streamed(self, spec: TensorSpec, blocks: Iterator[memoryview], skip: int) -> bool:
        """A tensor too large to hold: encoded as it comes, and forgotten again if it turns out to be known."""
        self._settle(0)
        hashed = blake3(max_threads=blake3.AUTO)
        size = 0
        ticket = self.encoder.begin(spec)
        odd = memoryview(b"")
        for taken in blocks:
            whole, odd = _split_odd(spec, [taken])
            for block in whole:
                hashed.update(block)
                size += len(block)
                self.encoder.feed(ticket, block)
        complete = size == spec.nbytes
        piece = _Piece(spec if complete else flat_spec(spec, size), skip, Digest(hashed.digest()))
        piece.found = self.tickets.get(piece.digest) or self.recall.stanza(piece.spec, piece.digest, skip)
        if piece.found or not size:
            self.encoder.discard(ticket)
        else:
            self.encoder.end(ticket)
            piece.found = self.tickets[piece.digest] = ticket
        self._add(piece)
        if odd:
            self._held(_piece_spec(0, len(odd)), [odd], 0)
        return complete

    def _add(self, piece: _Piece) -> None:
        self.pieces.append(piece)
        self.workspace.reporter.advance(piece.spec.nbytes)

    def _settle(self, limit: int) -> None:
        """Find or encode held tensors, in order, until no more than ``limit`` bytes wait for their digests."""
        while self.waiting and self.waiting_bytes > limit:
            piece = self.waiting.popleft()
            self.waiting_bytes -= piece.spec.nbytes
            if piece.digesting:
                piece.digest = piece.digesting.result()
            piece.found = self.tickets.get(piece.digest) or self.recall.stanza(piece.spec, piece.digest, piece.skip)
            if piece.found is None and piece.digest != EMPTY_DIGEST:
                piece.found = self.tickets[piece.digest] = self.encoder.add(piece.spec, piece.blocks)
            piece.blocks = []


def _split_odd(spec: TensorSpec, blocks: list[memoryview]) -> tuple[list[memoryview], memoryview]:
    """At most one block, without the bytes at its end that make up no element; and those bytes."""
    if not blocks:
        return [], memoryview(b"")
    bits = spec.dtype.bits
    odd = len(blocks[0]) % (bits // 8) if bits >= 8 else len(blocks[0]) * 8 % bits and len(blocks[0])
    whole = len(blocks[0]) - odd
    return [blocks[0][:whole]] if whole else [], blocks[0][whole:]


def _digest(blocks: Iterable[memoryview]) -> Digest:
    hashed = blake3()
    for block in blocks:
        hashed.update(block)
    return Digest(hashed.digest())


def _views(data: bytearray) -> list[memoryview]:
    size = block_bytes(RAW)
    return [memoryview(data)[at : at + size] for at in range(0, len(data), size)]


def _piece_spec(offset: int, length: int) -> TensorSpec:
    return TensorSpec(str(offset), RAW, (length,))


def _manifests_at_hand(workspace: Workspace, path: str) -> Iterator[tuple[bytes, Manifest]]:
    """What Git holds for the file: in the index, on our side of a merge, in HEAD."""
    seen = set()
    for name in (f":{path}", f":2:{path}", f"HEAD:{path}"):
        text = workspace.blobs.read(name, MAX_TEXT)
        if text and text not in seen and claims_to_be_manifest(text):
            seen.add(text)
            with suppress(ManifestError):
                yield text, parse_manifest(text)
