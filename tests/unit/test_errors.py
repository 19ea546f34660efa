"""Exit codes are the documented ones, and an error says where, what, and what to do."""

from __future__ import annotations

import inspect
import re

from gittheta import errors
from gittheta.errors import ThetaError


def documented() -> dict[str, int]:
    """Names and codes as drawn in the docstring."""
    lines = re.findall(r"^[ |`-]*([A-Za-z]+) +([0-9]+)   ", errors.__doc__ or "", re.MULTILINE)
    return {name: int(code) for name, code in lines}


def test_exit_codes_are_the_documented_ones() -> None:
    actual = {
        name: kind.exit_code
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, ThetaError)
    }
    assert actual == documented()
    assert len(set(actual.values())) == len(actual)
    assert not {0, 2} & set(actual.values())


def test_an_error_says_where_what_and_the_hint() -> None:
    error = ThetaError("it broke", hint="mend it").located(path="m.safetensors", tensor="w")
    assert str(error) == "m.safetensors: tensor 'w': it broke\n  mend it"
    assert str(error.located(path="other", tensor="other")) == str(error), "the first to know is right"
    assert str(ThetaError("it broke")) == "it broke"
    assert str(ThetaError("it broke", tensor="")) == "tensor '': it broke"
