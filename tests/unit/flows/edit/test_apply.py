"""How an adapter is applied to a file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from gittheta.adapters.fold import predict
from gittheta.adapters.layer import InMemory
from gittheta.codec.choose import MAX_CHAIN
from gittheta.errors import AdapterError, FormatError, ManifestError
from gittheta.flows.edit.apply import Applied, apply
from tests.support.adapters import LORA, Q, file_of, lora, read, save, specs, values
from tests.support.repository import Repo
from tests.support.versions import commit


def checkpoint(repo: Repo) -> Path:
    tensors = {"model.k.weight": values(3, 3), "model.q.weight": values(6, 4), "model.q.bias": values(6)}
    path = repo.top / "m.safetensors"
    path.write_bytes(file_of(tensors))
    path.chmod(0o640)
    return path


def test_apply_changes_what_the_adapter_changes(repo: Repo, tmp_path: Path) -> None:
    path, tensors = checkpoint(repo), lora()
    before = path.read_bytes()
    with repo.open() as workspace:
        done = apply(workspace, save(tmp_path / "adapter", LORA, tensors), path, path.name)
    assert done == Applied(1, 3)
    after = path.read_bytes()
    begin, end = len(before) - 24 * 5, len(before) - 24
    assert (after[:begin], after[end:]) == (before[:begin], before[end:])
    old, new = (np.frombuffer(data[begin:end], np.float32).reshape(6, 4) for data in (before, after))
    expected = old + 2 * tensors[f"{Q}.lora_B.weight"] @ tensors[f"{Q}.lora_A.weight"]
    np.testing.assert_allclose(new, expected, rtol=1e-5)
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(repo.top)) == [".git", "adapter", "m.safetensors"]
    assert repo.temporaries() == []


@pytest.mark.usefixtures("small_blocks")
def test_apply_does_not_depend_on_blocks(repo: Repo, tmp_path: Path) -> None:
    path = checkpoint(repo)
    before, folder = path.read_bytes(), save(tmp_path / "adapter", LORA, lora())
    with repo.open() as workspace:
        apply(workspace, folder, path, path.name)
        adapter = read(folder)
    end = len(before) - 24
    spec = specs({"model.q.weight": (6, 4)})[0]
    base = InMemory(spec, memoryview(before)[end - 96 : end])
    assert path.read_bytes()[end - 96 : end] == predict(adapter["model.q.weight"], spec).read(0, 96, base)


def test_apply_leaves_the_file_alone_when_it_fails(repo: Repo, tmp_path: Path) -> None:
    path, tensors = checkpoint(repo), lora()
    before, stamp = path.read_bytes(), path.stat().st_mtime_ns
    tensors[f"{Q}.lora_B.weight"][0, 0] = np.inf  # found out when the file is being written
    with repo.open() as workspace, pytest.raises(AdapterError):
        apply(workspace, save(tmp_path / "adapter", LORA, tensors), path, path.name)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, stamp)
    assert repo.temporaries() == []
    assert sorted(os.listdir(repo.top)) == [".git", "adapter", "m.safetensors"]


def test_apply_needs_the_checkpoint_itself(repo: Repo, tmp_path: Path) -> None:
    path, folder = checkpoint(repo), save(tmp_path / "adapter", LORA, lora())
    whole = path.read_bytes()
    path.write_bytes(repo.add(whole))
    with repo.open() as workspace, pytest.raises(ManifestError, match="git theta pull"):
        apply(workspace, folder, path, path.name)
    for broken in (b"", b"something else", whole[:-1], whole + b"\0"):
        path.write_bytes(broken)
        with repo.open() as workspace, pytest.raises(FormatError, match=r"m\.safetensors"):
            apply(workspace, folder, path, path.name)
        assert path.read_bytes() == broken


def test_adapters_applied_one_after_the_other_keep_the_chain_short(
    repo: Repo, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(3)
    path, folder = repo.top / "m.safetensors", tmp_path_factory.mktemp("adapter")
    path.write_bytes(file_of({"model.q.weight": rng.normal(size=(64, 64)).astype(np.float32)}))
    commit(repo, path.read_bytes())
    for _ in range(8):
        factors = {
            f"{Q}.lora_A.weight": rng.normal(size=(2, 64)).astype(np.float32),
            f"{Q}.lora_B.weight": rng.normal(size=(64, 2)).astype(np.float32),
        }
        with repo.open() as workspace:
            apply(workspace, save(folder, LORA, factors), path, path.name)
        assert len(commit(repo, path.read_bytes())) <= MAX_CHAIN
