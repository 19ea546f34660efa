"""``gittheta.merge``: merge tensors in memory, or files, without Git."""

from __future__ import annotations

import mmap
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from gittheta.api import DTYPES, FormatError, MergeError, NullReporter, Segment, TensorSpec, Traits
from gittheta.engine.arrays import TORCH, arithmetic_elements, flat_values
from gittheta.engine.device import CPU, Compute, computing
from gittheta.engine.fallback import fallback, statistics_based
from gittheta.engine.operands import Operand, ResidentOperand
from gittheta.engine.options import ConfiguredMethod, as_text, weights_of
from gittheta.engine.policy import CONFLICT, TAKE
from gittheta.engine.run import measure_all, merge_tensor
from gittheta.engine.task import Task
from gittheta.files.checkpoint import CheckpointFile
from gittheta.registry import Registry

#: A model: its tensors by name, or a checkpoint file of a known format.
Model = Mapping[str, torch.Tensor] | str | os.PathLike[str]

#: Names of the dtypes that checkpoints know, by torch's dtype (as far as this torch has them).
_NAMES = {
    getattr(torch, dtype.torch): dtype.name
    for dtype in DTYPES.values()
    if dtype.torch is not None and hasattr(torch, dtype.torch)
}


def merge(
    base: Model | None,
    sides: Sequence[Model],
    method: str = "linear",
    *,
    weight: float | Sequence[float] = 1.0,
    statistics: Sequence[Mapping[str, Model]] = (),
    nonfinite: str = "error",
    device: str = "auto",
    threads: int | None = None,
    **options: object,
) -> dict[str, torch.Tensor]:
    """Merge models tensor by tensor, in the order of the first side.

    ``base`` is θ0, or None. Each model is a mapping of names to tensors, or the path of a checkpoint. All models have
    the same tensors, dtypes and shapes. ``weight`` is one number for all sides, or one for each. ``statistics`` has for
    each side the statistics that the method reads, as models by kind: ``[{"fisher": ...}, ...]``. ``nonfinite`` is
    ``error`` or ``propagate``. ``device`` is ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``. All other ``options``
    are those of the method (``lambda`` is written ``lambda_``). Results are on the device of the first side's tensors.

    Raises MergeError, naming the tensor, if the method cannot apply; PluginError for an unknown method; FormatError for
    a file that is not a checkpoint; ConfigError for an unknown device.
    """
    registry = Registry()
    labels = _labels(sides, method)
    texts = {name.rstrip("_"): as_text(value) for name, value in options.items() if value is not None}
    configured = ConfiguredMethod.make(registry, method, texts | {"weight": as_text(weight), "nonfinite": nonfinite})
    weights_of(configured.weight, labels)
    if len(statistics) not in (0, len(sides)):
        raise MergeError(f"statistics of {len(statistics)} models for {len(sides)} sides", hint=_ONE_EACH)
    with computing(device, threads or os.cpu_count() or 1, _warn) as compute:
        theta0 = _open(registry, base, "the base") if base is not None else None
        thetas = [_open(registry, model, label) for model, label in zip(sides, labels, strict=True)]
        _same_names(thetas, labels)
        known = [
            {kind: _open(registry, model, f"the statistics ({kind}) of {label}") for kind, model in each.items()}
            for each, label in zip(statistics, labels, strict=False)
        ]
        tasks = [_task(name, theta0, thetas, known, labels, configured) for name in thetas[0]]
        return dict(_results(tasks, compute))


_ONE_EACH = "give one mapping for each side, from kinds to models: [{'fisher': ...}, ...]"


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=6)


def _labels(sides: Sequence[Model], method: str) -> tuple[str, ...]:
    """The names of the sides in messages. Raises MergeError if there are none to merge, or nothing to compute."""
    if isinstance(sides, (str, os.PathLike, Mapping)):
        raise MergeError("sides is one model", hint="give a list of models")
    if not sides:
        raise MergeError("there are no sides to merge")
    if method in (TAKE, CONFLICT):
        raise MergeError(
            f"{method} computes nothing", hint="it is a word of git theta; here, use the model that you want"
        )
    return tuple(f"side {number}" for number in range(1, len(sides) + 1))


def _results(tasks: list[Task], compute: Compute) -> Iterator[tuple[str, torch.Tensor]]:
    together = [task for task in tasks if task.spec.dtype.name in TORCH and task.traits.scope == "global"]
    measured = measure_all(together, compute) if together else None
    for task in tasks:
        if task.spec.dtype.name not in TORCH:
            yield task.name, _agreed(task)
            continue
        flat = torch.empty(arithmetic_elements(task.spec), dtype=TORCH[task.spec.dtype.name], device=_home(task))
        at = 0
        for run in merge_tensor(task, compute, measured if task.traits.scope == "global" else None):
            flat[at : at + len(run)] = run
            if run.is_cuda:  # made in another stream, which must not reuse its memory before it is copied
                run.record_stream(torch.cuda.current_stream(run.device))
            at += len(run)
        if task.spec.dtype.kind == "complex":
            flat = torch.view_as_complex(flat.reshape(-1, 2))
        yield task.name, flat.reshape(task.spec.shape)


