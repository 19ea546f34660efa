"""Detect the format of a file and where its tensors lie. Errors of a format's plugin become warnings or FormatError."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from math import prod
from typing import TYPE_CHECKING, BinaryIO

from gittheta.errors import FormatError, PluginError
from gittheta.model import DTYPES, Dtype, Layout
from gittheta.storage.manifest import (
    MAX_BLOCK_UNIT,
    MAX_BYTES,
    MAX_DIMENSIONS,
    MAX_NAME,
    MAX_SKELETON,
    MAX_TENSORS,
)
from gittheta.wording import quoted

if TYPE_CHECKING:
    from gittheta.api import Format, Reporter
    from gittheta.codec.stream import ByteStream
    from gittheta.model import TensorSpec
    from gittheta.registry import Registry

#: Bytes of a file that a format gets to decide whether the file has that format.
SNIFF = 4096
_WORD = re.compile("[a-z][a-z0-9_]*")


def detect(registry: Registry, reporter: Reporter, head: bytes) -> Format | None:
    """The first format that claims a file beginning with these bytes; None if no format does."""
    return next((known for known in _formats(registry, reporter) if _matches(known, reporter, head)), None)


def _formats(registry: Registry, reporter: Reporter) -> Iterator[Format]:
    """Every format that can be loaded. A broken plugin is a warning: it must not keep `git status` from working."""
    try:
        for name in registry.names("formats"):
            try:
                yield registry.format(name)
            except PluginError as error:
                reporter.warn(str(error))
    except PluginError as error:
        reporter.warn(str(error))


def _matches(file_format: Format, reporter: Reporter, head: bytes) -> bool:
    """Whether a format claims a file that begins with these bytes; if its plugin fails, that is a warning and a no."""
    try:
        return file_format.matches(head)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - as for `split` below
        reporter.warn(f"the format '{file_format.name}' fails to look at a file: {error!r}")
        return False


def split(file_format: Format, stream: ByteStream, temporary: Callable[[], BinaryIO]) -> Layout:
    """Where the tensors lie; the position of the stream stays.

    A format that needs the whole file gets it in a ``temporary`` file, from which the stream then continues. Any error
    of the format's plugin becomes a FormatError.
    """
    file = stream.whole(temporary) if _needs_whole_file(file_format) else stream.head()
    try:
        layout = file_format.split(file)
        check_layout(layout)
    except (FormatError, MemoryError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a plugin that fails, or tries to end the process, must not stop `git status`
        raise FormatError(f"the format's own code failed: {error!r}") from error
    return layout


def _needs_whole_file(file_format: Format) -> bool:
    try:
        return file_format.needs_whole_file
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise FormatError(f"the format's own code failed: {error!r}") from error


def check_layout(layout: Layout) -> None:
    """Raise FormatError unless the layout is consistent and fits the limits of manifests."""
    end = 0
    for segment in layout.segments:
        spec = segment.spec
        if segment.offset < end or spec.bits % 8 or not _has_whole_blocks(spec):
            raise FormatError(f"tensor {quoted(spec.name)} overlaps another, or does not consist of whole bytes")
        if not _is_known(spec.dtype):
            raise FormatError(f"tensor {quoted(spec.name)} has a dtype that manifests do not know")
        if not _is_possible(spec.shape) or len(spec.name.encode()) > MAX_NAME:
            raise FormatError(f"tensor {quoted(spec.name[:80])} has a shape or name beyond the limits of manifests")
        end = segment.offset + spec.nbytes
    if not end <= layout.length <= MAX_BYTES or len(layout.segments) > MAX_TENSORS:
        raise FormatError("more tensors than the file can hold")
    _check_names(layout)
    if layout.length - sum(segment.spec.nbytes for segment in layout.segments) > MAX_SKELETON:
        raise FormatError("more bytes outside the tensors than manifests allow")


def _has_whole_blocks(spec: TensorSpec) -> bool:
    """Whether the last dimension is a multiple of the elements that the dtype stores together."""
    return spec.dtype.unit == 1 or (bool(spec.shape) and spec.shape[-1] % spec.dtype.unit == 0)


def _is_possible(shape: tuple[int, ...]) -> bool:
    """Whether a manifest can hold the shape."""
    sizes = (*shape, prod(shape))
    return len(shape) <= MAX_DIMENSIONS and min(sizes) >= 0 and max(sizes) <= MAX_BYTES


def _check_names(layout: Layout) -> None:
    names = {segment.spec.name for segment in layout.segments}
    if len(names) < len(layout.segments):
        raise FormatError("two tensors have the same name")
    aliases = [alias for alias, _ in layout.aliases]
    if len(set(aliases)) < len(aliases) or not names.isdisjoint(aliases) or len(aliases) > MAX_TENSORS:
        raise FormatError("two names of a tensor are the same, or there are too many of them")
    for alias, name in layout.aliases:
        if name not in names or len(alias.encode()) > MAX_NAME:
            raise FormatError(f"the alias {quoted(alias[:80])} does not stand for a tensor, or is too long")


def _is_known(dtype: Dtype) -> bool:
    if dtype.kind == "block":
        sizes = 2 <= dtype.unit <= MAX_BLOCK_UNIT and 8 <= dtype.bits <= 8 * MAX_BLOCK_UNIT
        return bool(_WORD.fullmatch(dtype.name)) and dtype.name not in DTYPES and dtype.bits % 8 == 0 and sizes
    return DTYPES.get(dtype.name) == dtype
