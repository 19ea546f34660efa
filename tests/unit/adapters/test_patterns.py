"""Patterns of an adapter's configuration: those of adapters match, those that never end are refused."""

from __future__ import annotations

import re
import time

import pytest

from gittheta.adapters.patterns import matches

MODULE = "base_model.model.model.layers.11.self_attn.q_proj"


@pytest.mark.parametrize(
    "pattern",
    [
        "q_proj",
        r"(.*\.)?(q_proj)$",
        r"(.*\.)?(.*layers\.1[0-9]\.self_attn\.(q|k|v)_proj)$",
        r"(.*\.)?(layers\.(1|11)\.self_attn\.[qk]_proj)$",
        r"(.*\.)?(layers\.\d+\.self_attn\.q_proj)$",
        r".*[()*+]q_proj|.*\(",
    ],
)
def test_patterns_of_adapters(pattern: str) -> None:
    assert matches(pattern, MODULE) == bool(re.fullmatch(pattern, MODULE))


@pytest.mark.parametrize(
    "pattern",
    [
        *("(a+)+b", "(a|a)*b", "(a?){50}b", "((a)*)*b", r"(a*)\1b", ".*.*.*.*.*.*b", "(?:(a+)b?)+"),
        *("(", "a" * 5000, "(" * 500, "a{99999999999}"),
    ],
)
def test_patterns_that_take_for_ever_are_refused(pattern: str) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match="it "):
        matches(pattern, "a" * 400)
    assert time.process_time() - began < 1
