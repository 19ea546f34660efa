"""docs/spec/encodings: scale, resize, lowrank."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from tests.golden.book.words import BITS, WIDTHS, bytes_of, joined, rounded, unpack, value, words_of

Shape = tuple[int, ...]
Parameters = dict[str, str]


def scale(payload: bytes, dtype: str, shape: Shape, parameters: Parameters, base: bytes) -> bytes:
    width, elements = WIDTHS[dtype], math.prod(shape)
    by_column = parameters["axis"] == "1"
    groups = shape[-1] if by_column else (shape[0] if len(shape) > 1 else 1)
    planes, rest = unpack(payload, [groups] * 4)
    assert not rest
    factors = [value(word, "f32") for word in joined(planes, rotated=True)]
    old = words_of(base, width)
    group = [at % groups if by_column else at // (elements // groups) for at in range(elements)]
    return bytes_of([rounded(value(old[at], dtype) * factors[group[at]], dtype) for at in range(elements)], width)


def resize(payload: bytes, dtype: str, shape: Shape, parameters: Parameters, base: bytes) -> bytes:
    old_shape = tuple(map(int, parameters["from"].split("x")))
    cell = math.prod(shape[2:]) * BITS[dtype] // 8
    sizes, old_sizes = ((*some[:2], 1)[:2] for some in (shape, old_shape))
    maps, rest = [], payload[1:]
    for axis in (0, 1):
        if payload[0] >> axis & 1:
            width = rest[0]
            planes, rest = unpack(rest[1:], [sizes[axis]] * width)
            steps = [word // 2 if word % 2 == 0 else -(word + 1) // 2 for word in joined(planes)]
            maps.append([at - 1 for at in accumulate(step + 1 for step in steps)])
        else:
            assert sizes[axis] == old_sizes[axis]
            maps.append(list(range(sizes[axis])))
    assert not rest
    cells = [
        base[(row * old_sizes[1] + column) * cell :][:cell] if row >= 0 and column >= 0 else bytes(cell)
        for row in maps[0]
        for column in maps[1]
    ]
    return b"".join(cells)


Matrix = list[list[float]]


@dataclass
class Factors:
    """The head of a product, and then its matrices."""

    kinds: tuple[int, int]
    exponent: int
    extra: int
    rows: int
    columns: int
    rank: int
    shifts: tuple[int, ...]

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Kind, rows and columns of each matrix, as it is stored."""
        if not self.kinds[1]:
            return [(self.kinds[0], self.rows, self.columns)]
        return [(self.kinds[0], self.rank, self.rows), (self.kinds[1], self.rank, self.columns)]

    def product(self, matrices: Sequence[Matrix]) -> Matrix:
        if len(matrices) == 1:
            return [[number + 0.0 for number in row] for row in matrices[0]]
        exponent, shifts, right_shifts = self.exponent, self.shifts, [self.exponent - shift for shift in self.shifts]
        if self.kinds[0] > 16:
            exponent -= 2 * self.extra
            shifts = (-self.extra,) * self.rank
            right_shifts = [-self.extra] * self.rank
        left, right = _split(matrices[0], shifts, self.extra), _split(matrices[1], right_shifts, self.extra)
        found = _sums(left[0], right[0], exponent)
        for one, other in ((left[0], right[1]), (left[1], right[0])) if self.extra else ():
            found = _elementwise(found, _sums(one, other, exponent + self.extra), lambda a, b: a + b)
        return found


def _split(matrix: Matrix, shifts: Sequence[int], extra: int) -> tuple[list[list[int]], list[list[int]]]:
    high, low = [], []
    for row, shift in zip(matrix, shifts, strict=True):
        scaled = [math.ldexp(number, shift) for number in row]
        high.append([round(number) for number in scaled])
        low.append([round(math.ldexp(number - round(number), extra)) for number in scaled])
    return high, low


def _sums(left: list[list[int]], right: list[list[int]], exponent: int) -> Matrix:
    assert sum(max(map(abs, one)) * max(map(abs, other)) for one, other in zip(left, right, strict=True)) < 1 << 53
    columns = list(zip(*right, strict=True))
    return [
        [sum(a * b for a, b in zip(row, column, strict=True)) * 2.0**-exponent for column in columns]
        for row in zip(*left, strict=True)
    ]


def _elementwise(one: Matrix, other: Matrix, join: Callable[[float, float], float]) -> Matrix:
    return [[join(a, b) for a, b in zip(*rows, strict=True)] for rows in zip(one, other, strict=True)]


def _read_head(data: bytes) -> tuple[Factors, bytes]:
    left, right, exponent, extra, rows, columns, rank = struct.unpack_from("<BBhBIII", data)
    count = rank if 0 < right < 16 else 0
    shifts = struct.unpack_from(f"<{count}h", data, 17)
    return Factors((left, right), exponent, extra, rows, columns, rank, shifts), data[17 + 2 * count :]


def _values(planes: list[bytes], kind: int, columns: int) -> Matrix:
    if kind > 16:
        bits, width = kind - 16, len(planes)
        words = [word >> 8 * width - bits for word in joined(planes)]
        numbers = [float(word - (1 << bits if word >> bits - 1 else 0)) for word in words]
    else:
        numbers = [value(word, _KINDS[kind]) for word in joined(planes, rotated=True)]
    return [numbers[at : at + columns] for at in range(0, len(numbers), columns)]


_KINDS = {1: "bf16", 2: "f16", 3: "f32", 4: "f64"}


def lowrank(payload: bytes, dtype: str, shape: Shape, parameters: Parameters, base: bytes) -> bytes:
    rows, columns = shape[0], math.prod(shape[1:])
    combination, flags, scaling = struct.unpack_from("<BBd", payload)
    gain, is_rounded = flags & 3, flags & 4
    heads, rest = [], payload[10:]
    for _ in range(2 if combination else 1):
        head, rest = _read_head(rest)
        heads.append(head)
    shapes = [stored for head in heads for stored in head.shapes]
    if gain:
        shapes.append((3, 1, rows if gain == 1 else columns))
    planes_of = [-(-(kind - 16) // 8) if kind > 16 else WIDTHS[_KINDS[kind]] for kind, _, _ in shapes]
    counts = [
        height * width for (_, height, width), planes in zip(shapes, planes_of, strict=True) for _ in range(planes)
    ]
    planes, rest = unpack(rest, counts)
    assert not rest
    source = iter(planes)
    matrices = iter(
        [
            _values([next(source) for _ in range(many)], kind, width)
            for (kind, _, width), many in zip(shapes, planes_of, strict=True)
        ]
    )
    products = [head.product([next(matrices) for _ in head.shapes]) for head in heads]
    difference = _combined(combination, products)
    factors = next(matrices)[0] if gain else []
    old, words = words_of(base, WIDTHS[dtype]), []
    for at, word in enumerate(old):
        row, column = divmod(at, columns)
        number = difference[row][column] * scaling
        if is_rounded:
            number = value(rounded(number, dtype), dtype)
        number += value(word, dtype)
        if gain:
            number *= factors[row if gain == 1 else column]
        words.append(rounded(number, dtype))
    return bytes_of(words, WIDTHS[dtype])


def _combined(combination: int, products: list[Matrix]) -> Matrix:
    if combination == 0:
        return products[0]
    if combination == 1:
        return _elementwise(products[0], products[1], lambda a, b: a * b)
    return [[a * b for a in outer for b in inner] for outer in products[0] for inner in products[1]]


PREDICTORS: dict[str, Callable[[bytes, str, Shape, Parameters, bytes], bytes]] = {
    "scale": scale,
    "lowrank": lowrank,
    "resize": resize,
}
