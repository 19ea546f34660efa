"""The merge policy in force: what the command line says, git config, theta.toml, attributes, in this order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from gittheta.engine.policy import (
    BOTH,
    MAX_RULES,
    RULES_FILE,
    Policy,
    Rule,
    Verb,
    attribute_rule,
    literal_path,
    options_rule,
    parse_rules,
)
from gittheta.errors import ConfigError
from gittheta.git.configuration import scoped_settings

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace

#: A subsection is as the user writes it: theta.Merge.method.
_KEYS = r"^theta\.([Mm][Ee][Rr][Gg][Ee]|[Pp][Ii][Cc][Kk])\."
_UNSET = ("unspecified", "unset", "set", "")


def read_policy(
    workspace: Workspace, paths: Iterable[str], given: Mapping[str, str] | None = None, revision: str = "HEAD"
) -> Policy:
    """The policy for some files. ``given`` are options of the command line; rules are read from ``revision``.

    Raises ConfigError.
    """
    rules = [options_rule("the command line", given, BOTH)] if given else []
    rules += [*_configured(workspace), *_committed(workspace, revision), *_attributes(workspace, paths)]
    return Policy(tuple(rules))


def _configured(workspace: Workspace) -> list[Rule]:
    """``theta.merge.*`` and ``theta.pick.*``. What was given for one command (`git -c`) counts whatever that does.

    Otherwise what is set for merges does not count for picks: a rebase that trims what it passes by would surprise.
    """
    found: dict[tuple[str, bool], dict[str, object]] = {}
    for scope, key, value in scoped_settings(workspace.repository.git, _KEYS):
        _, verb, option = key.split(".", 2)
        if value is None:
            raise ConfigError(f"{key} has no value", hint=f"git config {key} VALUE, or -c {key}=VALUE")
        found.setdefault((verb.lower(), scope == "command"), {})[option.lower()] = value
    rules = []
    # What is for one command comes first, and of that what names its verb.
    for (verb, for_once), options in sorted(found.items(), key=lambda each: (not each[0][1], each[0][0] == "merge")):
        verbs = BOTH if for_once and verb == "merge" else frozenset({Verb(verb)})
        rules.append(options_rule(f"git {'-c' if for_once else 'config'} theta.{verb}", options, verbs))
    return rules


def _committed(workspace: Workspace, revision: str) -> tuple[Rule, ...]:
    name = f"{revision}:{RULES_FILE}"
    text = workspace.blobs.read(name, MAX_RULES)
    if text is None:
        if workspace.repository.kind_of(name) == "blob":
            raise ConfigError(f"more than {MAX_RULES >> 10} KiB", path=RULES_FILE, hint="shorten it")
        return ()
    try:
        return parse_rules(text.decode())
    except UnicodeDecodeError:
        raise ConfigError("not UTF-8", path=RULES_FILE, hint="save it as UTF-8, and commit it") from None


def _attributes(workspace: Workspace, paths: Iterable[str]) -> list[Rule]:
    rules = []
    for path, values in workspace.repository.attributes(["theta-merge"], paths).items():
        text = values.get("theta-merge", "")
        if text not in _UNSET:
            rules.append(replace(attribute_rule(text), path=literal_path(path)))
    return rules
