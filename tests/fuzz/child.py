"""Runs cases in a process whose memory and time are limited, and reports those that cost too much.

``python -m tests.fuzz.child KIND FIRST COUNT`` prints a line of JSON for each case that is not as it should be, and at
the end one with the number of cases that were run.
"""

from __future__ import annotations

import ctypes
import gc
import json
import random
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from gittheta.errors import ThetaError
from tests.fuzz.cases import CASES

MIB = 1 << 20
#: Bytes of memory, and for each byte of the input; for what is decoded, the blocks of two workers and of their bases.
SPARE, TIMES = 64 * MIB, 10
DECODED = 448 * MIB
#: Seconds of processor time, and for each MiB of the input. Machines that run tests are busy.
SECONDS, SECONDS_A_MIB = 2.0, 3.0
#: Bytes of addresses: where a case would ask for more, it gets a MemoryError.
ADDRESSES = 6 << 30


def main(kind: str, first: int, count: int) -> None:
    """Run the cases of these seeds."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    _run(kind, -1)  # imports, and what is made once
    for seed in range(first, first + count):
        for problem in _run(kind, seed):
            print(json.dumps({"kind": kind, "seed": seed, "problem": problem}), flush=True)
    print(json.dumps({"ran": count}), flush=True)


def _run(kind: str, seed: int) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        size, run = CASES[kind](random.Random(f"{kind} {seed}"), Path(folder))
        gc.collect()
        before, began = _forget_peak(), time.process_time()
        try:
            run()
        except ThetaError:
            pass
        except BaseException:
            yield traceback.format_exc(limit=-4)
        took, peak = time.process_time() - began, _peak() - before
    if took > SECONDS + SECONDS_A_MIB * size / MIB:
        yield f"{took:.1f} s for {size} bytes"
    if peak > SPARE + TIMES * size + (DECODED if kind == "recipe" else 0):
        yield f"{peak / MIB:.0f} MiB for {size} bytes"


def _forget_peak() -> int:
    """Let the system measure anew how much memory is in use at most; returns how many bytes are now."""
    ctypes.CDLL(None).malloc_trim(0)  # what was freed is not to hide what is needed
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return _status("VmRSS")


def _peak() -> int:
    try:
        return _status("VmHWM")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
