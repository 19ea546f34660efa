"""Statistics that stand beside a checkpoint, as checkpoints of their own: each side's, from that side's commit."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from gittheta.api import SIDECAR
from gittheta.errors import MergeError
from gittheta.flows.transfer.fetch import fetch_missing

if TYPE_CHECKING:
    from gittheta.flows.merge.plan import Side
    from gittheta.flows.workspace import Workspace
    from gittheta.model import Manifest, Stanza

_WORDS = re.compile("{stem}|{suffix}|{kind}")


def sidecar_path(pattern: str, path: str, kind: str) -> str:
    """The path of a sidecar. Raises MergeError for a pattern with other words in braces, or that leaves the tree."""
    here = PurePosixPath(path)
    words = {"{stem}": here.stem, "{suffix}": here.suffix, "{kind}": kind}
    # A pattern may come from whoever wrote theta.toml: str.format would let it look into objects, or pad without end.
    name = _WORDS.sub(lambda found: words[found[0]], pattern)
    if set(_WORDS.sub("", pattern)) & {"{", "}"} or not name:
        raise MergeError(f"stats is '{pattern}'", hint=f"it may look like this: {SIDECAR}")
    found = PurePosixPath(name[1:]) if name.startswith("/") else here.parent / name
    if ".." in found.parts:
        raise MergeError(f"stats is '{pattern}', which leaves the repository")
    return str(found)


def sidecar(workspace: Workspace, side: Side, pattern: str | None, path: str, kind: str) -> dict[str, Stanza]:
    """The tensors of one sidecar by name. Raises MergeError if that side has none."""
    wanted = sidecar_path(pattern or SIDECAR, path, kind)
    if side.commit is None:
        raise MergeError(
            f"it is not known of which commit {side.label} is, and so not where its {wanted} lies",
            hint="use `git merge -s theta`, which knows",
        )
    found: Manifest | None = workspace.read_manifest(f"{side.commit}:{wanted}")
    if found is None:
        raise MergeError(
            f"{side.label} has no {wanted}, the statistics ({kind}) of {path}",
            hint=f"collect them (gittheta.statistics), `git theta track {wanted}` and commit it there",
        )
    fetch_missing(workspace, found)
    return {stanza.spec.name: stanza for stanza in found.stanzas}
