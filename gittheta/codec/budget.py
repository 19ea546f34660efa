"""What may be decoded for one tensor: a few bytes must not cost the decoding of a base of gigabytes, block by block."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

from gittheta.errors import PayloadError

if TYPE_CHECKING:
    from gittheta.limits import Limits
    from gittheta.model import TensorSpec
    from gittheta.storage.frames import Frame


@dataclass
class Budget:
    """Bytes that the links below the newest one may decode. Safe to use from several threads.

    For each byte of the tensor that is handed out some bytes of its bases; besides, each time that the tensor is read
    whole, each stored block of its bases once. A block that a recipe names several times counts once.
    """

    size: int
    times: int
    spare: int
    _bases: int = 0
    _handed: int = 0
    _decoded: int = 0
    _lock: Lock = field(default_factory=Lock)

    @classmethod
    def of(cls, spec: TensorSpec, limits: Limits) -> Budget:
        """The budget of a tensor."""
        return cls(spec.nbytes, limits.decoded_times, limits.spare_decoded)

    def add_base(self, frames: Iterable[Frame]) -> None:
        """A base has these frames."""
        self._bases += sum({(frame.object, frame.body_offset): frame.head.raw for frame in frames}.values())

    def hand_out(self, nbytes: int) -> None:
        """A block of the tensor itself is decoded."""
        with self._lock:
            self._handed += nbytes

    def decode(self, nbytes: int) -> None:
        """A block of a base is about to be decoded. Raises PayloadError if that is one too many."""
        with self._lock:
            self._decoded += nbytes
            passes = 1 + self._handed // max(1, self.size)
            allowed = self.times * (self._handed + self.size) + passes * self._bases + self.spare
            if self._decoded > allowed:
                raise PayloadError(
                    f"a tensor of {self.size} bytes for which more than {allowed} bytes of its bases would be decoded",
                    hint="made to waste time, or damaged: take the checkpoint from an intact clone",
                )
