"""Which method merges which tensor: rules in order, the first that fits decides."""

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

#: What is decided without numbers: ask the user, or one version as it is.
CONFLICT, TAKE = "conflict", "take"
#: The name of the file with rules, at the top of a commit.
RULES_FILE = "theta.toml"
#: Rules longer than this, in bytes or characters, are somebody's joke.
MAX_RULES = 1 << 18
_MAX_DOTS = 256
_MAGIC = re.compile(r"[*?\[]")
_KEY = re.compile(r"[a-z][a-z0-9_-]*")


class Verb(Enum):
    """What the user does: combine models, or add (or take back) the change of one commit."""

    MERGE = "merge"
    PICK = "pick"


BOTH = frozenset(Verb)
#: What a verb means unless told otherwise.
DEFAULTS = {Verb.MERGE: "linear", Verb.PICK: "pick"}


@dataclass(frozen=True)
class Rule:
    """Tensors that it is about, and a method, options, or both.

    A rule without a method gives options to whatever method another rule names.
    """

    #: Where the rule comes from, in words.
    source: str
    method: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    path: str = "*"
    tensors: tuple[str, ...] = ("*",)
    verbs: frozenset[Verb] = frozenset({Verb.MERGE})

    def fits(self, path: str, tensor: str, verb: Verb) -> bool:
        """Whether it is about this tensor of this file."""
        return verb in self.verbs and path_fits(self.path, path) and self.is_about(tensor)

    def is_about(self, tensor: str) -> bool:
        """Whether one of its globs fits the name of a tensor."""
        names, globs = self._sorted
        return tensor in names or any(glob_fits(glob, tensor) for glob in globs)

    @cached_property
    def _sorted(self) -> tuple[frozenset[str], tuple[str, ...]]:
        """Globs that are plain names, and the others: who settles conflicts may name tensors by the thousand."""
        globs = tuple(glob for glob in self.tensors if _MAGIC.search(glob))
        return frozenset(self.tensors).difference(globs), globs


@dataclass(frozen=True)
class MethodChoice:
    """How one tensor is merged, and who said so."""

    method: str
    #: Options that were given for this method.
    options: tuple[tuple[str, str], ...] = ()
    source: str = "default"
    #: Options that were given for whatever method; they count where the method has them, and come before the others.
    offered: tuple[tuple[str, str], ...] = ()
    #: Globs of the tensors that the rule is about.
    tensors: tuple[str, ...] = ("*",)

    @property
    def explicit(self) -> bool:
        """Whether anybody asked for this method."""
        return self.source != "default"

    @property
    def origin(self) -> str:
        """Who is to be told of what is wrong with it: `` (theta.toml rule 2)``; nothing if nobody asked."""
        words = [self.source] if self.explicit else []
        words += [f"{key}={value}" for key, value in self.offered]
        return f" ({', '.join(words)})" if words else ""

    def option(self, name: str) -> str | None:
        """The text of one option."""
        return {**dict(self.options), **dict(self.offered)}.get(name)


@dataclass(frozen=True)
class Policy:
    """All rules in force, the strongest first."""

    rules: tuple[Rule, ...] = ()
    _known: dict[tuple[str, str, Verb], MethodChoice] = field(default_factory=dict, compare=False, repr=False)

    def choice(self, path: str, tensor: str, verb: Verb) -> MethodChoice:
        """How a tensor that several sides changed is merged."""
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
        """The same with stronger rules before the others."""
        return Policy((*rules, *self.rules))


def path_fits(glob: str, path: str) -> bool:
    """Like a line of .gitignore: without a slash it is about the file's name, otherwise about its whole path."""
    return glob_fits(glob.lstrip("/"), path if "/" in glob else path.rpartition("/")[2])


def glob_fits(glob: str, text: str) -> bool:
    """Whether the whole text is as the glob says; capitals count, and ``*`` spans whatever there is."""
    return bool(_compiled(glob).fullmatch(text))


def literal(text: str) -> str:
    """A glob that only this text fits."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)


def literal_path(path: str) -> str:
    """A glob that only this path fits."""
    return f"/{literal(path)}"


@cache
def _compiled(glob: str) -> re.Pattern[str]:
    return re.compile(translate(glob))


def options_rule(source: str, options: Mapping[str, object], verbs: frozenset[Verb]) -> Rule:
    """The rule that ``method=... key=value`` pairs make.

    Capitals do not count in keys, and ``-`` stands for ``_``, which git config does not allow. ``conflict`` is meant
    for whatever one does. Raises ConfigError for keys that cannot be any, MergeError for values that cannot.
    """
    given: dict[str, object] = {}
    for word, value in options.items():
        key = word.lower().replace("-", "_")
        if not _KEY.fullmatch(key):
            raise ConfigError(f"{word!r} ({source}) is no option", hint="options look like this: density=0.2")
        if key in given:
            raise ConfigError(f"{word!r} ({source}) is there twice")
        given[key] = value
    method = given.pop("method", None)
    if method is not None and not (isinstance(method, str) and _KEY.fullmatch(method)):
        raise ConfigError(f"{method!r} ({source}) is no method", hint="`git theta plugins` lists the methods")
    texts = tuple(sorted((key, as_text(value)) for key, value in given.items()))
    return Rule(source, method, texts, verbs=BOTH if method == CONFLICT else verbs)


def attribute_rule(text: str) -> Rule:
    """The rule of an attribute ``theta-merge=ties`` or ``theta-merge=ties:density=0.2:lambda=1``."""
    method, *pairs = text.split(":")
    options = {"method": method, **dict(pair.partition("=")[::2] for pair in pairs)}
    source = "attribute theta-merge"
    if len(options) <= len(pairs):
        raise ConfigError(f"an option of {text!r} ({source}) is there twice")
    return options_rule(source, options, frozenset({Verb.MERGE}))


def parse_rules(text: str) -> tuple[Rule, ...]:
    """The rules of a theta.toml. Raises ConfigError, naming the rule."""
    document = _parsed(text)
    rules = document.pop("rule", [])
    if document:
        raise ConfigError(f"{next(iter(document))!r} means nothing here", path=RULES_FILE, hint=_EXAMPLE)
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise ConfigError("'rule' is no list of tables", path=RULES_FILE, hint=_EXAMPLE)
    return tuple(_rule(number, rule) for number, rule in enumerate(rules, 1))


def _parsed(text: str) -> dict[str, Any]:
    # The parser needs memory with the square of the length of a dotted key.
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
        raise ConfigError(f"verbs is {value!r}, and knows merge and pick") from None
