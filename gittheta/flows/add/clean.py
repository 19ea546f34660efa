"""clean: a checkpoint's bytes -> its manifest, in one pass, within bounded memory."""

from __future__ import annotations

from gittheta.codec.decode import HOLD
from gittheta.codec.stream import ByteStream, Source
from gittheta.errors import FormatError, ManifestError
from gittheta.files.detect import SNIFF, formats, matches, split
from gittheta.flows.add.bases import Bases
from gittheta.flows.add.intake import Intake, raw_spec
from gittheta.flows.add.stored import AtHand, Recall, remember
from gittheta.flows.workspace import Workspace
from gittheta.model import OPAQUE, Layout, Manifest, Skeleton, skeleton_spec
from gittheta.storage.manifest import (
    MAX_TEXT,
    VERSION,
    claimed_version,
    claims_to_be_manifest,
    format_manifest,
    parse_manifest,
)

#: A file of unknown format is kept in pieces of so many bytes.
PIECE = HOLD


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
        cleaning.intake.abort()
    text = format_manifest(manifest)
    remember(workspace, manifest, text, cleaning.intake.compared)
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
        error.mend = f"stored as opaque bytes; {error.mend}" if error.mend else "stored as opaque bytes"
        workspace.reporter.warn(str(error.located(path=path)))
        return None
    return text


def _layout(workspace: Workspace, path: str, stream: ByteStream, head: bytes) -> tuple[str, Layout | None]:
    """The name of the file's format, and where its tensors lie; no layout if it is opaque."""
    for file_format in formats(workspace):
        if matches(workspace, file_format, head):
            try:
                return file_format.name, split(file_format, stream)
            except FormatError as error:
                workspace.reporter.warn(
                    f"{path}: a broken {file_format.name} file, stored as opaque bytes: {error.what}"
                )
                return OPAQUE, None
    if not claims_to_be_manifest(head):  # of those it was said already
        workspace.reporter.warn(f"{path}: not a checkpoint of a known format, stored as opaque bytes")
    return OPAQUE, None


class _Cleaning:
    """One file on its way in: the skeleton gathers here, the tensors in an :class:`Intake`."""

    def __init__(self, workspace: Workspace, path: str, stream: ByteStream) -> None:
        self.workspace = workspace
        self.path = path
        self.stream = stream
        at_hand = AtHand.of(workspace, path)
        recall = Recall(workspace, at_hand)
        self.intake = Intake(workspace, stream, recall, Bases(workspace, recall, path, at_hand.committed))
        self.skeleton = bytearray()
        self.lead = 0

    def run(self, format_name: str, layout: Layout | None) -> Manifest:
        """Read everything, store what is new, and say what the file consists of."""
        self.workspace.reporter.start(f"Reading {self.path}", layout.length if layout else 0)
        if layout is None or not self._read(layout):
            if layout is not None:
                self.workspace.reporter.warn(
                    f"{self.path}: a broken {format_name} file, stored as opaque bytes: its header promises "
                    f"{layout.length} bytes, but there are {'more' if self.stream.peek(1) else self.stream.position}"
                )
            format_name = OPAQUE
            self._read_opaque()
        pieces = list(self.intake.pieces)
        skeleton = self.intake.bytes(skeleton_spec(len(self.skeleton)), self.skeleton)
        self.intake.finish()
        return Manifest(
            format_name,
            Skeleton(len(self.skeleton), self.lead, skeleton.digest, skeleton.stanza().recipe),
            tuple(piece.stanza() for piece in pieces),
        )

    def _read(self, layout: Layout) -> bool:
        """Read the file as its header says. Says whether it has the length that it should."""
        self.lead = layout.segments[0].offset if layout.segments else layout.length
        for segment in layout.segments:
            gap = segment.offset - self.stream.position
            self.skeleton += self.stream.take(gap)
            if not self.intake.tensor(segment.spec, gap if self.intake.pieces else 0):
                return False
        self.skeleton += self.stream.take(layout.length - self.stream.position)
        return self.stream.position == layout.length and not self.stream.peek(1)

    def _read_opaque(self) -> None:
        """Name what was read, skeleton and tensors in turn, by where it lies; then read the rest."""
        self.intake.settle()
        taken, self.intake.pieces = self.intake.pieces, []
        skeleton, at = memoryview(self.skeleton), self.lead
        offset = self._opaque(0, skeleton[:at])
        for piece in taken:
            offset = self._opaque(offset, skeleton[at : at + piece.skip])
            at += piece.skip
            self.intake.pieces.append(piece.renamed(offset))
            offset += piece.spec.nbytes
        self._opaque(offset, skeleton[at:])
        self.skeleton, self.lead = bytearray(), 0
        while self.stream.peek(1):
            self.intake.tensor(raw_spec(self.stream.position, PIECE), 0)
        self.intake.pieces = [piece for piece in self.intake.pieces if piece.spec.nbytes]

    def _opaque(self, offset: int, data: memoryview) -> int:
        self.intake.bytes(raw_spec(offset, len(data)), data)
        return offset + len(data)
