"""smudge: a manifest -> the checkpoint's bytes, in file order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gittheta.api.reporting import timed
from gittheta.codec.decode import Decoder
from gittheta.codec.stream import exactly
from gittheta.errors import ManifestError, PayloadError, PluginError, StoreError, ThetaError
from gittheta.files.kinds import Kind, is_pointer, kind_of
from gittheta.flows.add.stored import remember
from gittheta.model import OPAQUE, Manifest, skeleton_spec
from gittheta.storage.manifest import (
    claims_to_be_manifest,
    format_manifest,
    has_conflict_markers,
    is_foreign_manifest,
    parse_manifest,
)
from gittheta.wording import shell_word, shown

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace
    from gittheta.registry import Registry


def read_manifest(workspace: Workspace, path: str, text: bytes) -> Manifest | None:
    """The manifest that Git holds for a file; None for content that was never cleaned and is to be left as it is.

    Raises ManifestError if it is a manifest of another tool, or an invalid one.
    """
    if not claims_to_be_manifest(text):
        if is_foreign_manifest(text):
            raise ManifestError(
                "this is the metadata of the original Git-Theta, not of gittheta",
                path=path,
                hint="check it out with git-theta, then `git theta track` it and `git add --renormalize` it here",
            )
        if is_pointer(text) and not workspace.settings.allow_lfs_pointers:
            workspace.warn_once(
                "pointer",
                f"{shown(path)}: committed with Git LFS, left as its pointer; `git theta status` lists them\n"
                "  run `git lfs pull`, then `git add --renormalize .` to store them with gittheta",
            )
        return None
    try:
        manifest = parse_manifest(text)
        check_plugins(workspace.tensors.registry, manifest)
    except ThetaError as error:
        if has_conflict_markers(text):
            workspace.reporter.warn(
                f"{shown(path)}: both versions of the manifest, as git merges text without the merge driver\n"
                f"  choose one: git checkout --ours -- {shell_word(path)} (or --theirs)\n"
                "  to merge models: git theta install"
            )
            return None
        raise error.located(path=path) from None
    return manifest


def warn_of_whole(workspace: Workspace, path: str, content: bytes) -> None:
    """Say once how to mend it if Git has a file whole, past the filter; ``content`` begins what Git has."""
    if kind_of(workspace.tensors.registry, workspace.reporter, content) is Kind.WHOLE:
        workspace.warn_once(
            "whole",
            f"{shown(path)}: whole in Git, past gittheta; `git theta status` lists such files\n"
            "  to let gittheta store them: git add --renormalize . && git commit",
        )


def check_plugins(registry: Registry, manifest: Manifest) -> None:
    """Raise PluginError, naming the tensor, unless everything that the manifest needs is installed.

    The format is not needed to write the file, but to recognise it when it is added again.
    """
    if manifest.format != OPAQUE:
        registry.load("formats", manifest.format)
    known: set[str] = set()
    for recipe, stanza in zip(manifest.recipes(), (None, *manifest.stanzas), strict=True):
        for name in {link.encoding for link in recipe} - known:
            try:
                registry.load("encodings", name)
            except PluginError as error:
                raise error.located(tensor=stanza.spec.name if stanza else None) from None
            known.add(name)


def smudge(workspace: Workspace, path: str, manifest: Manifest) -> Iterator[bytes | memoryview]:
    """The bytes of a checkpoint. Objects that are not here are fetched first.

    Raises a ThetaError that names the file and the tensor. Whoever takes the bytes keeps none of them if it does.
    """
    try:
        with timed(workspace.reporter, "looking for objects"):
            fetched = _fetch_missing(workspace, manifest)
        workspace.reporter.trace(f"{fetched} objects fetched, {len(manifest.stanzas)} tensors to decode")
        yield from _assemble(workspace, manifest)
    except PayloadError as error:
        raise _blamed(workspace, path, manifest, error) from None
    except ThetaError as error:
        raise error.located(path=path) from None
    remember(workspace.tensors, manifest, format_manifest(manifest), compared=False)


def _fetch_missing(workspace: Workspace, manifest: Manifest) -> int:
    if not workspace.tensors.store.missing(manifest.objects()):
        return 0
    # It takes its time to import, and most commands need no remote.
    from gittheta.flows.transfer.fetch import fetch_missing

    return fetch_missing(workspace, manifest)


def _blamed(workspace: Workspace, path: str, manifest: Manifest, error: PayloadError) -> ThetaError:
    """The error, or a StoreError if what does not decode lies in an object that has changed."""
    recipes = {stanza.spec.name: stanza.recipe for stanza in manifest.stanzas}
    recipe = recipes.get(error.tensor or "", manifest.skeleton.recipe)
    for object_id in {place.object for link in recipe for place in link.places}:
        try:
            workspace.tensors.store.check(object_id)
        except StoreError as damage:
            return damage.located(path=path, tensor=error.tensor)
    return error.but(path=error.path or path, hint=error.hint or _HINT)


_HINT = "the manifest and its objects do not belong together; take them from an intact clone"


def _assemble(workspace: Workspace, manifest: Manifest) -> Iterator[bytes | memoryview]:
    decoder = Decoder(workspace.tensors)
    skeleton = read_skeleton(decoder, manifest)
    at = manifest.skeleton.lead
    yield skeleton[:at]
    tensors = [(stanza.spec, stanza.digest, stanza.recipe) for stanza in manifest.stanzas]
    blocks = decoder.checked(tensors)
    for stanza in manifest.stanzas:
        if stanza.skip:
            yield skeleton[at : at + stanza.skip]
            at += stanza.skip
        yield from exactly(blocks, stanza.spec.nbytes)
    for _ in blocks:  # checks the digests of empty tensors at the end
        pass
    yield skeleton[at:]


def read_skeleton(decoder: Decoder, manifest: Manifest) -> bytes:
    """The skeleton's bytes, which the manifest's bounds keep small."""
    skeleton = manifest.skeleton
    return decoder.read(skeleton_spec(skeleton.length), skeleton.digest, skeleton.recipe)
