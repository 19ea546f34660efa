"""A method from its name and its options as text: the same for command line, git config, theta.toml and attributes."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from gittheta.api import Merge, MergeError
from gittheta.registry import Registry

#: Options that every method has: they are the engine's business, not the method's.
WEIGHT, NONFINITE = "weight", "nonfinite"
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def option_names(method: type[Merge]) -> dict[str, str]:
    """The options of a method, and the fields that hold them: ``lambda`` is the field ``lambda_``."""
    return {each.name.rstrip("_"): each.name for each in fields(method) if each.init}  # type: ignore[arg-type]


def make_method(registry: Registry, name: str, given: Mapping[str, str]) -> Merge:
    """The method of that name with these options.

    Raises PluginError if there is no such method, and MergeError for an option that is unknown or out of range.
    """
    method = registry.merge(name)
    names = option_names(method)
    hints = get_type_hints(method)
    values: dict[str, Any] = {}
    for option, text in given.items():
        if option not in names:
            known = ", ".join([*names, WEIGHT, NONFINITE])
            raise MergeError(f"{name} has no option '{option}'", hint=f"its options are: {known}")
        values[names[option]] = _value(name, option, text, hints[names[option]])
    try:
        return method(**values)
    except MergeError:
        raise
    except Exception as error:  # a plugin may fail in any way
        raise MergeError(f"{name} cannot be made with {dict(given)}: {error!r}") from error


@dataclass(frozen=True)
class ConfiguredMethod:
    """A method ready to be run, and what the engine is told besides."""

    method: Merge
    #: The text of ``weight``, which only has a meaning together with the sides.
    weight: str = "1"
    propagate: bool = False
    #: Offered options that the method has no use for.
    unused: tuple[str, ...] = ()

    @classmethod
    def make(
        cls, registry: Registry, name: str, options: Mapping[str, str], offered: Mapping[str, str] | None = None
    ) -> ConfiguredMethod:
        """A method by name. ``options`` must be its own; of what is ``offered`` it takes what it has.

        Raises PluginError if there is no such method, and MergeError for an option that is unknown or out of range.
        """
        offered = offered or {}
        known = {*option_names(registry.merge(name)), WEIGHT, NONFINITE}
        given = {**options, **{option: text for option, text in offered.items() if option in known}}
        weight, nonfinite = given.pop(WEIGHT, "1"), given.pop(NONFINITE, None)
        method = make_method(registry, name, given)
        return cls(method, weight, propagates(nonfinite), tuple(sorted(set(offered) - known)))

    def described(self) -> dict[str, str]:
        """Every option as text, from which the same can be made again."""
        found = {}
        for option, field in option_names(type(self.method)).items():
            value = getattr(self.method, field)
            if value is not None:
                found[option] = as_text(value)
        return found | {WEIGHT: self.weight} | ({NONFINITE: "propagate"} if self.propagate else {})


def as_text(value: object) -> str:
    """A value of TOML or Python as one would write it on the command line. Raises MergeError for tables and dates."""
    if hasattr(value, "tolist"):  # of NumPy or torch
        value = value.tolist()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)):
        return _digits(value)
    if isinstance(value, (list, tuple)) and value and not any(isinstance(item, (list, tuple, dict)) for item in value):
        return ",".join(as_text(item) for item in value)
    raise MergeError(f"{value!r} is no value of an option")


def _digits(value: float) -> str:
    try:
        return repr(value)
    except ValueError:
        raise MergeError("a number of too many digits is no value of an option") from None


def weights_of(text: str, labels: tuple[str, ...]) -> tuple[float, ...]:
    """One weight for each side: from one number for all, or as many as there are sides. Raises MergeError."""
    words = text.split(",")
    numbers = tuple(_number(WEIGHT, word) for word in words)
    if len(numbers) == 1:
        return numbers * len(labels)
    if len(numbers) != len(labels):
        raise MergeError(
            f"{len(numbers)} weights for {len(labels)} sides",
            hint=f"give one number, or one for each of {', '.join(labels)}, in this order",
        )
    return numbers


def propagates(text: str | None) -> bool:
    """Whether values that are not finite are let through. Raises MergeError."""
    if text not in (None, "error", "propagate"):
        raise MergeError(f"nonfinite is '{text}'", hint="it may be error or propagate")
    return text == "propagate"


def _value(method: str, option: str, text: str, hint: Any) -> Any:
    """Text as the type that a field declares."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(each for each in get_args(hint) if each is not type(None))
    if get_origin(hint) is Literal:
        choices = [str(each) for each in get_args(hint)]
        if text not in choices:
            raise MergeError(f"{option} of {method} is '{text}'", hint=f"it may be {', '.join(choices)}")
        return text
    if hint is bool:
        if text.lower() not in _BOOLEANS:
            raise MergeError(f"{option} of {method} is '{text}'", hint="it may be true or false")
        return _BOOLEANS[text.lower()]
    if hint is int:
        return _integer(f"{option} of {method}", text)
    if hint is float:
        return _number(f"{option} of {method}", text)
    return text


def _integer(what: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise MergeError(f"{what} is '{text}', which is no whole number", hint="give one such as 3") from None


def _number(what: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise MergeError(f"{what} is '{text}', which is no number", hint="give one such as 0.5")
    return number
