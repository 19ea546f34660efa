"""Headers read member by member: the same verdict as a JSON parser's, in memory that the text bounds."""

from __future__ import annotations

import io
import json
import random
import tracemalloc
from contextlib import suppress

import pytest

from gittheta.errors import FormatError
from gittheta.formats.safetensors import Safetensors

pytestmark = pytest.mark.once

ENTRY = '{"dtype":"U8","shape":[2],"data_offsets":[0,2]}'


def split(header: str | bytes) -> list[str]:
    text = header.encode() if isinstance(header, str) else header
    layout = Safetensors().split(io.BytesIO(len(text).to_bytes(8, "little") + text))
    return [segment.spec.name for segment in layout.segments]


@pytest.mark.parametrize(
    "header",
    [
        "{}",
        " \n{ } \t",
        f'{{"a":{ENTRY}}}',
        f'{{ "a" : {ENTRY} , "__metadata__" : {{ "k" : "v" , "l":"{{}}" }} }}  ',
        f'{{"__metadata__":null,"a":{ENTRY}}}',
        f'{{"__metadata__":{{}},"\\u0061\\"{{}}":{ENTRY}}}',
        f'{{"__metadata__":{{"\\ud83d\\ude00":"\\\\"}},"вес":{ENTRY}}}',
        '{"a":{"data_offsets":[0,2],"shape":[ 2 ],\n"dtype":"U8"}}',
    ],
)
def test_headers_that_are_read(header: str) -> None:
    assert split(header) == [name for name in json.loads(header) if name != "__metadata__"]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "[]",
        "{",
        "{}x",
        '{"a"}',
        f'{{"a":{ENTRY},}}',
        f'{{"a":{ENTRY} "b":1}}',
        f'{{"a":{ENTRY},"a":{ENTRY}}}',
        f'{{"a":{ENTRY},"\\u0061":{ENTRY}}}',
        '{"a":7}',
        '{"a":[[]]}',
        '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2],"dtype":"U8"}}',
        '{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,2]}}',
        '{"a":{"dtype":{},"shape":[2],"data_offsets":[0,2]}}',
        '{"__metadata__":[]}',
        '{"__metadata__":nul}',
        '{"__metadata__":{"a":1}}',
        '{"__metadata__":{"a":"b","a":"c"}}',
        '{"__metadata__":{"a":"b","\\u0061":"c"}}',
        '{"__metadata__":{"a":"\\ud800"}}',
        '{"__metadata__":{"a":"b",}}',
        '{"__metadata__":{"a":"b"',
        '{"\\ud800":' + ENTRY + "}",
        '{"a\nb":' + ENTRY + "}",
        '{"\\x":' + ENTRY + "}",
        b'{"\xff":' + ENTRY.encode() + b"}",
        '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]' + " " * (1 << 16) + "}}",
    ],
)
def test_headers_that_are_refused(header: str | bytes) -> None:
    with pytest.raises(FormatError):
        split(header)


@pytest.mark.parametrize("kind", ["lists", "metadata", "names", "spaces"])
def test_memory_follows_the_text(kind: str) -> None:
    """Of these headers a JSON parser makes twenty times their size, and more."""
    size = 1 << 19
    text = {
        "lists": b'{"a":[' + b"[]," * (size // 3) + b"[]]}",
        "metadata": b'{"__metadata__":{' + b",".join(b'"%x":""' % at for at in range(size // 10)) + b"}}",
        "names": b"{" + b",".join(b'"%x":7' % at for at in range(size // 10)) + b"}",
        "spaces": b"{" + b" " * size + b"}",
    }[kind]
    tracemalloc.start()
    with suppress(FormatError):
        split(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * len(text) + (1 << 20)


def test_changed_bytes_get_the_verdict_of_a_json_parser() -> None:
    rng = random.Random(7)
    good = f'{{"__metadata__":{{"a":"b","c\\n":"\\u00e9"}},"x":{ENTRY}, "y" : {ENTRY.replace("0,2", "2,4")}}}'.encode()
    for _ in range(3000):
        text = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(text))
            text[at : at + rng.randint(0, 2)] = rng.choice(
                [b"", b'"', b"{", b"}", b",", b"\\", b" ", b"0", b"\xc3", b"[]"]
            )
        try:
            split(bytes(text))
        except FormatError:
            continue
        json.loads(text.decode())  # what was accepted is JSON
