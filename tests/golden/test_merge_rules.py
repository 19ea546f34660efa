"""Rules and trailers that were committed once mean the same for ever. See README.md before touching the files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gittheta.engine.policy import Policy, Rule, Verb, parse_rules
from gittheta.flows.resolve.trailers import parse_trailers

HERE = Path(__file__).parent / "merge"
TOML, TRAILERS = (HERE / "theta.toml").read_text(), (HERE / "trailers.txt").read_text()
WANTED = json.loads((HERE / "meaning.json").read_text())
SPECIFICATION = (Path(__file__).parents[2] / "docs/spec/merge-rules.md").read_text()


def as_json(rule: Rule) -> dict[str, Any]:
    return {
        "method": rule.method,
        "options": dict(rule.options),
        "path": rule.path,
        "tensors": list(rule.tensors),
        "verbs": sorted(verb.value for verb in rule.verbs),
    }


def test_a_theta_toml_of_then_still_means_the_same() -> None:
    assert [as_json(rule) for rule in parse_rules(TOML)] == WANTED["rules"]


@pytest.mark.parametrize("case", WANTED["choices"], ids=lambda case: f"{case['verb']} {case['path']} {case['tensor']}")
def test_the_rules_of_then_still_decide_the_same(case: dict[str, Any]) -> None:
    choice = Policy(parse_rules(TOML)).choice(case["path"], case["tensor"], Verb(case["verb"]))
    results = {"method": choice.method, "own": dict(choice.options), "offered": dict(choice.offered)}
    assert results == {key: case[key] for key in results}


def test_the_trailers_of_then_still_give_back_the_same_policy() -> None:
    parsed = parse_trailers(TRAILERS.splitlines())
    assert [as_json(rule) for rule in parsed.policy.rules] == WANTED["trailers"]
    assert list(parsed.paths) == ["model.safetensors", "some models/the *new* one.safetensors"]
    assert parsed.labels == ("HEAD", "origin/left", "an odd name")
    starred = parsed.policy.choice("some models/the *new* one.safetensors", "w", Verb.MERGE)
    assert (starred.method, starred.option("weight")) == ("dare", "0.5,0.3,0.2")
    assert parsed.policy.choice("some models/the brand new one.safetensors", "w", Verb.MERGE).method == "linear"


def test_the_examples_of_the_specification_are_valid() -> None:
    (toml,) = re.findall(r"```toml\n(.*?)```", SPECIFICATION, re.DOTALL)
    assert [rule.method for rule in parse_rules(toml)] == ["linear", "take", "ties"]
    (trailers,) = re.findall(r"```text\n(Theta-Merge.*?)```", SPECIFICATION, re.DOTALL)
    parsed = parse_trailers(trailers.splitlines())
    assert [rule.method for rule in parsed.policy.rules] == ["linear", "ties"]
    assert parsed.labels == ("HEAD", "left", "right")
