"""How a tensor was stored before: in the manifests at hand, else in the table of known tensors."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gittheta.codec.damage import doubt
from gittheta.codec.decode import Decoder
from gittheta.errors import ManifestError, ThetaError
from gittheta.model import (
    RAW,
    Digest,
    Manifest,
    ObjectId,
    Recipe,
    Stanza,
    TensorSpec,
    digest_of,
    recipe_key,
    recipe_keys,
    skeleton_spec,
)
from gittheta.storage.frames import Frame, frames_of
from gittheta.storage.manifest import MAX_TEXT, claims_to_be_manifest, parse_manifest

if TYPE_CHECKING:
    from gittheta.codec.tensor_store import TensorStore
    from gittheta.flows.workspace import Workspace


@dataclass(frozen=True)
class ManifestsAtHand:
    """What Git holds for one file: manifests of the index, of our side of a merge, of HEAD, with their texts."""

    manifests: tuple[tuple[bytes, Manifest], ...]
    committed: Manifest | None
    #: Other checkpoints that new tensors may have come from, the likeliest first.
    others: tuple[Manifest, ...] = ()

    @classmethod
    def of(cls, workspace: Workspace, path: str) -> ManifestsAtHand:
        """Read them. Texts that are no valid manifest are left out."""
        found: dict[bytes, Manifest] = {}
        text = None
        for name in (f":0:{path}", f":2:{path}", f"HEAD:{path}"):
            text = workspace.blobs.read(name, MAX_TEXT)
            if text and text not in found and claims_to_be_manifest(text):
                with suppress(ManifestError):
                    found[text] = parse_manifest(text)
        return cls(tuple(found.items()), found.get(text) if text else None)


@dataclass(frozen=True)
class ComparableTensor:
    """A tensor in the store whose blocks can be compared with a file's: each frame carries its block's digest.

    Only of frames that this clone has itself written or compared with the blocks they stand for: a stranger's frames
    may say one thing and hold another.
    """

    digest: Digest
    recipe: Recipe
    frames: tuple[Frame, ...]


class StoredTensors:
    """Answers from manifests first (the index's, HEAD's), so that an unchanged tensor keeps its very text.

    A recipe counts only while its objects are here: a checkpoint added again mends a damaged store. For one thread.
    """

    def __init__(self, tensors: TensorStore, at_hand: ManifestsAtHand) -> None:
        self._tensors = tensors
        self._stanzas: dict[tuple[str, Digest], Stanza] = {}
        self._recipes: dict[Digest, Recipe] = {}
        self._doubtful: dict[tuple[Digest, Recipe], TensorSpec] = {}
        self._compared: dict[str, Stanza] = {}
        self._sizes: dict[ObjectId, int] = {}
        self._texts = tuple(digest_of(text) for text, _ in at_hand.manifests)
        #: Recipes that did not yield their tensors, although no object of theirs is damaged.
        self._wrong: set[Recipe] = set()
        for text, manifest in zip(self._texts, (manifest for _, manifest in at_hand.manifests), strict=True):
            known = tensors.recipes.manifest(text)
            self._learn(manifest, compared=bool(known))
            if known is None:
                self._doubt(manifest)

    def _doubt(self, manifest: Manifest) -> None:
        """Nothing in this manifest was ever decoded here: what it says of a tensor is tried before it is relied on."""
        skeleton = manifest.skeleton
        self._doubtful[skeleton.digest, skeleton.recipe] = skeleton_spec(skeleton.length)
        self._doubtful |= {(stanza.digest, stanza.recipe): stanza.spec for stanza in manifest.stanzas}

    def _learn(self, manifest: Manifest, *, compared: bool) -> None:
        self._recipes.setdefault(manifest.skeleton.digest, manifest.skeleton.recipe)
        for stanza in manifest.stanzas:
            self._stanzas.setdefault((stanza.spec.name, stanza.digest), stanza)
            self._recipes.setdefault(recipe_key(stanza.digest, stanza.spec, stanza.recipe), stanza.recipe)
            if compared:
                self._compared.setdefault(stanza.spec.name, stanza)

    def stanza(self, spec: TensorSpec, digest: Digest, skip: int) -> Stanza | None:
        """The stanza of a tensor that is stored already; its very text if it has not changed."""
        found = self._stanzas.get((spec.name, digest))
        if found and _same_meaning(found.spec, spec) and self._is_sound(found.recipe, digest):
            return found if found.skip == skip else replace(found, skip=skip)
        recipe = self._recipe(spec, digest)
        return Stanza(spec, digest, recipe, skip) if recipe else None

    def _recipe(self, spec: TensorSpec, digest: Digest) -> Recipe | None:
        """A recipe for a tensor of that digest."""
        keys = recipe_keys(digest, spec)
        for key in keys:
            found = self._recipes.get(key)
            if found and self._is_sound(found, digest):
                return found
        for key in keys:
            found = self._tensors.recipes.recipe(key)
            if found and self.is_here(found):
                return found
        return None

    def comparable(self, spec: TensorSpec) -> ComparableTensor | None:
        """What the index holds under that name, if it has the same dtype and shape."""
        stanza = self._compared.get(spec.name)
        return self._stored(stanza.digest, stanza.recipe, spec) if stanza and stanza.spec == spec else None

    def opening(self, spec: TensorSpec, first: Digest) -> ComparableTensor | None:
        """A large tensor known from elsewhere that begins with a block of that digest."""
        for key in recipe_keys(first, spec):
            found = self._tensors.recipes.by_first_block(key)
            if found:
                return self._stored(*found, spec)
        return None

    def frames_hold(self, recipe: Recipe, digests: Sequence[Digest]) -> bool:
        """Whether the frames of a recipe carry the digests of these very blocks."""
        try:
            return [frame.head.digest for frame in frames_of(self._tensors.reader, recipe[0])] == list(digests)
        except ThetaError:
            return False

    def _stored(self, digest: Digest, recipe: Recipe, spec: TensorSpec) -> ComparableTensor | None:
        if not recipe or not self.is_here(recipe):
            return None
        try:
            frames = tuple(frames_of(self._tensors.reader, recipe[0]))
        except ThetaError:
            return None
        whole = sum(frame.head.raw for frame in frames) == spec.nbytes
        return ComparableTensor(digest, recipe, frames) if whole else None

    def doubt(self, stored: ComparableTensor, error: ThetaError) -> None:
        """A stored tensor could not be read: nothing new relies on it."""
        doubt(self._tensors, stored.recipe, error)
        self._wrong.add(stored.recipe)
        self._sizes.clear()

    def forget(self, spec: TensorSpec, stored: ComparableTensor) -> None:
        """Do not compare with that tensor again, in other processes either."""
        openings = recipe_keys(stored.frames[0].head.digest, spec)
        self._tensors.recipes.forget(self._texts, openings)

    def _is_sound(self, recipe: Recipe, digest: Digest) -> bool:
        """Whether a recipe's objects are here and, if it comes from a stranger's manifest, yield the tensor."""
        if not self.is_here(recipe):
            return False
        spec = self._doubtful.get((digest, recipe))
        if spec is not None:
            try:
                for _ in Decoder(self._tensors).checked([(spec, digest, recipe)]):
                    pass
            except ThetaError as error:
                self._tensors.reporter.warn(f"{error.located(tensor=spec.name)}\n  stored anew")
                return False
            del self._doubtful[digest, recipe]
        return True

    def is_here(self, recipe: Recipe) -> bool:
        """Whether the objects that a recipe needs are in the store, undamaged as far as anyone knows."""
        places = (place for link in recipe for place in link.places)
        here = all(self._size(place.object) >= place.offset + place.length for place in places)
        return here and recipe not in self._wrong

    def _size(self, object_id: ObjectId) -> int:
        if object_id not in self._sizes:
            self._sizes[object_id] = self._tensors.store.reusable(object_id)
        return self._sizes[object_id]


def _same_meaning(found: TensorSpec, spec: TensorSpec) -> bool:
    """Equal, or one of them written by a program that did not know the dtype."""
    return found == spec or (found.nbytes == spec.nbytes and RAW in (found.dtype, spec.dtype))


def remember(tensors: TensorStore, manifest: Manifest, text: bytes, *, compared: bool) -> None:
    """Put the tensors of a manifest into the table, once all of them were encoded or their digests checked here.

    ``compared``: the digests in their frames were too.
    """
    text_digest = digest_of(text)
    before = tensors.recipes.manifest(text_digest)
    if before or before == compared:
        return
    openings = []
    for stanza in manifest.stanzas:
        if compared and stanza.spec.nbytes > tensors.limits.held:
            with suppress(ThetaError):  # of a tensor that was stored long ago
                first = next(frames_of(tensors.reader, stanza.recipe[0]))
                key = recipe_key(first.head.digest, stanza.spec, stanza.recipe)
                openings.append((key, stanza.digest, stanza.recipe))
    recipes = [
        (recipe_key(stanza.digest, stanza.spec, stanza.recipe), stanza.recipe)
        for stanza in manifest.stanzas
        if stanza.recipe
    ]
    if manifest.skeleton.recipe:
        recipes.append((manifest.skeleton.digest, manifest.skeleton.recipe))
    tensors.recipes.record(recipes, openings)
    tensors.recipes.record_manifest(text_digest, compared=compared)
