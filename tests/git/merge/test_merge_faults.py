"""Merging when things go wrong: kill -9, Ctrl-C, a full disk, lost or damaged objects.

The next command works, nothing is lost, and whatever is wrong is said in words.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.checkpoints import bf16, checkpoint, noise, normal, tensors_of
from tests.support.parameters import first_often
from tests.support.processes import kill, limited, processes_below, unlock
from tests.support.world import Repo, Template, World

M = "m.safetensors"
SHAPE = (200, 600)
BASE = {"still": normal(1, *SHAPE)} | {f"w{at}": bf16(normal(at, *SHAPE)) for at in range(4)}
SIDES = {
    name: BASE | {f"w{at}": bf16(normal(seed + at, *SHAPE)) for at in range(3)}
    for name, seed in {"main": 10, "a": 20, "b": 30}.items()
}
MERGE = ("merge", "--no-edit", "a")
OCTOPUS = ("merge", "--no-edit", "-s", "theta", "a", "b")
PICK = ("cherry-pick", "a")
REBASE = ("rebase", "a")
RESOLVE = ("theta", "resolve", M, "linear")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, installed_home: Path) -> Template:
    """Three branches that changed the same tensors; main is checked out."""
    world = World(tmp_path_factory.mktemp("built"), installed_home)
    repo = world.repo()
    repo.commit(checkpoint(BASE))
    for name in ("a", "b"):
        repo.branch(name, checkpoint(SIDES[name]))
    repo.git("checkout", "-q", "main")
    repo.commit(checkpoint(SIDES["main"]))
    repo.git("branch", "before")
    return Template(world.root, {})


@pytest.fixture
def sides(world: World, built: Template) -> Repo:
    """The repository of the three."""
    return built.copy_to(world)


OURS = checkpoint(SIDES["main"])


def restart(repo: Repo) -> None:
    """Give up whatever is going on, by git's own means, and look whether all is as it was."""
    unlock(repo.git_dir)
    for file in repo.path.glob(".merge_file_??????"):  # git's own, which it would have removed
        file.unlink()
    for verb in ("merge", "rebase", "cherry-pick"):
        repo.attempt("git", verb, "--abort")
    repo.git("checkout", "-q", "-f", "main")
    repo.git("reset", "-q", "--hard", "before")
    assert repo.read() == OURS
    repo.healthy()


def conflict(repo: Repo) -> None:
    """A merge in which the user wants to be asked."""
    repo.attempt("git", "-c", "theta.merge.method=conflict", *MERGE)
    assert repo.status() == f"UU {M}\n"


def strike(repo: Repo, words: tuple[str, ...], count: int) -> None:
    """Kill a command at some moments of its life, and see that nothing of it stays and that it can be run again."""
    began = time.monotonic()
    if words == RESOLVE:
        conflict(repo)
        began = time.monotonic()
    repo.git(*words)
    lasts = time.monotonic() - began
    result = repo.read()
    assert result != OURS
    restart(repo)
    chance = random.Random(f"{words}{count}")
    for at in range(count):
        if words == RESOLVE:
            conflict(repo)
        kill(repo, words, chance.uniform(0.1, 1.0) * lasts, ("filter", "git", "all")[at % 3])
        unlock(repo.git_dir)
        repo.git("status")
        repo.git("theta", "conflicts")
        repo.git("theta", "fsck", "--deep")
        if words == RESOLVE:
            assert repo.read() in (OURS, result), "torn"
            if repo.read() == OURS:
                repo.git(*words)
            assert repo.read() == result
        restart(repo)
    for file in (repo.store / "tmp").iterdir():
        os.utime(file, (0, 0))
    if words == RESOLVE:
        conflict(repo)
    repo.git(*words)
    assert repo.read() == result
    if words == RESOLVE:
        repo.git("commit", "-q", "-a", "--no-edit")
    repo.healthy()
    assert list((repo.store / "tmp").iterdir()) == []
    assert not [file for file in repo.path.iterdir() if file.name.endswith((".new", ".gittheta"))]


@pytest.mark.slow
@pytest.mark.parametrize("words", [MERGE, OCTOPUS], ids=["driver", "strategy"])
def test_killed(sides: Repo, words: tuple[str, ...]) -> None:
    strike(sides, words, 1)


@pytest.mark.slow
@pytest.mark.parametrize("words", [MERGE, OCTOPUS, PICK, REBASE, RESOLVE], ids=lambda words: "-".join(words[:2]))
def test_killed_often(sides: Repo, words: tuple[str, ...]) -> None:
    strike(sides, words, 6)


