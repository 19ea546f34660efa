"""A merge holds a few tensors at a time, however many the model has."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from gittheta.flows import ahead
from gittheta.flows.encode import Encoder
from gittheta.flows.merge import merge_versions
from gittheta.flows.plan import Side, Versions
from gittheta.flows.spool import Spool
from gittheta.manifest import parse_manifest
from gittheta.merging.policy import Policy
from tests.git.checkpoints import checkpoint, normal
from tests.unit.building import Repo

TENSORS = 40


@pytest.mark.usefixtures("small_blocks")
def test_what_was_read_of_a_tensor_goes_when_it_is_stored(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[Spool] = weakref.WeakSet()
    left: list[int] = []

    class Watched(Spool):
        def __init__(self, *given: object) -> None:
            super().__init__(*given)  # type: ignore[arg-type]
            alive.add(self)

    def finish(encoder: Encoder, whole: object = Encoder.finish) -> None:
        encoder._drain()
        gc.collect()
        left.append(len(alive))
        whole(encoder)  # type: ignore[operator]

    base = {f"w{at}": normal(at, 9, 10) for at in range(TENSORS)}
    ours, theirs = ({name: values + np.float32(step) for name, values in base.items()} for step in (1e-3, -2e-3))
    texts = [parse_manifest(repo.add(checkpoint(tensors))) for tensors in (base, ours, theirs)]
    versions = Versions("m.safetensors", texts[0], (Side("ours", texts[1]), Side("theirs", texts[2])))
    monkeypatch.setattr(ahead, "Spool", Watched)
    monkeypatch.setattr(Encoder, "finish", finish)
    with repo.open() as workspace:
        outcome = merge_versions(workspace, versions, Policy(()))
    assert outcome.manifest is not None
    assert max(left) < TENSORS / 4
