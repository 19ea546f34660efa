"""Which method merges which tensor: rules in order, of which the first that fits decides."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from fnmatch import translate
from functools import cache, cached_property
from typing import Any

from gittheta.engine.options import as_text
from gittheta.errors import ConfigError, ThetaError

#: In place of a method: leave a conflict for the user, or take one version as it is.
CONFLICT, TAKE = "conflict", "take"
#: The name of the file with rules, at the top level of a commit.
RULES_FILE = "theta.toml"
#: The longest text of rules, in bytes or characters, and the most dots in one of its lines: a committed file is hostile
#: input, and the parser's memory grows with the square of the number of dots.
MAX_RULES = 1 << 18
_MAX_DOTS = 256
_MAGIC = re.compile(r"[*?\[]")
_KEY = re.compile(r"[a-z][a-z0-9_-]*")


class Verb(Enum):
    """What the user does: combine models (merge), or add or take back the change of one commit (pick, revert)."""

    MERGE = "merge"
    PICK = "pick"


BOTH = frozenset(Verb)
#: The method of each verb unless a rule names another.
DEFAULTS = {Verb.MERGE: "linear", Verb.PICK: "pick"}


@dataclass(frozen=True)
class Rule:
    """The tensors that a rule applies to, and the method, the options, or both that it sets.

    A rule without a method adds options to the method that a later rule, or the default, names.
    """

    #: Where the rule comes from, in words, such as ``theta.toml rule 2``.
    source: str
    method: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    path: str = "*"
    tensors: tuple[str, ...] = ("*",)
    verbs: frozenset[Verb] = frozenset({Verb.MERGE})

    def fits(self, path: str, tensor: str, verb: Verb) -> bool:
        """Whether the rule applies to this tensor of this file."""
        return verb in self.verbs and path_fits(self.path, path) and self.is_about(tensor)

    def is_about(self, tensor: str) -> bool:
        """Whether one of the rule's globs fits the name of a tensor."""
        names, globs = self._sorted
        return tensor in names or any(glob_fits(glob, tensor) for glob in globs)

    @cached_property
    def _sorted(self) -> tuple[frozenset[str], tuple[str, ...]]:
        """Globs that are plain names, and all others. Plain names are looked up at once: there may be thousands."""
        globs = tuple(glob for glob in self.tensors if _MAGIC.search(glob))
        return frozenset(self.tensors).difference(globs), globs


@dataclass(frozen=True)
class MethodChoice:
    """How one tensor is merged, and which rule said so."""

    method: str
    #: Options that the rule sets for this method.
    options: tuple[tuple[str, str], ...] = ()
    source: str = "default"
    #: Options from rules without a method. They count if the method has them, and override ``options``.
    offered: tuple[tuple[str, str], ...] = ()
    #: Globs of the tensors that the rule applies to.
    tensors: tuple[str, ...] = ("*",)

    @property
    def explicit(self) -> bool:
        """Whether a rule named this method."""
        return self.source != "default"

    @property
    def origin(self) -> str:
        """Where the choice comes from, to be appended to messages: `` (theta.toml rule 2)``; empty for a default."""
        words = [self.source] if self.explicit else []
        words += [f"{key}={value}" for key, value in self.offered]
        return f" ({', '.join(words)})" if words else ""

    def option(self, name: str) -> str | None:
        """The text of one option, or None if no rule sets it."""
        return {**dict(self.options), **dict(self.offered)}.get(name)


@dataclass(frozen=True)
class Policy:
    """All rules in force, the strongest first. Safe to use from several threads."""

    rules: tuple[Rule, ...] = ()
    _known: dict[tuple[str, str, Verb], MethodChoice] = field(default_factory=dict, compare=False, repr=False)

    def choice(self, path: str, tensor: str, verb: Verb) -> MethodChoice:
        """How a tensor is merged that several sides changed."""
        key = (path, tensor, verb)
        if key not in self._known:
            self._known[key] = self._choose(path, tensor, verb)
        return self._known[key]

    def _choose(self, path: str, tensor: str, verb: Verb) -> MethodChoice:
        offered: dict[str, str] = {}
        for rule in self.rules:
            if rule.fits(path, tensor, verb):
                if rule.method:
                    return MethodChoice(
                        rule.method, rule.options, rule.source, tuple(sorted(offered.items())), rule.tensors
                    )
                offered = {**dict(rule.options), **offered}
        return MethodChoice(DEFAULTS[verb], offered=tuple(sorted(offered.items())))

    def preceded_by(self, *rules: Rule) -> Policy:
        """A policy with these rules, which are stronger, before the others."""
        return Policy((*rules, *self.rules))


def path_fits(glob: str, path: str) -> bool:
    """Whether a glob fits a path: without a slash it must fit the file's name, else the whole path (as .gitignore)."""
    return glob_fits(glob.lstrip("/"), path if "/" in glob else path.rpartition("/")[2])


