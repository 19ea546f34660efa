"""Bases that are missing, damaged, or made by a stranger: a changed tensor is stored without them."""

from __future__ import annotations

import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gittheta.errors import ThetaError
from gittheta.model import Place, Recipe
from gittheta.storage.frames import HEAD_LENGTH
from gittheta.storage.manifest import format_manifest, parse_manifest
from tests.support.bases import (
    V1,
    V2,
    V3,
    base_digest,
    commit,
    digest,
    few,
    file_of,
    forget,
    objects_of,
    stanza,
    weights,
)
from tests.support.command import git
from tests.support.repository import Repo
from tests.support.versions import commit as commit_and_check

pytestmark = pytest.mark.once


def test_a_base_whose_objects_are_not_here_is_none(repo: Repo) -> None:
    first = commit(repo, file_of(V1))
    shutil.move(repo.theta / "objects", repo.theta / "away")
    forget(repo)
    second = repo.add(file_of(V2))
    assert base_digest(second) is None
    assert not objects_of(stanza(second).recipe) & objects_of(stanza(first).recipe)
    assert repo.smudge(second) == file_of(V2)


def test_a_base_of_which_one_link_is_not_here_is_none(repo: Repo) -> None:
    first, second = commit(repo, file_of(V1)), commit(repo, file_of(V2))
    for name in objects_of(stanza(second).recipe) - objects_of(stanza(first).recipe):
        repo.objects()[name].unlink()
    forget(repo)
    text = repo.add(file_of(V3))
    assert base_digest(text) is None
    assert repo.smudge(text) == file_of(V3)


def flip(path: Path, at: int) -> bytes:
    """Change a bit of an object; returns what it was."""
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    return whole


def place_of(recipe: Recipe) -> Place:
    return recipe[0].places[0]


@pytest.mark.parametrize("where", ["body", "end of the body", "head", "digest"])
@pytest.mark.parametrize("known", [True, False])
def test_a_damaged_base_is_not_used(repo: Repo, where: str, known: bool) -> None:
    """What was stored over it would be lost when the object is healed."""
    first = commit(repo, file_of(V1))
    place = place_of(stanza(first).recipe)
    path = repo.objects()[place.object]
    at = place.offset + {"body": HEAD_LENGTH + 200, "head": 0, "digest": 20}.get(where, place.length - 1)
    whole = flip(path, at)
    if not known:
        forget(repo)
    second = repo.add(file_of(V2))
    assert base_digest(second) is None
    assert repo.smudge(second) == file_of(V2)
    path.unlink()
    path.write_bytes(whole)
    assert repo.smudge(first) == file_of(V1)
    assert repo.smudge(second) == file_of(V2)


@pytest.mark.parametrize("link", [0, 1])
def test_damage_anywhere_in_the_chain_of_a_base(repo: Repo, link: int) -> None:
    """The end of the chain may still serve if it is whole."""
    commit(repo, file_of(V1))
    text = commit(repo, file_of(V2))
    place = stanza(text).recipe[link].places[0]
    path = repo.objects()[place.object]
    whole = flip(path, place.offset + place.length - 1)
    third = repo.add(file_of(V3))
    assert base_digest(third) in ((digest(V1), None) if link == 0 else (None,))
    assert link or repo.smudge(third) == file_of(V3)
    path.unlink()
    path.write_bytes(whole)
    assert repo.smudge(third) == file_of(V3)


def test_a_damaged_predictor_below_a_base(repo: Repo) -> None:
    grown = np.concatenate([V1, weights(4, (8, 50))])
    commit(repo, file_of(V1))
    text = commit(repo, file_of(grown))
    assert [link.encoding for link in stanza(text).recipe][1:] == ["resize", "dense"]
    place = stanza(text).recipe[1].places[0]
    path = repo.objects()[place.object]
    whole = flip(path, place.offset + place.length - 1)
    third = repo.add(file_of(few(grown, 5)))
    assert base_digest(third) != digest(grown)
    path.unlink()
    path.write_bytes(whole)
    assert repo.smudge(third) == file_of(few(grown, 5))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("block", [0, 3, -1])
