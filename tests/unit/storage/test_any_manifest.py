"""Any manifest: what is written is read back, and text that was changed is canonical or refused."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gittheta.errors import ManifestError
from gittheta.model import DTYPES, Digest, Link, Manifest, ObjectId, Place, Skeleton, Stanza, TensorSpec
from gittheta.storage.manifest import (
    format_manifest,
    parse_manifest,
)
from tests.support.manifest_text import FIRST

pytestmark = pytest.mark.once

DIGESTS = st.binary(min_size=32, max_size=32).map(Digest)
PLACES = st.builds(
    Place,
    st.binary(min_size=32, max_size=32).map(lambda data: ObjectId(data.hex())),
    st.integers(0, 1 << 61),
    st.integers(1, 1 << 61),
)
WORDS = st.from_regex("[a-z][a-z0-9_]{0,8}", fullmatch=True)
PARAMETERS = st.dictionaries(WORDS, st.from_regex("[A-Za-z0-9._:,+-]{1,9}", fullmatch=True), max_size=3).map(
    lambda pairs: tuple(sorted(pairs.items()))
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.text(
    "[]% \n\r\t\x00\x7f\x85\u2028\u202eaü", max_size=9
)


@st.composite
def recipes(draw: st.DrawFn) -> tuple[Link, ...]:
    count = draw(st.integers(1, 3))
    return tuple(
        Link(
            draw(WORDS),
            tuple(draw(st.lists(PLACES, min_size=1, max_size=3))),
            draw(PARAMETERS),
            draw(DIGESTS) if at < count - 1 else None,
        )
        for at in range(count)
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    stanzas = []
    for at, name in enumerate(draw(st.lists(NAMES, unique=True, max_size=4))):
        dtype = draw(st.sampled_from(list(DTYPES.values())))
        shape = tuple(draw(st.lists(st.integers(0, 9), max_size=3))) + ((8,) if dtype.bits % 8 else ())
        made = TensorSpec(name, dtype, shape)
        skip = draw(st.integers(0, 50)) if at else 0
        stanzas.append(Stanza(made, draw(DIGESTS), draw(recipes()) if made.nbytes else (), skip))
    lead = draw(st.integers(0, 99))
    skips = sum(one.skip for one in stanzas)
    length = lead + skips + (draw(st.integers(0, 9)) if stanzas else 0)
    skeleton = Skeleton(length, lead, draw(DIGESTS), draw(recipes()) if length else ())
    return Manifest(draw(WORDS), skeleton, tuple(stanzas))


@settings(derandomize=True, max_examples=80, deadline=None)
@given(manifests())
def test_parsing_undoes_formatting(manifest: Manifest) -> None:
    text = format_manifest(manifest)
    assert parse_manifest(text) == manifest
    assert text.count(b"\n") == len(text.splitlines()), "a name never makes a line of its own"


@settings(derandomize=True, max_examples=80, deadline=None)
@given(manifests(), st.randoms(use_true_random=False))
def test_mutated_text_is_canonical_or_refused(manifest: Manifest, rng: random.Random) -> None:
    text = bytearray(format_manifest(manifest))
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(text))
        text[at : at + rng.randrange(2)] = bytes(
            rng.choice((b"0", b"1", b" ", b"\n", b"x", b"%", b"]", b"\xff", b"", b"9" * 30))
        )
    try:
        parsed = parse_manifest(bytes(text))
    except ManifestError:
        return
    assert format_manifest(parsed) == text


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_noise_is_refused(noise: bytes, behind_the_first_line: bool) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(FIRST.encode() + noise if behind_the_first_line else noise)
