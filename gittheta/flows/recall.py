"""How a tensor was stored before: in the manifests at hand, else in the table of known tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gittheta.errors import ThetaError
from gittheta.flows.decode import Frame, frames_of
from gittheta.flows.workspace import Workspace
from gittheta.manifest import format_manifest
from gittheta.model import RAW, Digest, Manifest, Recipe, Stanza, TensorSpec, digest_of


class Recall:
    """Answers from manifests first (the index's, HEAD's), so that an unchanged tensor keeps its very text.

    A recipe counts only while its objects are here: a checkpoint added again mends a damaged store.
    """

    def __init__(self, workspace: Workspace, manifests: Iterable[Manifest]) -> None:
        self._workspace = workspace
        self._stanzas: dict[tuple[str, Digest], Stanza] = {}
        self._recipes: dict[Digest, Recipe] = {}
        for manifest in manifests:
            self._recipes.setdefault(manifest.skeleton.digest, manifest.skeleton.recipe)
            for stanza in manifest.stanzas:
                self._stanzas.setdefault((stanza.spec.name, stanza.digest), stanza)
                self._recipes.setdefault(stanza.digest, stanza.recipe)

    def stanza(self, spec: TensorSpec, digest: Digest, skip: int) -> Stanza | None:
        """The stanza of an unchanged tensor."""
        found = self._stanzas.get((spec.name, digest))
        if found and found.spec != spec and (found.spec.nbytes != spec.nbytes or RAW not in (found.spec.dtype, spec.dtype)):
            found = None
        if found and self._is_here(found.recipe):
            return replace(found, skip=skip)
        recipe = self.recipe(digest)
        return Stanza(spec, digest, recipe, skip) if recipe else None

    def recipe(self, digest: Digest) -> Recipe | None:
        """A recipe for bytes of that digest."""
        found = self._recipes.get(digest)
        if found and self._is_here(found):
            return found
        found = self._workspace.known.recipe(digest)
        return found if found and self._is_here(found) else None

    def opening(self, spec: TensorSpec, check: bytes) -> tuple[Recipe, list[Frame]] | None:
        """A stored tensor of the same size that begins with the same block: its recipe and its frames."""
        digest = self._workspace.known.by_first_block(check)
        recipe = self.recipe(digest) if digest else None
        if not recipe:
            return None
        try:
            frames = list(frames_of(self._workspace.reader, recipe[0]))
        except ThetaError:
            return None
        return (recipe, frames) if sum(frame.head.raw for frame in frames) == spec.nbytes else None

    def _is_here(self, recipe: Recipe) -> bool:
        store = self._workspace.store
        return all(
            store.holds(place.object, place.offset + place.length) for link in recipe for place in link.places
        )


def remember(workspace: Workspace, manifest: Manifest, large: int) -> None:
    """Put a manifest's tensors into the table; of those larger than ``large`` bytes, how they begin too."""
    text_digest = digest_of(format_manifest(manifest))
    if workspace.known.saw_manifest(text_digest):
        return
    openings = []
    for stanza in manifest.stanzas:
        if stanza.spec.nbytes > large:
            first = next(frames_of(workspace.reader, stanza.recipe[0]))
            openings.append((first.head.check, stanza.digest))
    tensors = [(stanza.digest, stanza.recipe) for stanza in manifest.stanzas if stanza.recipe]
    if manifest.skeleton.recipe:
        tensors.append((manifest.skeleton.digest, manifest.skeleton.recipe))
    workspace.known.record(tensors, openings)
    workspace.known.record_manifest(text_digest)