@pytest.mark.slow
@pytest.mark.parametrize("words", [MERGE, OCTOPUS, RESOLVE], ids=["driver", "strategy", "resolve"])
def test_interrupted(sides: Repo, words: tuple[str, ...]) -> None:
    """Ctrl-C goes to git and to all that it has started."""
    chance = random.Random(5)
    for _ in range(4):
        if words == RESOLVE:
            conflict(sides)
        merging = subprocess.Popen(
            ["git", *words],
            cwd=sides.path,
            env=sides.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        time.sleep(chance.uniform(0.2, 2.0))
        if merging.poll() is None:
            os.killpg(merging.pid, signal.SIGINT)
        said = merging.communicate()[1].decode()
        assert "Traceback" not in said, said
        while processes_below(merging.pid):
            time.sleep(0.02)
        sides.git("status")
        sides.git("theta", "conflicts")
        restart(sides)
    assert list((sides.store / "tmp").iterdir()) == []


@pytest.mark.parametrize("words", first_often(1, [MERGE, OCTOPUS]), ids=["driver", "strategy"])
def test_no_space(sides: Repo, words: tuple[str, ...]) -> None:
    done = limited(sides, " ".join(words), 100)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr, done.stderr
    assert M in done.stderr
    assert "free some space" in done.stderr
    assert sides.read() == OURS
    assert list((sides.store / "tmp").iterdir()) == []
    restart(sides)
    sides.git(*words)
    sides.healthy()


@pytest.mark.slow
def test_no_space_to_settle_a_conflict(sides: Repo) -> None:
    conflict(sides)
    done = limited(sides, " ".join(RESOLVE), 100)
    assert done.returncode == 20, done.stderr
    assert "free some space" in done.stderr
    assert sides.read() == OURS
    sides.git(*RESOLVE)
    assert sides.read() != OURS
    sides.git("commit", "-q", "-a", "--no-edit")
    sides.healthy()


@pytest.mark.slow
def test_no_space_for_the_merged_manifest(repo: Repo) -> None:
    """Each version fits, both together do not: Git must not get half a manifest."""
    base = {"x": normal(1, 2)}
    versions = [base | {f"{name}{at}": normal(at, 2) for at in range(400)} for name in "ab"]
    repo.commit(checkpoint(base))
    repo.branch("a", checkpoint(versions[0]))
    repo.git("checkout", "-q", "main")
    repo.commit(checkpoint(versions[1]))
    done = limited(repo, " ".join(MERGE), 100)
    assert done.returncode == 1, done.stderr
    assert "free some space" in done.stderr
    assert repo.read() == checkpoint(versions[1])
    assert sorted(file.name for file in repo.path.iterdir()) == [".git", ".gitattributes", M]
    repo.git("theta", "resolve", M, "linear")
    assert tensors_of(repo.read()) == tensors_of(checkpoint(versions[0] | versions[1]))


@pytest.mark.slow
def test_lost_objects(world: World, sides: Repo) -> None:
    """They are fetched; without a remote that has them it is said what is missing, and nothing has changed."""
    hub = world.bare()
    sides.git("push", "-q", str(hub), "--all")
    shutil.rmtree(sides.store / "objects")
    said = sides.fails(*MERGE)
    assert "tensor 'w0': object " in said
    assert sides.read() == OURS
    sides.git("remote", "add", "origin", str(hub))
    sides.git("merge", "--abort")
    assert sides.read() == OURS
    sides.git(*OCTOPUS)
    sides.git("theta", "fetch", "--all")
    sides.healthy()


@pytest.mark.slow
def test_a_damaged_object(sides: Repo) -> None:
    text = sides.manifest(revision="a")
    found = re.search(r"\[w1\]\n.*\n(?:.* )?(\w{64}):(\d+)\+", text)
    assert found
    (file,) = [file for file in sides.objects() if file.name == found[1]]
    data = bytearray(file.read_bytes())
    data[int(found[2]) + 2000] ^= 16
    file.chmod(0o644)
    file.write_bytes(data)
    for words in (MERGE, OCTOPUS):
        said = sides.fails(*words)
        assert "tensor 'w1': " in said
        assert "git theta fsck" in said
        assert sides.read() == OURS
        sides.attempt("git", "merge", "--abort")
        assert sides.status() == ""


@pytest.mark.slow
def test_merges_at_once_in_two_worktrees(world: World, sides: Repo) -> None:
    sides.git("worktree", "add", "-q", "../linked", "-b", "linked", "before")
    linked = Repo(world.root / "linked", world.env)
    linked.write("new.safetensors", checkpoint({"x": ("U8", (1 << 20,), noise(1, 1 << 20))}))
    commands = [(sides, OCTOPUS), (linked, MERGE), (linked, ("theta", "fsck", "--deep"))]
    going = [
        subprocess.Popen(["git", *words], cwd=place.path, env=place.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for place, words in commands
    ]
    for each in going:
        said = each.communicate()[1]
        assert each.returncode == 0, said.decode()
    linked.commit(linked.read("new.safetensors"), "new.safetensors")
    for place in (sides, linked):
        sha = place.sha()
        (place.path / M).unlink()
        place.git("checkout", "--", M)
        assert place.sha() == sha
        place.healthy()
<<<<<<< HEAD:tests/git/merge/test_merge_faults.py
=======


@pytest.fixture
def small(repo: Repo) -> Repo:
    """Two branches that changed small tensors; what is hostile comes on top of `side`."""
    base, ours, theirs = ({"a": normal(seed, 6, 4), "b": normal(seed + 5, 3)} for seed in (1, 2, 3))
    repo.commit(checkpoint(base))
    repo.branch("side", checkpoint(theirs))
    repo.git("checkout", "-q", "main")
    repo.commit(checkpoint(ours))
    return repo


def hostile(repo: Repo, *files: tuple[str, str, str]) -> None:
    """The branch `odd`: `side`, and files (mode, name, content) as they are, past every filter."""
    index = {"GIT_INDEX_FILE": str(repo.git_dir / "scratch")}
    repo.git("read-tree", "side", env=index)
    for mode, name, content in files:
        blob = repo.git("hash-object", "-w", "--stdin", "--no-filters", stdin=content).strip()
        repo.git("update-index", "--add", "--cacheinfo", f"{mode},{blob},{name}", env=index)
    commit = repo.git("commit-tree", repo.git("write-tree", env=index).strip(), "-p", "side", "-m", "odd").strip()
    repo.git("branch", "-f", "odd", commit)


#: What is done to their manifest, and what must be said.
MALFORMED = {
    "another shape": (r"f32 6x4", "f32 4x6", "shape [6, 4] in ours, [4, 6] in theirs"),
    "an absurd shape": (r"f32 6x4", "f32 60000000x4000000", "shape [6, 4] in ours, [60000000, 4000000] in theirs"),
    "another dtype": (r"f32 6x4", "bf16 6x8", "dtype f32 in ours, bf16 in theirs"),
    "another digest": (r"(\[a\]\n.*b3:)\w{8}", r"\g<1>00000000", "git theta fsck"),
    "an unknown encoding": (r"(\[a\]\n.*\n)\w+", r"\1psychic", "no encoding named 'psychic'"),
    "an unknown object": (r"(\[a\]\n.*\n(?:.* )?)\w{8}(?=\w{56}:)", r"\g<1>00000000", "is not in the store"),
    "a huge skeleton": (r"skeleton \d+", "skeleton 99999999999", "more than any format needs"),
    "the future": (r"manifest 1:", "manifest 2:", "pip install --upgrade gittheta"),
}


@pytest.mark.slow
def test_malformed_manifests(small: Repo) -> None:
    text, before = small.manifest(revision="side"), small.read()
    for name, (pattern, by, words) in MALFORMED.items():
        changed, count = re.subn(pattern, by, text)
        assert count, name
        hostile(small, ("100644", M, changed))
        said = small.fails("merge", "--no-edit", "odd", status=1)
        assert words in said, name
        assert (small.read(), small.status()) == (before, f"UU {M}\n"), name
        small.git("theta", "conflicts")
        small.git("merge", "--abort")
    assert (small.read(), small.status()) == (before, "")


@pytest.mark.slow
def test_rules_and_attributes_of_the_other_side_have_no_say(small: Repo) -> None:
    rules = "[[rule]]\nmethod = 'take'\nfrom = 'theirs'\n"
    attributes = "*.safetensors filter=theta merge=theta diff=theta -text theta-merge=take:from=theirs\n"
    small.git("merge", "-q", "--no-edit", "side")
    expected = small.read()
    small.git("reset", "-q", "--hard", "HEAD^")
    for strategy in ("ort", "theta"):
        hostile(small, ("100644", "theta.toml", rules), ("100644", ".gitattributes", attributes))
        small.git("merge", "-q", "--no-edit", "-s", strategy, "odd")
        assert small.read() == expected
        assert "Theta-Merge: m.safetensors linear" in small.git("log", "-1", "--format=%B")
        small.git("reset", "-q", "--hard", "HEAD^")


SIDECAR = "m.fisher.safetensors"


@pytest.mark.slow
def test_hostile_statistics(repo: Repo) -> None:
    values = {"a": (6, 4), "b": (3,), "c": (5,)}
    base, ours, theirs = ({name: normal(seed, *shape) for name, shape in values.items()} for seed in (1, 2, 3))
    repo.write(SIDECAR, checkpoint({name: np.ones(shape, "f4") for name, shape in values.items()}))
    repo.git("add", ".")
    repo.commit(checkpoint(base))
    bad = {"a": np.ones((4, 6), "f4"), "b": np.full(3, np.nan, "f4"), "c": np.full(5, -1, "f4")}
    repo.write(SIDECAR, checkpoint(bad))
    repo.git("add", ".")
    repo.branch("side", checkpoint(theirs))
    repo.git("checkout", "-q", "main")
    repo.commit(checkpoint(ours))
    merge = ("merge", "--no-edit", "-s", "theta", "-X", "method=fisher")
    said = repo.fails(*merge, "side", status=1)
    assert "tensor 'a': the statistics (fisher) of theirs have the shape [4, 6], not [24]" in said
    assert "tensor 'b': the statistics (fisher) of theirs has NaN" in said
    assert "tensor 'c': the statistics (fisher) of theirs have negative values" in said
    repo.git("merge", "--abort")
    for mode, text in (("100644", "notes"), ("120000", "/etc/passwd")):
        hostile(repo, (mode, SIDECAR, text))
        assert f"theirs has no {SIDECAR}" in repo.fails(*merge, "odd", status=1)
        repo.git("reset", "-q", "--hard")
    assert repo.read() == checkpoint(ours)
    repo.healthy()


@pytest.mark.parametrize(
    "pattern", ["{stem.__class__}", "{kind:>1000000000}", "{", "}", "{0}", "../{stem}", "/../x", ""]
)
def test_patterns_of_statistics_are_words(pattern: str) -> None:
    with pytest.raises(MergeError, match="stats is '"):
        sidecar_path(pattern, "models/m.safetensors", "fisher")


def test_no_object_is_found_by_a_name_with_a_nul(small: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in small.env.items():
        monkeypatch.setenv(key, value)
    with Workspace.open(small.path) as workspace:
        assert workspace.blobs.read(f"HEAD:a\0HEAD:{M}") is None
        assert workspace.blobs.read(f"HEAD:{M}") == small.manifest(revision="HEAD").encode()


@pytest.mark.parametrize(
    "method", ["ties", "nuslerp", "multislerp", "karcher", "model_stock", "sce", "task_arithmetic"]
)
@pytest.mark.parametrize("weight", [1e308, [1e308, -1e308], 5e-324])
def test_weights_at_the_ends_of_their_range(method: str, weight: float | list[float]) -> None:
    """Either there are numbers, or a MergeError; nothing else is raised."""
    base, *sides = ({"w": torch.from_numpy(normal(seed, 6, 4)).bfloat16()} for seed in (1, 2, 3))
    with suppress(MergeError):
        assert bool(torch.isfinite(gittheta.merge(base, sides, method, weight=weight)["w"]).all())


@dataclass(frozen=True)
class Stumbles:
    """A method that raises what no method should."""

    name: ClassVar[str] = "stumbles"

    def merge(self, group: Group) -> torch.Tensor:
        """Raises ZeroDivisionError."""
        return group.sides[0] * (1 // 0)


def test_a_method_may_raise_anything() -> None:
    spec = TensorSpec("w", DTYPES["f32"], (3,))
    sides = (ResidentOperand(spec, torch.zeros(3)), ResidentOperand(spec, torch.ones(3)))
    task = Task("w", None, sides, ("ours", "theirs"), (1.0, 1.0), Stumbles())
    with (
        computing("cpu") as compute,
        pytest.raises(MergeError, match="tensor 'w': stumbles fails: ZeroDivision") as got,
    ):
        list(merge_tensor(task, compute))
    assert isinstance(got.value.__cause__, ZeroDivisionError)


@pytest.mark.slow
def test_devices_that_are_not_there(small: Repo) -> None:
    said = small.run("-c", "theta.device=cuda:77", "merge", "--no-edit", "side").stderr
    assert "warning: the device cuda:77 is not there" in said
    merged = sha256(small.read())
    small.git("reset", "-q", "--hard", "HEAD^")
    text = small.fails("-c", "theta.device=toaster", "merge", "--no-edit", "side", status=1)
    assert "not a device: 'toaster'" in text
    small.git("merge", "--abort")
    small.git("merge", "-q", "--no-edit", "side")
    assert small.sha() == merged
>>>>>>> 179cfa02457d62dc675648ff92c92103379ac6a6:tests/git/test_merge_faults.py
