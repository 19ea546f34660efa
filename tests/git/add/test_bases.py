"""What a changed tensor may be derived from, through real git."""

from __future__ import annotations

import pytest

from tests.support.changes import M, at_origin, everywhere, few, names, shown, stored, weights
from tests.support.checkpoints import bf16, checkpoint
from tests.support.parameters import first_often
from tests.support.world import Repo, World


@pytest.mark.slow
def test_a_version_that_was_only_staged_is_not_a_base(world: World, repo: Repo) -> None:
    """And what git gc and a cleaning of the store leave of it harms nobody."""
    one, two, three = (few(weights(1, 200, 100), seed) for seed in (1, 2, 3))
    repo.commit(checkpoint({"w": bf16(one)}))
    kept = names(repo)
    repo.write(M, checkpoint({"w": bf16(two)}))
    repo.git("add", M)
    staged = names(repo) - kept
    repo.git("reset", "-q")
    repo.git("gc", "-q", "--prune=now")
    for path in repo.objects():
        if path.name in staged:
            path.unlink()
    sha = repo.commit(checkpoint({"w": bf16(three)}))
    assert not staged & names(repo)
    repo.healthy()
    everywhere(world, repo, sha)


@pytest.mark.slow
def test_a_model_derived_from_another_file(world: World, repo: Repo) -> None:
    repo.write(".gitattributes", repo.read(".gitattributes") + b"tuned.safetensors theta-base=sub/base.safetensors\n")
    repo.git("add", ".gitattributes")
    base = weights(1, 200, 100)
    repo.commit(checkpoint({"w": bf16(base)}), "sub/base.safetensors")
    before = stored(repo)
    sha = repo.commit(checkpoint({"w": bf16(few(base, 1))}), "tuned.safetensors")
    assert stored(repo) < 1.1 * before
    assert shown(repo, "tuned.safetensors")["w"] == ["sparse", "dense"]
    at_origin(world, repo)
    clone = world.clone(world.root / "hub.git")
    assert clone.sha("tuned.safetensors") == sha
    clone.git("rm", "-q", "sub/base.safetensors")
    clone.git("commit", "-q", "-m", "the base is gone")
    clone.git("push", "-q")
    assert world.clone(world.root / "hub.git", "without").sha("tuned.safetensors") == sha


@pytest.mark.parametrize("name", first_often(1, ["missing.safetensors", "tuned.safetensors", ".gitattributes", ""]))
def test_an_attribute_that_leads_nowhere(repo: Repo, name: str) -> None:
    repo.write(".gitattributes", repo.read(".gitattributes") + f"tuned.safetensors theta-base={name}\n".encode())
    repo.git("add", ".gitattributes")
    repo.commit(checkpoint({"w": bf16(weights(1, 50, 50))}), "other.safetensors")
    repo.commit(checkpoint({"w": bf16(few(weights(1, 50, 50), 1))}), "tuned.safetensors")
    repo.healthy()


@pytest.mark.slow
@pytest.mark.parametrize("damage", first_often(1, ["flipped", "truncated", "missing"]))
def test_a_damaged_base(world: World, repo: Repo, damage: str) -> None:
    """It is not used, so that the new version can be read whatever becomes of it."""
    first = repo.commit(checkpoint({"w": bf16(weights(1, 200, 100))}))
    (path,) = repo.objects()
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + (bytes([whole[middle] ^ 1]) + whole[middle + 1 :]) * (damage == "flipped"))
    content = checkpoint({"w": bf16(few(weights(1, 200, 100), 1))})
    second = repo.commit(content)
    assert shown(repo)["w"] == ["dense"]
    (repo.path / M).unlink()
    repo.git("checkout", "--", M)
    assert repo.read() == content
    path.unlink(missing_ok=True)
    path.write_bytes(whole)
    everywhere(world, repo, first, second)
