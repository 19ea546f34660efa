"""A model of many versions: its chains stay short, and do not depend on what becomes of the commits."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.changes import M, everywhere, few, names, shown, stored, weights
from tests.support.checkpoints import bf16, checkpoint
from tests.support.world import Place, Repo, Template, World, objects_in


def version(at: int) -> bytes:
    """Each has some elements that the one before has not."""
    values = weights(1, 200, 100)
    for step in range(at):
        values = few(values, step)
    return checkpoint({"w": bf16(values)})


OTHER = checkpoint({"w": bf16(few(weights(1, 200, 100), 500))})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, installed_home: Path) -> Template:
    """Five versions, pushed."""
    world = World(tmp_path_factory.mktemp("built"), installed_home)
    repo = world.repo()
    world.bare()
    repo.git("remote", "add", "origin", "../hub.git")
    shas = {str(at): repo.commit(version(at), message=f"version {at}") for at in range(5)}
    repo.git("push", "-q", "-u", "origin", "main")
    return Template(world.root, shas)


@pytest.fixture
def shas(world: World, built: Template) -> list[str]:
    """The same in this test's world; what each version is."""
    built.copy_to(world)
    return list(built.shas.values())


@pytest.fixture
def chain(world: World, shas: list[str]) -> Repo:
    """The repository with the five versions."""
    return Repo(world.root / "repo", world.env)


@pytest.mark.slow
def test_a_chain_stays_short_and_small(world: World, chain: Repo, shas: list[str]) -> None:
    first = sum(path.stat().st_size for path in chain.objects() if path.stat().st_size > 5000)
    for at in range(5, 13):
        last = chain.commit(version(at))
    lengths = [len(shown(chain, f"HEAD~{back}:{M}")["w"]) for back in range(13)]
    assert max(lengths) <= 10
    assert any(length < before for before, length in pairwise(reversed(lengths))), "derived from an older one"
    assert stored(chain) < 1.5 * first
    chain.git("push", "-q")
    shallow = world.clone(f"file://{world.root}/hub.git", "shallow", "--depth", "1")
    assert (shallow.sha(), shallow.status()) == (last, "")
    shallow.healthy()


@pytest.mark.slow
def test_rebase_squash_amend_and_a_new_root(world: World, chain: Repo, shas: list[str]) -> None:
    repo = chain
    repo.write("note", b"x")
    repo.git("checkout", "-q", "-b", "side", "main~4")
    repo.git("add", "note")
    repo.git("commit", "-q", "-m", "note")
    repo.git("rebase", "-q", "side", "main")
    assert repo.sha() == shas[-1]
    repo.healthy()
    repo.git("reset", "-q", "--soft", "HEAD~3")
    repo.git("commit", "-q", "--amend", "-m", "squashed")
    assert (repo.sha(), repo.status()) == (shas[-1], "")
    repo.git("checkout", "-q", "--orphan", "alone")
    repo.git("commit", "-q", "-m", "the last version alone")
    repo.git("branch", "-M", "alone", "main")
    repo.git("branch", "-D", "side")
    repo.git("reflog", "expire", "--expire=now", "--all")
    repo.git("gc", "-q", "--prune=now")
    repo.git("push", "-q", "-f", "origin", "main")
    everywhere(world, repo, shas[-1])


@pytest.mark.slow
def test_commits_in_the_middle_of_a_chain_are_dropped(world: World, chain: Repo, shas: list[str]) -> None:
    repo = chain
    repo.git("checkout", "-q", "main~3")
    repo.git("checkout", "main", "--", M)
    repo.git("commit", "-q", "-m", "without what lay between")
    repo.git("branch", "-f", "main")
    repo.git("checkout", "-q", "main")
    repo.git("push", "-q", "-f", "origin", "main")
    everywhere(world, repo, shas[1], shas[4])


