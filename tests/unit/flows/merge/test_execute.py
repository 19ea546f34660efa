"""A merge holds a few tensors at a time, however many the model has."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from gittheta.codec.chain import CheckedReader, StoredReader
from gittheta.codec.encode import Encoder
from gittheta.codec.spool import Spool
from gittheta.codec.tensor_store import TensorStore
from gittheta.engine.policy import Policy, Rule
from gittheta.flows.merge import inputs, prefetch
from gittheta.flows.merge.execute import merge_versions
from gittheta.flows.merge.plan import Side, Versions
from gittheta.model import TensorSpec
from gittheta.storage.manifest import parse_manifest
from tests.support.checkpoints import checkpoint, normal
from tests.support.repository import Repo

pytestmark = pytest.mark.torch


TENSORS = 40


def fine_tunes(repo: Repo) -> Versions:
    """Two of them, in which every tensor changed."""
    base = {f"w{at}": normal(at, 9, 10) for at in range(TENSORS)}
    ours, theirs = ({name: values + np.float32(step) for name, values in base.items()} for step in (1e-3, -2e-3))
    texts = [parse_manifest(repo.add(checkpoint(tensors))) for tensors in (base, ours, theirs)]
    return Versions("m.safetensors", texts[0], (Side("ours", texts[1]), Side("theirs", texts[2])))


@pytest.mark.usefixtures("small_blocks")
def test_what_was_read_of_a_tensor_goes_when_it_is_stored(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[Spool] = weakref.WeakSet()
    left: list[int] = []

    class Watched(Spool):
        def __init__(self, tensors: TensorStore, spec: TensorSpec, held: int) -> None:
            super().__init__(tensors, spec, held)
            alive.add(self)

    whole = Encoder.finish

    def finish(encoder: Encoder) -> None:
        encoder._drain()
        gc.collect()
        left.append(len(alive))
        whole(encoder)

    versions = fine_tunes(repo)
    monkeypatch.setattr(prefetch, "Spool", Watched)
    monkeypatch.setattr(Encoder, "finish", finish)
    with repo.open() as workspace:
        outcome = merge_versions(workspace, versions, Policy(()))
    assert outcome.manifest is not None
    assert max(left) < TENSORS / 4


@pytest.mark.usefixtures("small_blocks")
def test_few_tensors_are_open_while_a_model_is_measured(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[CheckedReader] = weakref.WeakSet()
    opened: list[int] = []

    class Watched(CheckedReader):
        def __init__(self, stored: StoredReader, kept_bytes: int) -> None:
            super().__init__(stored, kept_bytes)
            alive.add(self)
            opened.append(len(alive))

    versions = fine_tunes(repo)
    monkeypatch.setattr(inputs, "CheckedReader", Watched)
    rule = Rule("a test", "ties", (("scope", "global"),))
    with repo.open() as workspace:
        assert merge_versions(workspace, versions, Policy((rule,))).manifest is not None
    assert len(opened) >= 3 * TENSORS
    assert max(opened) < TENSORS / 2
