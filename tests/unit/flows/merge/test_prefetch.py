"""What is read before anybody asks: the right tensors, in bounded memory, and nothing that could go wrong."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from gittheta.engine.policy import Policy
from gittheta.flows.merge import prefetch
from gittheta.flows.merge.execute import merge_versions
from gittheta.flows.merge.plan import Side, Versions
from gittheta.flows.merge.prefetch import Prefetch
from gittheta.limits import Limits
from gittheta.storage.manifest import parse_manifest
from tests.support.checkpoints import checkpoint, normal
from tests.support.repository import Repo

pytestmark = pytest.mark.torch


BASE = {"a": normal(1, 40, 10), "b": normal(2, 40, 10), "still": normal(3, 9)}


@pytest.fixture(autouse=True)
def _torch_is_not_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "torch_is_loaded", lambda: False)


def versions(repo: Repo, **ours: np.ndarray) -> Versions:
    """Both sides changed `a`, and ours something else."""
    changed = (BASE, BASE | {"a": normal(11, 40, 10)} | ours, BASE | {"a": BASE["a"] + np.float32(1e-3)})
    base, first, second = (parse_manifest(repo.add(checkpoint(tensors))) for tensors in changed)
    return Versions("m.safetensors", base, (Side("ours", first), Side("theirs", second)))


def values_of(side: Side) -> bytes:
    """The values of `a` on one side."""
    values = normal(11, 40, 10) if side.label == "ours" else BASE["a"] + np.float32(1e-3)
    return values.astype("<f4").tobytes()


def test_what_both_sides_changed_is_read_once(repo: Repo) -> None:
    given = versions(repo, b=normal(12, 40, 10))
    with repo.open() as workspace, Prefetch(workspace.tensors, given) as reading:
        result = reading.taken("a")
        for side in given.sides:
            stanza = next(stanza for stanza in side.manifest.stanzas if stanza.spec.name == "a")
            assert bytes(result[stanza.digest].read(0, 1600)) == values_of(side)
        assert reading.taken("a") == reading.taken("b") == reading.taken("still") == {}


def test_memory_is_bounded(repo: Repo) -> None:
    given = versions(repo)
    repo.limits = Limits(merge_buffers=3000)
    with repo.open() as workspace, Prefetch(workspace.tensors, given) as reading:
        assert reading.taken("a") == {}


def test_nothing_is_read_once_torch_is_there(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    given = versions(repo)
    monkeypatch.setattr(prefetch, "torch_is_loaded", lambda: True)
    with repo.open() as workspace, Prefetch(workspace.tensors, given) as reading:
        assert reading.taken("a") == {}


def test_lost_objects_are_somebody_else_s_trouble(repo: Repo) -> None:
    given = versions(repo)
    shutil.rmtree(repo.theta / "objects")
    with repo.open() as workspace, Prefetch(workspace.tensors, given) as reading:
        assert reading.taken("a") == {}


def test_the_result_is_the_same(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    given = versions(repo)
    manifests = []
    for loaded in (False, True):
        monkeypatch.setattr(prefetch, "torch_is_loaded", lambda loaded=loaded: loaded)
        with repo.open() as workspace:
            manifest = merge_versions(workspace, given, Policy(())).manifest
        assert manifest is not None
        manifests.append(manifest)
    assert [stanza.digest for stanza in manifests[0].stanzas] == [stanza.digest for stanza in manifests[1].stanzas]
