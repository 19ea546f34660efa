"""Where the statistics of a checkpoint lie."""

from __future__ import annotations

import pytest

from gittheta.errors import MergeError
from gittheta.flows.merge.sidecars import sidecar_path


@pytest.mark.parametrize(
    "pattern", ["{stem.__class__}", "{kind:>1000000000}", "{", "}", "{0}", "../{stem}", "/../x", ""]
)
def test_patterns_of_statistics_are_words(pattern: str) -> None:
    with pytest.raises(MergeError, match="stats is '"):
        sidecar_path(pattern, "models/m.safetensors", "fisher")
