"""clean: a checkpoint's bytes -> its manifest, in one pass, within bounded memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

from gittheta.api.reporting import timed
from gittheta.codec.stream import ByteStream, Source
from gittheta.errors import FormatError, ManifestError
from gittheta.files.detect import SNIFF, detect, split
from gittheta.flows.add.again import FileAgain
from gittheta.flows.add.as_is import left_as_it_is
from gittheta.flows.add.bases import Bases
from gittheta.flows.add.intake import Intake
from gittheta.flows.add.stored import ManifestsAtHand, StoredTensors, remember
from gittheta.model import OPAQUE, Layout, Manifest, Skeleton, Stanza, skeleton_spec
from gittheta.storage.files import open_unnamed
from gittheta.storage.manifest import (
    MAX_TEXT,
    VERSION,
    claimed_version,
    claims_to_be_manifest,
    format_manifest,
    parse_manifest,
)

if TYPE_CHECKING:
    from gittheta.codec.tensor_store import TensorStore
    from gittheta.flows.workspace import Workspace


def clean(
    workspace: Workspace, path: str, source: Source | ByteStream, at_hand: ManifestsAtHand | None = None
) -> bytes:
    """The manifest of the bytes that ``source`` yields; ``path`` says which file of the index they belong to.

    ``at_hand``: manifests that stand in for those of the index and of HEAD, for a version from somewhere in history.

    What already is a manifest comes back as it is, as do pointers of Git LFS and short texts of no known format; an
    empty file stays empty. Any other file of no known format, or a broken one, is stored as opaque bytes with a
    warning. Raises StoreError if the objects cannot be written.
    """
    stream = source if isinstance(source, ByteStream) else ByteStream(source)
    head = stream.peek(SNIFF)
    if not head:
        return b""
    if claims_to_be_manifest(head) and (text := _as_manifest(workspace, path, stream)) is not None:
        return text
    if (content := left_as_it_is(workspace, path, stream)) is not None:
        return content
    with timed(workspace.reporter, "looking up what is stored"):
        cleaning = _Cleaning(workspace, path, stream, at_hand)
    try:
        manifest = cleaning.run(*_layout(workspace.tensors, path, stream, head))
    finally:
        cleaning.intake.abort()
    text = format_manifest(manifest)
    if cleaning.intake.kept:
        remember(workspace.tensors, manifest, text, compared=cleaning.intake.compared)
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
        hint = f"stored as opaque bytes; {error.hint}" if error.hint else "stored as opaque bytes"
        workspace.reporter.warn(str(error.but(path=path, hint=hint)))
        return None
    return text


def _layout(tensors: TensorStore, path: str, stream: ByteStream, head: bytes) -> tuple[str, Layout | None]:
    """The name of the file's format, and where its tensors lie; no layout if it is opaque."""
    file_format = detect(tensors.registry, tensors.reporter, head)
    if file_format is None:
        if not claims_to_be_manifest(head):  # of those it was said already
            tensors.reporter.warn(f"{path}: not a checkpoint of a known format, stored as opaque bytes")
        return OPAQUE, None
    try:
        return file_format.name, split(file_format, stream, lambda: _temporary(tensors))
    except FormatError as error:
        tensors.reporter.warn(f"{path}: a broken {file_format.name} file, stored as opaque bytes: {error.what}")
        return OPAQUE, None


def _temporary(tensors: TensorStore) -> BinaryIO:
    """A file for a checkpoint whose format needs all of it."""
    return open(open_unnamed(tensors.scratch()), "w+b")


class _Cleaning:
    """One file on its way in: the skeleton gathers here, the tensors in an :class:`Intake`."""

    def __init__(self, workspace: Workspace, path: str, stream: ByteStream, given: ManifestsAtHand | None) -> None:
        at_hand = given or ManifestsAtHand.of(workspace, path)
        stored = StoredTensors(workspace.tensors, at_hand)
        bases = Bases(workspace, stored, path, at_hand)
        self.path = path
        self.stream = stream
        self.reporter = workspace.reporter
        top = workspace.repository.top
        self.intake = Intake(
            workspace.tensors, stream, stored, bases, FileAgain(top / path if top and not given else None)
        )
        self.skeleton = bytearray()
        self.lead = 0

    def run(self, format_name: str, layout: Layout | None) -> Manifest:
        """Read everything, store what is new, and say what the file consists of."""
        self.reporter.start(f"Reading {self.path}", layout.length if layout else 0)
        if layout is None or not self._read(layout):
            if layout is not None:
                self.reporter.warn(
                    f"{self.path}: a broken {format_name} file, stored as opaque bytes: its header promises "
                    f"{layout.length} bytes, but there are {'more' if self.stream.peek(1) else self.stream.position}"
                )
            format_name, layout = OPAQUE, None
            self.intake.as_opaque(self.skeleton, self.lead)
            self.skeleton, self.lead = bytearray(), 0
        pieces = list(self.intake.pieces)
        skeleton = self.intake.bytes(skeleton_spec(len(self.skeleton)), self.skeleton)
        self.intake.finish()
        return Manifest(
            format_name,
            Skeleton(len(self.skeleton), self.lead, skeleton.digest, skeleton.stanza().recipe),
            _with_aliases((piece.stanza() for piece in pieces), layout),
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


def _with_aliases(stanzas: Iterable[Stanza], layout: Layout | None) -> tuple[Stanza, ...]:
    """The stanzas, each with the other names that the layout has for it."""
    if layout is None or not layout.aliases:
        return tuple(replace(stanza, aliases=()) if stanza.aliases else stanza for stanza in stanzas)
    names: dict[str, list[str]] = {}
    for alias, name in layout.aliases:
        names.setdefault(name, []).append(alias)
    return tuple(replace(stanza, aliases=tuple(names.get(stanza.spec.name, ()))) for stanza in stanzas)
