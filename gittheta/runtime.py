"""The process as a whole: its allocator, its garbage collector, its threads, and parts that are made when needed."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import RLock
from typing import Any, Generic, TypeVar, overload

Owner = TypeVar("Owner")
Part = TypeVar("Part")

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_LOCK = "_lock_of_lazy_parts"


class lazy(Generic[Owner, Part]):  # noqa: N801 - used as a decorator, as functools.cached_property is
    """A property that is made when it is first needed, and once, whichever threads need it at the same time.

    All lazy parts of an object share one lock, which a part may take again to make itself from others. From Python
    3.12 on, ``functools.cached_property`` has no lock, and two threads make two thread pools.
    """

    def __init__(self, make: Callable[[Owner], Part]) -> None:
        self._make = make
        self._name = make.__name__
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, owner: None, kind: type[Owner]) -> lazy[Owner, Part]: ...

    @overload
    def __get__(self, owner: Owner, kind: type[Owner]) -> Part: ...

    def __get__(self, owner: Owner | None, kind: type[Owner]) -> lazy[Owner, Part] | Part:
        if owner is None:
            return self
        parts = vars(owner)
        with parts.setdefault(_LOCK, RLock()):  # setdefault of a dict is atomic
            if self._name not in parts:
                parts[self._name] = self._make(owner)
            part: Part = parts[self._name]
        return part


def close_parts(owner: object, *names: str) -> None:
    """Close those of the lazy parts that were made, in this order; they are made anew if they are needed again."""
    parts = vars(owner)
    with parts.setdefault(_LOCK, RLock()):
        made: list[Any] = [parts.pop(name) for name in names if name in parts]
    for part in made:
        if hasattr(part, "shutdown"):
            part.shutdown(cancel_futures=True)
        else:
            part.close()


def begin() -> None:
    """Call before anything heavy is imported.

    The workers already use all processors: a library for linear algebra that starts threads of its own on each of them
    makes all slower. And while modules load there is no garbage, but looking for it takes a fifth of the time: call
    :func:`collect_garbage` once they are loaded.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.disable()


def collect_garbage() -> None:
    """Collect garbage again, after :func:`begin`."""
    gc.enable()


@contextmanager
def without_collecting() -> Iterator[None]:
    """While very many objects are made that all stay, looking for garbage among them takes most of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def import_when_used(name: str) -> None:
    """Let every later import of a module that takes seconds to load be one that loads it when it is first used."""
    from importlib import util

    spec = None if name in sys.modules else util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    loader = util.LazyLoader(spec.loader)
    module = util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)


def keep_memory(*, of_this_process: bool = True) -> None:
    """Tell the allocator to keep memory that was used once, where there is an allocator that listens (glibc).

    Blocks of a few MiB are allocated and freed by the thousand while a checkpoint passes through; with glibc's defaults
    they go back to the system and fault in anew each time, which costs about a third of the time of an add. Memory of
    other threads than the main one grows by the page, under a lock that all threads wait for, unless it is asked for in
    larger pieces (which are not touched before they are used). If the process is all ours, all threads share one arena.
    """
    if sys.platform != "linux":
        return
    import ctypes

    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        if of_this_process:
            mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        mallopt(_M_TOP_PAD, 64 << 20)


def total_memory() -> int:
    """Bytes of memory that the machine has; 8 GiB where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 8 << 30
