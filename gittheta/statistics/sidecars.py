"""Statistics as files beside the model's: ordinary checkpoints that name their tensors like the model's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from gittheta.api import DTYPES, TensorSpec
from gittheta.errors import ThetaError
from gittheta.formats.safetensors import Safetensors

#: Elements that are converted to float32 and written at a time.
_PIECE = 1 << 20


@dataclass(frozen=True)
class Statistics:
    """One kind of statistics of a model: a tensor for each parameter, by the parameter's name."""

    #: ``fisher``, ``gram`` or ``output``: what merge methods call the statistics, and part of the file's name.
    kind: str
    tensors: Mapping[str, torch.Tensor]
    #: The number of examples that they were computed from.
    examples: int

    def __post_init__(self) -> None:
        """Raise ThetaError if a value is not finite."""
        for name, values in self.tensors.items():
            if not bool(torch.isfinite(values).all()):
                raise ThetaError(
                    f"the statistics ({self.kind}) are not finite",
                    tensor=name,
                    hint="look for NaN and infinite values in the data, the model and its gradients",
                )

    def beside(self, checkpoint: str | os.PathLike[str]) -> Path:
        """Write the file next to the model's, where merges look for it, and return its path. Raises OSError."""
        path = sidecar(checkpoint, self.kind)
        self.write(path)
        return path

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file of float32 values, in bounded memory. Raises OSError.

        The same statistics give the same bytes. An existing file is replaced when the new one is complete.
        """
        target = Path(path)
        unfinished = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            with unfinished.open("wb") as file:
                file.write(self._header())
                for name in sorted(self.tensors):
                    for piece in self.tensors[name].detach().reshape(-1).split(_PIECE):
                        file.write(piece.to("cpu", torch.float32).numpy().astype("<f4", copy=False).data)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)

    def _header(self) -> bytes:
        # The number of examples is left out: it differs between sides, and metadata that differs does not merge.
        metadata = {"format": "pt", "statistics": self.kind}
        specs = [TensorSpec(name, DTYPES["f32"], tuple(self.tensors[name].shape)) for name in sorted(self.tensors)]
        composed = Safetensors().compose(specs, metadata)
        assert composed is not None  # noqa: S101 - safetensors can hold any tensor of f32
        return composed.skeleton


def sidecar(checkpoint: str | os.PathLike[str], kind: str) -> Path:
    """Where the statistics of a checkpoint lie: ``model.fisher.safetensors`` for ``model.safetensors``."""
    return Path(checkpoint).with_suffix(f".{kind}.safetensors")
