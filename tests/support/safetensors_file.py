"""Safetensors files made by hand, entry by entry; nothing is checked."""

from __future__ import annotations

import json
from collections.abc import Sequence

#: name, dtype as safetensors spells it, shape, bytes
Entry = tuple[str, str, Sequence[int], bytes]


def framed(header: bytes | object, data: bytes = b"") -> bytes:
    """A header, as it is or as JSON, behind its length, then data."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + data


def safetensors(
    entries: Sequence[Entry], *, metadata: object = None, padding: bytes = b"", order: Sequence[int] | None = None
) -> bytes:
    """A safetensors file made by hand; ``order`` is that of the header, while data stand in the order of entries."""
    described, at = [], 0
    for name, dtype, shape, data in entries:
        described.append((name, {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}))
        at += len(data)
    header = {} if metadata is None else {"__metadata__": metadata}
    header |= dict(described[number] for number in order) if order is not None else dict(described)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode() + padding
    return framed(text, b"".join(entry[3] for entry in entries))
