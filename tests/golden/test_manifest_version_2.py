"""The frozen manifest of version 2 says exactly this, and this is written exactly so. See README.md here."""

from __future__ import annotations

import hashlib
from pathlib import Path

from gittheta.model import (
    DTYPES,
    Digest,
    Link,
    Manifest,
    ObjectId,
    Place,
    Skeleton,
    Stanza,
    TensorSpec,
    block_dtype,
)
from gittheta.storage.manifest import format_manifest, parse_manifest

TEXT = (Path(__file__).parent / "version-2.manifest").read_bytes()
SHA256 = "2de4394a89cda3d9e0dc9319017dc1bace36767462511df710141ef099d7e9b9"
Q4_0, IQ1_S, PAIR = block_dtype("q4_0", 32, 18), block_dtype("iq1_s", 256, 50), block_dtype("pair_65536", 2, 65536)


def digest(digit: str) -> Digest:
    return Digest(bytes.fromhex(digit * 64))


def place(digit: str, offset: int, length: int) -> Place:
    return Place(ObjectId(digit * 64), offset, length)


def dense(*places: Place) -> Link:
    return Link("dense", places)


MANIFEST = Manifest(
    "gguf",
    Skeleton(1000, 16, digest("0"), (dense(place("a", 16, 700)),)),
    (
        Stanza(
            TensorSpec("token_embd.weight", Q4_0, (32000, 4096)),
            digest("1"),
            (dense(place("a", 716, 7000), place("b", 16, 73700000)),),
            aliases=("output.weight", "100%\n[tied] é\u2028"),
        ),
        Stanza(
            TensorSpec("blk.0.ffn_up.weight", IQ1_S, (4, 512)),
            digest("2"),
            (Link("sparse", (place("c", 16, 90),), (), digest("3")), dense(place("a", 7716, 400))),
            skip=12,
        ),
        Stanza(
            TensorSpec("blk.0.attn_norm.weight", DTYPES["f32"], (4096,)),
            digest("4"),
            (
                Link("sparse", (place("c", 106, 60),), (), digest("5")),
                Link("scale", (place("c", 166, 50),), (("axis", "rows"), ("of", "f16,f32")), digest("6")),
                dense(place("a", 8116, 9000)),
            ),
            aliases=("blk.0.post_norm.weight",),
        ),
        Stanza(TensorSpec("nothing", Q4_0, (3, 0)), digest("7"), (), aliases=("nothing at all",)),
        Stanza(TensorSpec("one block", PAIR, (1, 2)), digest("8"), (dense(place("d", 16, 65600)),), skip=972),
        Stanza(TensorSpec("scalar", DTYPES["f64"], ()), digest("9"), (dense(place("d", 65616, 51)),)),
    ),
)


def test_the_frozen_file_is_untouched() -> None:
    assert hashlib.sha256(TEXT).hexdigest() == SHA256


def test_it_says_exactly_this() -> None:
    assert parse_manifest(TEXT) == MANIFEST


def test_exactly_this_is_written_so() -> None:
    assert format_manifest(MANIFEST) == TEXT


def test_the_sizes_that_follow() -> None:
    nbytes = [stanza.spec.nbytes for stanza in MANIFEST.stanzas]
    assert nbytes == [32000 * 4096 // 32 * 18, 4 * 512 // 256 * 50, 16384, 0, 65536, 8]
    assert parse_manifest(TEXT).file_size == 1000 + sum(nbytes)
    assert parse_manifest(TEXT).objects() == {
        "a" * 64: 17116,
        "b" * 64: 73700016,
        "c" * 64: 216,
        "d" * 64: 65667,
    }