@pytest.mark.slow
def test_a_version_cherry_picked_onto_another_root(chain: Repo, shas: list[str]) -> None:
    chain.git("checkout", "-q", "--orphan", "fresh", "main~4")
    chain.git("commit", "-q", "-m", "root")
    chain.git("checkout", "main~1", "--", M)
    chain.git("commit", "-q", "-m", "a later version")
    chain.git("cherry-pick", "main")
    assert (chain.sha(), chain.status()) == (shas[4], "")
    chain.git("checkout", "-q", "HEAD~1")
    assert chain.sha() == shas[3]
    chain.healthy()


@pytest.mark.slow
def test_branches_that_part_from_a_chain(chain: Repo, shas: list[str]) -> None:
    repo = chain
    side = repo.branch("side", OTHER, "main~2")
    for name, sha in (("main", shas[4]), ("side", side), ("main~1", shas[3]), ("side~1", shas[2])):
        repo.git("checkout", "-q", name)
        assert (repo.sha(), repo.status()) == (sha, "")
    repo.healthy()


@pytest.mark.slow
@pytest.mark.everywhere
def test_a_push_sends_what_is_needed_and_a_checkout_gets_all_of_a_chain(
    world: World, chain: Repo, shas: list[str]
) -> None:
    hub = world.root / "hub.git/theta"
    before, mine = {path.name for path in objects_in(hub)}, names(chain)
    chain.write(M, OTHER)
    chain.git("add", M)
    chain.git("reset", "-q", "--hard")
    chain.commit(version(7))
    needed = set(re.findall("[0-9a-f]{64}(?=:)", chain.manifest()))
    chain.git("push", "-q")
    assert {path.name for path in objects_in(hub)} - before == needed - mine
    clone = world.clone(world.root / "hub.git", "clone", "--no-checkout")
    clone.git("checkout", "-q", "main~1")
    assert names(clone) == set(re.findall("[0-9a-f]{64}(?=:)", chain.manifest(M, "main~1")))
    (world.root / "hub.git").rename(world.root / "gone")
    (clone.path / M).unlink()
    clone.git("checkout", "--", M)
    assert clone.sha() == shas[4]


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--filter=blob:none",), ("--depth=1",)], ids=" ".join)
def test_a_clone_that_lacks_the_objects_of_the_base(
    world: World, chain: Repo, shas: list[str], options: tuple[str, ...]
) -> None:
    """It stores the change by itself, or fetches them: others get the file in either case."""
    Place(world.root / "hub.git", world.env).git("config", "uploadpack.allowFilter", "true")
    clone = world.clone(f"file://{world.root}/hub.git", "clone", "--no-checkout", *options)
    clone.git("reset", "-q")
    assert clone.objects() == []
    sha = clone.commit(OTHER)
    clone.git("push", "-q", "origin", "main")
    other = world.clone(world.root / "hub.git", "other")
    assert (other.sha(), other.status()) == (sha, "")


@pytest.mark.slow
def test_a_setting_that_names_an_encoding_which_is_not_there(chain: Repo, shas: list[str]) -> None:
    """What is stored already is not touched by it; adding a new version warns, and goes on with the others."""
    repo = chain
    repo.git("config", "theta.encodings", "sparse psychic")
    assert repo.status() == ""
    (repo.path / M).unlink()
    repo.git("checkout", "--", M)
    repo.git("checkout", "-q", "main~1")
    assert (repo.sha(), repo.status()) == (shas[3], "")
    repo.git("checkout", "-q", "main")
    repo.write(M, OTHER)
    message = repo.run("add", M).stderr
    assert "theta.encodings" in message
    assert "psychic" in message
    assert "git theta plugins" in message
    assert shown(repo)["w"][0] == "sparse"


@pytest.mark.slow
def test_repack_changes_no_history(world: World, chain: Repo, shas: list[str]) -> None:
    repo = chain
    repo.git("theta", "repack")
    assert repo.status() == f"M  {M}\n"
    assert shown(repo)["w"] == ["dense"]
    repo.git("commit", "-q", "-m", "flat")
    assert repo.sha() == shas[-1]
    repo.git("push", "-q")
    everywhere(world, repo, *shas[-2:], shas[-1])
