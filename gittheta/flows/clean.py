"""clean: a checkpoint's bytes -> its manifest, in one pass, within bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from blake3 import blake3

from gittheta.api import Format
from gittheta.errors import FormatError, ManifestError
from gittheta.flows.decode import HOLD, Decoder, Frame
from gittheta.flows.encode import Encoder, Ticket
from gittheta.flows.recall import Recall, remember
from gittheta.flows.stream import ByteStream, Source
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
    RAW,
    Digest,
    Layout,
    Manifest,
    Recipe,
    Skeleton,
    Stanza,
    TensorSpec,
    block_bytes,
    flat_spec,
    skeleton_spec,
)
from gittheta.payload import check_of

#: What a format sees to decide whether a file is its own.
SNIFF = 4096
#: A file of unknown format is kept in pieces of so many bytes.
PIECE = HOLD
OPAQUE = "opaque"


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
    cleaning = _Cleaning(workspace, path, stream)
    try:
        manifest = cleaning.run(*_layout(workspace, path, stream, head))
    finally:
        cleaning.encoder.abort()
    remember(workspace, manifest, HOLD)
    return format_manifest(manifest)


def _as_manifest(workspace: Workspace, path: str, stream: ByteStream) -> bytes | None:
    """The stream's text if it is a manifest, of this version or a later one; otherwise nothing has been taken."""
    text = stream.peek(MAX_TEXT + 1)
    version = claimed_version(text)
    if version is None or len(text) > MAX_TEXT:
        return None
    if version > VERSION:
        workspace.reporter.warn(f"{path}: a manifest of version {version}, kept as it is; upgrade gittheta to check it out")
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
                workspace.reporter.warn(f"{path}: a broken {file_format.name} file, stored as opaque bytes: {error.what}")
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
    """A tensor that has been read: its recipe, or the ticket that will have one."""

    spec: TensorSpec
    digest: Digest
    skip: int
    found: Stanza | Ticket | None

    def stanza(self) -> Stanza:
        if isinstance(self.found, Stanza):
            return self.found
        return Stanza(self.spec, self.digest, self.found.recipe() if self.found else (), self.skip)


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
        self.skeleton = bytearray()

    def run(self, format_name: str, layout: Layout | None) -> Manifest:
        if layout is not None and not self._read(layout):
            self.workspace.reporter.warn(
                f"{self.path}: a broken {format_name} file, stored as opaque bytes: its header promises "
                f"{layout.length} bytes, but there are {'more' if self.stream.peek(1) else self.stream.position}"
            )
            layout = None
        if layout is None:
            self._read_opaque()
        skeleton = self._skeleton(layout)
        self.encoder.finish()
        return Manifest(
            format_name if layout is not None else OPAQUE,
            Skeleton(*skeleton[:2], skeleton[2].digest, skeleton[2].stanza().recipe),
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
        lead, self.skeleton = self.skeleton, bytearray()
        taken, self.pieces = self.pieces, []
        if lead:
            self._held(_piece_spec(0, len(lead)), [memoryview(lead)], 0)
        at = len(lead)
        for piece in taken:
            spec = TensorSpec(str(at), piece.spec.dtype, (piece.spec.elements,))
            found = piece.found
            if isinstance(found, Stanza):
                found = Stanza(spec, piece.digest, found.recipe)
            at += spec.nbytes
            if spec.nbytes:
                self.pieces.append(_Piece(spec, piece.digest, 0, found))
        while self.stream.peek(1):
            self._tensor(_piece_spec(self.stream.position, PIECE), 0)

    def _skeleton(self, layout: Layout | None) -> tuple[int, int, _Piece]:
        length = len(self.skeleton)
        lead = layout.segments[0].offset if layout and layout.segments else length
        spec = skeleton_spec(length)
        blocks = [memoryview(self.skeleton)[at : at + block_bytes(RAW)] for at in range(0, length, block_bytes(RAW))]
        self._held(spec, blocks, 0)
        return length, lead, self.pieces.pop()

    def _tensor(self, spec: TensorSpec, skip: int) -> bool:
        """Read one tensor. Says whether all of it was there; what was there is kept in any case."""
        if spec.nbytes > HOLD:
            return self._streamed(spec, skip)
        blocks = list(self.stream.blocks(spec.nbytes, block_bytes(spec.dtype)))
        whole = sum(map(len, blocks)) == spec.nbytes
        self._held(spec, blocks, skip) if whole else self._fragment(spec, blocks)
        return whole

    def _fragment(self, spec: TensorSpec, blocks: list[memoryview]) -> None:
        """A tensor that the file's end cuts short: its whole elements, then the bytes that are left."""
        if not blocks:
            return
        blocks[-1], odd = _whole_elements(spec, blocks[-1])
        size = sum(map(len, blocks))
        if size:
            self._held(flat_spec(spec, size), [block for block in blocks if block], 0)
        if odd:
            self._held(_piece_spec(0, len(odd)), [odd], 0)

    def _held(self, spec: TensorSpec, blocks: list[memoryview], skip: int) -> None:
        """A tensor whose bytes are all in memory."""
        digest = _digest(blocks)
        found: Stanza | Ticket | None = self.tickets.get(digest) or self.recall.stanza(spec, digest, skip)
        if found is None and digest != EMPTY_DIGEST:
            found = self.tickets[digest] = self.encoder.add(spec, blocks)
        self.pieces.append(_Piece(spec, digest, skip, found))

    def _streamed(self, spec: TensorSpec, skip: int) -> bool:
        """A tensor too large to hold: compared, block by block, with a stored one that begins alike.

        As long as they agree nothing is encoded; where they part, what agreed is read back from the store.
        """
        hashed = blake3(max_threads=blake3.AUTO)
        size, agreed = 0, 0
        odd = memoryview(b"")
        known: tuple[Recipe, list[Frame]] | None = None
        ticket: Ticket | None = None
        for taken in self.stream.blocks(spec.nbytes, block_bytes(spec.dtype)):
            block, odd = _whole_elements(spec, taken)
            check = check_of(block)
            if size == 0:
                known = self.recall.opening(spec, check)
            hashed.update(block)
            size += len(block)
            if ticket is None and known and known[1][agreed].matches(block, check):
                agreed += 1
                continue
            ticket = ticket or self._begin(spec, known, agreed)
            if block:
                self.encoder.feed(ticket, block)
        found_spec = spec if size == spec.nbytes else flat_spec(spec, size)
        if size:
            digest = Digest(hashed.digest())
            found = self._settle(found_spec, digest, skip, ticket) or self._begin(spec, known, agreed)
            self.pieces.append(_Piece(found_spec, digest, skip, found))
        if odd:
            self._held(_piece_spec(0, len(odd)), [odd], 0)
        return size == spec.nbytes

    def _begin(self, spec: TensorSpec, known: tuple[Recipe, list[Frame]] | None, agreed: int) -> Ticket:
        """Start to encode a large tensor whose first ``agreed`` blocks are those of a known one."""
        ticket = self.encoder.begin(spec)
        if known:
            stored = Decoder(self.workspace).blocks([(spec, known[0])])
            for block in islice(stored, agreed):
                self.encoder.feed(ticket, block)
        return ticket

    def _settle(
        self, spec: TensorSpec, digest: Digest, skip: int, ticket: Ticket | None
    ) -> Stanza | Ticket | None:
        """What a large tensor is stored as, now that its digest is known."""
        found = self.tickets.get(digest) or self.recall.stanza(spec, digest, skip)
        if ticket is None:
            return found
        if found is not None:
            self.encoder.discard(ticket)
            return found
        self.encoder.end(ticket)
        self.tickets[digest] = ticket
        return ticket


def _whole_elements(spec: TensorSpec, block: memoryview) -> tuple[memoryview, memoryview]:
    """A block without the bytes at its end that make up no element, and those bytes."""
    bits = spec.dtype.bits
    odd = len(block) * 8 % bits if bits < 8 else len(block) % (bits // 8)
    if bits < 8 and odd:
        odd = len(block)
    return block[: len(block) - odd], block[len(block) - odd :]


def _digest(blocks: Iterable[memoryview]) -> Digest:
    hashed = blake3(max_threads=blake3.AUTO)
    for block in blocks:
        hashed.update(block)
    return Digest(hashed.digest())


def _piece_spec(offset: int, length: int) -> TensorSpec:
    return TensorSpec(str(offset), RAW, (length,))


def _manifests_at_hand(workspace: Workspace, path: str) -> Iterator[Manifest]:
    for name in (f":{path}", f":2:{path}", f"HEAD:{path}"):
        manifest = workspace.try_manifest(name)
        if manifest is not None:
            yield manifest
