"""Recipes that cannot be: an error that names the file and the tensor, and nothing is added from them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from gittheta.encodings.resize.predictor import Resize
from gittheta.errors import PayloadError, PluginError, ThetaError
from gittheta.limits import Limits
from gittheta.model import DTYPES, Link, Recipe, TensorSpec
from gittheta.storage.frames import MAX_OVERHEAD
from gittheta.storage.manifest import format_manifest, parse_manifest
from tests.support.in_memory import InMemory
from tests.support.repository import Repo
from tests.support.safetensors_file import safetensors
from tests.support.shelf import SPEC, UNKNOWN, Shelf, floats, frame, stacked, touched

#: Names of dtypes as safetensors has them.
SPELT = {"f32": "F32", "u8": "U8"}


@dataclass
class RepoShelf(Shelf):
    """Payloads in the store of a repository."""

    repo: Repo

    def manifest(self, spec: TensorSpec, data: bytes, recipe: Recipe) -> bytes:
        """A checkpoint of one tensor, which is to be rebuilt like this."""
        manifest = parse_manifest(self.repo.clean(safetensors([(spec.name, SPELT[spec.dtype.name], spec.shape, data)])))
        (stanza,) = manifest.stanzas
        text = format_manifest(replace(manifest, stanzas=(replace(stanza, spec=spec, recipe=recipe),)))
        assert format_manifest(parse_manifest(text)) == text
        return text

    def rebuilt(self, spec: TensorSpec, data: bytes, recipe: Recipe) -> bytes:
        """What the tensor is when it is checked out."""
        return self.repo.smudge(self.manifest(spec, data, recipe))[-spec.nbytes :]


@pytest.fixture
def shelf(repo: Repo) -> RepoShelf:
    return RepoShelf(repo.theta, repo)


def refused(shelf: RepoShelf, recipe: Recipe, data: bytes = floats(1), spec: TensorSpec = SPEC) -> ThetaError:
    """The error at checkout, which is clear; nothing can be added from such a recipe either, nor compared with it."""
    text = shelf.manifest(spec, data, recipe)
    with pytest.raises(ThetaError) as caught:
        shelf.repo.smudge(text)
    assert caught.value.path == "m.safetensors"
    assert caught.value.tensor == spec.name
    assert caught.value.hint
    whole = safetensors([(spec.name, SPELT[spec.dtype.name], spec.shape, data)])
    shelf.repo.stage(text)
    assert shelf.repo.smudge(shelf.repo.clean(whole)) == whole
    return caught.value


def sizes_off(shelf: Shelf, above: bool, by: int) -> Recipe:
    """A chain of which one link holds more or less than the tensor has."""
    one, two = floats(1), touched(floats(1), 2)
    long = np.resize(np.frombuffer(one, np.uint8), len(one) + by).tobytes()
    if above:
        return shelf.link("sparse", long, long), shelf.link("dense", one)
    return shelf.link("sparse", two, one), shelf.link("dense", long)


@pytest.mark.parametrize("by", [-7676, -4, -1, 1, 4, 70_000])
@pytest.mark.parametrize("above", [True, False])
def test_links_that_disagree_in_size(shelf: RepoShelf, above: bool, by: int) -> None:
    error = refused(shelf, sizes_off(shelf, above, by), touched(floats(1), 2))
    assert isinstance(error, PayloadError)


def _predictor_on_top(shelf: Shelf) -> Recipe:
    return stacked(shelf)[0][1:]


def _predictor_below(shelf: Shelf) -> Recipe:
    sparse, resize, _ = stacked(shelf)[0]
    return sparse, replace(resize, base=None)


def _two_predictors(shelf: Shelf) -> Recipe:
    sparse, resize, dense = stacked(shelf)[0]
    again = replace(resize, parameters=(("from", "96x20"),))
    return sparse, again, resize, dense


def _dense_with_a_base(shelf: Shelf) -> Recipe:
    dense = shelf.link("dense", floats(1))
    return replace(dense, base=UNKNOWN), dense


def _sparse_without_a_base(shelf: Shelf) -> Recipe:
    return (replace(shelf.link("sparse", floats(1), floats(1)), base=None),)


def _delta_at_the_end(shelf: Shelf) -> Recipe:
    sparse = shelf.link("sparse", floats(1), floats(1))
    return sparse, replace(shelf.link("delta", floats(1), floats(2)), base=None)


def _parameters(name: str) -> Callable[[Shelf], Recipe]:
    def build(shelf: Shelf) -> Recipe:
        links = [shelf.link("sparse", floats(1), floats(1)), shelf.link("dense", floats(1))]
        at = [link.encoding for link in links].index(name)
        links[at] = replace(links[at], parameters=(("level", "9"),))
        return tuple(links)

    return build


def _payload(change: Callable[[bytes], Sequence[bytes]]) -> Callable[[Shelf], Recipe]:
    """The resize's payload in other frames."""

    def build(shelf: Shelf) -> Recipe:
        recipe, base, new = stacked(shelf)
        base_spec = TensorSpec("w", SPEC.dtype, (90, 20))
        result = Resize().find(InMemory(SPEC, memoryview(new)), InMemory(base_spec, memoryview(base)))
        assert result
        return recipe[0], replace(recipe[1], places=shelf.put(*change(result.payload))), recipe[2]

    return build


def _other_name(at: int, name: str) -> Callable[[Shelf], Recipe]:
    def build(shelf: Shelf) -> Recipe:
        links = list(stacked(shelf)[0])
        links[at] = replace(links[at], encoding=name)
        return tuple(links)

    return build


