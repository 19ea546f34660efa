"""``adapter_model.safetensors``: the tensors of an adapter, each read when it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gittheta.errors import AdapterError, FormatError
from gittheta.files.checkpoint import CheckpointFile
from gittheta.numerics.floats import from_float64, has_arithmetic, to_float64
from gittheta.storage.files import reading

if TYPE_CHECKING:
    from gittheta.model import Segment, TensorSpec
    from gittheta.registry import Registry

WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"


@dataclass(frozen=True)
class AdapterFile:
    """Where an adapter's tensors lie, by name. Safe to use from several threads: each read opens the file."""

    path: Path
    segments: Mapping[str, Segment]

    @classmethod
    def open(cls, folder: Path, registry: Registry) -> AdapterFile:
        """Read the header of the file in an adapter's directory. Raises AdapterError."""
        path = folder / WEIGHTS
        try:
            with CheckpointFile.opened(path, registry) as file:
                segments = file.segments
        except FileNotFoundError:
            raise _not_there(folder) from None
        except OSError as error:
            raise AdapterError(f"cannot be read: {error.strerror}", path=str(path)) from None
        except FormatError as error:
            raise AdapterError(f"is broken: {error.what}", path=str(path), hint="fetch the adapter again") from None
        return cls(path, segments)

    def spec(self, name: str) -> TensorSpec:
        """Dtype and shape of a tensor."""
        return self.segments[name].spec

    def read(self, name: str, begin: int, end: int) -> memoryview:
        """A tensor's raw bytes from offset ``begin`` to ``end``. Raises AdapterError if the file was cut short."""
        with reading(self.path) as file:
            file.seek(self.segments[name].offset + begin)
            data = file.read(end - begin)
        if len(data) != end - begin:
            raise self.wrong(name, "is cut short: the file has changed")
        return memoryview(data)

    def array(self, name: str) -> npt.NDArray[np.floating]:
        """A tensor's values in its shape: float64 for tensors of f64, and float32, in which peft computes, for others.

        Raises AdapterError if the tensor does not hold floats, or if one of them is infinite or NaN.
        """
        spec = self.spec(name)
        if not has_arithmetic(spec.dtype):
            raise self.wrong(name, f"holds {spec.dtype.name}, not floats")
        values = to_float64(self.read(name, 0, spec.nbytes), spec.dtype)
        if not np.isfinite(values).all():
            raise self.wrong(name, "holds numbers that are not finite: the training went wrong")
        return values.reshape(spec.shape).astype(np.float64 if spec.dtype.name == "f64" else np.float32)

    def wrong(self, name: str, what: str, hint: str | None = None) -> AdapterError:
        """The error for a wrong tensor, with the path of the file."""
        return AdapterError(what, path=str(self.path), tensor=name, hint=hint)


@dataclass(frozen=True)
class Saved:
    """A tensor of the adapter that replaces one of the checkpoint, converted to the checkpoint's dtype.

    Safe to use from several threads.
    """

    spec: TensorSpec
    file: AdapterFile
    name: str

    def read(self, begin: int, end: int) -> memoryview:
        """The raw bytes from offset ``begin`` to ``end`` (whole elements)."""
        here, there = self.spec.dtype, self.file.spec(self.name).dtype
        if here == there:
            return self.file.read(self.name, begin, end)
        first, last = begin // here.itemsize, end // here.itemsize
        data = self.file.read(self.name, first * there.itemsize, last * there.itemsize)
        return from_float64(to_float64(data, there), here)


def _not_there(folder: Path) -> AdapterError:
    if (folder / PICKLE).exists():
        return AdapterError(
            "is a pickle, which could run code when it is read, so it never is",
            path=str(folder / PICKLE),
            hint="if you trust it, load it with peft and save it again (`save_pretrained` writes safetensors)",
        )
    return AdapterError(f"there is no {WEIGHTS}", path=str(folder), hint="name the directory in which peft saved it")
