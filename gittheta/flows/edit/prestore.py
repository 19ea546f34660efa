"""Store tensors before they are added, where it is known what they came from, so that `git add` finds it done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gittheta.codec.choose import BaseCandidate, Derivation
from gittheta.codec.encode import Encoder
from gittheta.codec.readers import digest_reader
from gittheta.flows.add.stored import ManifestsAtHand, StoredTensors
from gittheta.model import recipe_key

if TYPE_CHECKING:
    from gittheta.api import TensorReader
    from gittheta.codec.tensor_store import TensorStore
    from gittheta.flows.workspace import Workspace


@dataclass(frozen=True)
class KnownOrigin:
    """A tensor as it will be added, what it came from, and how, if that is known."""

    new: TensorReader
    candidate: BaseCandidate
    derivation: Derivation | None = None


def prestore(tensors: TensorStore, origins: Iterable[KnownOrigin]) -> None:
    """Make tensors durable and remember their recipes. Raises StoreError."""
    encoder = Encoder(tensors)
    try:
        changed = []
        for origin in origins:
            digest = digest_reader(origin.new, tensors.limits)
            if digest != origin.candidate.digest:
                changed.append((digest, encoder.add(origin.new, (), [origin.candidate], origin.derivation)))
        encoder.finish()
    finally:
        encoder.abort()
    recipes = ((digest, pending.spec, pending.recipe()) for digest, pending in changed)
    tensors.recipes.record((recipe_key(digest, spec, recipe), recipe) for digest, spec, recipe in recipes)


def stored_as(workspace: Workspace, path: str, values: Iterable[TensorReader]) -> dict[str, BaseCandidate]:
    """Those tensors that are in the store, by name: they can be bases of what comes of them."""
    stored = StoredTensors(workspace.tensors, ManifestsAtHand.of(workspace, path))
    found = {}
    for tensor in values:
        digest = digest_reader(tensor, workspace.tensors.limits)
        stanza = stored.stanza(tensor.spec, digest, 0)
        if stanza and stanza.recipe and stanza.spec == tensor.spec:
            found[tensor.spec.name] = BaseCandidate(tensor.spec, digest, stanza.recipe)
    return found
