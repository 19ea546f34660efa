"""The table of merges."""

from __future__ import annotations

from tests.bench.merge_cases import ELEMENTWISE, IN_MEMORY, ON_DEVICE, TIES
from tests.bench.merge_measures import ROWS, device_key, memory_key
from tests.bench.samples import Row

#: Of an element: 0.6 s for the whole tensor.
_IN_MEMORY = 0.6 / ROWS**2
_PEAK = 1.5e9
_OF_COPY = 0.6

MERGE_ROWS = (
    *(
        Row(memory_key(case.key), f"an element in memory, {case.key}", "ns", most=_IN_MEMORY if case is TIES else None)
        for case in IN_MEMORY
    ),
    Row("git ties", "git merge -s theta, ties, of two fine-tunes", ahead=3),
    Row("git ties strategy", "peak memory of the strategy", "MB", most=_PEAK),
    Row("git ties hook", "peak memory of the hook that writes the file", "MB"),
    Row("git equal", "the same bits as mergekit's", "of elements"),
    Row("git global", "git merge -s theta, ties, scope=global", other="none"),
    Row("git global strategy", "peak memory of the strategy", "MB", most=_PEAK),
    Row("git linear", "git merge -s theta, linear", other="not run"),
    Row("git linear strategy", "peak memory of the strategy", "MB", most=_PEAK),
    Row("git driver", "git merge, two sides", other="not run"),
    Row("git driver driver", "peak memory of the driver", "MB", most=_PEAK),
    Row("device copy", "GPU: copy to itself, read and written", "GB/s"),
    *(
        Row(
            device_key(where, case.key),
            f"GPU: {case.key}, {what}",
            "of copy",
            least=_OF_COPY if where == "engine" and case in ELEMENTWISE else None,
        )
        for case in ON_DEVICE
        for where, what in (("engine", "the engine alone"), ("whole", "gittheta.merge"))
    ),
    Row("device bits", "GPU: methods that give the processor's bits", "of methods", least=1),
)
