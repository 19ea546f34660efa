"""Which method merges which tensor: rules in order, the first that fits decides."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import translate
from functools import cache

from gittheta.errors import ConfigError, ThetaError
from gittheta.merging.options import as_text

#: What is decided without numbers: ask the user, or one version as it is.
CONFLICT, TAKE = "conflict", "take"
#: The name of the file with rules, at the top of a commit.
RULES_FILE = "theta.toml"
_KEY = re.compile(r"[a-z][a-z0-9_-]*")


class Verb(Enum):
    """What the user does: combine models, or add (or take back) the change of one commit."""

    MERGE = "merge"
    PICK = "pick"


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
        """Whether it is about this tensor of this file. ``conflict`` is meant for whatever one does."""
        if verb not in self.verbs and self.method != CONFLICT:
            return False
        return path_fits(self.path, path) and any(_compiled(glob).fullmatch(tensor) for glob in self.tensors)


@dataclass(frozen=True)
class Choice:
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

    def option(self, name: str) -> str | None:
        """The text of one option."""
        return {**dict(self.options), **dict(self.offered)}.get(name)


@dataclass(frozen=True)
class Policy:
    """All rules in force, the strongest first."""

    rules: tuple[Rule, ...] = ()
    _known: dict[tuple[str, str, Verb], Choice] = field(default_factory=dict, compare=False, repr=False)

    def choice(self, path: str, tensor: str, verb: Verb) -> Choice:
        """How a tensor that several sides changed is merged."""
        key = (path, tensor, verb)
        if key not in self._known:
            self._known[key] = self._choose(path, tensor, verb)
        return self._known[key]

    def _choose(self, path: str, tensor: str, verb: Verb) -> Choice:
        offered: dict[str, str] = {}
        for rule in self.rules:
            if rule.fits(path, tensor, verb):
                if rule.method:
                    return Choice(rule.method, rule.options, rule.source, tuple(sorted(offered.items())), rule.tensors)
                offered = {**dict(rule.options), **offered}
        return Choice(DEFAULTS[verb], offered=tuple(sorted(offered.items())))

    def preceded_by(self, *rules: Rule) -> Policy:
        """The same with stronger rules before the others."""
        return Policy((*rules, *self.rules))


def path_fits(glob: str, path: str) -> bool:
    """Like a line of .gitignore: without a slash it is about the file's name, otherwise about its whole path."""
    return bool(_compiled(glob.lstrip("/")).fullmatch(path if "/" in glob else path.rpartition("/")[2]))


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
    """The rule that ``method=... key=value`` pairs make. Raises ConfigError for keys that cannot be any."""
    given = {key.lower(): value for key, value in options.items()}
    for key in given:
        if not _KEY.fullmatch(key):
            raise ConfigError(f"'{key}' ({source}) is no option")
    method = given.pop("method", None)
    texts = tuple(sorted((key, as_text(value)) for key, value in given.items()))
    return Rule(source, None if method is None else as_text(method), texts, verbs=verbs)


def attribute_rule(text: str) -> Rule:
    """The rule of an attribute ``theta-merge=ties`` or ``theta-merge=ties:density=0.2:lambda=1``."""
    method, *pairs = text.split(":")
    options = dict(pair.partition("=")[::2] for pair in pairs)
    return options_rule("attribute theta-merge", {"method": method, **options}, frozenset({Verb.MERGE}))


def parse_rules(text: str) -> tuple[Rule, ...]:
    """The rules of a theta.toml. Raises ConfigError, naming the rule."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"not valid TOML: {error}", path=RULES_FILE) from None
    rules = document.pop("rule", [])
    if document:
        raise ConfigError(f"'{next(iter(document))}' means nothing here", path=RULES_FILE, mend=_EXAMPLE)
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise ConfigError("'rule' is no list of tables", path=RULES_FILE, mend=_EXAMPLE)
    return tuple(_rule(number, rule) for number, rule in enumerate(rules, 1))


_EXAMPLE = 'rules look like this: [[rule]], then path = "*.safetensors", tensors = ["*.embed*"], method = "linear"'


def _rule(number: int, table: dict[str, object]) -> Rule:
    source = f"{RULES_FILE} rule {number}"
    try:
        path = _globs(table.pop("path", "*"), "path")
        tensors = _globs(table.pop("tensors", "*"), "tensors")
        verbs = _globs(table.pop("verbs", "merge"), "verbs")
        unknown = set(verbs) - {verb.value for verb in Verb}
        if len(path) != 1 or unknown:
            raise ConfigError("path must be one glob" if not unknown else f"no verb '{unknown.pop()}': merge or pick")
        rule = options_rule(source, table, frozenset(map(Verb, verbs)))
        return Rule(source, rule.method, rule.options, path[0], tensors, rule.verbs)
    except ThetaError as error:
        raise ConfigError(f"rule {number}: {error.what}", path=RULES_FILE, mend=error.mend or _EXAMPLE) from None


def _globs(value: object, what: str) -> tuple[str, ...]:
    globs = [value] if isinstance(value, str) else value
    if not isinstance(globs, list) or not globs or not all(isinstance(glob, str) for glob in globs):
        raise ConfigError(f"{what} must be a text or a list of texts")
    return tuple(globs)
