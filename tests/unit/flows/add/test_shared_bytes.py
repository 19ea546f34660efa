"""The same bytes as tensors of several dtypes and shapes."""

from __future__ import annotations

import pytest

from gittheta.storage.manifest import parse_manifest
from tests.support.command import git
from tests.support.repository import Repo
from tests.support.safetensors_file import safetensors
from tests.support.shelf import floats, touched


@pytest.mark.parametrize("order", [1, -1])
def test_the_same_bytes_of_several_dtypes_and_shapes(repo: Repo, order: int) -> None:
    """A recipe over a base means something for one dtype and shape only: nobody else gets it."""
    old, new = floats(1), touched(floats(1), 2)
    halves, turned = (1920, 2), (20, 96)
    kinds = [("a", "F32", (96, 20)), ("b", "BF16", halves), ("c", "F32", turned), ("d", "I16", halves)][::order]
    before, after = (safetensors([(*kind, data) for kind in kinds]) for data in (old, new))
    for data in (before, after, before):
        text = repo.check_fixed_point(data)
        git(repo.top, "commit", "-q", "-m", "version")
        manifest = parse_manifest(text)
        results = {(stanza.spec.dtype, stanza.spec.shape, stanza.recipe) for stanza in manifest.stanzas}
        assert data == before or len({recipe for _, _, recipe in results if len(recipe) > 1}) == len(kinds)


def test_the_same_bytes_in_two_files_as_different_dtypes(repo: Repo) -> None:
    old, new = floats(1), touched(floats(1), 2)
    for path, dtype, shape in (("one", "F32", (96, 20)), ("two", "BF16", (1920, 2)), ("three", "U8", (7680,))):
        for data in (old, new):
            repo.check_fixed_point(safetensors([("w", dtype, shape, data)]), path)
            git(repo.top, "commit", "-q", "-m", "version")
