"""merge: everything of a checkpoint that is no tensor, and in which order the tensors stand."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gittheta.codec.decode import Decoder
from gittheta.codec.encode import Encoder, Ticket
from gittheta.flows.checkout.smudge import read_skeleton
from gittheta.flows.merge.plan import Versions
from gittheta.flows.transfer.fetch import fetch_missing
from gittheta.flows.workspace import Workspace
from gittheta.model import RAW, Manifest, Skeleton, Stanza, TensorSpec, block_bytes, digest_of, skeleton_spec


@dataclass(frozen=True)
class Frame:
    """The skeleton of a merged checkpoint, and its tensors by name with the skeleton bytes before each."""

    skeleton: Skeleton
    order: tuple[tuple[str, int], ...]
    #: Of a skeleton that is on its way into the store.
    ticket: Ticket | None = None

    def manifest(self, file_format: str, results: dict[str, Stanza]) -> Manifest:
        """The merged manifest. The encoder must have finished."""
        skeleton = replace(self.skeleton, recipe=self.ticket.recipe()) if self.ticket else self.skeleton
        return Manifest(file_format, skeleton, tuple(replace(results[name], skip=skip) for name, skip in self.order))


def merged_frame(workspace: Workspace, encoder: Encoder, versions: Versions, wanted: list[TensorSpec]) -> Frame | None:
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
            return Frame(side.skeleton, order)
    return _composed(workspace, encoder, base, sides, wanted)


def _composed(
    workspace: Workspace, encoder: Encoder, base: Manifest | None, sides: Sequence[Manifest], wanted: list[TensorSpec]
) -> Frame | None:
    file_format = workspace.registry.format(sides[0].format)
    old = _read(workspace, base) if base else None
    composed: bytes | None = _read(workspace, sides[0])
    for side in sides[1:] or sides:
        if composed is None:
            return None
        composed = file_format.merge_skeletons(old, composed, _read(workspace, side), wanted)
    if composed is None:
        return None
    layout = file_format.split(io.BytesIO(composed))
    order: list[tuple[str, int]] = []
    end = 0
    for segment in layout.segments:
        order.append((segment.spec.name, segment.offset - end if order else 0))
        end = segment.offset + segment.spec.nbytes
    lead = layout.segments[0].offset if layout.segments else len(composed)
    view = memoryview(composed)
    blocks = (view[at : at + block_bytes(RAW)] for at in range(0, len(view), block_bytes(RAW)))
    ticket = encoder.add(skeleton_spec(len(composed)), blocks)
    return Frame(Skeleton(len(composed), lead, digest_of(composed), ()), tuple(order), ticket)


def _read(workspace: Workspace, manifest: Manifest) -> bytes:
    fetch_missing(workspace, replace(manifest, stanzas=()))
    return read_skeleton(Decoder(workspace), manifest)
