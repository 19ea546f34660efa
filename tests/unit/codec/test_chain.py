"""Recipes of several links, made by hand: the right bytes, however each link cuts the tensor."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import pytest

from gittheta.codec.decode import Decoder
from gittheta.codec.tensor_store import TensorStore
from gittheta.errors import PayloadError
from gittheta.model import DTYPES, Link, Recipe, TensorSpec, digest_of
from gittheta.storage.manifest import MAX_LINKS, format_recipe, parse_recipe
from tests.support.shelf import SPEC, UNKNOWN, Shelf, floats, frame, stacked, touched


@dataclass
class StoreShelf(Shelf):
    """Payloads in a tensor store."""

    tensors: TensorStore

    def rebuilt(self, spec: TensorSpec, data: bytes, recipe: Recipe) -> bytes:
        """The bytes that the recipe gives. Raises ThetaError unless they are ``data``."""
        assert parse_recipe(format_recipe(recipe)) == recipe
        return b"".join(Decoder(self.tensors).checked([(spec, digest_of(data), recipe)]))


@pytest.fixture
def shelf(tensors: TensorStore) -> StoreShelf:
    return StoreShelf(tensors.store.root, tensors)


CUTS: dict[str, tuple[Sequence[int], Sequence[int], Sequence[int]]] = {
    "alike": ((4000,), (4000,), (4000,)),
    "differently": ((400, 4000), (3000,), (1000, 2000, 7000)),
    "one against many": ((), range(80, 7680, 80), ()),
    "many against one": (range(4, 7680, 4), (), (7676,)),
    "within elements": ((1, 4002), (4000,), (4003,)),
    "far within elements": ((3999,), (2, 3, 7), (1,)),
}


@pytest.mark.parametrize("encoding", ["delta", "sparse"])
@pytest.mark.parametrize("cuts", CUTS)
def test_links_may_cut_the_tensor_differently(shelf: StoreShelf, cuts: str, encoding: str) -> None:
    one, two, three = floats(1), touched(floats(1), 2), touched(touched(floats(1), 2), 3)
    first, second, third = CUTS[cuts]
    recipe = (
        shelf.link(encoding, three, two, third),
        shelf.link(encoding, two, one, second),
        shelf.link("dense", one, None, first),
    )
    assert shelf.rebuilt(SPEC, three, recipe) == three


@pytest.mark.parametrize("cuts", [(), (80, 4000), (4, 8, 7676), (7200,), (76, 84, 4004)])
def test_a_correction_may_cut_a_prediction_anywhere(shelf: StoreShelf, cuts: Sequence[int]) -> None:
    recipe, _, new = stacked(shelf, cuts)
    assert shelf.rebuilt(SPEC, new, recipe) == new


def test_a_correction_that_cuts_a_predicted_element_is_an_error_or_right(shelf: StoreShelf) -> None:
    recipe, _, new = stacked(shelf, (4001,))
    try:
        rebuilt = shelf.rebuilt(SPEC, new, recipe)
    except PayloadError as error:
        assert "whole elements" in error.what  # noqa: PT017 - either is right
    else:
        assert rebuilt == new


@pytest.mark.parametrize("count", [2, MAX_LINKS])
@pytest.mark.parametrize("cuts", [(), (2000, 4000)])
def test_chains_as_long_as_a_manifest_allows(shelf: StoreShelf, count: int, cuts: Sequence[int]) -> None:
    versions = list(accumulate(range(count - 1), touched, initial=floats(1)))
    links = [shelf.link("dense", versions[0], None, cuts)]
    links += [
        shelf.link(("sparse", "delta")[at % 2], new, old, [at * 8 + 8, *cuts])
        for at, (old, new) in enumerate(pairwise(versions))
    ]
    assert shelf.rebuilt(SPEC, versions[-1], tuple(reversed(links))) == versions[-1]


def test_many_tiny_frames_that_are_legal(shelf: StoreShelf) -> None:
    spec = TensorSpec("w", DTYPES["u8"], (3000,))
    data, old = bytes(range(250)) * 12, bytes(range(1, 251)) * 12
    recipe = (
        shelf.link("delta", data, old, range(1, 3000), spec),
        shelf.link("dense", old, None, range(2, 3000, 3), spec),
    )
    began = time.perf_counter()
    assert shelf.rebuilt(spec, data, recipe) == data
    assert time.perf_counter() - began < 5


def test_memory_and_time_of_a_long_chain_of_links_that_cut_differently(shelf: StoreShelf) -> None:
    """Every link asks the one below for parts of its blocks; none is decoded more than a few times."""
    spec = TensorSpec("w", DTYPES["u8"], (1 << 18,))
    data = bytes(spec.nbytes)
    ways = [shelf.link("sparse", data, data, cuts, spec) for cuts in ((), (100_001,), (50_000, 200_003))]
    links = [ways[at % 3] for at in range(MAX_LINKS - 1)]
    tracemalloc.start()
    began = time.perf_counter()
    assert shelf.rebuilt(spec, data, (*links, shelf.link("dense", data, None, (7,), spec))) == data
    assert time.perf_counter() - began < 5
    assert tracemalloc.get_traced_memory()[1] < (MAX_LINKS + 16) * spec.nbytes
    tracemalloc.stop()


def test_memory_of_a_long_chain_does_not_grow_with_its_links(shelf: StoreShelf) -> None:
    size = 2 << 20
    spec, data = TensorSpec("w", DTYPES["u8"], (size,)), bytes(size)
    ways = [shelf.link("sparse", data, data, cuts, spec) for cuts in ((), range(1 << 17, size, 1 << 18))]
    links = [ways[at % 2] for at in range(MAX_LINKS - 1)]
    recipe = (*links, shelf.link("dense", data, None, (), spec))
    tracemalloc.start()
    assert shelf.rebuilt(spec, data, recipe) == data
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 * size, f"{peak / size:.0f} times the tensor"


def test_a_long_chain_of_tiny_frames(shelf: StoreShelf) -> None:
    size = 6000
    spec, data = TensorSpec("w", DTYPES["u8"], (size,)), bytes(size)
    tiny = Link("sparse", shelf.put(*[frame(b"", b"\0")] * size), (), UNKNOWN)
    recipe = (*[tiny] * (MAX_LINKS - 1), shelf.link("dense", data, None, (), spec))
    with pytest.raises(PayloadError, match="too many small blocks"):
        shelf.rebuilt(spec, data, recipe)
