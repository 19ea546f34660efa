"""Cases from seeds: changed files of ours, and texts that say much in little."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gittheta.codec.decode import Decoder
from gittheta.codec.tensor_store import TensorStore
from gittheta.formats.safetensors import Safetensors
from gittheta.model import DTYPES, Link, Recipe, TensorSpec
from gittheta.storage.manifest import format_manifest, parse_manifest
from gittheta.storage.objects import ObjectStore
from tests.support.adapters import LORA, lora, read, save
from tests.support.manifest_text import FIRST
from tests.support.shelf import UNKNOWN, Shelf, frame, stacked
from tests.support.stores import object_file

#: A case: how many bytes its input has, and what is done with it, which raises what the program raises.
Case = tuple[int, Callable[[], object]]

GOLDEN = Path(__file__).parents[1] / "golden"
ZEROS = b"0" * 64
#: Bytes of the largest text that was changed, and of the largest that says much in little: so many that a parser which
#: takes twenty times the text is found out.
LARGEST, LONG = 1 << 18, 6 << 20
#: The share of cases that say much in little.
_MUCH = 0.2
_ODD = [b"0", b"9" * 18, b"x", b" ", b"\n", b"\xff", b"%00", b"[", b"]", b"4611686018427387904", b"\xf0\x9f\x98\x80"]


def changed(rng: random.Random, data: bytes, odd: Sequence[bytes] = _ODD) -> bytes:
    """The data with some bytes flipped, cut out, repeated, or replaced by something odd."""
    text = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        end = min(len(text), at + rng.choice((0, 1, 1, 8, 100)))
        piece = rng.choice((b"", bytes(text[at:end]) * rng.choice((2, 3, 1000)), rng.choice(odd), rng.randbytes(3)))
        text[at:end] = piece
    return bytes(text[:LARGEST])


def manifest(rng: random.Random, folder: Path) -> Case:
    """A manifest that was changed, or one of many short lines, places, names, dimensions, parameters."""
    text = _long_manifest(rng) if rng.random() < _MUCH else _changed_manifest(rng)
    return len(text), lambda: _is_canonical(text)


def _is_canonical(text: bytes) -> None:
    assert format_manifest(parse_manifest(text)) == text


def _changed_manifest(rng: random.Random) -> bytes:
    return changed(rng, rng.choice(sorted(GOLDEN.glob("*.manifest"))).read_bytes())


def _many(rng: random.Random, piece: bytes, between: bytes = b"") -> bytes:
    """A piece so often that the text is long; in place of ``%x`` stands its number."""
    size = LONG // rng.choice((1, 2, 8))
    count = size // (len(piece) + len(between) + 3 * piece.count(b"%x"))
    return between.join(piece.replace(b"%x", b"%x" % at) for at in range(count))


def _long_manifest(rng: random.Random) -> bytes:
    head = FIRST.encode() + b"format safetensors\nskeleton 1 1 b3:" + ZEROS + b"\n"
    link = b"dense " + ZEROS + b":1+1\n"
    whole, line = head + link, b"u8 1 b3:" + ZEROS + b"\n"
    kind = rng.choice(("lines", "links", "places", "tensors", "empty", "names", "shape", "keys", "escapes", "wide"))
    return {
        "lines": lambda: head + _many(rng, b"ab\n"),
        "links": lambda: head + _many(rng, link),
        "places": lambda: head + b"dense" + _many(rng, b" " + ZEROS + b":1+1") + b"\n",
        "tensors": lambda: whole + _many(rng, b"[%x]\n" + line + link),
        "empty": lambda: whole + _many(rng, b"[%x]\n" + line.replace(b"u8 1", b"u8 0")),
        "names": lambda: whole + b"[a]\n" + line + _many(rng, b"also [b%x]\n") + link,
        "shape": lambda: whole + b"[a]\nu8 " + _many(rng, b"1", b"x") + b" b3:" + ZEROS + b"\n" + link,
        "keys": lambda: head + b"dense " + _many(rng, b"k%x=1", b" ") + b" " + ZEROS + b":1+1\n",
        "escapes": lambda: whole + b"[" + _many(rng, b"%00") + b"]\n",
        "wide": lambda: whole + "[\U0001f600]\n".encode() + line + link + _many(rng, b"[%x]\n" + line + link),
    }[kind]()


def header(rng: random.Random, folder: Path) -> Case:
    """The header of a safetensors file that was changed, or one of many lists, texts, names, digits."""
    odd = (b"{", b"}", b'"', b"[", b"\\", b",", *_ODD)
    text = _long_header(rng) if rng.random() < _MUCH else changed(rng, _HEADER, odd)
    data = len(text).to_bytes(8, "little") + text
    return len(data), lambda: Safetensors().split(io.BytesIO(data))


_HEADER = json.dumps(
    {
        "__metadata__": {"format": "pt", "note": "\u00e9"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "U8", "shape": [], "data_offsets": [24, 25]},
    }
).encode()


def _long_header(rng: random.Random) -> bytes:
    begin, end = b'{"a":{"dtype":"U8","shape":[', b'],"data_offsets":[0,1]}}'
    empty = b'"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    kind = rng.choice(("deep", "lists", "table", "text", "tensors", "ones", "digits", "spaces", "escapes"))
    return {
        "deep": lambda: b'{"a":' + _many(rng, b"["),
        "lists": lambda: b'{"a":[' + _many(rng, b"[]", b",") + b"]}",
        "table": lambda: b'{"__metadata__":{' + _many(rng, b'"%x":""', b",") + b"}}",
        "text": lambda: b'{"__metadata__":{"a":"' + _many(rng, b"\\u0041") + b'"}}',
        "tensors": lambda: b"{" + _many(rng, empty, b",") + b"}",
        "ones": lambda: begin + _many(rng, b"1", b",") + end,
        "digits": lambda: begin + _many(rng, b"9") + end,
        "spaces": lambda: b"{" + _many(rng, b" "),
        "escapes": lambda: b'{"' + _many(rng, b"\\\\"),
    }[kind]()


def recipe(rng: random.Random, folder: Path) -> Case:
    """A chain of links whose payloads were changed, or that stands over an enormous base."""
    store = ObjectStore(folder / "theta", ())
    shelf = Shelf(store.root)
    spec, links, size = _over_much(rng, shelf) if rng.random() < _MUCH else _changed_links(rng, shelf)
    return size, lambda: _decode(store, spec, links)


def _decode(store: ObjectStore, spec: TensorSpec, links: Recipe) -> None:
    with TensorStore(store, threads=2) as tensors:
        for _ in Decoder(tensors).blocks([(spec, links)]):
            pass


def _changed_links(rng: random.Random, shelf: Shelf) -> tuple[TensorSpec, Recipe, int]:
    links, _, new = stacked(shelf, sorted(rng.sample(range(4, len(new_bytes())), 3)))
    odd = []
    size = 0
    for link in links:
        place = link.places[0]
        path = object_file(shelf.root, place.object)
        payload = (
            changed(rng, path.read_bytes()[place.offset :], (b"\0" * 8, b"\xff" * 4)) if rng.random() < 0.5 else b""
        )
        places = shelf.put(payload) if payload else link.places
        odd.append(Link(link.encoding, places, link.parameters, link.base))
        size += len(payload) + place.length
    return TensorSpec("w", DTYPES["f32"], (96, 20)), tuple(odd), size + len(new)


def new_bytes() -> bytes:
    """As many bytes as the tensor of :func:`stacked` has."""
    return bytes(96 * 20 * 4)


def _over_much(rng: random.Random, shelf: Shelf) -> tuple[TensorSpec, Recipe, int]:
    """Some rows, each out of another block of zeros, all of which are the same bytes of one object."""
    rows, big = rng.choice((3, 40, 400)), rng.choice((1 << 16, 1 << 22, 1 << 26))
    zeros = np.zeros(big, np.uint8)
    block = frame(_dense(zeros), zeros.tobytes())
    base = shelf.put(block) * rows
    payload = bytes((1, 4)) + _packed(np.diff(np.arange(rows, dtype=np.int64) * big, prepend=-1) - 1)
    resize = Link("resize", shelf.put(frame(payload, payload)), (("from", f"{rows * big}x1"),), UNKNOWN)
    sparse = Link("sparse", shelf.put(frame(b"", bytes(rows))), (), UNKNOWN)
    links = (sparse, resize, Link("dense", base))
    return TensorSpec("w", DTYPES["u8"], (rows, 1)), links, len(block) + len(payload)


def _dense(values: np.ndarray) -> bytes:
    from gittheta.encodings.dense import Dense
    from gittheta.model import Tensor

    spec = TensorSpec("z", DTYPES["u8"], (len(values),))
    body = Dense().encode(Tensor(spec, memoryview(values.tobytes())))
    assert body is not None
    return bytes(body)


def _packed(steps: np.ndarray) -> bytes:
    from gittheta.numerics.planes import pack, split

    folded = np.where(steps < 0, -2 * steps - 1, 2 * steps).astype("<u4")
    return pack(split(folded), matches=True)


def adapter(rng: random.Random, folder: Path) -> Case:
    """The configuration of an adapter that was changed, or has many or endless patterns."""
    text = json.dumps(LORA | {"rank_pattern": {"q": 2}, "target_modules": ["q"]}).encode()
    if rng.random() < 0.5:
        pattern = rng.choice(("(a+)+b", ".*" * 9, "(q|q)*x", "[" * 999, r"(q)\1", "q{1,9999}{1,9999}", "(" * 500))
        count = rng.choice((1, 100, 10_000))
        text = json.dumps(LORA | {"rank_pattern": {f"{pattern}{at}": 2 for at in range(count)}}).encode()
    else:
        text = changed(rng, text, (b"{", b"}", b'"', b"[", b"1e999", b"NaN", *_ODD))
    path = save(folder / "adapter", {}, lora())
    (path / "adapter_config.json").write_bytes(text)
    return len(text), lambda: list(read(path))


CASES: dict[str, Callable[[random.Random, Path], Case]] = {
    "manifest": manifest,
    "header": header,
    "recipe": recipe,
    "adapter": adapter,
}
