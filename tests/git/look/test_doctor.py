"""`git theta doctor`: each thing that is wrong is named, with what to do."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.support.checkpoints import model
from tests.support.world import Repo, World, git_version

Found = dict[str, tuple[str, str, str]]


def examined(repo: Repo, *words: str) -> Found:
    """Verdict, what, and remedy, by what it is about."""
    done = repo.attempt("git", "theta", "doctor", "--json", *words)
    assert "Traceback" not in done.stderr
    found = json.loads(done.stdout)
    assert done.returncode == any(each["verdict"] == "bad" for each in found)
    return {each["about"]: (each["verdict"], each["what"], each["remedy"]) for each in found}


@pytest.fixture
def pushed(world: World, repo: Repo) -> Repo:
    repo.git("remote", "add", "origin", str(world.bare()))
    repo.commit(model(1))
    repo.git("push", "-q", "-u", "origin", "main")
    return repo


def test_all_is_well(pushed: Repo) -> None:
    found = examined(pushed)
    assert {verdict for verdict, _, _ in found.values()} <= {"good", "note"}
    assert found["remote origin"][0] == found["hooks"][0] == found["settings"][0] == "good"
    assert "1 object" in found["store"][1]
    told = pushed.git("theta", "doctor", "--no-remote")
    assert "remote" not in told
    assert "ok   hooks: in force" in told


def test_what_is_wrong(world: World, pushed: Repo) -> None:
    (world.root / "hub.git").rename(world.root / "away.git")
    (pushed.path / ".jj").mkdir()
    pushed.git("config", "filter.theta.required", "false")
    pushed.git("config", "core.hooksPath", "/nowhere")
    found = examined(pushed)
    bad = {about for about, (verdict, _, _) in found.items() if verdict == "bad"}
    by_configuration = git_version() >= (2, 54)  # then no folder of hooks counts
    assert bad == {"remote origin", ".jj", "settings", *(() if by_configuration else ("hooks",))}
    assert by_configuration or found["hooks"][2] == "git theta install"


def test_a_setting_without_meaning(pushed: Repo) -> None:
    pushed.git("config", "theta.transfers", "many")
    assert "theta.transfers is 'many'" in examined(pushed, "--no-remote")["settings"][1]


def test_models_that_git_has_whole(pushed: Repo) -> None:
    pushed.write("big.safetensors", bytes(2 << 20))
    oid = pushed.git("hash-object", "-w", "--no-filters", "big.safetensors").strip()
    pushed.git("update-index", "--add", "--cacheinfo", f"100644,{oid},big.safetensors")
    pushed.git("commit", "-q", "--no-verify", "-m", "raw")
    verdict, what, remedy = examined(pushed, "--no-remote")["history"]
    assert (verdict, "1 model whole in Git, 2 MiB" in what) == ("note", True)
    assert "migrate import" in remedy


def test_a_repository_without_a_commit(world: World) -> None:
    subprocess.run(["git", "init", "-q", str(world.root / "empty")], env=world.env, check=True)
    assert examined(Repo(world.root / "empty", world.env))["git"][0] == "good"
