"""On a GPU: the processor's bits, and what happens where there is too little memory or no such device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import gittheta
from gittheta.api import DTYPES, Merge, TensorSpec
from gittheta.engine.device import computing
from gittheta.engine.operands import ResidentOperand
from gittheta.engine.run import merge_tensor
from gittheta.engine.task import Task
from gittheta.merges.linear import Linear
from gittheta.merges.task_vectors import Ties
from tests.bench.merge_cases import SAME_BITS, Case

SHAPE = (300, 257)
needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def family(dtype: torch.dtype, sides: int) -> list[torch.Tensor]:
    """A base, and sides that differ from it by steps that are often the same."""
    random = torch.Generator().manual_seed(4)
    base = torch.randn(SHAPE, generator=random, dtype=torch.float64) * 0.02
    moved = [base + torch.randn(SHAPE, generator=random, dtype=torch.float64) * 0.001 for _ in range(sides)]
    return [values.to(dtype) for values in (base, *moved)]


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    words = WORDS[one.element_size()]
    return bool(torch.equal(one.cpu().view(words), other.cpu().view(words)))


def merged(method: Merge, device: str, threads: int = 1) -> tuple[torch.Tensor, list[str]]:
    """Of two sides, through the engine; and its warnings."""
    spec = TensorSpec("layer", DTYPES["f32"], SHAPE)
    base, *sides = (ResidentOperand(spec, values) for values in family(torch.float32, 2))
    task = Task("layer", base, tuple(sides), ("a", "b"), (1.0, 1.0), method)
    warnings: list[str] = []
    with computing(device, threads, warnings.append) as compute:
        runs = [run.cpu() for run in merge_tensor(task, compute)]
    return torch.cat(runs), warnings


def case_id(case: Case) -> str:
    return f"{case.key} of {case.sides}"


class TestOnAGpu:
    pytestmark = needs_gpu

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
    @pytest.mark.parametrize("case", SAME_BITS, ids=case_id)
    def test_the_bits_are_those_of_the_processor(self, case: Case, dtype: torch.dtype) -> None:
        base, *sides = ({"layer": values} for values in family(dtype, case.sides))
        here, there = (
            gittheta.merge(base, sides, case.method, device=device, threads=2, **case.options)["layer"]
            for device in ("cpu", "cuda")
        )
        assert same_bits(here, there)

    def test_tensors_that_lie_there_give_results_that_lie_there(self) -> None:
        base, *sides = ({"layer": values} for values in family(torch.bfloat16, 2))
        there = [{"layer": model["layer"].cuda()} for model in (base, *sides)]
        result = gittheta.merge(there[0], there[1:], "ties", device="cuda")["layer"]
        assert result.is_cuda
        assert same_bits(result, gittheta.merge(base, sides, "ties", device="cpu")["layer"])

    @pytest.mark.parametrize("threads", [1, 2])
    @pytest.mark.parametrize("method", [Linear(), Ties()], ids=["linear", "ties"])
    def test_too_little_memory_means_the_processor_and_a_warning(self, method: Merge, threads: int) -> None:
        expected, _ = merged(method, "cpu")
        with little_memory():
            result, warnings = merged(method, "cuda", threads)
        assert same_bits(result, expected)
        assert any("layer" in warning and "out of memory" in warning for warning in warnings)


@contextmanager
def little_memory() -> Iterator[None]:
    """A GPU on which nothing can be allocated."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-7)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_device_that_is_not_there_means_the_processor_and_a_warning() -> None:
    absent = f"cuda:{max(7, torch.cuda.device_count())}"
    expected, _ = merged(Ties(), "cpu")
    result, warnings = merged(Ties(), absent)
    assert same_bits(result, expected)
    assert warnings == [f"the device {absent} is not there; merging on the processor"]


def test_in_python_it_is_a_warning_of_python() -> None:
    base, *sides = ({"layer": values} for values in family(torch.bfloat16, 2))
    absent = f"cuda:{max(7, torch.cuda.device_count())}"
    with pytest.warns(RuntimeWarning, match=f"the device {absent} is not there"):
        result = gittheta.merge(base, sides, "ties", device=absent)["layer"]
    assert same_bits(result, gittheta.merge(base, sides, "ties", device="cpu")["layer"])
