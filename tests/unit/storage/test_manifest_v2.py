"""Version 2 of the manifest, by each sentence of docs/spec/manifest.md: block dtypes, other names, pieces, limits."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gittheta.errors import ManifestError
from gittheta.model import DTYPES, Manifest, Stanza, TensorSpec, block_dtype, digest_of
from gittheta.storage import manifest as module
from gittheta.storage.manifest import claimed_version, claims_to_be_manifest, format_manifest, parse_manifest

SPECIFICATION = (Path(__file__).parents[3] / "docs" / "spec" / "manifest.md").read_text()
LINE = "this is not the model itself; to get it: pip install gittheta, git theta install, git theta pull\n"
FIRST, SECOND = (f"gittheta manifest {version}: {LINE}" for version in (1, 2))
D0, D1, D2 = ("b3:" + digit * 64 for digit in "012")
NONE = f"b3:{digest_of(b'').hex()}"
PLACE = "a" * 64 + ":16+90"
HEADER = f"format gguf\nskeleton 300 200 {D0}\ndense {PLACE}\n"


def stanza(
    name: str = "w", dtype: str = "q4_0/32:18", shape: str = "8x64", also: str = "", link: str = f"dense {PLACE}\n"
) -> str:
    return f"[{name}]\n{dtype} {shape} {D1}\n{also}{link}"


def manifest(*stanzas: str, first: str = SECOND, header: str = HEADER) -> bytes:
    return (first + header + "".join(stanzas)).encode()


def accepted(text: bytes) -> Manifest:
    """A manifest that must be read, and written again as it was."""
    parsed = parse_manifest(text)
    assert format_manifest(parsed) == text
    return parsed


def refused(text: bytes, words: str = "") -> str:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text)
    assert words in caught.value.what
    return str(caught.value)


# Versions


def test_version_two_is_written_where_version_one_has_no_words_and_only_there() -> None:
    plain = stanza(dtype="f32")
    also = "also [v]\n"
    for with_them in (stanza(), stanza(dtype="f32", also=also), stanza(also=also)):
        accepted(manifest(plain.replace("[w]", "[x]"), with_them))
        refused(manifest(plain.replace("[w]", "[x]"), with_them, first=FIRST), "should be one of version 2")
    accepted(manifest(plain, first=FIRST))
    accepted(manifest(first=FIRST, header=HEADER.replace("300 200", "300 300")))
    refused(manifest(plain), "should be one of version 1")
    refused(manifest(header=HEADER.replace("300 200", "300 300")), "should be one of version 1")


@pytest.mark.parametrize("version", [3, 4, 10, 17, 999_999_999])
def test_later_versions_are_told_by_their_number_and_what_to_do(version: int) -> None:
    text = manifest("what nobody can know\n", first=f"gittheta manifest {version}: who knows\n")
    said = refused(text, f"the manifest has version {version}; this gittheta knows up to 2")
    assert "install a newer gittheta" in said
    assert claims_to_be_manifest(text)
    assert claimed_version(text) == version


def test_a_program_that_knows_only_version_one_says_that_it_needs_version_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VERSION", 1)
    assert "install a newer" in refused(manifest(stanza()), "the manifest has version 2; this gittheta knows up to 1")
    accepted(manifest(stanza(dtype="f32"), first=FIRST))


@pytest.mark.parametrize("version", ["0", "02", "2 ", "", "-1", "two", "2.0", "²", "1000000000"])
def test_what_is_not_a_version(version: str) -> None:
    refused(manifest(stanza(), first=f"gittheta manifest {version}: {LINE}"))


# Block dtypes


def test_a_block_dtype_is_described_where_it_stands() -> None:
    (only,) = accepted(manifest(stanza())).stanzas
    assert only.spec == TensorSpec("w", block_dtype("q4_0", 32, 18), (8, 64))
    assert (only.spec.elements, only.spec.nbytes, only.spec.bits) == (512, 288, 2304)
    assert accepted(manifest(stanza())).file_size == 300 + 288


def test_one_word_may_stand_for_several_dtypes() -> None:
    """It is for people; the numbers decide."""
    one, other = accepted(manifest(stanza("a"), stanza("b", "q4_0/64:34"))).stanzas
    assert (one.spec.nbytes, other.spec.nbytes) == (288, 272)


@pytest.mark.parametrize("dtype", ["x/2:1", "x/65536:1", "x/2:65536", "q_8_k/65536:65536", "iq2_xxs/256:66"])
def test_the_smallest_and_the_largest_blocks(dtype: str) -> None:
    accepted(manifest(stanza(dtype=dtype, shape="3x65536")))


@pytest.mark.parametrize(
    "dtype",
    [
        "q4_0/0:18", "q4_0/1:18", "q4_0/65537:18", "q4_0/32:0", "q4_0/32:65537", "q4_0/32:18446744073709551616",
        "q4_0/9999999999999999999:18", "q4_0/032:18", "q4_0/32:018", "q4_0/-32:18", "q4_0/+32:18", "q4_0/3_2:18",
        "q4_0/32", "q4_0/32:", "q4_0/:18", "q4_0:32/18", "q4_0/32:18:2", "q4_0/32:18/2", "q4_0/ 32:18", "q4_0 /32:18",
        "/32:18", "Q4_0/32:18", "4q/32:18", "q-4/32:18", "ü/32:18", "q4_0/٣٢:18", "q4_0", "q4_0/", "",
        *(f"{name}/32:18" for name in DTYPES),
    ],
)  # fmt: skip
def test_what_is_not_a_block_dtype(dtype: str) -> None:
    refused(manifest(stanza(dtype=dtype, shape="65536")))


@pytest.mark.parametrize("shape", ["scalar", "31", "33", "1", "64x31", "64x33", "32x1", "0x31"])
def test_the_last_dimension_is_a_whole_number_of_blocks(shape: str) -> None:
    assert "'w'" in refused(manifest(stanza(shape=shape)), "the last dimension is not a multiple of 32")


@pytest.mark.parametrize(("shape", "nbytes"), [("32", 18), ("3x32", 54), ("1x1x64", 36), ("7x0", 0), ("0x32", 0)])
def test_sizes_of_block_dtypes(shape: str, nbytes: int) -> None:
    text = manifest(stanza(shape=shape, link=f"dense {PLACE}\n" if nbytes else ""))
    assert accepted(text).stanzas[0].spec.nbytes == nbytes
    refused(manifest(stanza(shape=shape, link="" if nbytes else f"dense {PLACE}\n")), "recipe")


def test_hostile_sizes() -> None:
    """Nothing is allocated by what a text says of itself, and nothing overflows."""
    accepted(manifest(stanza(dtype="x/65536:1", shape="4611686018427387904")))
    refused(manifest(stanza(dtype="x/2:65536", shape="4611686018427387904")), "larger than a file can be")
    refused(manifest(stanza(dtype="x/2:1", shape="4611686018427387906")), "shape that is too large")
    refused(manifest(stanza(dtype="x/2:1", shape="9999999999999999998")), "shape that is too large")
    refused(manifest(stanza(dtype="x/2:1", shape="2147483648x2147483648x2")), "shape that is too large")
    refused(manifest(stanza(dtype="x/2:1", shape="x".join(["1"] * 64 + ["2"]))), "shape that is too large")
    accepted(manifest(stanza(dtype="x/2:1", shape="x".join(["1"] * 63 + ["2"]))))
    half = "2305843009213693952"
    refused(manifest(stanza("a", "x/2:2", half), stanza("b", "x/2:2", half)), "larger than a file can be")


# Other names


def test_other_names_stand_after_the_dtype_in_the_order_of_the_file() -> None:
    text = manifest(stanza(dtype="f32", also="also [z]\nalso [a]\nalso []\nalso [also [x]]\n"))
    assert accepted(text).stanzas[0].aliases == ("z", "a", "", "also [x]")


def test_a_tensor_of_no_bytes_may_have_other_names() -> None:
    assert accepted(manifest(stanza(dtype="f32", shape="0", also="also [v]\n", link=""))).stanzas[0].aliases == ("v",)


@pytest.mark.parametrize(
    "stanzas",
    [
        [stanza(also="also [w]\n")],
        [stanza(also="also [v]\nalso [v]\n")],
        [stanza(also="also [v]\nalso [u]\nalso [v]\n")],
        [stanza(also="also [v]\n"), stanza("x", also="also [v]\n")],
        [stanza(also="also [x]\n"), stanza("x")],
        [stanza(), stanza("x", also="also [w]\n")],
        [stanza(), stanza()],
    ],
)
def test_no_name_stands_twice(stanzas: list[str]) -> None:
    refused(manifest(*stanzas))


@pytest.mark.parametrize(
    "also",
    [
        "also [v] \n", "also  [v]\n", " also [v]\n", "Also [v]\n", "also v\n", "also [v\n", "also v]\n", "also [v]\n\n",
        "also [v]\r\n", "also [a\tb]\n", "also [%]\n", "also [%41]\n", "also [%0a]\n", "also [%FF]\n",
        "also [\u2028]\n", "also [\x7f]\n", "also [%C3%BC]\n", f"also [v] {D1}\n",
        f"also [{'x' * 4097}]\n", f"also [{'ü' * 2049}]\n",
    ],
)  # fmt: skip
def test_other_names_are_spelt_like_names(also: str) -> None:
    refused(manifest(stanza(also=also)))


@pytest.mark.parametrize("name", ["x" * 4096, "ü" * 2048, "%25", "%0A%0D", "a]b[", "[[]]", "%E2%80%A8", " ", "\u00ad"])
def test_other_names_that_are_spelt_right(name: str) -> None:
    accepted(manifest(stanza(also=f"also [{name}]\n")))


def test_other_names_stand_nowhere_else() -> None:
    also, link = "also [v]\n", f"dense {PLACE}\n"
    for text in (
        manifest(f"[w]\n{also}f32 2 {D1}\n{link}"),
        manifest(f"{also}[w]\nf32 2 {D1}\n{link}"),
        manifest(f"[w]\nf32 2 {D1}\n{link}{also}"),
        manifest(stanza(), header=HEADER.replace("dense", f"{also}dense")),
        manifest(stanza(), header=HEADER + also),
    ):
        refused(text)


def test_an_encoding_may_be_called_also() -> None:
    parsed = accepted(manifest(stanza(also="also [v]\n", link=f"also {PLACE}\n")))
    assert (parsed.stanzas[0].aliases, parsed.stanzas[0].recipe[0].encoding) == (("v",), "also")


def test_there_are_not_too_many_other_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.MAX_TENSORS == 1 << 20
    monkeypatch.setattr(module, "MAX_TENSORS", 3)
    names = [f"also [{letter}]\n" for letter in "abcd"]
    accepted(manifest(stanza(also="".join(names[:3]))))
    refused(manifest(stanza(also="".join(names))), "too many")
    refused(manifest(stanza(also="".join(names[:2])), stanza("x", also="".join(names[2:]))), "too many")
    refused(manifest(*(stanza(name) for name in "abcd")), "more than 3 tensors")


# Pieces of files without known structure


def opaque(*stanzas: str, header: str | None = None) -> bytes:
    sum = digest_of(bytes.fromhex("1" * 64) * len(stanzas)).hex()
    head = header or f"format opaque b3:{sum}\nskeleton 0 0 {NONE}\n"
    first = SECOND if any("/" in one or "also [" in one for one in stanzas) else FIRST
    return manifest(*stanzas, first=first, header=head)


def test_pieces_follow_each_other_and_are_called_by_their_offsets() -> None:
    accepted(opaque(stanza("0", "raw", "100"), stanza("100", "raw", "7"), stanza("107", "raw", "1")))
    for names in (("1", "100"), ("0", "101"), ("0", "99"), ("0", "0100"), ("100", "0"), ("0", "0x64"), ("a", "b")):
        refused(opaque(*(stanza(name, "raw", "100") for name in names)), "a piece named")


def test_pieces_may_have_been_taken_for_tensors() -> None:
    """Of any dtype and shape."""
    accepted(opaque(stanza("0", "raw", "8"), stanza("8", "bf16", "3x4"), stanza("32", "f64", "scalar")))
    accepted(opaque(stanza("0", "raw", "8"), stanza("8", "q4_0/32:18", "2x32"), stanza("44", "raw", "1")))


def test_pieces_have_no_other_names() -> None:
    refused(opaque(stanza("0", "raw", "8", also="also [v]\n")), "no other names")


def test_no_piece_is_empty_and_no_file_of_pieces() -> None:
    refused(opaque(stanza("0", "raw", "8"), stanza("8", "raw", "0", link=""), stanza("8", "raw", "1")))
    refused(opaque(), "an empty file has no manifest")


def test_pieces_have_no_skeleton() -> None:
    sum = digest_of(bytes.fromhex("1" * 64)).hex()
    for skeleton in (
        f"skeleton 1 1 {D0}\ndense {PLACE}\n",
        f"skeleton 1 0 {D0}\ndense {PLACE}\n",
        f"skeleton 0 0 {D0}\n",
    ):
        refused(opaque(stanza("0", "raw", "8"), header=f"format opaque b3:{sum}\n{skeleton}"), "skeleton")
    refused(opaque(stanza("0", "raw", "8").replace(D1, f"{D1} skip 1")))


def test_the_seal_is_there_for_pieces_and_only_for_them() -> None:
    piece = stanza("0", "raw", "8")
    refused(opaque(piece, header=f"format opaque\nskeleton 0 0 {NONE}\n"), "format line")
    refused(opaque(piece, header=f"format opaque {D2}\nskeleton 0 0 {NONE}\n"), "format line")
    refused(manifest(stanza(), header=HEADER.replace("gguf", f"gguf {D2}")), "format line")


# The document


def limit_in_the_document(words: str) -> int:
    found = re.search(rf"^\| {re.escape(words)} \| (?:2\^)?(\d+)", SPECIFICATION, re.MULTILINE)
    assert found, words
    return 1 << int(found[1]) if "2^" in found[0] else int(found[1])


def test_the_limits_of_the_document_are_those_of_the_code() -> None:
    assert limit_in_the_document("the manifest") == module.MAX_TEXT
    assert limit_in_the_document("a line") == module.MAX_LINE
    assert limit_in_the_document("tensors; other names of tensors") == module.MAX_TENSORS
    assert limit_in_the_document("a name, unescaped") == module.MAX_NAME
    assert limit_in_the_document("dimensions") == module.MAX_DIMENSIONS
    assert limit_in_the_document("elements of a tensor; one dimension") == module.MAX_BYTES
    assert limit_in_the_document("links in a recipe") == module.MAX_LINKS
    assert limit_in_the_document("offset + length of a place; the whole file") == module.MAX_BYTES
    assert limit_in_the_document("the skeleton") == module.MAX_SKELETON
    assert "2 to 65536 elements and 1 to 65536 bytes" in SPECIFICATION
    assert module.MAX_BLOCK_UNIT == 65536


def test_the_document_names_every_dtype() -> None:
    table = SPECIFICATION[SPECIFICATION.index("### dtypes") : SPECIFICATION.index("Elements are little-endian")]
    names = {name for line in table.splitlines() if line.startswith("| ") for name in re.findall("`([^`]+)`", line)}
    assert names == set(DTYPES)


def test_the_example_of_the_document() -> None:
    example = SPECIFICATION[SPECIFICATION.index("gittheta manifest 2: this") :]
    text = example[: example.index("```")].replace("...\n", f"skeleton 40 40 {D0}\ndense {PLACE}\n")
    (only,) = accepted(text.encode()).stanzas
    assert (only.spec.name, only.aliases) == ("token_embd.weight", ("output.weight",))
    assert only.spec.nbytes == 32000 * 4096 // 32 * 18


# Any manifest

NAMES = st.lists(st.text(max_size=8), min_size=1, max_size=12, unique=True)
BLOCKS = st.builds(
    block_dtype,
    st.from_regex(r"\A[a-z][a-z0-9_]{0,6}\Z").filter(lambda name: name not in DTYPES),
    st.integers(2, 1 << 16),
    st.integers(1, 1 << 16),
)
DTYPES_OF_ALL_KINDS = st.one_of(st.sampled_from(sorted(DTYPES.values(), key=lambda dtype: dtype.name)), BLOCKS)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Some tensors that share some names."""
    names, parsed = draw(NAMES), parse_manifest(manifest(stanza(dtype="f32"), first=FIRST))
    stanzas: list[Stanza] = []
    again: list[bool] = draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names)))
    for name, is_alias in zip(names, again, strict=True):
        if stanzas and is_alias:
            stanzas[-1] = replace(stanzas[-1], aliases=(*stanzas[-1].aliases, name))
            continue
        dtype = draw(DTYPES_OF_ALL_KINDS)
        shape = (*draw(st.lists(st.integers(1, 9), max_size=3)), dtype.unit * 8)
        stanzas.append(replace(parsed.stanzas[0], spec=TensorSpec(name, dtype, shape)))
    return replace(parsed, stanzas=tuple(stanzas))


@given(manifests())
@settings(max_examples=100, deadline=None)
def test_what_is_written_is_read_back(given: Manifest) -> None:
    assert parse_manifest(format_manifest(given)) == given


@given(manifests(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_a_changed_text_is_canonical_or_refused(given: Manifest, chance: random.Random) -> None:
    text = bytearray(format_manifest(given))
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(text))
        text[at : at + chance.randrange(2)] = chance.choice([b"", b"\n", b"/", b":", b"0", b"also [", b"]", b"x", b" "])
    try:
        parsed = parse_manifest(bytes(text))
    except ManifestError:
        return
    assert format_manifest(parsed) == bytes(text)
