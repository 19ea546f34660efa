"""Statistics as files: what they hold, and that a merge can use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from gittheta.engine.in_memory import merge
from gittheta.statistics import Statistics, fisher, gram, sidecar
from tests.support.examples import BATCHES, Deep, linear, random


class TestFiles:
    def test_are_what_the_library_reads(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        result = fisher(Deep(), BATCHES)
        path = result.beside(tmp_path / "model.safetensors")
        assert path == tmp_path / "model.fisher.safetensors" == sidecar(tmp_path / "model.safetensors", "fisher")
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt", "statistics": "fisher"}
            assert sorted(file.keys()) == sorted(result.tensors)
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                assert torch.equal(file.get_tensor(name), result.tensors[name].float())

    def test_same_bytes_and_nothing_else(self, tmp_path: Path) -> None:
        values = {
            "b": random(3, 5, seed=1),
            "a": torch.ones(()),
            "empty": torch.ones(0, 4),
            "long": torch.ones(1 << 21),
        }
        Statistics("gram", values, 3).write(tmp_path / "one")
        (tmp_path / "two").write_bytes(b"older")
        Statistics("gram", dict(reversed(values.items())), 3).write(str(tmp_path / "two"))
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
        assert sorted(each.name for each in tmp_path.iterdir()) == ["one", "two"]

    def test_a_failure_leaves_the_file_that_was_there(self, tmp_path: Path) -> None:
        (tmp_path / "one").write_bytes(b"older")
        with pytest.raises(NotImplementedError):
            Statistics("gram", Failing(a=torch.ones(2)), 1).write(tmp_path / "one")
        assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("one", b"older")]

    def test_serve_a_merge(self, tmp_path: Path) -> None:
        """Two models, each of which knows other inputs: regmean and fisher do better than the mean on both."""
        teacher, sides, known = linear(6, 3, seed=1, bias=False), [], []
        for side in range(2):
            model = linear(6, 3, seed=1, bias=False)
            seen = random(200, 6, seed=5 + side) * (torch.arange(6) // 3 == side)
            with torch.no_grad():
                model.weight += random(3, 6, seed=7 + side) * (torch.arange(6) // 3 != side)
            labels = teacher(seen).argmax(-1)
            paths = {
                each.kind: each.beside(tmp_path / f"{side}.safetensors") for each in collected(model, seen, labels)
            }
            sides.append({"weight": model.weight.detach()})
            known.append(paths)
        for method in ("fisher", "regmean", "mats"):
            options: dict[str, Any] = {} if method != "mats" else {"iterations": 50}
            base = {"weight": teacher.weight.detach()}
            merged = merge(base, sides, method, statistics=known, device="cpu", **options)
            assert torch.allclose(merged["weight"], teacher.weight.detach(), atol=1e-4), method


def collected(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> list[Statistics]:
    return [fisher(model, [(x, y)], labels="expected"), gram(model, [x])]


class Failing(dict[str, torch.Tensor]):
    """Breaks when it is read for the second time: after the header."""

    reads = 0

    def __getitem__(self, name: str) -> torch.Tensor:
        self.reads += 1
        if self.reads > 1:
            raise NotImplementedError
        return super().__getitem__(name)
