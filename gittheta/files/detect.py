"""Which format a file has, and where its tensors lie. Whatever a format does wrong becomes a warning or a FormatError."""

from __future__ import annotations

from collections.abc import Iterator

from gittheta.api import Format
from gittheta.codec.stream import ByteStream
from gittheta.errors import FormatError, PluginError
from gittheta.flows.workspace import Workspace
from gittheta.model import DTYPES, Layout
from gittheta.storage.manifest import (
    MAX_BYTES,
    MAX_DIMENSIONS,
    MAX_NAME,
    MAX_SKELETON,
    MAX_TENSORS,
)

#: What a format sees to decide whether a file is its own.
SNIFF = 4096


def formats(workspace: Workspace) -> Iterator[Format]:
    """Every format that can be loaded: a broken plugin must not keep `git status` from working."""
    try:
        for name in workspace.registry.names("formats"):
            try:
                yield workspace.registry.format(name)
            except PluginError as error:
                workspace.reporter.warn(str(error))
    except PluginError as error:
        workspace.reporter.warn(str(error))


def matches(workspace: Workspace, file_format: Format, head: bytes) -> bool:
    """Whether a format claims a file that begins like this; one that fails to say does not."""
    try:
        return file_format.matches(head)
    except Exception as error:  # as for `split` below
        workspace.reporter.warn(f"the format '{file_format.name}' fails to look at a file: {error!r}")
        return False


def split(file_format: Format, stream: ByteStream) -> Layout:
    """Where the tensors lie. Raises FormatError, whatever the format's own code raises."""
    try:
        layout = file_format.split(stream.head())
        check_layout(layout)
    except (FormatError, MemoryError):
        raise
    except Exception as error:  # a plugin's fault must not keep `git status` from working
        raise FormatError(f"the format's own code failed: {error!r}") from error
    return layout


def check_layout(layout: Layout) -> None:
    """Raise FormatError unless the layout can stand in a manifest."""
    end = 0
    for segment in layout.segments:
        spec = segment.spec
        if segment.offset < end or spec.bits % 8:
            raise FormatError(f"tensor '{spec.name}' overlaps another, or is no whole number of bytes")
        if DTYPES.get(spec.dtype.name) != spec.dtype:
            raise FormatError(f"tensor '{spec.name}' has a dtype that manifests do not know")
        if len(spec.shape) > MAX_DIMENSIONS or len(spec.name.encode()) > MAX_NAME:
            raise FormatError(f"tensor '{spec.name[:80]}' has an absurd shape or name")
        end = segment.offset + spec.nbytes
    if not end <= layout.length <= MAX_BYTES or len(layout.segments) > MAX_TENSORS:
        raise FormatError("more tensors than the file can hold")
    if len({segment.spec.name for segment in layout.segments}) < len(layout.segments):
        raise FormatError("two tensors have the same name")
    if layout.length - sum(segment.spec.nbytes for segment in layout.segments) > MAX_SKELETON:
        raise FormatError("more bytes besides the tensors than any format needs")
