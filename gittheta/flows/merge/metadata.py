"""merge: everything of a checkpoint that is no tensor, and in which order the tensors stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gittheta.codec.decode import Decoder
from gittheta.codec.readers import HeldReader
from gittheta.errors import FormatError
from gittheta.flows.checkout.smudge import read_skeleton
from gittheta.flows.transfer.fetch import fetch_missing
from gittheta.model import Manifest, Skeleton, Stanza, TensorSpec, digest_of, skeleton_spec

if TYPE_CHECKING:
    from gittheta.api import Composed
    from gittheta.codec.encode import Encoder, PendingTensor
    from gittheta.flows.merge.plan import Versions
    from gittheta.flows.workspace import Workspace


@dataclass(frozen=True)
class MergedSkeleton:
    """The skeleton of a merged checkpoint, and its tensors by name with the skeleton bytes before each."""

    skeleton: Skeleton
    order: tuple[tuple[str, int], ...]
    #: Of a skeleton that is on its way into the store.
    pending: PendingTensor | None = None

    def manifest(self, file_format: str, results: dict[str, Stanza]) -> Manifest:
        """The merged manifest. The encoder must have finished."""
        skeleton = replace(self.skeleton, recipe=self.pending.recipe()) if self.pending else self.skeleton
        return Manifest(file_format, skeleton, tuple(replace(results[name], skip=skip) for name, skip in self.order))


def merged_skeleton(
    workspace: Workspace, encoder: Encoder, versions: Versions, wanted: list[TensorSpec]
) -> MergedSkeleton | None:
    """The frame for the wanted tensors; None if the sides' skeletons clash."""
    base, sides = versions.base, [side.manifest for side in versions.sides]
    if versions.metadata is not None:
        base, sides = None, [side.manifest for side in versions.sides if side.label == versions.metadata]
    specs = set(wanted)  # a header says dtypes and shapes too, and one version of a tensor may have been taken
    for side in sides:
        same = [base.skeleton.digest] if base else []
        agreed = all(other.skeleton.digest in (*same, side.skeleton.digest) for other in sides)
        order = tuple((stanza.spec.name, stanza.skip) for stanza in side.stanzas)
        if agreed and {stanza.spec for stanza in side.stanzas} == specs:
            return MergedSkeleton(side.skeleton, order)
    return _composed(workspace, encoder, base, sides, wanted)


def _composed(
    workspace: Workspace, encoder: Encoder, base: Manifest | None, sides: Sequence[Manifest], wanted: list[TensorSpec]
) -> MergedSkeleton | None:
    file_format = workspace.tensors.registry.format(sides[0].format)
    skeletons = [_read(workspace, side) for side in sides]
    try:
        old = file_format.metadata(_read(workspace, base)) if base else {}
        found = [file_format.metadata(skeleton) for skeleton in skeletons]
    except FormatError:
        return None
    metadata: Mapping[str, str] | None = found[0]
    for other in found[1:]:
        metadata = merge_metadata(old, metadata, other) if metadata is not None else None
    composed = file_format.compose(wanted, metadata) if metadata is not None else None
    return _laid_out(encoder, composed) if composed is not None else None


def _laid_out(encoder: Encoder, composed: Composed) -> MergedSkeleton:
    """What the manifest says of a file that was laid out anew; its skeleton goes into the store."""
    order: list[tuple[str, int]] = []
    end = 0
    for segment in composed.layout.segments:
        order.append((segment.spec.name, segment.offset - end if order else 0))
        end = segment.offset + segment.spec.nbytes
    skeleton = composed.skeleton
    lead = composed.layout.segments[0].offset if composed.layout.segments else len(skeleton)
    pending = encoder.add(HeldReader(skeleton_spec(len(skeleton)), [memoryview(skeleton)]))
    return MergedSkeleton(Skeleton(len(skeleton), lead, digest_of(skeleton), ()), tuple(order), pending)


def merge_metadata(
    base: Mapping[str, str], ours: Mapping[str, str], theirs: Mapping[str, str]
) -> dict[str, str] | None:
    """Three versions of some texts become one, key by key, in ours' order; None if a key clashes.

    A key that only one side changed, added or deleted is as that side has it; changed alike, as both have it.
    """
    merged = {}
    for key in dict.fromkeys([*ours, *theirs]):
        was, mine, yours = base.get(key), ours.get(key), theirs.get(key)
        if mine == yours or yours == was:
            value = mine
        elif mine == was:
            value = yours
        else:
            return None
        if value is not None:
            merged[key] = value
    return merged


def _read(workspace: Workspace, manifest: Manifest) -> bytes:
    fetch_missing(workspace, replace(manifest, stanzas=()))
    return read_skeleton(Decoder(workspace.tensors), manifest)