def test_a_damaged_block_of_a_large_base(repo: Repo, block: int) -> None:
    one, two = weights(1, (30, 40)), few(weights(1, (30, 40)), 2)
    place = place_of(stanza(commit(repo, file_of(one))).recipe)
    path = repo.objects()[place.object]
    data = path.read_bytes()
    starts = [place.offset]
    while starts[-1] < place.offset + place.length:
        starts.append(starts[-1] + HEAD_LENGTH + struct.unpack_from("<I", data, starts[-1])[0])
    whole = flip(path, starts[:-1][block] + HEAD_LENGTH + 30)
    try:
        second = repo.add(file_of(two))
    except ThetaError:  # the blocks before the change were not kept, and cannot be read back
        assert not repo.temporaries()
        second = None
    path.unlink()
    path.write_bytes(whole)
    second = second or repo.add(file_of(two))
    assert repo.smudge(second) == file_of(two)


@pytest.mark.parametrize("known", [True, False])
def test_a_base_of_a_stranger_that_lies(repo: Repo, known: bool) -> None:
    """HEAD's manifest gives V1 the recipe of other values, of the right size."""
    honest = parse_manifest(commit(repo, file_of(V1)))
    other = parse_manifest(repo.clean(file_of(weights(8))))
    lie = format_manifest(replace(honest, stanzas=(replace(honest.stanzas[0], recipe=other.stanzas[0].recipe),)))
    repo.stage(lie)
    git(repo.top, "commit", "-q", "-m", "a lie")
    if not known:
        forget(repo)
    for values in (V2, V1, few(weights(8), 9)):
        text = repo.add(file_of(values))
        assert repo.smudge(text) == file_of(values)
        assert repo.clean(file_of(values)) == text


def test_a_base_of_a_stranger_with_a_chain_that_cannot_be(repo: Repo) -> None:
    commit(repo, file_of(V1))
    manifest = parse_manifest(commit(repo, file_of(V2)))
    result = manifest.stanzas[0]
    sparse, dense = result.recipe
    bad: list[Recipe] = [
        (dense,),
        (sparse, replace(sparse, base=digest(V1)), dense),
        (replace(sparse, encoding="resize", parameters=(("from", "9x9"),)), dense),
        (sparse, replace(dense, places=(replace(dense.places[0], length=dense.places[0].length - 1),))),
        (sparse, replace(dense, places=(replace(dense.places[0], offset=1),))),
    ]
    for recipe in bad:
        repo.stage(format_manifest(replace(manifest, stanzas=(replace(result, recipe=recipe),))))
        git(repo.top, "commit", "-q", "--allow-empty", "-m", "odd")
        forget(repo)
        text = repo.add(file_of(V3))
        assert repo.smudge(text) == file_of(V3)
        assert repo.clean(file_of(V3)) == text


@pytest.mark.parametrize("case", ["unknown above", "unknown below", "parameters"])
def test_a_recipe_of_head_that_cannot_be_read_is_not_a_base(repo: Repo, case: str) -> None:
    commit_and_check(repo, file_of(V1))
    commit_and_check(repo, file_of(V2))
    manifest = parse_manifest(repo.add(file_of(V2)))
    (result,) = manifest.stanzas
    sparse, dense = result.recipe
    recipe = {
        "unknown above": (replace(sparse, encoding="quantum"), dense),
        "unknown below": (sparse, replace(dense, encoding="quantum")),
        "parameters": (sparse, replace(sparse, encoding="resize", parameters=(("from", "9"),)), dense),
    }[case]
    repo.stage(format_manifest(replace(manifest, stanzas=(replace(result, recipe=recipe),))))
    git(repo.top, "commit", "-q", "-m", "odd")
    text = repo.add(file_of(V3))
    assert repo.smudge(text) == file_of(V3)
