"""Of the merge driver: files that gittheta leaves to Git as text are merged as text, line by line."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.errors import ThetaError
from gittheta.files.kinds import SHORT, is_short_text
from gittheta.flows.checkout.smudge import smudge
from gittheta.git.merge_file import merge_texts
from gittheta.model import OPAQUE
from gittheta.storage.manifest import claims_to_be_manifest, parse_manifest

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace


def merge_as_text(workspace: Workspace, path: str, files: Sequence[Path], marker_size: str) -> bool | None:
    """Merge base, ours and theirs into ours if all are texts: whether no conflict is left; None if they are not.

    A text that an older gittheta has stored as an opaque file counts as the text that it is.
    """
    texts = [_text(workspace, path, file) for file in files]
    if None in texts or not any(texts):
        return None
    with tempfile.TemporaryDirectory() as folder:
        copies = [Path(folder, name) for name in ("base", "ours", "theirs")]
        for copy, text in zip(copies, texts, strict=True):
            copy.write_bytes(text or b"")
        base, ours, theirs = map(str, copies)
        clean = merge_texts(workspace.repository.git, base, ours, theirs, marker_size=marker_size)
        files[1].write_bytes(copies[1].read_bytes())
    return clean


def _text(workspace: Workspace, path: str, file: Path) -> bytes | None:
    with open(file, "rb") as opened:
        content = opened.read(SHORT)
    if not content or is_short_text(content):
        return content
    if not claims_to_be_manifest(content):
        return None
    try:
        manifest = parse_manifest(content)
        if manifest.format != OPAQUE or manifest.file_size >= SHORT:
            return None
        whole = b"".join(smudge(workspace, path, manifest))
    except ThetaError:
        return None
    return whole if is_short_text(whole) else None
