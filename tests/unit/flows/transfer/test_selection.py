"""Patterns of paths and of tensors."""

from __future__ import annotations

import pytest

from gittheta.flows.transfer.selection import EVERYTHING, Selection
from gittheta.model import DTYPES, Digest, Link, Manifest, ObjectId, Place, Skeleton, Stanza, TensorSpec

DIGEST = Digest(bytes(32))


def link(object_id: str, offset: int = 0) -> tuple[Link, ...]:
    return (Link("dense", (Place(ObjectId(object_id * 64), offset, 10),)),)


def stanza(name: str, object_id: str, offset: int = 0) -> Stanza:
    return Stanza(TensorSpec(name, DTYPES["f32"], (2,)), DIGEST, link(object_id, offset))


MANIFEST = Manifest(
    "safetensors",
    Skeleton(10, 10, DIGEST, link("a")),
    (stanza("head.w", "b", 90), stanza("head.b", "b"), stanza("x", "c")),
)


@pytest.mark.parametrize(
    ("patterns", "taken", "left"),
    [
        ((), ["a", "b/c"], []),
        (("m.*",), ["m.safetensors"], ["b/m.safetensors", "mm"]),
        (("*.bin",), ["a.bin", "b/a.bin"], ["a.bin.txt"]),
        (("b",), ["b", "b/c", "b/c/d"], ["bc", "a/b"]),
        (("b/",), ["b/c"], ["bc"]),
        (("b/?", "z"), ["b/c", "z/d"], ["b/cc"]),
    ],
)
def test_paths(patterns: tuple[str, ...], taken: list[str], left: list[str]) -> None:
    selection = Selection(patterns)
    assert [path for path in taken + left if selection.takes(path)] == taken


def test_objects_of_tensors() -> None:
    a, b, c = (ObjectId(name * 64) for name in "abc")
    assert EVERYTHING.objects(MANIFEST) == {a: 10, b: 100, c: 10}
    assert Selection(tensors=("head.b",)).objects(MANIFEST) == {a: 10, b: 10}
    assert Selection(tensors=("head.*",)).objects(MANIFEST) == {a: 10, b: 100}
    assert Selection(tensors=("X",)).objects(MANIFEST) == {a: 10}
    assert EVERYTHING.everything
    assert not Selection(tensors=("X",)).everything
