"""Run a metric over two versions of a tensor, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from gittheta.api import BlockPair, Metric, TensorReader
from gittheta.errors import PluginError, ThetaError
from gittheta.pipeline import in_order

if TYPE_CHECKING:
    from gittheta.codec.tensor_store import TensorStore


def measure(tensors: TensorStore, metric: Metric, old: TensorReader, new: TensorReader) -> Mapping[str, float]:
    """A metric's numbers, by name, for two versions of a tensor, which must have the same dtype and shape.

    Raises PluginError if the metric's own code fails.
    """
    spec = new.spec
    step = max(1, spec.nbytes if metric.unit == "tensor" else tensors.limits.block_bytes(spec.dtype))

    def look(begin: int) -> Any:
        end = min(begin + step, spec.nbytes)
        start = begin * 8 // spec.dtype.bits * spec.dtype.unit
        return metric.look(BlockPair(spec, start, old.read(begin, end), new.read(begin, end)))

    def jobs() -> Iterator[tuple[int, Callable[[], Any]]]:
        for begin in range(0, spec.nbytes, step):
            yield 2 * step, partial(look, begin)

    try:
        return metric.conclude(spec, in_order(tensors.workers, jobs(), tensors.limits.decoded_ahead))
    except (ThetaError, MemoryError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a plugin may fail in any way, and try to end the process
        raise PluginError(f"the metric '{metric.name}' fails: {error!r}", tensor=spec.name) from error