HOSTILE: dict[str, tuple[Callable[[Shelf], Recipe], str]] = {
    "a predictor on top": (_predictor_on_top, "must begin with a link that is written block by block"),
    "a predictor without a base": (_predictor_below, "'resize' needs a base and has none"),
    "a predictor of a size that the next one denies": (_two_predictors, ""),
    "dense over a base": (_dense_with_a_base, "'dense' takes no base"),
    "sparse over nothing": (_sparse_without_a_base, "'sparse' needs a base and has none"),
    "delta over nothing": (_delta_at_the_end, "'delta' needs a base and has none"),
    "parameters of dense": (_parameters("dense"), "'dense' takes no parameters"),
    "parameters of sparse": (_parameters("sparse"), "'sparse' takes no parameters"),
    "a payload in two frames": (
        _payload(lambda data: [frame(data[:3], data[:3]), frame(data[3:], data[3:])]),
        "not one frame",
    ),
    "a payload and a stray frame": (_payload(lambda data: [frame(data, data), frame(b"x", b"x")]), "not one frame"),
    "a payload with another digest": (_payload(lambda data: [frame(data, data, UNKNOWN)]), "does not have its digest"),
    "a payload that is said to be larger": (_payload(lambda data: [frame(data, data + b"x")]), "not one frame"),
    "a payload that is too large": (
        _payload(lambda data: [frame(bytes(SPEC.nbytes + MAX_OVERHEAD + 1), bytes(SPEC.nbytes + MAX_OVERHEAD + 1))]),
        "too long",
    ),
    "a payload of one byte": (_payload(lambda data: [frame(b"\1", b"\1")]), ""),
    "a payload of noise": (_payload(lambda data: [frame(bytes(range(99)), bytes(range(99)))]), ""),
    "a payload cut short": (_payload(lambda data: [frame(data, data)[:-1]]), ""),
    "a head alone": (_payload(lambda data: [frame(data, data)[:20]]), ""),
    "scale instead of resize": (_other_name(1, "scale"), ""),
    "lowrank instead of resize": (_other_name(1, "lowrank"), ""),
    "sparse instead of resize": (_other_name(1, "sparse"), ""),
    "resize instead of sparse": (_other_name(0, "resize"), ""),
    "lowrank instead of dense": (_other_name(2, "lowrank"), ""),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_recipes_that_cannot_be(shelf: RepoShelf, case: str) -> None:
    make, words = HOSTILE[case]
    error = refused(shelf, make(shelf))
    assert isinstance(error, PayloadError)
    assert words in error.what


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_unknown_encoding_anywhere_in_a_chain(shelf: RepoShelf, at: int) -> None:
    error = refused(shelf, _other_name(at, "quantum")(shelf), stacked(shelf)[2])
    assert isinstance(error, PluginError)
    assert "no encoding named 'quantum'" in error.what


@pytest.mark.parametrize(
    "shape",
    [
        "0x20", "-1x20", "1x20", "90", "90x20x1", "90x21", "20x90", "9999999999999999999x20", "999999999999999999x20",
        "4611686018427387904x1", "4000000000000000000x4000000000000000000", "1000000000x1000000000", "x", "90x",
        "090x20", "9e1x20", "+90x20", "90,20", "x".join(["90"] * 400),
    ],
)  # fmt: skip
def test_absurd_shapes_of_a_base(shelf: RepoShelf, shape: str) -> None:
    sparse, resize, dense = stacked(shelf)[0]
    tracemalloc.start()
    error = refused(shelf, (sparse, replace(resize, parameters=(("from", shape),)), dense), stacked(shelf)[2])
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
    assert isinstance(error, PayloadError)


@pytest.mark.parametrize("parameters", [(), (("from", "90x20"), ("to", "96x20")), (("shape", "90x20"),)])
def test_other_parameters_of_a_resize(shelf: RepoShelf, parameters: tuple[tuple[str, str], ...]) -> None:
    sparse, resize, dense = stacked(shelf)[0]
    refused(shelf, (sparse, replace(resize, parameters=parameters), dense), stacked(shelf)[2])


def test_an_absurd_base_of_a_tensor_with_no_more_dimensions(shelf: RepoShelf) -> None:
    """Sizes that only the base has: gigabytes are claimed for it, and none is allocated."""
    sparse, resize, dense = stacked(shelf)[0]
    tracemalloc.start()
    for rows in (1 << 20, 1 << 30, 1 << 40):
        refused(shelf, (sparse, replace(resize, parameters=(("from", f"{rows}x20"),)), dense), stacked(shelf)[2])
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def test_what_a_link_calls_its_base_is_not_believed(shelf: RepoShelf) -> None:
    """The digest of the result is what counts."""
    one, two = floats(1), touched(floats(1), 2)
    sparse = replace(shelf.link("sparse", two, one), base=UNKNOWN)
    recipe = sparse, shelf.link("dense", one)
    assert shelf.rebuilt(SPEC, two, recipe) == two
    refused(shelf, recipe, one)


def test_a_base_with_other_values_than_were_meant(shelf: RepoShelf) -> None:
    """Each object is whole and each frame speaks the truth of what it was made of, but they do not belong together."""
    one, two = floats(1), touched(floats(1), 2)
    error = refused(shelf, (shelf.link("sparse", two, one), shelf.link("dense", floats(7))), two)
    assert "not those of this tensor" in error.what


def test_more_tiny_frames_than_any_writer_makes(shelf: RepoShelf) -> None:
    """A small object can be named as often as a manifest's line has room; each naming is a frame or more."""
    shelf.repo.limits = Limits(spare_frames=1000)
    spec = TensorSpec("w", DTYPES["u8"], (1 << 14,))
    data = bytes(spec.nbytes)
    tiny = frame(b"\1\0\1\0\0\0\0", b"\0")
    places = shelf.put(*[tiny] * (1 << 6)) * 256
    error = refused(shelf, (Link("dense", places),), data, spec)
    assert "too many small blocks" in error.what
