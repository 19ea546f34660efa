"""A layout is accepted just where a manifest can be read that says the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gittheta.errors import FormatError, ManifestError
from gittheta.files.detect import check_layout
from gittheta.model import (
    DTYPES,
    Dtype,
    Layout,
    Link,
    Manifest,
    ObjectId,
    Place,
    Segment,
    Skeleton,
    Stanza,
    TensorSpec,
    block_dtype,
    digest_of,
)
from gittheta.storage.manifest import format_manifest, parse_manifest

Q4 = block_dtype("q4_0", 32, 18)
F32 = DTYPES["f32"]
RECIPE = (Link("dense", (Place(ObjectId("a" * 64), 16, 90),)),)


def layout(dtype: Dtype, shape: tuple[int, ...], name: str = "w", aliases: tuple[tuple[str, str], ...] = ()) -> Layout:
    """One tensor, behind eight bytes that are not its own."""
    spec = TensorSpec(name, dtype, shape)
    return Layout((Segment(spec, 8),), 8 + max(0, spec.nbytes), aliases)


def manifest_of(layout: Layout) -> Manifest:
    digest = digest_of(b"")
    stanzas = tuple(
        Stanza(
            segment.spec,
            digest,
            RECIPE if segment.spec.bits else (),
            aliases=tuple(alias for alias, name in layout.aliases if name == segment.spec.name),
        )
        for segment in layout.segments
    )
    return Manifest("some", Skeleton(8, 8, digest, RECIPE), stanzas)


def is_accepted(layout: Layout) -> bool:
    try:
        check_layout(layout)
    except FormatError:
        return False
    return True


def can_be_read(layout: Layout) -> bool:
    manifest = manifest_of(layout)
    try:
        return parse_manifest(format_manifest(manifest)) == manifest
    except ManifestError:
        return False


@pytest.mark.parametrize(
    ("refused", "dtype", "shape"),
    [
        (False, Q4, (64,)), (False, Q4, (0, 32)), (False, Q4, (3, 0)), (False, Q4, (1 << 57, 32)), (False, F32, ()),
        (True, Q4, ()), (True, Q4, (31,)), (True, Q4, (64, 16)), (True, Q4, (2, 16)), (True, Q4, (0, 16)),
        (True, F32, (-2, -2)), (True, F32, (0, (1 << 62) + 1)), (True, F32, (1,) * 65), (False, F32, (1,) * 64),
        (True, DTYPES["f4"], (3,)), (True, DTYPES["f4"], ((1 << 62) + 2,)), (False, DTYPES["f4"], (1 << 62,)),
        (True, block_dtype("f32", 32, 18), (32,)), (True, block_dtype("Q4", 32, 18), (32,)),
        (True, block_dtype("q", 1, 18), (32,)), (True, block_dtype("q", 65538, 18), (65538,)),
        (True, block_dtype("q", 32, 65537), (32,)), (True, block_dtype("q", 32, 0), (32,)),
        (True, Dtype("f32", 32, "float"), (2,)), (True, Dtype("q", 12, "block", 2), (4,)),
    ],
)  # fmt: skip
def test_what_manifests_hold(refused: bool, dtype: Dtype, shape: tuple[int, ...]) -> None:
    assert is_accepted(layout(dtype, shape)) != refused


@pytest.mark.parametrize(
    "aliases",
    [(("w", "w"),), (("v", "u"),), (("v", "w"), ("v", "w")), (("v" * 4097, "w"),), (("ü" * 2049, "w"),)],
)
def test_names_that_manifests_do_not_hold(aliases: tuple[tuple[str, str], ...]) -> None:
    assert not is_accepted(layout(F32, (2,), aliases=aliases))
    assert not is_accepted(layout(F32, (2,), name="w" * 4097))
    assert is_accepted(layout(F32, (2,), aliases=(("v" * 4096, "w"), ("", "w"))))


DTYPES_OF_ALL_KINDS = st.one_of(
    st.sampled_from(sorted(DTYPES.values(), key=lambda dtype: dtype.name)),
    st.builds(block_dtype, st.sampled_from(["q4_0", "f32", "Q", "a"]), st.integers(1, 70), st.integers(0, 70)),
)
SIZES = st.one_of(st.integers(0, 70), st.sampled_from([1 << 31, (1 << 62) - 2, 1 << 62, (1 << 62) + 2]))


@given(
    DTYPES_OF_ALL_KINDS,
    st.lists(SIZES, max_size=4),
    st.text(max_size=3),
    st.lists(st.tuples(st.text(max_size=2), st.just("w")), max_size=3),
)
@settings(max_examples=400, deadline=None)
def test_what_is_accepted_can_be_read(
    dtype: Dtype, shape: list[int], name: str, aliases: list[tuple[str, str]]
) -> None:
    """And what is refused could not be."""
    given = layout(dtype, tuple(shape), name, tuple((alias, name) for alias, _ in aliases))
    assert is_accepted(given) == can_be_read(given), given
