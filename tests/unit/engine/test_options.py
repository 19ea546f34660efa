"""Options as text, the same from command line, git config, theta.toml and attributes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from gittheta.engine.options import ConfiguredMethod, as_text, make_method, weights_of
from gittheta.errors import MergeError, PluginError
from gittheta.registry import Registry


@dataclass(frozen=True)
class Odd:
    """Options of every type."""

    lambda_: float = 1.0
    count: int = 3
    sign: bool = False
    scope: Literal["tensor", "global"] = "tensor"
    limit: float | None = None
    stats: str | None = None

    name: ClassVar[str] = "odd"

    def __post_init__(self) -> None:
        """A plugin may fail in any way."""
        if self.count == 13:
            raise ZeroDivisionError("thirteen")


REGISTRY = Registry({"merges": {"odd": f"{__name__}:Odd", "linear": "gittheta.merges.linear:Linear"}})


def make(**given: str) -> Any:
    return make_method(REGISTRY, "odd", {name.rstrip("_"): text for name, text in given.items()})


def test_text_becomes_what_the_field_declares() -> None:
    assert make() == Odd()
    assert make(lambda_="1e-3", count=" 7", sign="Yes", scope="global", limit="-0.5", stats="{stem}.x") == Odd(
        0.001, 7, True, "global", -0.5, "{stem}.x"
    )
    assert [make(sign=text).sign for text in ("true", "on", "1", "FALSE", "off", "no", "0")] == [True] * 3 + [False] * 4


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("lambda", "nan", "lambda of odd is 'nan', which is not a finite number"),
        ("lambda", "inf", "not a finite number"),
        ("lambda", "1e999", "not a finite number"),
        ("lambda", "", "not a finite number"),
        ("lambda", "much", "not a finite number"),
        ("limit", "none", "not a finite number"),
        ("count", "1.5", "not a whole number"),
        ("count", "9" * 5000, "at most 9223372036854775807"),
        ("lambda", "-1e13", "at most 1e+12"),
        ("sign", "maybe", "true or false"),
        ("scope", "model", "tensor, global"),
        ("density", "0.2", "no option 'density'"),
        ("lambda_", "1", "no option 'lambda_'"),
        ("name", "x", "no option 'name'"),
        ("count", "13", "cannot be made"),
    ],
)
def test_values_without_meaning(option: str, text: str, message: str) -> None:
    with pytest.raises(MergeError) as caught:
        make_method(REGISTRY, "odd", {option: text})
    assert message in str(caught.value)


def test_unknown_methods_and_those_that_decide_without_numbers() -> None:
    with pytest.raises(PluginError, match="'nonesuch'"):
        ConfiguredMethod.make(REGISTRY, "nonesuch", {})


def test_a_configured_method_describes_itself_so_that_it_can_be_made_again() -> None:
    method = ConfiguredMethod.make(
        REGISTRY, "odd", {"sign": "yes", "weight": "1,2", "nonfinite": "propagate"}, {"lambda": "2"}
    )
    options = method.described()
    assert options == {
        "lambda": "2.0",
        "count": "3",
        "sign": "true",
        "scope": "tensor",
        "weight": "1,2",
        "nonfinite": "propagate",
    }
    assert ConfiguredMethod.make(REGISTRY, "odd", options) == method


@pytest.mark.torch
def test_what_is_offered_counts_where_it_is_known() -> None:
    method = ConfiguredMethod.make(
        REGISTRY, "linear", {"weight": "1"}, {"weight": "1,3", "density": "0.2", "lambda": "1"}
    )
    assert (method.weight, method.unused) == ("1,3", ("density", "lambda"))
    with pytest.raises(MergeError, match="density"):
        ConfiguredMethod.make(REGISTRY, "linear", {"density": "0.2"})
    with pytest.raises(MergeError, match="nonfinite is 'ignore'"):
        ConfiguredMethod.make(REGISTRY, "linear", {"nonfinite": "ignore"})


def test_weights() -> None:
    sides = ("ours", "theirs")
    assert weights_of("0.5", sides) == (0.5, 0.5)
    assert weights_of("3, 1", sides) == (3.0, 1.0)
    assert weights_of("-1,0", sides) == (-1.0, 0.0)
    for text in ("1,2,3", "1,,2", "", "1,nan", "1,1e999", "a"):
        with pytest.raises(MergeError) as caught:
            weights_of(text, sides)
    with pytest.raises(MergeError, match="3 weights for 2 sides") as caught:
        weights_of("1,2,3", sides)
    assert "ours, theirs" in str(caught.value)


def test_values_as_text() -> None:
    assert [as_text(value) for value in (True, 2, 0.1, "x", [1, 0.5], (True, "y"))] == [
        "true", "2", "0.1", "x", "1,0.5", "true,y"
    ]  # fmt: skip
    assert as_text(np.float64(0.1)) == "0.1"
    assert as_text(np.int64(3)) == "3"
    assert as_text(np.array([0.5, 1.0])) == "0.5,1.0"
    for value in (None, {}, [], [[1]], object(), 10**5000):
        with pytest.raises(MergeError):
            as_text(value)
