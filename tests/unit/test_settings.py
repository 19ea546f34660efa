"""Settings: what is read from Git's configuration, and what is refused."""

from __future__ import annotations

import re

import pytest

from gittheta.errors import ConfigError
from gittheta.settings import Settings
from tests.support.command import git
from tests.support.repository import Repo


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("17", 17), ("1k", 1024), ("3K", 3072), ("2m", 2 << 20), ("1G", 1 << 30), (" 5 ", 5), ("5 m", 5 << 20)],
)
def test_sizes(repo: Repo, text: str, size: int) -> None:
    git(repo.top, "config", "theta.smudgeLimit", text)
    with repo.open() as workspace:
        assert workspace.settings.smudge_limit == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5g", "1t", "1gb", "0x10", "1 2", "m"])
def test_words_that_are_not_sizes(repo: Repo, text: str) -> None:
    git(repo.top, "config", "theta.smudgeLimit", text)
    with repo.open() as workspace, pytest.raises(ConfigError, match=re.escape("theta.smudgeLimit")) as caught:
        _ = workspace.settings
    assert caught.value.hint


def test_defaults_and_the_rest(repo: Repo) -> None:
    with repo.open() as workspace:
        assert workspace.settings.smudge_limit == Settings.smudge_limit
        assert workspace.settings.threads >= 1
    git(repo.top, "config", "theta.threads", "0")
    with repo.open() as workspace:
        assert workspace.settings.threads == 1
