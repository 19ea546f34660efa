"""Statistics as files beside the model's: ordinary checkpoints with the same names of parameters."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from gittheta.api import DTYPES, TensorSpec
from gittheta.errors import ThetaError
from gittheta.formats.safetensors import Safetensors

#: So many elements are converted at a time.
_PIECE = 1 << 20


@dataclass(frozen=True)
class Statistics:
    """One kind of statistics, by the names of the parameters that they are about."""

    #: ``fisher``, ``gram`` or ``output``: what merge methods call them, and part of the file's name.
    kind: str
    tensors: Mapping[str, torch.Tensor]
    #: How many examples were seen.
    examples: int

    def __post_init__(self) -> None:
        """Raises ThetaError for values that are not finite."""
        for name, values in self.tensors.items():
            if not bool(torch.isfinite(values).all()):
                raise ThetaError(
                    f"the statistics ({self.kind}) are not finite",
                    tensor=name,
                    hint="look for NaN and infinite values in the data, the model and its gradients",
                )

    def beside(self, checkpoint: str | os.PathLike[str]) -> Path:
        """Write the file where merges look for it, next to the model's, and say where that is."""
        path = sidecar(checkpoint, self.kind)
        self.write(path)
        return path

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file of float32 values, a piece at a time.

        The same statistics give the same bytes. A file of that name is replaced when the new one is whole.
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
        # No number of examples: it differs from side to side, and metadata that differs does not merge.
        described = {"format": "pt", "statistics": self.kind}
        wanted = [TensorSpec(name, DTYPES["f32"], tuple(self.tensors[name].shape)) for name in sorted(self.tensors)]
        composed = Safetensors().compose(wanted, described)
        assert composed is not None  # noqa: S101 - it holds tensors of f32
        return composed.skeleton


def sidecar(checkpoint: str | os.PathLike[str], kind: str) -> Path:
    """Where the statistics of a checkpoint lie: ``model.fisher.safetensors`` for ``model.safetensors``."""
    return Path(checkpoint).with_suffix(f".{kind}.safetensors")
