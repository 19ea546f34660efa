"""Puts a merged checkpoint into the work tree, where ours stands, and loses nothing that stands there instead."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.codec.readers import FileReader, digest_reader
from gittheta.errors import GitError, StoreError
from gittheta.flows.checkout.materialise import manifest_text, replace_checkpoint
from gittheta.model import Manifest, RunningDigest, piece_spec
from gittheta.storage.files import open_to_read, translated
from gittheta.storage.manifest import format_manifest

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.limits import Limits


def replace_ours(workspace: Workspace, path: str, ours: Manifest, merged: Manifest) -> None:
    """Write the merged checkpoint. Raises StoreError if something else than ours stands in the work tree."""
    top = workspace.repository.top
    if top is None:
        raise GitError("there is no work tree")
    target = top / path
    if not os.path.lexists(target):
        raise _is_other(path, "the file is gone from the work tree")
    with translated(target):
        before = _state(target)
        if not _is(target, ours, workspace.tensors.limits):
            raise _is_other(path)
        if not replace_checkpoint(workspace, target, path, merged, lambda: _state(target) == before):
            raise _is_other(path)


def _is_other(path: str, problem: str = "the file in the work tree is not ours any more, and stays") -> StoreError:
    name = shlex.quote(path)
    return StoreError(
        problem,
        path=path,
        hint=f"`git add {name}` if that is the result, or start again: git checkout --merge -- {name}",
    )


def _state(target: Path) -> tuple[int, ...]:
    found = target.lstat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _is(target: Path, manifest: Manifest, limits: Limits) -> bool:
    """Whether a file is what a manifest describes, or that manifest itself. Reads all of it."""
    found = target.lstat()
    if not stat.S_ISREG(found.st_mode):
        return False
    text = manifest_text(target)
    if text is not None:
        return text == format_manifest(manifest)
    if found.st_size != manifest.file_size:
        return False
    descriptor = open_to_read(target)
    try:
        return _has(descriptor, manifest, limits)
    finally:
        os.close(descriptor)


def _has(descriptor: int, manifest: Manifest, limits: Limits) -> bool:
    skeleton, at = RunningDigest(), 0
    whole = FileReader(piece_spec(0, manifest.file_size), descriptor, 0)

    def take(length: int) -> None:
        nonlocal at
        skeleton.update(whole.read(at, at + length))
        at += length

    take(manifest.skeleton.lead)
    for stanza in manifest.stanzas:
        take(stanza.skip)
        if digest_reader(FileReader(stanza.spec, descriptor, at), limits) != stanza.digest:
            return False
        at += stanza.spec.nbytes
    take(manifest.file_size - at)
    return skeleton.digest() == manifest.skeleton.digest
