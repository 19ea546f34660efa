"""repack: tensors that are told from others are stored by themselves again. Contents, and so history, stay as they are.

The manifests of the index get new recipes, to be committed; those in history are text that nobody rewrites.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gittheta.codec.decode import Decoder
from gittheta.codec.encode import Encoder, PendingTensor
from gittheta.codec.spool import Spool
from gittheta.errors import GitError
from gittheta.flows.add.stored import remember
from gittheta.flows.transfer.fetch import fetch_missing
from gittheta.git.locked_index import PATIENCE, replace_entries
from gittheta.model import Manifest, Stanza, digest_of, stored_bytes
from gittheta.storage.manifest import format_manifest

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.git.entries import Entry


@dataclass(frozen=True)
class Repacked:
    """One file: how many of its tensors were flattened, and the bytes of their payloads before and after."""

    path: str
    tensors: int
    before: int
    after: int


def repack(workspace: Workspace, paths: Iterable[str] = ()) -> list[Repacked]:
    """Flatten the chains of files of the index, of all if none are named. Raises a ThetaError that names the file."""
    repository = workspace.repository
    entries = [entry for entry in repository.index() if not entry.stage and entry.mode.startswith("100")]
    filters = repository.attributes(["filter"], (entry.path for entry in entries))
    tracked = {entry.path: entry for entry in entries if filters[entry.path]["filter"] == "theta"}
    wanted = list(paths) or list(tracked)
    for path in wanted:
        if path not in tracked:
            raise GitError("no such checkpoint in the index", path=path, hint="`git theta ls-files` lists them")
    done = []
    for entry in map(tracked.__getitem__, wanted):
        manifest = workspace.try_manifest(entry.oid)
        if manifest and any(len(stanza.recipe) > 1 for stanza in manifest.stanzas):
            repacked = _repack(workspace, entry, manifest)
            done += [repacked] if repacked else []
    return done


def _repack(workspace: Workspace, entry: Entry, manifest: Manifest) -> Repacked | None:
    """Flatten one file; None if the index has another version of it by now."""
    fetch_missing(workspace, manifest)
    chains = [stanza for stanza in manifest.stanzas if len(stanza.recipe) > 1]
    workspace.reporter.start(f"Repacking {entry.path}", sum(stanza.spec.nbytes for stanza in chains))
    encoder = Encoder(workspace.tensors)
    try:
        pending_by_name = {stanza.spec.name: pending for stanza, pending in _stored(workspace, encoder, chains)}
        encoder.finish()
    finally:
        encoder.abort()
    flat = {name: pending.recipe() for name, pending in pending_by_name.items()}
    stanzas = tuple(replace(stanza, recipe=flat.get(stanza.spec.name, stanza.recipe)) for stanza in manifest.stanzas)
    new = replace(manifest, stanzas=stanzas)
    text = format_manifest(new)
    staged = replace(entry, oid=workspace.repository.git.write_blob(text))
    if replace_entries(workspace.repository, [(entry, staged)], PATIENCE):
        workspace.reporter.warn(f"{entry.path}: staged anew in the meantime, and left like that; run repack again")
        return None
    # What is not told from anything was not read here, so that it is known now only if it was before.
    known = workspace.tensors.recipes.manifest(digest_of(format_manifest(manifest)))
    if known is not None:
        remember(workspace.tensors, new, text, compared=known)
    before = sum(stored_bytes(stanza.recipe) for stanza in chains)
    return Repacked(entry.path, len(chains), before, sum(map(stored_bytes, flat.values())))


def _stored(workspace: Workspace, encoder: Encoder, chains: list[Stanza]) -> Iterator[tuple[Stanza, PendingTensor]]:
    decoder = Decoder(workspace.tensors)
    for stanza in chains:
        spool = Spool(workspace.tensors, stanza.spec, workspace.tensors.limits.held)
        for block in decoder.checked([(stanza.spec, stanza.digest, stanza.recipe)]):
            spool.append(block)
            workspace.reporter.advance(len(block))
        yield stanza, encoder.add(spool)
