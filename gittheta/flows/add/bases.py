"""What a changed tensor may have come from: looked for among what is committed, never among what was only staged."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from gittheta.codec.choose import BaseCandidate
from gittheta.flows.add.committed import ATTRIBUTE, Committed
from gittheta.wording import quoted, shown

if TYPE_CHECKING:
    from gittheta.flows.add.stored import ManifestsAtHand, StoredTensors
    from gittheta.flows.workspace import Workspace
    from gittheta.model import Manifest, Stanza, TensorSpec

#: The most tensors of the same name in other checkpoints that are tried.
_OTHERS = 2


class Bases:
    """Finds candidates for the tensors of one file, in HEAD.

    In this order: the same name in the same file; in the file that the attribute ``theta-base`` names; the same name
    and shape in any other tracked checkpoint. For a version from somewhere in history, what is at hand stands in for
    HEAD.
    """

    def __init__(self, workspace: Workspace, stored: StoredTensors, path: str, at_hand: ManifestsAtHand) -> None:
        self._workspace = workspace
        self._stored = stored
        self._path = path
        self._own = _by_name(at_hand.committed)
        self._others = [_by_name(manifest) for manifest in at_hand.others]
        self._committed = workspace.kept(Committed)

    def of(self, spec: TensorSpec) -> tuple[BaseCandidate, ...]:
        """What a tensor may have come from, the likeliest first."""
        for table in (self._own, self._named):
            stanza = table.get(spec.name)
            if stanza:
                return self._candidates([stanza])
        if self._others:
            alike = [other[spec.name] for other in self._others if spec.name in other]
            return self._candidates([stanza for stanza in alike if stanza.spec == spec][:_OTHERS])
        return self._candidates(self._committed.like(self._path, spec, _OTHERS))

    def _candidates(self, stanzas: list[Stanza]) -> tuple[BaseCandidate, ...]:
        here = (stanza for stanza in stanzas if stanza.recipe and self._stored.is_here(stanza.recipe))
        return tuple(BaseCandidate(stanza.spec, stanza.digest, stanza.recipe) for stanza in here)

    @cached_property
    def _named(self) -> dict[str, Stanza]:
        """The tensors of the file that the attribute names."""
        path = self._committed.base_of(self._path)
        if path is None:
            return {}
        inside = not path.startswith("/") and ".." not in path.split("/")
        found = self._workspace.try_manifest(f"HEAD:{path}") if inside else None
        if found is None:
            problem = f"{ATTRIBUTE} names {quoted(path)}, of which HEAD has no checkpoint"
            self._workspace.reporter.warn(f"{shown(self._path)}: {problem}")
        return _by_name(found)


def _by_name(manifest: Manifest | None) -> dict[str, Stanza]:
    return {stanza.spec.name: stanza for stanza in manifest.stanzas} if manifest else {}
