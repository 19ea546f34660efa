"""docs/spec/manifest.md and object.md: links, frames, chains."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.golden.book.blockwise import BLOCKWISE
from tests.golden.book.predictors import PREDICTORS, Parameters, Shape


@dataclass
class Link:
    encoding: str
    parameters: Parameters
    base: str | None
    #: Object, offset, length.
    places: list[tuple[str, int, int]]


def parse_link(line: str) -> Link:
    encoding, *words = line.split(" ")
    parameters = dict(word.split("=") for word in words if "=" in word)
    base = next((word for word in words if word.startswith("b3:")), None)
    found = (re.fullmatch(r"([0-9a-f]{64}):(\d+)\+(\d+)", word) for word in words)
    return Link(encoding, parameters, base, [(place[1], int(place[2]), int(place[3])) for place in found if place])


def frames(link: Link, read: Callable[[str], bytes]) -> Iterator[tuple[int, bytes, bytes]]:
    """Raw length, digest and body of each."""
    for name, offset, length in link.places:
        data = read(name)[offset : offset + length]
        while data:
            body, raw, digest = struct.unpack_from("<II32s", data)
            yield raw, digest, data[40 : 40 + body]
            data = data[40 + body :]


def decode(links: Sequence[Link], dtype: str, shape: Shape, read: Callable[[str], bytes]) -> bytes:
    """All of a tensor, and so all of its base and of that one's base."""
    link, *below = links
    if link.encoding in PREDICTORS:
        base_shape = tuple(map(int, link.parameters["from"].split("x"))) if "from" in link.parameters else shape
        ((raw, _, payload),) = frames(link, read)
        assert raw == len(payload)
        return PREDICTORS[link.encoding](payload, dtype, shape, link.parameters, decode(below, dtype, base_shape, read))
    base = decode(below, dtype, shape, read) if below else b""
    data = b""
    for raw, _, body in frames(link, read):
        data += BLOCKWISE[link.encoding](body, dtype, raw, base[len(data) : len(data) + raw])
    return data
