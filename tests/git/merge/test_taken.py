"""One version of a tensor that is taken keeps its dtype and shape, and so does the file's header."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint, normal, raw, tensors_of
from tests.support.parameters import first_often
from tests.support.world import Repo

M = "m.safetensors"
BASE = {"t": normal(1, 4, 6), "u": normal(2, 5)}
#: As many elements in another shape, more of them, and others.
OURS = [normal(3, 3, 8), normal(3, 7, 8), normal(3, 4, 6).astype(np.float16)]


@pytest.mark.slow
@pytest.mark.parametrize("reshaped", first_often(1, OURS), ids=["as many", "more", "dtype"])
@pytest.mark.parametrize("origin", first_often(1, ["theirs", "base"]))
def test_a_version_of_another_shape_is_taken(repo: Repo, reshaped: np.ndarray, origin: str) -> None:
    theirs = {"t": normal(4, 4, 6), "u": normal(5, 5)}
    repo.commit(checkpoint(BASE))
    repo.branch("b", checkpoint(theirs))
    repo.git("checkout", "-q", "main")
    repo.commit(checkpoint(BASE | {"t": reshaped}))
    repo.attempt("git", "merge", "b")
    repo.git("theta", "resolve", M, "take", "--from", origin)
    expected = {"t": (theirs if origin == "theirs" else BASE)["t"], "u": theirs["u"]}
    result = tensors_of(repo.read())
    assert {name: (kind, tuple(shape), data) for name, (kind, shape, data) in result.items()} == {
        name: raw(value) for name, value in expected.items()
    }
    repo.git("commit", "-q", "-a", "-m", "merged")
    assert repo.manifest().count("\n[") == 2
    repo.healthy()
