"""Store tensors before they are added, where it is known what they came from, so that `git add` finds it done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gittheta.api import Values
from gittheta.codec.choose import Candidate, Told
from gittheta.codec.encode import Encoder
from gittheta.flows.add.stored import AtHand, Recall
from gittheta.flows.edit.workfile import digest_values
from gittheta.flows.workspace import Workspace
from gittheta.model import recipe_key


@dataclass(frozen=True)
class Foretold:
    """A tensor as it will be added, what it came from, and how, if that is known."""

    new: Values
    candidate: Candidate
    told: Told | None = None


def store_foretold(workspace: Workspace, tensors: Iterable[Foretold]) -> None:
    """Make tensors durable and remember their recipes. Raises StoreError."""
    encoder = Encoder(workspace)
    try:
        tickets = []
        for tensor in tensors:
            digest = digest_values(tensor.new)
            if digest == tensor.candidate.digest:
                continue
            if tensor.told:
                ticket = encoder.add_told(tensor.new, tensor.candidate, tensor.told)
            else:
                ticket = encoder.add_changed(tensor.new, [tensor.candidate])
            tickets.append((digest, ticket))
        encoder.finish()
    finally:
        encoder.abort()
    recipes = ((digest, ticket.spec, ticket.recipe()) for digest, ticket in tickets)
    workspace.known.record((recipe_key(digest, spec, recipe), recipe) for digest, spec, recipe in recipes)


def stored_as(workspace: Workspace, path: str, values: Iterable[Values]) -> dict[str, Candidate]:
    """Those tensors that are in the store, by name: they can be bases of what comes of them."""
    recall = Recall(workspace, AtHand.of(workspace, path))
    found = {}
    for tensor in values:
        digest = digest_values(tensor)
        stanza = recall.stanza(tensor.spec, digest, 0)
        if stanza and stanza.recipe and stanza.spec == tensor.spec:
            found[tensor.spec.name] = Candidate(tensor.spec, digest, stanza.recipe)
    return found
