"""Objects that stay for a small part of their bytes: an object is deleted as a whole, or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gittheta.model import ObjectId

if TYPE_CHECKING:
    from gittheta.storage.objects import ObjectStore

_PLACE = re.compile(rb"\b([0-9a-f]{64}):([0-9]+)\+([0-9]+)")


@dataclass(frozen=True)
class DeadBytes:
    """Objects of which less than half is needed, and how many of their bytes are not."""

    objects: int
    nbytes: int


def dead_bytes(store: ObjectStore, texts: Iterable[bytes]) -> DeadBytes:
    """What the objects hold of a store that some manifests name, beyond what these need of them."""
    places: dict[bytes, dict[int, int]] = {}
    for text in texts:
        for name, offset, length in _PLACE.findall(text):
            known = places.setdefault(name, {})
            known[int(offset)] = max(int(length), known.get(int(offset), 0))
    count = dead = 0
    for name, known in places.items():
        size = store.own_size(ObjectId(name.decode()))
        needed = _covered(known)
        if size > 2 * needed:
            count += 1
            dead += size - needed
    return DeadBytes(count, dead)


def _covered(places: dict[int, int]) -> int:
    """The bytes that some runs cover, each counted once."""
    end = total = 0
    for offset, length in sorted(places.items()):
        total += max(0, offset + length - max(offset, end))
        end = max(end, offset + length)
    return total
