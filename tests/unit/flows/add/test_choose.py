"""Which way a changed tensor is stored: the smallest of those that are allowed."""

from __future__ import annotations

from itertools import pairwise

import pytest

from gittheta.codec.choose import MAX_CHAIN
from gittheta.errors import ConfigError
from tests.support.repository import Repo
from tests.support.versions import commit, few, file_of, names, setting, size, weights

pytestmark = pytest.mark.once


def test_thirty_small_changes_keep_the_chain_short(repo: Repo) -> None:
    values = weights(1)
    whole = size(commit(repo, file_of(values)))
    lengths = []
    for at in range(30):
        values = few(values, at)
        recipe = commit(repo, file_of(values), look=at % 8 == 0)
        lengths.append(len(recipe))
        assert size(recipe[:1]) < whole / 10
        assert size(recipe) < 2 * whole
        assert recipe[-1].encoding == "dense"
    assert max(lengths) <= MAX_CHAIN
    assert sum(later < before for before, later in pairwise(lengths)) >= 2, "derived from an older one now and then"
    stored = sum(path.stat().st_size for path in repo.objects().values())
    assert stored < 2 * whole


def test_thirty_full_fine_tunes_are_anchored_anew(repo: Repo) -> None:
    """The links of a chain never weigh more than the tensor stored by itself."""
    values = weights(1)
    alone = size(commit(repo, file_of(values)))
    for at in range(30):
        values = values + weights(50 + at, scale=0.0004)
        recipe = commit(repo, file_of(values), look=at % 8 == 0)
        assert len(recipe) <= MAX_CHAIN
        assert size(recipe[:-1]) <= 1.1 * alone
        assert size(recipe[:1]) <= 1.01 * alone


def test_a_version_that_has_nothing_to_do_with_the_one_before(repo: Repo) -> None:
    commit(repo, file_of(weights(1)))
    assert names(commit(repo, file_of(weights(2)))) == ["dense"]


def test_back_to_an_older_version_costs_nothing(repo: Repo) -> None:
    first, second = file_of(weights(1)), file_of(few(weights(1), 2))
    recipe = commit(repo, first)
    commit(repo, second)
    before = set(repo.objects())
    assert commit(repo, first) == recipe
    assert set(repo.objects()) == before


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        ("dense", ["dense"]),
        ("sparse dense", ["sparse", "dense"]),
        ("delta", ["delta", "dense"]),
        (" dense,\n sparse ", ["sparse", "dense"]),
        ("dense dense", ["dense"]),
        ("scale", ["dense"]),
        ("resize,scale", ["dense"]),
        ("lowrank", ["dense"]),
        ("delta sparse", ["sparse", "dense"]),
    ],
)
def test_only_what_is_allowed_is_tried(repo: Repo, allowed: str, expected: list[str]) -> None:
    commit(repo, file_of(weights(1)))
    setting(repo, allowed)
    assert names(commit(repo, file_of(few(weights(1), 2)))) == expected


def test_what_is_no_longer_allowed_can_still_be_read(repo: Repo) -> None:
    old, new = file_of(weights(1)), file_of(few(weights(1), 2))
    commit(repo, old)
    text = repo.add(new)
    setting(repo, "dense")
    assert repo.smudge(text) == new
    assert repo.clean(new) == text


def test_an_unknown_name_is_a_warning_with_a_hint_and_only_where_something_changed(repo: Repo) -> None:
    """An encoding that is not installed must not keep `git status` from working."""
    first, second = file_of(weights(1)), file_of(few(weights(1), 2))
    commit(repo, first)
    text = repo.add(first)
    setting(repo, "dense psychic")
    assert repo.clean(first) == text
    assert repo.smudge(text) == first
    assert not repo.warnings
    assert repo.smudge(repo.clean(second)) == second
    (warning,) = repo.warnings
    assert "theta.encodings" in warning
    assert "'psychic'" in warning
    assert "git theta plugins" in warning


@pytest.mark.parametrize("text", ["", " , ", "Dense", "sparse;dense", "../x", "sparse dense!"])
def test_a_setting_that_is_not_a_list_of_names(repo: Repo, text: str) -> None:
    setting(repo, text)
    with pytest.raises(ConfigError, match=r"theta\.encodings") as caught:
        repo.clean(file_of(weights(1)))
    assert "git config theta.encodings" in (caught.value.hint or "")
