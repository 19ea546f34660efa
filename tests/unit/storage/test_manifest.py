"""The manifest's text: literal bytes, and nothing but the canonical form."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gittheta.errors import ManifestError
from gittheta.model import DTYPES, Digest, Link, Manifest, ObjectId, Place, Skeleton, Stanza, TensorSpec
from gittheta.storage import manifest as module
from gittheta.storage.manifest import (
    claimed_version,
    claims_to_be_manifest,
    format_manifest,
    format_recipe,
    is_foreign_manifest,
    parse_manifest,
    parse_recipe,
)
from tests.support.manifest_text import FIRST

D1, D2, D3, D4 = ("b3:" + digit * 64 for digit in "1234")
OA, OB = "a" * 64, "b" * 64
HEADER = f"{FIRST}format safetensors\nskeleton 300 200 {D1}\ndense {OA}:16+90\n"
TEXT = (
    HEADER
    + f"[model.layers.0.weight]\nbf16 4096x16 {D2}\nlowrank r=16 scale=0.5 {D3} {OA}:200+40\n"
    + f"dense {OB}:16+1000 {OA}:106+94\n"
    + f"[b]\nf32 scalar {D4} skip 8\ndense {OB}:1016+50\n"
    + f"[none]\ni64 0x3 {D1}\n"
    + f"[100%25 [sic] %0A ü]\nf6_e2m3 4 {D1} skip 92\ndense {OA}:0+9223372036854775\n"
)


def digest(digit: str) -> Digest:
    return Digest(bytes.fromhex(digit * 64))


def place(letter: str, offset: int, length: int) -> Place:
    return Place(ObjectId(letter * 64), offset, length)


def spec(name: str, dtype: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, DTYPES[dtype], shape)


MANIFEST = Manifest(
    "safetensors",
    Skeleton(300, 200, digest("1"), (Link("dense", (place("a", 16, 90),)),)),
    (
        Stanza(
            spec("model.layers.0.weight", "bf16", 4096, 16),
            digest("2"),
            (
                Link("lowrank", (place("a", 200, 40),), (("r", "16"), ("scale", "0.5")), digest("3")),
                Link("dense", (place("b", 16, 1000), place("a", 106, 94))),
            ),
        ),
        Stanza(spec("b", "f32"), digest("4"), (Link("dense", (place("b", 1016, 50),)),), 8),
        Stanza(spec("none", "i64", 0, 3), digest("1"), ()),
        Stanza(
            spec("100% [sic] \n ü", "f6_e2m3", 4), digest("1"), (Link("dense", (place("a", 0, 9223372036854775),)),), 92
        ),
    ),
)


def test_format_gives_these_very_bytes() -> None:
    assert format_manifest(MANIFEST) == TEXT.encode()


def test_parse_reads_them_back() -> None:
    assert parse_manifest(TEXT.encode()) == MANIFEST


def test_an_object_is_needed_up_to_its_last_place() -> None:
    assert MANIFEST.objects() == {OA: 9223372036854775, OB: 1066}


def test_the_size_of_the_file() -> None:
    assert MANIFEST.file_size == 300 + 4096 * 16 * 2 + 4 + 0 + 3


def test_a_file_without_tensors() -> None:
    text = f"{FIRST}format safetensors\nskeleton 10 10 {D1}\ndense {OA}:16+30\n".encode()
    assert format_manifest(parse_manifest(text)) == text


def rejected(text: str | bytes, match: str | None = None) -> ManifestError:
    with pytest.raises(ManifestError, match=match) as caught:
        parse_manifest(text if isinstance(text, bytes) else text.encode())
    return caught.value


def stanza(first: str = "w", second: str = f"f32 2 {D2}", *links: str) -> str:
    return HEADER + "".join(f"{line}\n" for line in (f"[{first}]", second, *(links or (f"dense {OA}:16+9",))))


@pytest.mark.parametrize(
    "shape",
    ["02", "2x03", "00", "2x", "x2", "2xx2", "2X2", "", "-2", "+2", "2.0", "1e3", "0x", "scalarx2", "2 x2", "٢"],
)
def test_shapes_have_one_spelling(shape: str) -> None:
    rejected(stanza(second=f"f32 {shape} {D2}"))


@pytest.mark.parametrize(
    "place",
    [
        *(
            f"{OA}:{run}"
            for run in ("016+9", "16+09", "16+0", "16", "+9", "-1+9", "16+9:", f"{1 << 62}+1", f"1+{10**19}")
        ),
        *(f"{name}:16+9" for name in (OA[1:], OA + "a", "A" * 64, "g" * 64, f"../{OA}")),
    ],
)
def test_places_have_one_spelling(place: str) -> None:
    rejected(stanza("w", f"f32 2 {D2}", f"dense {place}"))


@pytest.mark.parametrize(
    "sum", ["b3:" + "A" * 64, "b3:" + "1" * 63, "b3:" + "1" * 65, "1" * 64, "B3:" + "1" * 64, "sha256:" + "1" * 64]
)
def test_digests_have_one_spelling(sum: str) -> None:
    rejected(stanza(second=f"f32 2 {sum}"))
    rejected(TEXT.replace(D1, sum, 1))


@pytest.mark.parametrize(
    "skip", ["skip 0", "skip 01", "skip -1", "skip", " skip 1", "skip 1 ", "Skip 1", "skip 1 skip 1"]
)
def test_skips_have_one_spelling(skip: str) -> None:
    rejected(stanza(second=f"f32 2 {D2} {skip}"))


@pytest.mark.parametrize(
    "name",
    [
        "a%0a",
        "a%41",
        "a%",
        "a%2",
        "a%zz",
        "%FF",
        "%C3",
        "a\tb",
        "a\rb",
        "a\x7fb",
        "a\x85b",
        "%E2%80",
        "\u202eb",
        "\u2028",
    ],
)
def test_names_have_one_spelling(name: str) -> None:
    rejected(stanza(name))


@pytest.mark.parametrize(
    "name", ["", "[", "]", "[x]", "a b", "a%25b", "%0A", "%E2%80%AE", "ü", "\U0001f980", "\ufeff", "'\"\\"]
)
def test_names_that_are_spelt_right(name: str) -> None:
    text = stanza(name).encode()
    assert format_manifest(parse_manifest(text)) == text


def test_white_space_and_line_ends_are_not_free() -> None:
    for line in range(TEXT.count("\n")):
        lines = TEXT.split("\n")
        for wrong in (lines[line] + " ", lines[line] + "\r", " " + lines[line], lines[line] + "\n", lines[line] + "\t"):
            edited = "\n".join([*lines[:line], wrong, *lines[line + 1 :]])
            # a name may end in a space, behind its bracket nothing may stand
            rejected(edited)
    rejected(TEXT.replace("\n", "\r\n"))
    rejected(TEXT[:-1])
    rejected(TEXT + "\n")
    rejected("\n" + TEXT)
    rejected("\ufeff" + TEXT)
    rejected(TEXT.replace(" dense", "  dense").replace("skip 8", "skip  8"))


def test_every_line_is_needed_where_it_stands() -> None:
    lines = TEXT.splitlines(keepends=True)
    for at in range(4):
        rejected("".join(lines[:at] + lines[at + 1 :]))
        rejected("".join([*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]))


def test_parameters_are_in_order_and_once_each() -> None:
    def chained(words: str) -> str:
        return stanza("w", f"f32 2 {D2}", f"delta {words} {D3} {OA}:25+9", f"dense {OA}:16+9")

    assert parse_manifest(chained("a=1 b=2 b_c=x,y.z:-+").encode()).stanzas[0].recipe[0].parameters[2] == (
        "b_c",
        "x,y.z:-+",
    )
    for words in ("b=1 a=2", "a=1 a=1", "a=1 a=2", "a=", "=1", "A=1", "a=1=2", "a=ü", "a=1  b=2", "a= b=1", "a=%41"):
        rejected(chained(words))


def test_every_link_but_the_last_names_its_base() -> None:
    here = f"{OA}:16+9"
    for links in (
        (f"dense {D3} {here}",),
        (f"delta {here}", f"dense {here}"),
        (f"delta {D3} {here}", f"dense {D3} {here}"),
        (f"delta {D3} {D3} {here}", f"dense {here}"),
        (f"delta {here} {D3}", f"dense {here}"),
        ("dense",),
        (f"dense {D3}",),
        (f"Dense {here}",),
        (f"9dense {here}",),
    ):
        rejected(stanza("w", f"f32 2 {D2}", *links))
    chain = [f"delta {D3} {here}"] * 63
    assert len(parse_manifest(stanza("w", f"f32 2 {D2}", *chain, f"dense {here}").encode()).stanzas[0].recipe) == 64
    rejected(stanza("w", f"f32 2 {D2}", *chain, chain[0], f"dense {here}"), "chain of more than 64")


def test_bytes_need_a_recipe_and_none_need_none() -> None:
    rejected(f"{HEADER}[w]\nf32 2 {D2}\n", "needs a recipe")
    rejected(f"{HEADER}[w]\nf32 0 {D2}\ndense {OA}:16+9\n", "needs a recipe")
    rejected(f"{FIRST}format x\nskeleton 10 10 {D1}\n", "needs a recipe")
    rejected(f"{FIRST}format x\nskeleton 0 0 {D1}\ndense {OA}:16+9\n", "needs a recipe")


def test_a_name_twice() -> None:
    error = rejected(TEXT + f"[b]\nf32 0 {D1}\n", "second tensor named 'b'")
    assert "line 17" in str(error)


def test_sizes_that_deny_each_other() -> None:
    rejected(TEXT.replace("skip 92", "skip 93"), "skeleton is shorter")
    rejected(TEXT.replace("300 200", "300 301"), "skeleton is shorter")
    rejected(stanza(second=f"f4 3 {D2}"), "whole number of bytes")
    rejected(stanza(second=f"f6_e2m3 2 {D2}"), "whole number of bytes")


@pytest.mark.parametrize(
    "shape",
    [
        "x".join(["1"] * 65),
        "x".join(["2"] * 63),
        "9999999999999999999",
        "9999999999999999999x0",
        "99999999999999999999",
        f"{1 << 61}",
        f"{1 << 31}x{1 << 31}",
    ],
)
def test_absurd_shapes(shape: str) -> None:
    rejected(stanza(second=f"f64 {shape} {D2}"))


def test_the_largest_shapes_that_are_allowed() -> None:
    for shape in ("x".join(["1"] * 64), f"{(1 << 61) - 400}", f"0x{1 << 62}"):
        links = () if shape[0] == "0" else (f"dense {OA}:16+9\n",)
        text = f"{HEADER}[w]\nbf16 {shape} {D2}\n{''.join(links)}".encode()
        assert format_manifest(parse_manifest(text)) == text


def test_more_bytes_than_a_file_can_have_are_refused() -> None:
    rejected(HEADER + "".join(f"[{at}]\nu8 {1 << 61} {D2}\ndense {OA}:16+9\n" for at in range(3)), "larger than a file")


def test_lines_and_texts_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    rejected(HEADER + "[" + "x" * (1 << 20) + "]\n", "line longer")
    rejected(stanza("x" * 4097), "name longer")
    rejected(stanza("ü" * 2049), "name longer")
    parse_manifest(stanza("ü" * 2048).encode())
    monkeypatch.setattr(module, "MAX_TENSORS", 3)
    rejected(TEXT, "more than 3 tensors")
    monkeypatch.setattr(module, "MAX_TEXT", len(TEXT.encode()) - 1)
    rejected(TEXT, "longer than")


@pytest.mark.parametrize("version", ["3", "10", "999999999"])
def test_manifests_from_the_future_say_what_to_do(version: str) -> None:
    error = rejected(TEXT.replace("manifest 1", f"manifest {version}"), f"version {version}")
    assert "upgrade" in (error.hint or "")


@pytest.mark.parametrize("version", ["0", "01", "-1", "1.0", "", "x", "9999999999"])
def test_words_that_are_not_versions(version: str) -> None:
    rejected(TEXT.replace("manifest 1", f"manifest {version}"))


def test_unknown_dtypes_say_what_to_do() -> None:
    for name in ("f7", "F32", "float32", "bf16 "):
        rejected(stanza(second=f"{name} 2 {D2}"))
    error = rejected(stanza(second=f"f2_e1m0 4 {D2}"), "unknown dtype 'f2_e1m0'")
    assert error.tensor == "w"
    assert "upgrade" in (error.hint or "")


@pytest.mark.parametrize("name", ["Safetensors", "safe tensors", "", "9x", "../x", "x-y"])
def test_names_of_formats(name: str) -> None:
    rejected(TEXT.replace("format safetensors", f"format {name}"))


def test_bytes_that_are_not_text() -> None:
    for text in (b"", b"\xff", TEXT.encode() + b"\xff\n", TEXT.encode("utf-16"), b"\0" * 100, FIRST.encode()):
        rejected(text)


def test_the_line_is_named() -> None:
    assert "at line 5:" in rejected(TEXT.replace("bf16 4096x16", "bf16 4096y16")).what


def test_what_claims_to_be_a_manifest() -> None:
    assert claims_to_be_manifest(TEXT.encode())
    assert claims_to_be_manifest(b"gittheta manifest 77: anything")
    assert not claims_to_be_manifest(b"{}")
    assert claimed_version(b"gittheta manifest 77: anything") == 77
    assert claimed_version(b"gittheta manifest x") is None
    assert is_foreign_manifest(b'{"w": {"tensor_metadata": {"shape": [1]}, "lfs_metadata": {}, "theta_metadata": {}}}')
    assert not is_foreign_manifest(b'{"weights": []}')


def test_recipes_alone() -> None:
    recipe = MANIFEST.stanzas[0].recipe
    text = f"lowrank r=16 scale=0.5 {D3} {OA}:200+40\ndense {OB}:16+1000 {OA}:106+94\n"
    assert format_recipe(recipe) == text
    assert parse_recipe(text) == recipe
    assert parse_recipe("") == ()
    for wrong in (text[:-1], text + "\n", f"dense {D3} {OA}:1+1\n", "dense\n", text.upper(), "\n"):
        with pytest.raises(ManifestError):
            parse_recipe(wrong)


def test_the_first_stanza_has_no_skip() -> None:
    """What lies before the first tensor is the skeleton's lead: the same file must not have two manifests."""
    rejected(stanza(second=f"f32 2 {D2} skip 5"))


def test_without_tensors_the_lead_is_the_whole_skeleton() -> None:
    rejected(f"{FIRST}format safetensors\nskeleton 10 3 {D1}\ndense {OA}:16+30\n")


def test_many_thousand_tensors() -> None:
    text = HEADER + "".join(f"[layers.{at}.w]\nbf16 64x64 {D2}\ndense {OA}:{16 + at}+9\n" for at in range(20_000))
    parsed = parse_manifest(text.encode())
    assert len(parsed.stanzas) == 20_000
    assert format_manifest(parsed) == text.encode()


def test_one_stanza_changed_is_one_hunk() -> None:
    """The text of one tensor does not depend on any other's: what Git's own line merge relies on."""
    changed = replace(MANIFEST.stanzas[1], digest=digest("9"))
    other = format_manifest(replace(MANIFEST, stanzas=(MANIFEST.stanzas[0], changed, *MANIFEST.stanzas[2:])))
    pairs = zip(TEXT.encode().splitlines(), other.splitlines(), strict=True)
    assert sum(one != two for one, two in pairs) == 1
