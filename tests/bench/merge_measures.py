"""Methods on tensors in memory and on an accelerator, each in a process that imports torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.bench.bench import Bench
from tests.bench.merge_cases import IN_MEMORY, ON_DEVICE
from tests.bench.worlds import THETA

#: Of the square tensor: 16.8M elements, as the bound is meant, or 1.0M.
ROWS, FEW_ROWS = 4096, 1024
#: On an accelerator it must not fit a cache.
DEVICE_ROWS, FEW_DEVICE_ROWS = 16384, 4096
THREADS = 2


def memory_key(case: str) -> str:
    """The row for a method in memory."""
    return f"in memory {case}"


def device_key(where: str, case: str) -> str:
    """The row for a method on an accelerator, ``engine`` or ``whole``."""
    return f"device {where} {case}"


def measure_merge_memory(bench: Bench) -> None:
    """Seconds of an element of each method, on two threads."""
    rows = ROWS if bench.full else FEW_ROWS
    found = _child("memory", "--rows", str(rows), "--runs", str(bench.runs), "--threads", str(THREADS))
    for case in IN_MEMORY:
        key = memory_key(case.key)
        for seconds in found[case.key]:
            bench.samples.add(THETA.name, {key: seconds / rows**2})
        middle = sorted(found[case.key])[len(found[case.key]) // 2]
        bench.samples.remarks[key] = f"{case.sides} sides: {middle:.2f} s"
    bench.notes.append(
        f"in memory: gittheta.merge of bf16 sides of {rows**2 / 1e6:.1f}M elements and their base, {THREADS} threads"
    )


def measure_merge_gpu(bench: Bench) -> None:
    """How fast methods are beside a copy, and whether they give the processor's bits; a word where there is no GPU."""
    rows = DEVICE_ROWS if bench.full else FEW_DEVICE_ROWS
    found = _child("device", "--rows", str(rows), "--runs", str(bench.runs))
    if not found:
        bench.notes.append("GPU: not measured, torch sees none")
        return
    bench.samples.add(THETA.name, {"device copy": found["copy"]})
    bench.samples.remarks["device copy"] = found["name"]
    for case in ON_DEVICE:
        for where in ("engine", "whole"):
            bench.samples.add(THETA.name, {device_key(where, case.key): found[where][case.key] / found["copy"]})
    same = found["bits"]
    bench.samples.add(THETA.name, {"device bits": sum(same.values()) / len(same)})
    bench.samples.remarks["device bits"] = ", ".join(key for key in same if not same[key]) or "all"
    bench.notes.append(f"GPU: bf16 tensors of {rows**2 / 1e6:.1f}M elements; each is counted once, read or written")


def _child(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.merge_child", *words],
        stdout=subprocess.PIPE,
        check=False,
        env=_environment(),
    )
    if done.returncode:
        raise SystemExit(f"merge_child {' '.join(words)}: status {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _environment() -> dict[str, str]:
    return {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # as git-merge-theta has it
