"""What Git may hold for a tracked path, told from the bytes alone: a manifest, or what passes the filter as it is.

Specified in ``docs/spec/manifest.md``, under "What has no manifest".
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING

from gittheta.files.detect import SNIFF, detect
from gittheta.storage.manifest import claims_to_be_manifest, is_foreign_manifest

if TYPE_CHECKING:
    from gittheta.api import Reporter
    from gittheta.registry import Registry

#: Bytes that a text must stay below to be left to Git as it is.
SHORT = 1 << 20
#: Bytes that a pointer of Git LFS stays below.
_MAX_POINTER = 1024
_POINTER = re.compile(
    rb"version https?://(?:git-lfs\.github\.com|hawser\.github\.com|git-media\.io)/[a-z0-9/]+\r?\n"
    rb"(?:ext-[0-9]-\S+ sha256:[0-9a-f]{64}\r?\n)*oid sha256:[0-9a-f]{64}\r?\nsize [0-9]+\r?\n?"
)
#: The control characters that texts have: tab, line feed, form feed, carriage return.
_NO_TEXT = re.compile(rb"[\x00-\x08\x0b\x0e-\x1f\x7f]")


class Kind(Enum):
    """What a blob under a tracked pattern is."""

    EMPTY = "empty"
    #: It claims to be one; whether it is valid is for the parser to say.
    MANIFEST = "manifest"
    POINTER = "Git LFS pointer"
    TEXT = "text, as it is"
    #: Bytes that went past the filter.
    WHOLE = "whole in Git"


def is_pointer(content: bytes) -> bool:
    """Whether this is all of a pointer that Git LFS writes in place of a file."""
    return len(content) < _MAX_POINTER and bool(_POINTER.fullmatch(content))


def may_be_text(head: bytes) -> bool:
    """Whether a file that begins with these bytes may be a text or a pointer."""
    return not _NO_TEXT.search(head)


def is_short_text(content: bytes) -> bool:
    """Whether this is all of a text that Git keeps better than gittheta would, if no format claims it.

    UTF-8 below 1 MiB, with no control characters but those that texts have. A text that claims to be a manifest, or to
    be the metadata of the original Git-Theta, is none of these: a checkout would not leave it as it is.
    """
    if not 0 < len(content) < SHORT or not may_be_text(content):
        return False
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return not claims_to_be_manifest(content) and not is_foreign_manifest(content)


def kind_of(registry: Registry, reporter: Reporter, content: bytes) -> Kind:
    """What a blob is that begins with these bytes: all of it, or at least the first ``SHORT`` bytes."""
    if not content:
        return Kind.EMPTY
    if claims_to_be_manifest(content):
        return Kind.MANIFEST
    if is_pointer(content):
        return Kind.POINTER
    if is_short_text(content) and detect(registry, reporter, content[:SNIFF]) is None:
        return Kind.TEXT
    return Kind.WHOLE
