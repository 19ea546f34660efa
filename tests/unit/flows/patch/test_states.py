"""Patches between models in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gittheta
from gittheta.errors import FormatError


def arrays(seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    w = random.normal(0, 1, (40, 50)).astype(np.float32)
    return {"w": w, "n": np.arange(6).reshape(2, 3), "s": np.full(1, seed, np.float32)}


def changed(old: dict[str, Any]) -> dict[str, Any]:
    new = {name: values.copy() for name, values in old.items()}
    new["w"][3, 4:9] *= 2
    return new


def test_arrays(tmp_path: Path) -> None:
    old = arrays(1)
    new = changed(old)
    patch = gittheta.patch(old, new, tmp_path / "patch")
    assert len(patch) < 1200
    held = old["w"]
    assert gittheta.apply_patch(old, tmp_path / "patch") == ["w"]
    assert old["w"] is held
    assert all(np.array_equal(old[name], new[name]) for name in new)
    assert gittheta.apply_patch(arrays(1), patch) == ["w"]


def test_what_comes_and_goes() -> None:
    old, new = arrays(1), arrays(1)
    del new["n"]
    new["w"] = new["w"][:20]
    new["more"] = new["w"].astype(np.float16)
    assert gittheta.apply_patch(old, gittheta.patch(old, new)) == ["w", "more", "n"]
    assert old.keys() == new.keys()
    assert all(np.array_equal(old[name], new[name]) and old[name].dtype == new[name].dtype for name in new)


def test_another_version_stays_as_it_is() -> None:
    patch = gittheta.patch(arrays(1), changed(arrays(1)))
    other = arrays(2)
    with pytest.raises(FormatError, match="tensor 'w': not the version"):
        gittheta.apply_patch(other, patch)
    assert np.array_equal(other["w"], arrays(2)["w"])
    with pytest.raises(FormatError, match="not a patch"):
        gittheta.apply_patch(other, b"x" * 100)
    with pytest.raises(FormatError, match="tensor 'w': its dtype is object"):
        gittheta.patch({"w": np.array([None])}, {})


@pytest.mark.torch
def test_parameters() -> None:
    import torch

    torch.manual_seed(1)
    old, new = torch.nn.Linear(30, 20, dtype=torch.bfloat16), torch.nn.Linear(30, 20, dtype=torch.bfloat16)
    new.load_state_dict(old.state_dict())
    with torch.no_grad():
        new.weight[2, 3] += 1
    state = old.state_dict()
    state["f8"], target = torch.zeros(4, 4).to(torch.float8_e4m3fn), dict(new.state_dict())
    target["f8"] = torch.ones(4, 4).to(torch.float8_e4m3fn).T
    assert gittheta.apply_patch(state, gittheta.patch(state, target)) == ["weight", "f8"]
    assert torch.equal(old.weight, new.weight)
    assert torch.equal(state["f8"].float(), target["f8"].float())
    assert gittheta.apply_patch(state, gittheta.patch(state, {})) == ["weight", "bias", "f8"]
