"""Keep memory that was used once: on Linux, large blocks otherwise go back to the system and fault in anew each time.

Blocks of a few MiB are allocated and freed by the thousand while a checkpoint passes through; with glibc's defaults
that costs about a third of the time of an add. Memory of other threads than the main one grows by the page, under a
lock that all threads wait for, unless it is asked for in larger pieces (which are not touched before they are used).
"""

from __future__ import annotations

import sys
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8


def keep_memory(of_this_process: bool = True) -> None:
    """Tell the allocator, where there is one that listens. All threads share one arena if the process is all ours."""
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
