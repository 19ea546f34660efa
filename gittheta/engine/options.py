"""Make a method from its name and its options as text, which is how all settings and the command line give them."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from gittheta.api import Merge, MergeError
from gittheta.wording import quoted, shown

if TYPE_CHECKING:
    from gittheta.registry import Registry

#: Options that every method has; the engine uses them, not the method.
WEIGHT, NONFINITE = "weight", "nonfinite"
#: A committed rule must not keep a machine busy for ever: the largest whole number, and number, of any option, and of
#: those that say how often something is done. Documented in docs/spec/merge-rules.md.
MAX_INTEGER, MAX_NUMBER = (1 << 63) - 1, 1e12
MOST = {"iterations": 1000}
_MAX_DIGITS = 40
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def option_names(method: type[Merge]) -> dict[str, str]:
    """For each option of a method the field that holds it: the option ``lambda`` is the field ``lambda_``."""
    return {each.name.rstrip("_"): each.name for each in fields(method) if each.init}  # type: ignore[arg-type]


def make_method(registry: Registry, name: str, options: Mapping[str, str]) -> Merge:
    """The method of that name with these options, given as text.

    Raises PluginError if there is no such method, and MergeError for an option that is unknown or out of range.
    """
    method = registry.merge(name)
    names = option_names(method)
    hints = get_type_hints(method)
    values: dict[str, Any] = {}
    for option, text in options.items():
        if option not in names:
            known = ", ".join([*names, WEIGHT, NONFINITE])
            raise MergeError(f"{name} has no option '{option}'", hint=f"its options are: {known}")
        values[names[option]] = _value(name, option, text, hints[names[option]])
    try:
        return method(**values)
    except (MergeError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a plugin may fail in any way, and try to end the process
        raise MergeError(f"{name} cannot be made with {dict(options)}: {error!r}") from error


@dataclass(frozen=True)
class ConfiguredMethod:
    """A method with its options, and the options that the engine uses."""

    method: Merge
    #: The text of ``weight``, whose meaning depends on the number of sides.
    weight: str = "1"
    #: Whether values that are not finite are let through.
    propagate: bool = False
    #: Offered options that the method does not have.
    unused: tuple[str, ...] = ()

    @classmethod
    def make(
        cls, registry: Registry, name: str, options: Mapping[str, str], offered: Mapping[str, str] | None = None
    ) -> ConfiguredMethod:
        """A method by name. It must have all of ``options``; of those ``offered``, it takes the ones that it has.

        Raises PluginError if there is no such method, and MergeError for an option that is unknown or out of range.
        """
        offered = offered or {}
        known = {*option_names(registry.merge(name)), WEIGHT, NONFINITE}
        texts = {**options, **{option: text for option, text in offered.items() if option in known}}
        weight, nonfinite = texts.pop(WEIGHT, "1"), texts.pop(NONFINITE, None)
        method = make_method(registry, name, texts)
        return cls(method, weight, propagates(nonfinite), tuple(sorted(set(offered) - known)))

    def described(self) -> dict[str, str]:
        """Every option as text, from which the same configured method can be made again."""
        texts = {}
        for option, field in option_names(type(self.method)).items():
            value = getattr(self.method, field)
            if value is not None:
                texts[option] = as_text(value)
        return texts | {WEIGHT: self.weight} | ({NONFINITE: "propagate"} if self.propagate else {})


def as_text(value: object) -> str:
    """A value of TOML or Python as text for the command line: ``true``, ``0.5``, ``1,2``.

    Raises MergeError for tables, dates and nested lists.
    """
    if hasattr(value, "tolist"):  # an array of NumPy or torch
        value = value.tolist()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)):
        return _digits(value)
    if isinstance(value, (list, tuple)) and value and not any(isinstance(item, (list, tuple, dict)) for item in value):
        return ",".join(as_text(item) for item in value)
    raise MergeError(f"not the value of an option: {value!r}")


def _digits(value: float) -> str:
    try:
        return repr(value)
    except ValueError:
        raise MergeError("not the value of an option: a number of too many digits") from None


def weights_of(text: str, labels: tuple[str, ...]) -> tuple[float, ...]:
    """One weight for each side, from the text of one number for all sides, or of one for each. Raises MergeError."""
    words = text.split(",", len(labels))
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
    """Whether values that are not finite are let through, by the text of ``nonfinite``. Raises MergeError."""
    if text not in (None, "error", "propagate"):
        raise MergeError(f"nonfinite is '{text}'", hint="it may be error or propagate")
    return text == "propagate"


def _value(method: str, option: str, text: str, hint: Any) -> Any:
    """The text of an option, converted to the type that its field declares. Raises MergeError."""
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
        return _integer(f"{option} of {method}", text, MOST.get(option, MAX_INTEGER))
    if hint is float:
        return _number(f"{option} of {method}", text)
    return text


def _integer(what: str, text: str, most: int) -> int:
    try:
        number = int(text[:_MAX_DIGITS])
    except ValueError:
        raise MergeError(f"{what} is {quoted(text)}, which is not a whole number", hint="give one such as 3") from None
    if abs(number) > most:
        raise MergeError(f"{what} is {shown(text[:_MAX_DIGITS])}", hint=f"it may be at most {most}")
    return number


def _number(what: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise MergeError(f"{what} is {quoted(text)}, which is not a finite number", hint="give one such as 0.5")
    if abs(number) > MAX_NUMBER:
        raise MergeError(f"{what} is {number:g}", hint=f"it may be at most {MAX_NUMBER:g}")
    return number