def _home(task: Task) -> torch.device:
    """The device for the result: that of the first side."""
    first = task.sides[0]
    return first.tensor.device if isinstance(first, ResidentOperand) else CPU


def _agreed(task: Task) -> torch.Tensor:
    """A tensor of a dtype without arithmetic. Raises MergeError unless all sides have the same."""
    versions = {(side.spec.dtype, side.spec.shape, side.digest()) for side in task.sides}
    first = task.sides[0]
    if len(versions) > 1 or not isinstance(first, ResidentOperand):
        raise MergeError(
            f"{task.spec.dtype.name} values that differ between the sides",
            tensor=task.name,
            hint="only floating-point and complex numbers are merged: give all sides the same values",
        )
    return first.tensor.detach().clone()


def _same_names(models: Sequence[Mapping[str, Operand]], labels: Sequence[str]) -> None:
    for model, label in zip(models[1:], labels[1:], strict=True):
        for name in sorted(models[0].keys() ^ model.keys()):
            lacking = label if name in models[0] else labels[0]
            raise MergeError(f"{lacking} has no such tensor", tensor=name, hint="merge models of the same architecture")


def _task(
    name: str,
    base: Mapping[str, Operand] | None,
    sides: Sequence[Mapping[str, Operand]],
    known: Sequence[Mapping[str, Mapping[str, Operand]]],
    labels: tuple[str, ...],
    configured: ConfiguredMethod,
) -> Task:
    method = fallback(configured.method, sides[0][name].spec)
    kinds = Traits.of(method).kinds
    statistics = tuple({kind: each[kind][name] for kind in kinds if name in each.get(kind, {})} for each in known)
    method = statistics_based(method, statistics)
    return Task(
        name,
        base.get(name) if base is not None else None,
        tuple(side[name] for side in sides),
        labels,
        weights_of(configured.weight, labels),
        method,
        statistics if Traits.of(method).kinds else (),
        configured.propagate,
    )


def _open(registry: Registry, model: Model, label: str) -> dict[str, Operand]:
    """The tensors of a model by name. Raises FormatError for a file that is not a checkpoint, or a broken one."""
    if isinstance(model, Mapping):
        return {name: _given(name, tensor, label) for name, tensor in model.items()}
    if not isinstance(model, (str, os.PathLike)):
        raise MergeError(f"{label} is a {type(model).__name__}", hint="give tensors by name (state_dict()), or a path")
    path = Path(model)
    try:
        with CheckpointFile.opened(path, registry, _Warnings()) as file:
            view = memoryview(mmap.mmap(file.descriptor, 0, access=mmap.ACCESS_READ))
            return {name: _resident(segment, view) for name, segment in file.segments.items()}
    except FormatError as error:
        raise error.located(path=str(path)) from None


class _Warnings(NullReporter):
    """What a format has to say of a file, as Python's warnings."""

    def warn(self, message: str) -> None:
        _warn(message)


def _resident(segment: Segment, view: memoryview) -> ResidentOperand:
    """A tensor in a mapped file; a dtype that torch lacks is held as bytes."""
    spec = segment.spec
    data = view[segment.offset : segment.offset + spec.nbytes]
    if spec.dtype.name not in TORCH:
        exact = next((kind for kind, name in _NAMES.items() if name == spec.dtype.name), torch.uint8)
        values = torch.frombuffer(bytearray(data), dtype=exact) if data else torch.empty(0, dtype=exact)
        return ResidentOperand(
            spec, values.reshape(spec.shape) if exact != torch.uint8 or spec.dtype.name == "u8" else values
        )
    flat = flat_values(data, spec.dtype)
    return ResidentOperand(spec, torch.view_as_complex(flat.reshape(-1, 2)) if spec.dtype.kind == "complex" else flat)


def _given(name: str, tensor: torch.Tensor, label: str) -> ResidentOperand:
    """A tensor of the caller's, which is only read. Raises MergeError for one that a checkpoint cannot hold."""
    if not isinstance(tensor, torch.Tensor):
        raise MergeError(f"{label} has a {type(tensor).__name__} there, not a torch tensor", tensor=name)
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise MergeError(f"{label} has a tensor there that is sparse, quantised or without values", tensor=name)
    dtype = _NAMES.get(tensor.dtype)
    if dtype is None:
        raise MergeError(f"not a dtype of a checkpoint: {tensor.dtype} ({label})", tensor=name)
    # Made contiguous once, because it is read in many runs.
    values = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return ResidentOperand(TensorSpec(name, DTYPES[dtype], tuple(tensor.shape)), values)
