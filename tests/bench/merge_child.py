"""``python -m tests.bench.merge_child``: what needs torch, in a process of its own; prints one line of JSON.

``memory``: seconds of each method on tensors in memory. ``device``: how fast an accelerator copies, how fast methods
are on tensors that lie there, and which of them give the processor's bits. Nothing (``{}``) without one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch

import gittheta
from gittheta.api import DTYPES, Digest, TensorSpec, digest_of
from gittheta.engine.device import computing
from gittheta.engine.operands import ResidentOperand
from gittheta.engine.options import ConfiguredMethod, as_text
from gittheta.engine.run import merge_tensor
from gittheta.engine.task import Task
from gittheta.registry import Registry
from tests.bench.merge_cases import IN_MEMORY, ON_DEVICE, SAME_BITS, Case

#: How large weights are, and how far a fine-tune moves them.
DEVIATION = 0.02
MOVED = 0.0006
NAME = "layer.weight"
SIDES = 4
CPU = torch.device("cpu")
_BITS_ROWS = 700
_COPIES = 20


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.merge_child", description=__doc__)
    parser.add_argument("what", choices=("memory", "device"))
    parser.add_argument("--rows", type=int, required=True, help="of a square tensor")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda", help="for `device`; cpu only shows that it runs")
    options = parser.parse_args()
    if options.what == "memory":
        print(json.dumps(in_memory(options.rows, options.runs, options.threads)))
    elif options.device == "cpu" or torch.cuda.is_available():
        print(json.dumps(on_device(options.rows, options.runs, options.threads, torch.device(options.device))))
    else:
        print("{}")


def family(rows: int, device: torch.device = CPU) -> list[torch.Tensor]:
    """A square bf16 tensor, and fine-tunes of it."""
    random = torch.Generator(device).manual_seed(20240229)

    def noise(deviation: float) -> torch.Tensor:
        return torch.randn(rows, rows, generator=random, device=device) * deviation

    base = noise(DEVIATION).bfloat16()
    return [base, *((base.float() + noise(MOVED)).bfloat16() for _ in range(SIDES))]


def seconds(step: Callable[[], object], runs: int, wait: Callable[[], object] = lambda: None) -> list[float]:
    """How long each run takes, after one that does not count."""
    found = []
    for _ in range(1 + runs):
        wait()
        began = time.perf_counter()
        step()
        wait()
        found.append(time.perf_counter() - began)
    return found[1:]


def merged(tensors: list[torch.Tensor], case: Case, device: str, threads: int) -> torch.Tensor:
    """Of a base and some sides, through the interface for people."""
    base, *sides = ({NAME: tensor} for tensor in tensors[: 1 + case.sides])
    result: torch.Tensor = gittheta.merge(
        base if case.needs_base else None, sides, case.method, device=device, threads=threads, **case.options
    )[NAME]
    return result


def in_memory(rows: int, runs: int, threads: int) -> dict[str, list[float]]:
    """Seconds of ``gittheta.merge`` by case."""
    tensors = family(rows)
    return {case.key: seconds(partial(merged, tensors, case, "cpu", threads), runs) for case in IN_MEMORY}


def on_device(rows: int, runs: int, threads: int, device: torch.device) -> dict[str, object]:
    """Bytes per second: copied from the device to itself; read and written by each method: engine alone, and whole.

    A method is said to read its base and its sides once and to write the result once, whatever it really does.
    """
    tensors = family(rows, device)
    wait = partial(wait_for, device)
    target = torch.empty_like(tensors[0])
    found: dict[str, object] = {
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "copy": 2 * target.nbytes / median(seconds(lambda: target.copy_(tensors[0]), _COPIES, wait)),
    }
    engine, whole = {}, {}
    for case in ON_DEVICE:
        touched = (case.sides + 1 + case.needs_base) * target.nbytes
        engine[case.key] = touched / median(engine_seconds(tensors, case, device, threads, runs))
        step = partial(merged, tensors, case, str(device), threads)
        whole[case.key] = touched / median(seconds(step, runs, wait))
    return {**found, "engine": engine, "whole": whole, "bits": bits(device, threads)}


@dataclass(frozen=True)
class Known(ResidentOperand):
    """A tensor whose digest is known beforehand, as that of a committed one is."""

    known: Digest

    def digest(self) -> Digest:
        """Not worked out."""
        return self.known


def engine_seconds(
    tensors: list[torch.Tensor],
    case: Case,
    device: torch.device,
    threads: int,
    runs: int,
) -> list[float]:
    """Of the engine alone: operands lie on the device, digests are known, and results stay where they are."""
    spec = TensorSpec(NAME, DTYPES["bf16"], tuple(tensors[0].shape))
    base, *sides = (Known(spec, tensor, digest_of(bytes([place]))) for place, tensor in enumerate(tensors))
    given = {name.rstrip("_"): as_text(value) for name, value in case.options.items()}
    method = ConfiguredMethod.make(Registry(), case.method, given).method
    labels = tuple(f"side {place}" for place in range(case.sides))
    task = Task(
        NAME, base if case.needs_base else None, tuple(sides[: case.sides]), labels, (1.0,) * case.sides, method
    )
    with computing(str(device), threads) as compute:
        return seconds(lambda: deque(merge_tensor(task, compute), maxlen=0), runs, partial(wait_for, device))


def wait_for(device: torch.device) -> None:
    """Until everything that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bits(device: torch.device, threads: int) -> dict[str, bool]:
    """Whether each case of classes S1 to S3 gives the same bits there and on the processor."""
    tensors = family(_BITS_ROWS)
    found = {}
    for case in SAME_BITS:
        here, there = (merged(tensors, case, name, threads) for name in ("cpu", str(device)))
        found[case.key] = torch.equal(here.view(torch.int16), there.cpu().view(torch.int16))
    return found


if __name__ == "__main__":
    main()
