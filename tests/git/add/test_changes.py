"""Every kind of change through real git: small, exact, quiet, and independent of what becomes of the commits."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import Raw, bf16, checkpoint, from_bf16, normal, raw, sha256
from tests.support.parameters import first_often
from tests.support.world import Place, Repo, Template, World, objects_in

M = "m.safetensors"
SIDE = 1024
Tensor = np.ndarray | Raw


def weights(seed: int, *shape: int) -> np.ndarray:
    """Of a model of hidden size 1024."""
    return normal(seed, *(shape or (SIDE, SIDE)), scale=0.02)


def values_in(tensor: Raw) -> np.ndarray:
    """The values that a tensor holds after rounding."""
    found = from_bf16(tensor[2]) if tensor[0] == "BF16" else np.frombuffer(tensor[2], np.float32)
    return found.reshape(tensor[1])


def few(values: np.ndarray, seed: int, share: float = 0.005) -> np.ndarray:
    changed = values.copy()
    chance = np.random.default_rng(seed)
    at = chance.choice(values.size, int(values.size * share), replace=False)
    changed.flat[at] = chance.standard_normal(len(at)) * 0.02
    return changed


def fine_tuned(values: np.ndarray) -> np.ndarray:
    return values + normal(90, *values.shape, scale=0.0002)


def lora(values: np.ndarray) -> np.ndarray:
    b, a = normal(91, values.shape[0], 16, scale=0.01), normal(92, 16, values.shape[1], scale=0.02)
    return (values + 2 * (b.astype(np.float64) @ a)).astype(np.float32)


def scaled_rows(values: np.ndarray) -> np.ndarray:
    return values * (1 + normal(93, values.shape[0], 1, scale=0.1))


def scaled_columns(values: np.ndarray) -> np.ndarray:
    return values * (1 + normal(94, 1, values.shape[1], scale=0.1))


def some(values: np.ndarray) -> np.ndarray:
    return few(values, 95)


def stepped(values: np.ndarray) -> np.ndarray:
    """A step of reinforcement learning: some elements of bf16 move by one unit."""
    words = np.frombuffer(bf16(values)[2], np.uint16).copy()
    chance = np.random.default_rng(96)
    at = chance.choice(len(words), int(len(words) * 0.012), replace=False)
    words[at] += chance.choice(np.array([1, 65535], np.uint16), len(at))
    return from_bf16(words.tobytes()).reshape(values.shape)


#: The change, what `git theta show` calls it, and the most that may be stored of each byte of bf16 and of f32.
CHANGES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], tuple[str, ...], float, float]] = {
    "full fine-tune": (fine_tuned, ("delta",), 0.28, 0.65),
    "low rank": (lora, ("sparse|delta|ternary", "lowrank"), 0.08, 0.06),
    "rows scaled": (scaled_rows, ("sparse", "scale"), 0.005, 0.005),
    "columns scaled": (scaled_columns, ("sparse", "scale"), 0.005, 0.005),
    "0.5 % of the elements": (some, ("sparse",), 0.009, 0.008),
    "a step of reinforcement learning": (stepped, ("sparse|delta|ternary",), 0.010, 0),
}


def stored(repo: Repo, before: set[str] = frozenset()) -> int:
    """Bytes of objects, without those that were there before."""
    return sum(path.stat().st_size for path in repo.objects() if path.name not in before)


def costs(repo: Repo, before: set[str] = frozenset()) -> dict[str, int]:
    """Bytes that each tensor takes in objects that were not there before."""
    found = {}
    for name, lines in re.findall(r"^\[(.*)\]\n((?:[^\[].*\n)*)", repo.manifest(), re.M):
        places = re.findall(r"([0-9a-f]{64}):\d+\+(\d+)", lines)
        found[name] = sum(int(length) for object_id, length in places if object_id not in before)
    return found


def names(repo: Repo) -> set[str]:
    return {path.name for path in repo.objects()}


def shown(repo: Repo, what: str = M) -> dict[str, list[str]]:
    """How each tensor is stored."""
    rows = json.loads(repo.git("theta", "show", "--json", what))["tensors"]
    return {row["name"]: row["stored"] for row in rows}


def at_origin(world: World, repo: Repo) -> None:
    if "origin" not in repo.git("remote"):
        repo.git("remote", "add", "origin", str(world.bare()))
    repo.git("push", "-q", "origin", "main")


def everywhere(world: World, repo: Repo, *shas: str) -> None:
    """These versions, the newest last, come back in a fresh clone of a remote."""
    at_origin(world, repo)
    clone = world.clone(world.root / "hub.git", "fresh")
    for back, sha in enumerate(reversed(shas)):
        clone.git("checkout", "-q", f"main~{back}")
        assert (clone.sha(), clone.status()) == (sha, ""), f"{back} versions before the last"
    clone.healthy()


def both(values: np.ndarray) -> dict[str, Tensor]:
    return {"bf16": bf16(values), "f32": values}


@pytest.mark.parametrize("change", first_often(1, CHANGES))
def test_a_change_costs_what_it_is_worth(world: World, repo: Repo, change: str) -> None:
    make, encodings, *bounds = CHANGES[change]
    old = {name: values_in(raw(tensor)) for name, tensor in both(weights(1)).items()}
    if make is stepped:
        del old["f32"]
    sizes = {"bf16": 2 * SIDE * SIDE, "f32": 4 * SIDE * SIDE}
    first = repo.commit(checkpoint({name: both(values)[name] for name, values in old.items()}))
    for name, size in costs(repo).items():
        assert size <= sizes[name] * {"bf16": 0.67, "f32": 0.84}[name]
    before = names(repo)
    second = repo.commit(checkpoint({name: both(make(values))[name] for name, values in old.items()}))
    for (name, size), most in zip(costs(repo, before).items(), bounds, strict=False):
        assert size <= sizes[name] * most
    for chain in shown(repo).values():
        assert len(chain) == len(encodings) + 1
        assert all(re.fullmatch(name, link) for name, link in zip((*encodings, "dense"), chain, strict=True)), chain
    everywhere(world, repo, first, second)


@pytest.mark.parametrize(
    "kind", first_often(1, ["appended", "trimmed", "inserted", "permuted", "columns", "duplicated"])
)
def test_rows_and_columns(world: World, repo: Repo, kind: str) -> None:
    old = weights(1)
    fresh = weights(2, 16, SIDE)
    new = {
        "appended": lambda: np.concatenate([old, fresh]),
        "trimmed": lambda: old[:-100],
        "inserted": lambda: np.concatenate([old[:500], fresh, old[500:]]),
        "permuted": lambda: old[np.random.default_rng(3).permutation(SIDE)],
        "columns": lambda: np.concatenate([old, weights(4, SIDE, 16)], 1),
        "duplicated": lambda: np.concatenate([old, old[:200]]),
    }[kind]()
    first = repo.commit(checkpoint(both(old)))
    before = names(repo)
    second = repo.commit(checkpoint(both(new)))
    for name, cost in costs(repo, before).items():
        width, alone = {"bf16": (2, 0.67), "f32": (4, 0.85)}[name]
        added = alone * 16 * SIDE * width if kind in ("appended", "inserted", "columns") else 0
        assert cost <= added + new.size * width * 0.001 + 1200
    assert all(chain[1:] == ["resize", "dense"] for chain in shown(repo).values())
    everywhere(world, repo, first, second)


@pytest.mark.slow
def test_rows_appended_and_some_elements_changed(world: World, repo: Repo) -> None:
    """A recipe may combine: resized, then sparse."""
    old = weights(1)
    new = few(np.concatenate([old, weights(2, 16, SIDE)]), 5)
    first = repo.commit(checkpoint({"w": bf16(old)}))
    before = names(repo)
    second = repo.commit(checkpoint({"w": bf16(new)}))
    assert stored(repo, before) <= (0.67 * 16 * SIDE + 0.01 * SIDE * SIDE) * 2
    assert shown(repo)["w"][-2:] == ["resize", "dense"]
    everywhere(world, repo, first, second)


def test_a_tensor_of_every_kind_of_change_at_once(world: World, repo: Repo) -> None:
    old = {name: weights(seed, 256, 256) for seed, name in enumerate(CHANGES)}
    new = {name: CHANGES[name][0](values) for name, values in old.items()}
    versions = [checkpoint({name: bf16(values) for name, values in tensors.items()}) for tensors in (old, new, old)]
    versions.append(checkpoint({name: bf16(new[name]) for name in reversed(list(new))}, {"order": "reversed"}))
    shas = [repo.commit(version) for version in versions]
    everywhere(world, repo, *shas)


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
    assert any(length < before for before, length in pairwise(reversed(lengths))), "told from an older one"
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
def test_a_version_that_was_only_staged_is_no_base(world: World, repo: Repo) -> None:
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
    said = repo.run("add", M).stderr
    assert "theta.encodings" in said
    assert "psychic" in said
    assert "git theta plugins" in said
    assert shown(repo)["w"][0] == "sparse"


@pytest.mark.slow
def test_two_processes_at_once_over_the_same_base(world: World, repo: Repo) -> None:
    base = weights(1, 400, 400)
    repo.commit(checkpoint({"w": bf16(base)}), "base.safetensors")
    contents = {f"{at}.safetensors": checkpoint({"w": bf16(few(base, at))}) for at in range(2)}
    for name, content in contents.items():
        repo.write(name, content)
    # Two `git add` would wait for one another's lock of the index; hash-object runs the same filter and takes none.
    running = [
        subprocess.Popen(
            ["git", "hash-object", "-w", "--path", name, name],
            cwd=repo.path,
            env=repo.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in contents
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=60) for process in running]
    assert all(process.returncode == 0 for process in running), answers
    assert all("Traceback" not in said for _, said in answers)
    repo.git("add", ".")
    repo.git("commit", "-q", "-m", "both")
    assert all(shown(repo, name)["w"] == ["sparse", "dense"] for name in contents)
    at_origin(world, repo)
    clone = world.clone(world.root / "hub.git")
    assert all(clone.read(name) == content for name, content in contents.items())
    repo.healthy()


def test_two_adds_at_once(repo: Repo) -> None:
    base = weights(1, 200, 200)
    repo.commit(checkpoint({"w": bf16(base)}), "base.safetensors")
    for at in range(2):
        repo.write(f"{at}.safetensors", checkpoint({"w": bf16(few(base, at))}))
    running = [
        subprocess.Popen(["git", "add", f"{at}.safetensors"], cwd=repo.path, env=repo.env, stderr=subprocess.PIPE)
        for at in range(2)
    ]
    said = [process.communicate(timeout=60)[1].decode() for process in running]
    for process, words in zip(running, said, strict=True):
        assert process.returncode == 0 or "index.lock" in words, words
    repo.git("add", ".")
    repo.git("commit", "-q", "-m", "both")
    repo.healthy()


@pytest.mark.slow
def test_kill_while_a_change_is_added(repo: Repo) -> None:
    """What is left of it is a temporary file at most, which a later add removes."""
    values = weights(1, 2048, SIDE)
    repo.commit(checkpoint({"w": bf16(values)}))
    content = checkpoint({"w": bf16(fine_tuned(values))})
    repo.write(M, content)
    before = names(repo)
    for delay in (0.15, 0.3, 0.45):
        process = subprocess.Popen(["git", "add", M], cwd=repo.path, env=repo.env, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        for child in [*children.read_text().split(), process.pid] if children.exists() else [process.pid]:
            try:
                os.kill(int(child), signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()
        (repo.git_dir / "index.lock").unlink(missing_ok=True)
    repo.git("theta", "fsck")
    for path in repo.objects():
        assert path.name in before or sha256(path.read_bytes()) == path.name
    left = list((repo.store / "tmp").iterdir())
    for path in left:
        os.utime(path, (1, 1))
    assert repo.commit(content) == sha256(content)
    assert not list((repo.store / "tmp").iterdir())
    (repo.path / M).unlink()
    repo.git("checkout", "--", M)
    assert repo.read() == content
    repo.healthy()


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


@pytest.mark.parametrize("seed", first_often(1, [0, 1, 2]))
def test_sparsified_weights_are_stored_in_little(repo: Repo, seed: int) -> None:
    """Whether HEAD holds the base or the trained version."""
    base = weights(seed, 512, 512)
    trained = base + normal(90 + seed, 512, 512, scale=0.001)
    repo.commit(checkpoint({"w": bf16(base)}))
    alone = stored(repo)
    repo.write(M, checkpoint({"w": bf16(trained)}))
    repo.git("add", M)
    if seed:
        repo.git("commit", "-q", "-m", "trained")
    before = names(repo)
    options = ("--method", "topk") if seed == 2 else ()
    repo.git("theta", "sparsify", M, "--base", "HEAD^" if seed else "HEAD", *options)
    content = repo.read()
    repo.git("add", M)
    repo.git("commit", "-q", "-m", "sparse")
    assert stored(repo, before) < alone / 8
    (repo.path / M).unlink()
    repo.git("checkout", "--", M)
    assert repo.read() == content
    repo.healthy()
