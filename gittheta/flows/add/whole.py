"""Versions from before gittheta, which are whole in Git: taken apart where they meet manifests, as in a merge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gittheta.flows.add.clean import clean
from gittheta.storage.manifest import claims_to_be_manifest, parse_manifest
from gittheta.wording import shown

if TYPE_CHECKING:
    from gittheta.codec.stream import Source
    from gittheta.flows.workspace import Workspace
    from gittheta.model import Manifest


def manifest_of_whole(workspace: Workspace, path: str, source: Source, label: str) -> Manifest | None:
    """The manifest of a checkpoint that a side of a merge has whole; None for texts, pointers and empty files.

    ``label`` names the side. Its tensors are stored. Raises StoreError.
    """
    text = clean(workspace, path, source)
    if not claims_to_be_manifest(text):
        return None
    workspace.reporter.warn(f"{shown(path)}: whole in Git in {label}, stored by gittheta for this merge")
    return parse_manifest(text)
