"""The table of methods in the guide says of each method what the method says of itself."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from gittheta.api import Merge, Traits
from gittheta.engine.options import make_method, option_names
from gittheta.engine.policy import CONFLICT, DEFAULTS, TAKE, Verb
from gittheta.registry import BUILT_IN, Registry

GUIDE = (Path(__file__).parents[1] / "docs/guide/merging.md").read_text()
_ROW = re.compile(r"^\| `(\w+)` \| (.*?) \| (.*?) ?\| (.*?) ?\| (–|S\d) \|$", re.MULTILINE)
#: Name to: what it does, options, needs, class.
ROWS = {name: cells for name, *cells in _ROW.findall(GUIDE)}
#: Options that must be given for the method to be made at all.
MUST = {"nearswap": {"t": "0.1"}}
METHODS = sorted(BUILT_IN["merges"])


def written(name: str) -> dict[str, str | None]:
    """The options in a row, with the default as text; None where there is none."""
    words = re.findall(r"`([^`]+)`", ROWS[name][1])
    return {key: value if equals else None for key, equals, value in (word.partition("=") for word in words)}


def as_written(method: type[Merge], field: str, default: Any) -> str | None:
    """A default as the table has it: ``0.2``, ``false``, or all choices, the default first."""
    hint = get_type_hints(method)[field]
    if get_origin(hint) is Literal:
        assert get_args(hint)[0] == default
        return "/".join(get_args(hint))
    if isinstance(default, bool) or default is None:
        return None if default is None else str(default).lower()
    if isinstance(default, str):
        return default
    return repr(int(default)) if default == int(default) else repr(default).replace("e-0", "e-")


def test_every_method_is_in_the_table() -> None:
    assert ROWS.keys() == {*METHODS, TAKE, CONFLICT}
    assert list(written(TAKE)) == ["from"]
    assert not written(CONFLICT)


@pytest.mark.parametrize("name", METHODS)
def test_options_and_defaults_are_those_of_the_method(name: str) -> None:
    method = Registry().merge(name)
    defaults = {each.name: each.default for each in fields(method)}  # type: ignore[arg-type]
    assert MISSING not in defaults.values()
    assert written(name) == {
        option: as_written(method, field, defaults[field]) for option, field in option_names(method).items()
    }


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_needs_is_what_it_says_of_itself(name: str) -> None:
    traits = Traits.of(make_method(Registry(), name, MUST.get(name, {})))
    needs = ROWS[name][2]
    assert ("base" in needs) == traits.needs_base
    assert ("two sides" in needs) == (traits.side_count == 2)
    assert ("in order" in needs) == traits.ordered
    assert ("matrices" in needs) == traits.matrices
    statistics = re.search(r"statistics: (\w+)", needs)
    assert (statistics[1],) == traits.kinds if statistics else not traits.kinds
    assert (ROWS[name][3] == "S4") == (traits.unit == "tensor")


def test_the_defaults_of_the_verbs_are_named() -> None:
    assert "the default of merges" in ROWS[DEFAULTS[Verb.MERGE]][0]
    assert "the default of picks" in ROWS[DEFAULTS[Verb.PICK]][0]
