"""A checkpoint whose tensors are derived from others comes back for ever, here and by the specification alone."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from gittheta.model import digest_of
from gittheta.storage.manifest import format_manifest, format_recipe, parse_manifest, parse_recipe
from tests.golden.book.chains import decode, frames, parse_link
from tests.golden.frozen import objects_into
from tests.support.repository import Repo

HERE = Path(__file__).parent
CHAINS = (HERE / "chains.manifest").read_bytes()
RECIPES = {
    "attention.weight": ["sparse", "lowrank", "dense"],
    "embed.weight": ["sparse", "resize", "delta", "dense"],
    "mlp.weight": ["sparse", "scale", "dense"],
    "norm.weight": ["ternary", "dense"],
    "head.weight": ["sparse", "sparse", "dense"],
    "steps": ["dense"],
    "positions": ["sparse", "resize", "dense"],
}
FILE = "fae8ca6c6032774fedd90425209b90bc13e42dfd16e490b830b5a66cd045b09d"


def stored(name: str) -> bytes:
    return (HERE / "objects" / name).read_bytes()


def stanzas() -> dict[str, list[str]]:
    """The lines of each tensor, by name."""
    result: dict[str, list[str]] = {}
    for line in CHAINS.decode().splitlines():
        if line.startswith("["):
            result[line[1:-1]] = []
        elif result:
            list(result.values())[-1].append(line)
    return result


def test_the_frozen_manifest_is_untouched() -> None:
    assert hashlib.sha256(CHAINS).hexdigest() == "f86b72ed1d861e66b587896370ff3436da1bf3d2ee6442ae915d4503af3a8523"
    manifest = parse_manifest(CHAINS)
    assert format_manifest(manifest) == CHAINS
    assert {one.spec.name: [link.encoding for link in one.recipe] for one in manifest.stanzas} == RECIPES


def test_the_file_comes_back(repo: Repo) -> None:
    objects_into(repo)
    assert hashlib.sha256(repo.smudge(CHAINS)).hexdigest() == FILE


def test_the_file_comes_back_block_by_block(repo: Repo, small_blocks: None) -> None:
    """As if it were too large to be held."""
    objects_into(repo)
    assert hashlib.sha256(repo.smudge(CHAINS)).hexdigest() == FILE


def test_adding_it_gives_the_frozen_text(repo: Repo) -> None:
    objects_into(repo)
    repo.stage(CHAINS)
    assert repo.clean(repo.smudge(CHAINS)) == CHAINS


def test_the_specification_shows_a_recipe() -> None:
    text = (HERE.parents[1] / "docs/spec/manifest.md").read_text()
    (example,) = re.findall(r"```\n(\[.*?\n)```", text, re.DOTALL)
    _, _, *lines = example.splitlines(keepends=True)
    recipe = parse_recipe("".join(lines))
    assert [(link.encoding, link.parameters) for link in recipe] == [
        ("sparse", ()),
        ("lowrank", (("rank", "16"),)),
        ("dense", ()),
    ]
    assert format_recipe(recipe) == "".join(lines)


@pytest.mark.parametrize("name", RECIPES)
def test_by_the_specification_alone(name: str) -> None:
    """Links, frames, blocks that are cut differently in each link, and the digests of what links yield."""
    about, *lines = stanzas()[name]
    dtype, shape, digest = about.split(" ")
    links = [parse_link(line) for line in lines]
    data = decode(links, dtype, tuple(map(int, shape.split("x"))), stored)
    assert f"b3:{digest_of(data).hex()}" == digest
    at = 0
    for raw, block_digest, _ in frames(links[0], stored):
        assert digest_of(data[at : at + raw]) == block_digest
        at += raw
    assert at == len(data)


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if len(recipe) > 1])
def test_bases_are_what_the_links_below_yield(name: str) -> None:
    about, *lines = stanzas()[name]
    dtype, shape, _ = about.split(" ")
    links, its_shape = [parse_link(line) for line in lines], tuple(map(int, shape.split("x")))
    for at, link in enumerate(links[:-1]):
        if "from" in link.parameters:
            its_shape = tuple(map(int, link.parameters["from"].split("x")))
        assert f"b3:{digest_of(decode(links[at + 1 :], dtype, its_shape, stored)).hex()}" == link.base
