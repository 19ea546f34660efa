"""``dense``: the values themselves, as byte planes, each entropy-coded where that saves bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from gittheta.api import Dtype, PayloadError, Tensor, TensorSpec
from gittheta.numerics.planes import Bytes, join_rotated, pack, split_rotated, unpack

_PLAIN, _ROTATED = 0, 1
#: Widths in bytes of floats whose sign can be rotated.
_ROTATED_WIDTHS = (2, 4, 8)
#: The widest element that is cut into planes: the payload has one byte for the width.
_WIDEST = 255


@dataclass(frozen=True)
class Dense:
    """Needs no base and applies to every tensor. It is its own coder."""

    name: ClassVar[str] = "dense"
    kind: ClassVar[Literal["blockwise"]] = "blockwise"
    needs_base: ClassVar[bool] = False

    def over(self, base: Tensor | None) -> Dense:
        """The encoding itself, which ignores the base."""
        return self

    def encode(self, new: Tensor) -> bytes | None:
        """Planes from the most significant byte to the least, then the bytes of an incomplete last element."""
        dtype = new.spec.dtype
        width, transform = _shape_of(dtype)
        data = np.frombuffer(new.data, np.uint8)
        whole = len(data) // width * width
        planes = _to_planes(data[:whole], width, transform)
        stored = pack(planes, matches=dtype.kind not in ("float", "complex"))
        return b"".join([bytes((width, transform)), stored, data[whole:].data])

    def decode(self, payload: memoryview, spec: TensorSpec) -> Tensor:
        """Undo :meth:`encode`. Raises PayloadError."""
        if len(payload) < 2:
            raise PayloadError("a dense payload without a head")
        width, transform = payload[0], payload[1]
        if (
            width == 0
            or transform not in (_PLAIN, _ROTATED)
            or (transform == _ROTATED and width not in _ROTATED_WIDTHS)
        ):
            raise PayloadError(f"a dense payload of unknown kind ({width}, {transform})")
        count, odd = divmod(spec.nbytes, width)
        planes, rest = unpack(payload[2:], [count] * width)
        if len(rest) != odd:
            raise PayloadError("a dense payload of the wrong length")
        out = np.empty(spec.nbytes, np.uint8)
        _from_planes(planes, transform, out[: count * width])
        out[count * width :] = np.frombuffer(rest, np.uint8)
        return Tensor(spec, out.data)


def _shape_of(dtype: Dtype) -> tuple[int, int]:
    """How a dtype is coded: bytes of one element, and ``_ROTATED`` if the sign is moved behind the mantissa."""
    if dtype.kind == "complex":
        return dtype.itemsize // 2, _ROTATED
    if dtype.itemsize > _WIDEST:
        return 1, _PLAIN
    return dtype.itemsize, _ROTATED if dtype.kind == "float" and dtype.itemsize > 1 else _PLAIN


def _to_planes(data: Bytes, width: int, transform: int) -> list[Bytes]:
    if transform == _ROTATED:
        return split_rotated(data.view(f"<u{width}"))
    columns = data.reshape(-1, width)
    return [np.ascontiguousarray(columns[:, at]) for at in reversed(range(width))]


def _from_planes(planes: list[Bytes], transform: int, out: Bytes) -> None:
    if transform == _ROTATED:
        join_rotated(planes, out.view(f"<u{len(planes)}"))
        return
    columns = out.reshape(-1, len(planes))
    for at, plane in enumerate(reversed(planes)):
        columns[:, at] = plane
