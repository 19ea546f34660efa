"""The text that describes a model, and the one that plain chains need not write."""

from __future__ import annotations

import pytest
from gittheta_merge_rebasin.specification import chain, parse, written

from gittheta.api import MergeError


def test_entries_are_separated_by_semicolons_or_lines() -> None:
    expected = {"a.weight": ("P1", None), "a.bias": ("P1",), "b:0": (None, "P1")}
    assert parse("a.weight: P1 -; a.bias: P1;b:0: - P1;") == expected
    assert parse("\n  a.weight:  P1\t-\n a.bias: P1\n\n b:0: - P1\n") == expected
    assert written(expected) == "a.weight: P1 -; a.bias: P1; b:0: - P1"


@pytest.mark.parametrize("text", ["a.weight", "a.weight:", "a.weight: P1 *", ": P1", "a.weight P1 -", "a:P1"])
def test_what_is_no_entry_is_refused(text: str) -> None:
    with pytest.raises(MergeError, match="is not NAME: AXIS AXIS") as caught:
        parse(text)
    assert "fc1.weight: P1 -" in (caught.value.hint or "")


def test_a_tensor_stands_once() -> None:
    with pytest.raises(MergeError, match="stands twice"):
        parse("a: P1; a: P1")


@pytest.mark.parametrize("text", ["", " ; \n"])
def test_something_must_be_named(text: str) -> None:
    with pytest.raises(MergeError, match="names no tensor"):
        parse(text)


def layers(**sizes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Weights by their layers' names, with a bias each; names of tensors have dots instead of underscores."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in sizes.items():
        shapes |= {f"{name.replace('_', '.')}.weight": shape, f"{name.replace('_', '.')}.bias": shape[:1]}
    return shapes


def test_a_chain_is_told_from_the_sizes() -> None:
    axes = chain(layers(b=(10, 6), a=(3, 10), z=(6, 8)))
    assert axes["z.weight"] == ("P1", None)
    assert axes["z.bias"] == ("P1",)
    assert axes["b.weight"] == ("P2", "P1")
    assert axes["a.weight"] == (None, "P2")
    assert axes["a.bias"] == (None,)


def test_layers_of_one_size_are_told_by_their_numbers() -> None:
    numbers = {f"layers_{number}": (6, 6) for number in (2, 10, 1)}
    axes = chain(layers(head=(3, 6), **numbers, embedding=(6, 4)))
    assert axes["embedding.weight"] == ("P1", None)
    assert [axes[f"layers.{number}.weight"][0] for number in (1, 2, 10)] == ["P2", "P3", "P4"]
    assert axes["head.weight"] == (None, "P4")


def test_biases_may_be_missing_and_one_layer_is_a_chain() -> None:
    assert chain({"only.weight": (3, 4)}) == {"only.weight": (None, None)}


@pytest.mark.parametrize(
    "shapes",
    [
        layers(a=(6, 6), b=(6, 6)),  # which is first?
        layers(down=(4, 8), up=(8, 4)),  # a ring begins anywhere
        layers(a=(6, 4), b=(3, 5)),  # do not fit
        layers(layer1=(6, 8), layer2=(8, 4)),  # fit, but against their numbers
        layers(a=(6, 4)) | {"norm.weight": (6,)},
        layers(a=(6, 4)) | {"a.bias": (4,)},
        {"conv.weight": (6, 4, 3, 3)},
        {f"layer{chr(97 + at)}.weight": (6, 6) for at in range(12)} | {"far.weight": (7, 9)},
    ],
)
def test_whatever_is_no_chain_must_be_written_out(shapes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(MergeError, match="spec=auto") as caught:
        chain(shapes)
    assert "write the specification out" in (caught.value.hint or "")
