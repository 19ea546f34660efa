"""What computes says which package is missing; all else works, as the tests marked ``everywhere`` show."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.support.checkpoints import checkpoint, normal
from tests.support.world import Repo

pytestmark = [
    pytest.mark.everywhere,
    pytest.mark.skipif(find_spec("torch") is not None, reason="torch is installed: `make test-pythons` runs this"),
]
M = "m.safetensors"


def test_a_merge_of_values_names_the_command_that_installs_it(repo: Repo) -> None:
    repo.commit(checkpoint({"a": normal(1, 9, 10)}))
    repo.git("switch", "-q", "-c", "side")
    repo.commit(checkpoint({"a": normal(2, 9, 10)}))
    repo.git("switch", "-q", "main")
    repo.commit(checkpoint({"a": normal(3, 9, 10)}))
    done = repo.attempt("git", "merge", "--no-edit", "side")
    assert done.returncode == 1
    assert "needs torch" in done.stderr
    assert "pip install 'gittheta[merge]'" in done.stderr
    assert repo.read(M) == checkpoint({"a": normal(3, 9, 10)})
    repo.git("merge", "--abort")


def test_gittheta_in_python_names_it_too(repo: Repo) -> None:
    import gittheta
    from gittheta.errors import MissingExtra

    with pytest.raises(MissingExtra, match=r"gittheta\[merge\]"):
        gittheta.merge  # noqa: B018 - loading it is what fails
