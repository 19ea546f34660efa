"""Merging what a stranger made: malformed manifests, rules, statistics; and devices that are not there."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gittheta.flows.workspace import Workspace
from tests.support.checkpoints import checkpoint, normal, sha256
from tests.support.world import Repo

M = "m.safetensors"


@pytest.fixture
def small(repo: Repo) -> Repo:
    """Two branches that changed small tensors; what is hostile comes on top of `side`."""
    base, ours, theirs = ({"a": normal(seed, 6, 4), "b": normal(seed + 5, 3)} for seed in (1, 2, 3))
    repo.commit(checkpoint(base))
    repo.branch("side", checkpoint(theirs))
    repo.git("checkout", "-q", "main")
    repo.commit(checkpoint(ours))
    return repo


def hostile(repo: Repo, *files: tuple[str, str, str]) -> None:
    """The branch `odd`: `side`, and files (mode, name, content) as they are, past every filter."""
    index = {"GIT_INDEX_FILE": str(repo.git_dir / "scratch")}
    repo.git("read-tree", "side", env=index)
    for mode, name, content in files:
        blob = repo.git("hash-object", "-w", "--stdin", "--no-filters", stdin=content).strip()
        repo.git("update-index", "--add", "--cacheinfo", f"{mode},{blob},{name}", env=index)
    commit = repo.git("commit-tree", repo.git("write-tree", env=index).strip(), "-p", "side", "-m", "odd").strip()
    repo.git("branch", "-f", "odd", commit)


#: What is done to their manifest, and what must be said.
MALFORMED = {
    "another shape": (r"f32 6x4", "f32 4x6", "shape [6, 4] in ours, [4, 6] in theirs"),
    "an absurd shape": (r"f32 6x4", "f32 60000000x4000000", "shape [6, 4] in ours, [60000000, 4000000] in theirs"),
    "another dtype": (r"f32 6x4", "bf16 6x8", "dtype f32 in ours, bf16 in theirs"),
    "another digest": (r"(\[a\]\n.*b3:)\w{8}", r"\g<1>00000000", "git theta fsck"),
    "an unknown encoding": (r"(\[a\]\n.*\n)\w+", r"\1psychic", "no encoding named 'psychic'"),
    "an unknown object": (r"(\[a\]\n.*\n(?:.* )?)\w{8}(?=\w{56}:)", r"\g<1>00000000", "is not in the store"),
    "a huge skeleton": (r"skeleton \d+", "skeleton 99999999999", "more than any format needs"),
    "the future": (r"manifest 1:", "manifest 9:", "pip install --upgrade gittheta"),
}


@pytest.mark.slow
def test_malformed_manifests(small: Repo) -> None:
    text, before = small.manifest(revision="side"), small.read()
    for name, (pattern, by, words) in MALFORMED.items():
        changed, count = re.subn(pattern, by, text)
        assert count, name
        hostile(small, ("100644", M, changed))
        message = small.fails("merge", "--no-edit", "odd", status=1)
        assert words in message, name
        assert (small.read(), small.status()) == (before, f"UU {M}\n"), name
        small.git("theta", "conflicts")
        small.git("merge", "--abort")
    assert (small.read(), small.status()) == (before, "")


@pytest.mark.slow
def test_rules_and_attributes_of_the_other_side_have_no_say(small: Repo) -> None:
    rules = "[[rule]]\nmethod = 'take'\nfrom = 'theirs'\n"
    attributes = "*.safetensors filter=theta merge=theta diff=theta -text theta-merge=take:from=theirs\n"
    small.git("merge", "-q", "--no-edit", "side")
    expected = small.read()
    small.git("reset", "-q", "--hard", "HEAD^")
    for strategy in ("ort", "theta"):
        hostile(small, ("100644", "theta.toml", rules), ("100644", ".gitattributes", attributes))
        small.git("merge", "-q", "--no-edit", "-s", strategy, "odd")
        assert small.read() == expected
        assert "Theta-Merge: m.safetensors linear" in small.git("log", "-1", "--format=%B")
        small.git("reset", "-q", "--hard", "HEAD^")


SIDECAR = "m.fisher.safetensors"


@pytest.mark.slow
def test_hostile_statistics(repo: Repo) -> None:
    values = {"a": (6, 4), "b": (3,), "c": (5,)}
    base, ours, theirs = ({name: normal(seed, *shape) for name, shape in values.items()} for seed in (1, 2, 3))
    repo.write(SIDECAR, checkpoint({name: np.ones(shape, "f4") for name, shape in values.items()}))
    repo.git("add", ".")
    repo.commit(checkpoint(base))
    bad = {"a": np.ones((4, 6), "f4"), "b": np.full(3, np.nan, "f4"), "c": np.full(5, -1, "f4")}
    repo.write(SIDECAR, checkpoint(bad))
    repo.git("add", ".")
    repo.branch("side", checkpoint(theirs))
    repo.git("checkout", "-q", "main")
    repo.commit(checkpoint(ours))
    merge = ("merge", "--no-edit", "-s", "theta", "-X", "method=fisher")
    message = repo.fails(*merge, "side", status=1)
    assert "tensor 'a': the statistics (fisher) of theirs have the shape [4, 6], not [24]" in message
    assert "tensor 'b': the statistics (fisher) of theirs has NaN" in message
    assert "tensor 'c': the statistics (fisher) of theirs have negative values" in message
    repo.git("merge", "--abort")
    for mode, text in (("100644", "notes"), ("120000", "/etc/passwd")):
        hostile(repo, (mode, SIDECAR, text))
        assert f"theirs has no {SIDECAR}" in repo.fails(*merge, "odd", status=1)
        repo.git("reset", "-q", "--hard")
    assert repo.read() == checkpoint(ours)
    repo.healthy()


@pytest.mark.slow
def test_no_object_is_found_by_a_name_with_a_nul(small: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in small.env.items():
        monkeypatch.setenv(key, value)
    with Workspace.open(small.path) as workspace:
        assert workspace.blobs.read(f"HEAD:a\0HEAD:{M}") is None
        assert workspace.blobs.read(f"HEAD:{M}") == small.manifest(revision="HEAD").encode()


@pytest.mark.slow
def test_devices_that_are_not_there(small: Repo) -> None:
    message = small.run("-c", "theta.device=cuda:77", "merge", "--no-edit", "side").stderr
    assert "warning: the device cuda:77 is not there" in message
    merged = sha256(small.read())
    small.git("reset", "-q", "--hard", "HEAD^")
    assert "not a device: 'toaster'" in small.fails(
        "-c", "theta.device=toaster", "merge", "--no-edit", "side", status=1
    )
    small.git("merge", "--abort")
    small.git("merge", "-q", "--no-edit", "side")
    assert small.sha() == merged
