"""Where merges are computed: the device, the threads, the size of blocks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import local

import torch

from gittheta.errors import ConfigError
from gittheta.pipeline import Result, in_order
from gittheta.runtime import keep_memory

#: Blocks of element-wise methods begin at multiples of this many elements.
LEAF = 1 << 16
CPU = torch.device("cpu")
#: Elements of a block: on a processor it should fit the cache, on an accelerator it should be worth the transfer.
BLOCK = {"cpu": 1 << 18, "cuda": 1 << 24, "mps": 1 << 22}

#: Threads that feed an accelerator.
_FEEDERS = 4


def _silent(message: str) -> None:
    """Discard a warning."""


@dataclass(frozen=True)
class Compute:
    """A device and the threads that feed it. Safe to use from several threads."""

    device: torch.device = CPU
    #: Threads that work on blocks; None: the caller's own.
    pool: ThreadPoolExecutor | None = None
    #: Blocks that are being computed, or wait to be taken, besides the next one.
    max_in_flight: int = 0
    #: Elements of one block, a multiple of LEAF.
    block: int = BLOCK["cpu"]
    warn: Callable[[str], None] = _silent

    def each(self, jobs: Iterable[Callable[[], Result]]) -> Iterator[Result]:
        """The results of some jobs in their order, computed a few jobs ahead."""
        return in_order(self.pool, ((1, job) for job in jobs), self.max_in_flight)


@contextmanager
def computing(
    device: str = "auto", threads: int = 1, warn: Callable[[str], None] = _silent, block: int | None = None
) -> Iterator[Compute]:
    """A device by its name (``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``) and threads, which end afterwards.

    In the meantime torch itself uses one thread for each block. A missing device is replaced by the processor, with a
    warning. Raises ConfigError for an unknown name.
    """
    chosen = find_device(device, warn)
    if chosen.type == "cuda":
        torch.cuda.synchronize(chosen)  # the caller may still be computing there
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_memory(of_this_process=False)
    if chosen.type != "cpu":  # a few blocks at a time keep the device busy, and each takes some of its memory
        threads = min(threads, _FEEDERS)
    pool = ThreadPoolExecutor(threads, "gittheta-merge") if threads > 1 else None
    try:
        yield Compute(chosen, pool, 2 * threads - 1, block or BLOCK[chosen.type], warn)
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def find_device(name: str, warn: Callable[[str], None]) -> torch.device:
    """The device of that name, or the processor if that device is missing. Raises ConfigError for an unknown name."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]+)?", name):
        raise ConfigError(
            f"not a device: '{name}'", hint="choose auto, cpu, cuda, cuda:1, ... or mps: git config theta.device auto"
        )
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if _is_there(device):
        return device
    warn(f"the device {name} is not there; merging on the processor")
    return CPU


def _is_there(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_available()) and (device.index or 0) < torch.cuda.device_count()
    return device.type == "cpu" or bool(torch.backends.mps.is_available())


_streams = local()


@contextmanager
def queue(device: torch.device) -> Iterator[None]:
    """Use a queue (a CUDA stream) of this thread's own, so that transfers of one block overlap work on another."""
    if device.type != "cuda":
        yield
        return
    streams = _streams.__dict__.setdefault("by_device", {})
    stream = streams.get(device) or streams.setdefault(device, torch.cuda.Stream(device))
    stream.wait_stream(torch.cuda.default_stream(device))
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()
