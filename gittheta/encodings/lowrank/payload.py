"""The payload of a change that a few small matrices describe. Specified in ``docs/spec/encodings/lowrank.md``."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from gittheta.api import PayloadError, TensorSpec
from gittheta.encodings.lowrank.exact import (
    MAX_EXPONENT,
    MAX_EXTRA,
    MAX_SHIFT,
    Exact,
    Floats,
    Integers,
    Scales,
    plain_matrix,
    product,
    product_of_floats,
    scales_of,
)
from gittheta.encodings.lowrank.factors import (
    COMBINATIONS,
    Combination,
    ExactChange,
    Product,
    WeightChange,
    matrix_shape,
)
from gittheta.numerics.planes import Bytes, Words, join_rotated, pack, split_rotated, unpack

if TYPE_CHECKING:
    from gittheta.numerics.floats import Doubles

_HEAD = struct.Struct("<BBd")
_PRODUCT = struct.Struct("<BBhBIII")
#: How a factor is stored: not at all, as floats, or as integers of ``kind - _INTEGERS`` bits.
_NONE, _BF16, _F16, _F32, _F64, _INTEGERS = 0, 1, 2, 3, 4, 16
_WIDTHS = {_BF16: 2, _F16: 2, _F32: 4, _F64: 8}
MIN_BITS, MAX_BITS = 2, 32
#: A flag beside the gain's: D is rounded before it is added.
_ROUNDED = 4
_NO_SHIFTS = np.zeros(0, np.int32)
#: The numbers of values and of bytes by which factors may exceed the tensor itself: only tiny tensors need them.
_SPARE_VALUES = 1 << 14
_SPARE = 1 << 16
#: Bytes; a payload is held in memory as a whole.
_MAX_PAYLOAD = 1 << 26


@dataclass(frozen=True)
class IntegerProduct:
    """``left @ right`` times 2^-``exponent``, where both factors are integers and are stored as such.

    ``left`` has shape (rows, rank), ``right`` (rank, columns); ``bits`` is the width of the integers of either;
    ``extra`` is as in :class:`Scales`.
    """

    left: Integers
    right: Integers
    exponent: int
    bits: tuple[int, int]
    extra: int


def write(change: WeightChange, spec: TensorSpec) -> bytes:
    """The payload of a change given in floats. Raises PayloadError if it does not fit the tensor or the format."""
    _check_change(change)
    gain = 0 if change.gain is None else change.gain_axis + 1
    flags = gain | _ROUNDED if change.rounded else gain
    head = _HEAD.pack(COMBINATIONS.index(change.combination), flags, change.scaling)
    planes: list[Bytes] = []
    for part in (change.first, change.second):
        if part is not None:
            scales, matrices = _prepared(part)
            kinds = [_kind(matrix) for matrix in matrices]
            head += _product_head(kinds, scales, [matrix.shape for matrix in matrices])
            for kind, matrix in zip(kinds, matrices, strict=True):
                planes += split_rotated(_to_words(matrix, kind))
    if change.gain is not None:
        planes += split_rotated(_to_words(change.gain, _F32))
    return _bounded(head + pack(planes), spec)


def write_integers(product: IntegerProduct, spec: TensorSpec) -> bytes:
    """The payload of a product given in integers. Raises PayloadError if it is larger than the tensor."""
    kinds = [_INTEGERS + bits for bits in product.bits]
    scales = Scales(product.exponent, _NO_SHIFTS, product.extra)
    head = _HEAD.pack(0, 0, 1.0) + _product_head(kinds, scales, [product.left.T.shape, product.right.shape])
    planes = _split_integers(product.left.T, product.bits[0]) + _split_integers(product.right, product.bits[1])
    return _bounded(head + pack(planes), spec)


def read(payload: memoryview, spec: TensorSpec) -> ExactChange:
    """Read a payload. It is hostile input: raises PayloadError before memory is allocated for wrong sizes."""
    rows, columns = matrix_shape(spec)
    combination, flags, scaling, heads, rest = _read_heads(payload)
    gain = flags & ~_ROUNDED
    _check_shapes(combination, [(head.rows, head.columns) for head in heads], (rows, columns))
    matrices = [matrix for head in heads for matrix in head.matrices]
    if gain:
        matrices.append(_Matrix(_F32, 1, rows if gain == 1 else columns))
    counts = [matrix.count for matrix in matrices for _ in range(matrix.width)]
    if sum(counts) > spec.nbytes + _SPARE or sum(matrix.count for matrix in matrices) > spec.elements + _SPARE_VALUES:
        raise PayloadError("factors that are larger than the tensor")
    planes, rest = unpack(rest, counts)
    if len(rest):
        raise PayloadError("a payload of factors that is too long")
    following = iter(planes)
    products = tuple(head.join(following) for head in heads)
    gains = matrices[-1].join(following)[0] if gain else None
    rounding = spec.dtype if flags & _ROUNDED else None
    return ExactChange(products, combination, scaling, gains, max(0, gain - 1), rounding)


@dataclass(frozen=True)
class _Matrix:
    """Dtype and shape of a factor as stored; a left factor is stored transposed."""

    kind: int
    rows: int
    columns: int

    @property
    def count(self) -> int:
        return self.rows * self.columns

    @property
    def width(self) -> int:
        """Bytes of one value, which is also the number of byte planes."""
        return _WIDTHS[self.kind] if self.kind < _INTEGERS else -(-(self.kind - _INTEGERS) // 8)

    def join(self, planes: Iterator[Bytes]) -> Doubles:
        """The values, from the next planes: float64, (rows, columns). Raises PayloadError unless they are finite."""
        mine = [next(planes) for _ in range(self.width)]
        if self.kind >= _INTEGERS:
            return _join_integers(mine, self.kind - _INTEGERS).reshape(self.rows, self.columns)
        words = np.empty(self.count, f"<u{self.width}")
        join_rotated(mine, words)
        values = _from_words(words, self.kind)
        if not np.isfinite(values).all():
            raise PayloadError("factors that are not finite")
        return values.reshape(self.rows, self.columns)


@dataclass(frozen=True)
class _ProductHead:
    kinds: tuple[int, int]
    scales: Scales
    rows: int
    columns: int
    rank: int

    @property
    def matrices(self) -> list[_Matrix]:
        left, right = self.kinds
        if right == _NONE:
            return [_Matrix(left, self.rows, self.columns)]
        return [_Matrix(left, self.rank, self.rows), _Matrix(right, self.rank, self.columns)]

    def join(self, planes: Iterator[Bytes]) -> Exact:
        """The product, from the next planes. Raises PayloadError if sums could be inexact."""
        values = [matrix.join(planes) for matrix in self.matrices]
        if len(values) == 1:
            return plain_matrix(values[0])
        if self.kinds[0] >= _INTEGERS:
            return product(values[0], values[1], self.scales.exponent, self.scales.extra)
        return product_of_floats(values[0], values[1], self.scales)


def _product_head(kinds: Sequence[int], scales: Scales, shapes: Sequence[tuple[int, ...]]) -> bytes:
    if len(shapes) == 1:
        return _PRODUCT.pack(kinds[0], _NONE, 0, 0, *shapes[0], 0)
    (rank, rows), (_, columns) = shapes
    head = _PRODUCT.pack(*kinds, scales.exponent, scales.extra, rows, columns, rank)
    return head + scales.shifts.astype("<i2").tobytes()


def _read_heads(payload: memoryview) -> tuple[Combination, int, float, list[_ProductHead], memoryview]:
    if len(payload) < _HEAD.size:
        raise PayloadError("factors without a head")
    combination, flags, scaling = _HEAD.unpack_from(payload)
    if combination >= len(COMBINATIONS) or flags & ~_ROUNDED > 2 or not isfinite(scaling):
        raise PayloadError(f"factors of unknown kind ({combination}, {flags}), or scaled by {scaling}")
    rest = payload[_HEAD.size :]
    heads = []
    for _ in range(2 if combination else 1):
        head, rest = _read_product_head(rest)
        heads.append(head)
    return COMBINATIONS[combination], flags, scaling, heads, rest


def _read_product_head(payload: memoryview) -> tuple[_ProductHead, memoryview]:
    if len(payload) < _PRODUCT.size:
        raise PayloadError("the head of a product is cut short")
    left, right, exponent, extra, rows, columns, rank = _PRODUCT.unpack_from(payload)
    alone = left in _WIDTHS and right == _NONE
    floats = left in _WIDTHS and right in _WIDTHS
    integers = all(MIN_BITS <= kind - _INTEGERS <= MAX_BITS for kind in (left, right))
    if not (alone or floats or integers) or alone != (rank == 0):
        raise PayloadError(f"a product of unknown kind ({left}, {right}), or of rank {rank}")
    count = rank if floats else 0
    if len(payload) < _PRODUCT.size + 2 * count:
        raise PayloadError("the head of a product is cut short")
    shifts = np.frombuffer(payload, "<i2", count, _PRODUCT.size).astype(np.int32)
    most = (0, 0) if alone else (MAX_EXPONENT, MAX_EXTRA)
    if abs(exponent) > most[0] or extra > most[1] or (abs(shifts) > MAX_SHIFT).any():
        raise PayloadError("a power of two beyond its bounds")
    head = _ProductHead((left, right), Scales(exponent, shifts, extra), rows, columns, rank)
    return head, payload[_PRODUCT.size + 2 * count :]


def _check_shapes(combination: Combination, shapes: Sequence[tuple[int, int]], expected: tuple[int, int]) -> None:
    first, last = shapes[0], shapes[-1]
    whole = (first[0] * last[0], first[1] * last[1]) if combination == "kronecker" else first
    if whole != expected or (combination == "hadamard" and last != expected):
        raise PayloadError(f"factors of {' and '.join(map(str, shapes))} do not make a matrix of {expected}")


def _bounded(payload: bytes, spec: TensorSpec) -> bytes:
    if len(payload) > min(_MAX_PAYLOAD, spec.nbytes + _SPARE):
        raise PayloadError("factors that are larger than the tensor")
    return payload


def _check_change(change: WeightChange) -> None:
    matrices = [change.first.left, change.first.right]
    if change.second is not None:
        matrices += [change.second.left, change.second.right]
    if (change.second is None) != (change.combination == "product") or change.gain_axis not in (0, 1):
        raise PayloadError(f"a change by '{change.combination}' of {1 if change.second is None else 2} products")
    if any(matrix is not None and (matrix.ndim != 2 or not 0 < matrix.size < 1 << 32) for matrix in matrices):
        raise PayloadError("factors that are not matrices")
    if not isfinite(change.scaling) or any(
        not np.isfinite(matrix).all() for matrix in (*matrices, change.gain) if matrix is not None
    ):
        raise PayloadError("factors that are not finite")


def _prepared(product: Product) -> tuple[Scales, list[Floats]]:
    """The scales of a product, and its matrices as they are stored (the left one transposed)."""
    if product.right is None:
        return Scales(0, _NO_SHIFTS, 0), [product.left]
    matrices = [product.left.T, product.right]
    if len(matrices[0]) != len(matrices[1]):
        raise PayloadError(f"factors of {product.left.shape} and {product.right.shape} cannot be multiplied")
    return scales_of(*matrices), matrices


def _kind(matrix: Floats) -> int:
    """The narrowest kind of float that holds every value of a matrix exactly."""
    with np.errstate(over="ignore"):
        single = matrix.astype(np.float32)
        if not np.array_equal(single, matrix):
            return _F64
        if not (single.view(np.uint32) & np.uint32(0xFFFF)).any():
            return _BF16
        return _F16 if np.array_equal(single.astype(np.float16), single) else _F32


def _to_words(matrix: Floats, kind: int) -> Words:
    values = matrix.ravel()
    if kind == _BF16:
        return (values.astype("<f4").view("<u4") >> np.uint32(16)).astype("<u2")
    width = _WIDTHS[kind]
    words: Words = values.astype(f"<f{width}").view(f"<u{width}")
    return words


def _from_words(words: Words, kind: int) -> Doubles:
    with np.errstate(invalid="ignore"):  # signalling NaNs, which are refused afterwards
        if kind == _BF16:
            return (words.astype("<u4") << np.uint32(16)).view("<f4").astype(np.float64)
        return words.view(f"<f{_WIDTHS[kind]}").astype(np.float64)


def _split_integers(values: Integers, bits: int) -> list[Bytes]:
    """The byte planes, highest first, of integers of ``bits`` bits in two's complement, moved to the top of 32 bits."""
    words = values.ravel().view(np.uint32) << np.uint32(32 - bits)
    return [(words >> np.uint32(24 - 8 * at)).astype(np.uint8) for at in range(-(-bits // 8))]


def _join_integers(planes: Sequence[Bytes], bits: int) -> Doubles:
    words = np.zeros(len(planes[0]), np.uint32)
    for at, plane in enumerate(planes):
        words |= plane.astype(np.uint32) << np.uint32(24 - 8 * at)
    return (words.view(np.int32) >> np.int32(32 - bits)).astype(np.float64)