def glob_fits(glob: str, text: str) -> bool:
    """Whether a glob fits the whole text. Case matters, and ``*`` also spans slashes and dots."""
    return bool(_compiled(glob).fullmatch(text))


def literal(text: str) -> str:
    """A glob that fits this text only."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)


def literal_path(path: str) -> str:
    """A glob that fits this path only."""
    return f"/{literal(path)}"


@cache
def _compiled(glob: str) -> re.Pattern[str]:
    return re.compile(translate(glob))


def options_rule(source: str, options: Mapping[str, object], verbs: frozenset[Verb]) -> Rule:
    """The rule of ``method=... key=value`` pairs.

    Case does not matter in keys, and ``-`` stands for ``_``, which git config does not allow. The method ``conflict``
    applies to all verbs. Raises ConfigError for keys that options cannot have, MergeError for such values.
    """
    pairs: dict[str, object] = {}
    for word, value in options.items():
        key = word.lower().replace("-", "_")
        if not _KEY.fullmatch(key):
            raise ConfigError(f"not an option: {word!r} ({source})", hint="options look like this: density=0.2")
        if key in pairs:
            raise ConfigError(f"{word!r} ({source}) appears twice")
        pairs[key] = value
    method = pairs.pop("method", None)
    if method is not None and not (isinstance(method, str) and _KEY.fullmatch(method)):
        raise ConfigError(f"not a method: {method!r} ({source})", hint="`git theta plugins` lists the methods")
    texts = tuple(sorted((key, as_text(value)) for key, value in pairs.items()))
    return Rule(source, method, texts, verbs=BOTH if method == CONFLICT else verbs)


def attribute_rule(text: str) -> Rule:
    """The rule of an attribute ``theta-merge=ties`` or ``theta-merge=ties:density=0.2:lambda=1``.

    Raises ConfigError, or MergeError for the value of an option.
    """
    method, *pairs = text.split(":")
    options = {"method": method, **dict(pair.partition("=")[::2] for pair in pairs)}
    source = "attribute theta-merge"
    if len(options) <= len(pairs):
        raise ConfigError(f"an option of {text!r} ({source}) appears twice")
    return options_rule(source, options, frozenset({Verb.MERGE}))


def parse_rules(text: str) -> tuple[Rule, ...]:
    """The rules of a theta.toml. Raises ConfigError, naming the rule."""
    document = parse_document(text)
    document.pop("store", None)  # where models are kept is not about merges: flows/transfer/proposed
    rules = document.pop("rule", [])
    if document:
        raise ConfigError(f"{next(iter(document))!r} means nothing here", path=RULES_FILE, hint=_EXAMPLE)
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise ConfigError("'rule' is not a list of tables", path=RULES_FILE, hint=_EXAMPLE)
    return tuple(_rule(number, rule) for number, rule in enumerate(rules, 1))


def parse_document(text: str) -> dict[str, Any]:
    """The tables of a theta.toml. Raises ConfigError."""
    # The parser's memory grows with the square of the length of a dotted key.
    if len(text) > MAX_RULES or any(line.count(".") > _MAX_DOTS for line in text.split("\n")):
        raise ConfigError(
            f"more than {MAX_RULES >> 10} KiB, or {_MAX_DOTS} dots in a line", path=RULES_FILE, hint="shorten it"
        )
    try:
        return tomllib.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:  # a number of too many digits is a plain ValueError
        raise ConfigError(f"not valid TOML: {error}", path=RULES_FILE, hint=_EXAMPLE) from None


_EXAMPLE = 'rules look like this: [[rule]], then path = "*.safetensors", tensors = ["*.embed*"], method = "linear"'


def _rule(number: int, table: dict[str, object]) -> Rule:
    source = f"{RULES_FILE} rule {number}"
    try:
        path = _globs(table.pop("path", "*"), "path")
        tensors = _globs(table.pop("tensors", "*"), "tensors")
        verbs = _verbs(table.pop("verbs")) if "verbs" in table else None
        if len(path) != 1:
            raise ConfigError("path must be one glob")
        rule = options_rule(source, table, frozenset({Verb.MERGE}))
        return replace(rule, path=path[0], tensors=tensors, verbs=verbs or rule.verbs)
    except ThetaError as error:
        raise ConfigError(
            f"rule {number}: {error.what.replace(f' ({source})', '')}", path=RULES_FILE, hint=error.hint or _EXAMPLE
        ) from None


def _globs(value: object, what: str) -> tuple[str, ...]:
    globs = [value] if isinstance(value, str) else value
    if not isinstance(globs, list) or not globs or not all(isinstance(glob, str) for glob in globs):
        raise ConfigError(f"{what} must be a text or a list of texts")
    return tuple(globs)


def _verbs(value: object) -> frozenset[Verb]:
    try:
        return frozenset(map(Verb, _globs(value, "verbs")))
    except ValueError:
        raise ConfigError(f"verbs is {value!r}; it may contain merge and pick") from None
