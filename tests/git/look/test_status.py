"""`git theta status`: every way in which a tracked file may stand, and what to do about it."""

from __future__ import annotations

import json

import pytest

from tests.support.checkpoints import model, noise
from tests.support.world import Repo, World

M = "m.safetensors"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"7" * 64 + b"\nsize 4294967296\n"
#: For a colleague's git that knows nothing of gittheta.
WITHOUT = ("-c", "filter.theta.process=", "-c", "filter.theta.clean=", "-c", "filter.theta.required=false")


def _states(repo: Repo, *options: str) -> dict[str, str]:
    return {
        file["path"]: file["state"] for file in json.loads(repo.git("theta", "status", "--json", *options))["files"]
    }


@pytest.fixture
def everything(world: World, repo: Repo) -> Repo:
    """One file of each state."""
    repo.write("good.safetensors", model(2))
    repo.write("text.safetensors", '{"é": 1}\n'.encode())
    repo.write("pointer.safetensors", POINTER)
    repo.write("empty.safetensors", b"")
    repo.write("left.safetensors", model(3))
    repo.git("add", ".")
    repo.write("whole.safetensors", model(1))
    repo.git(*WITHOUT, "add", "whole.safetensors")
    repo.git("-c", "theta.allowLfsPointers=true", "commit", "-q", "-m", "all")
    repo.write("left.safetensors", repo.manifest("left.safetensors").encode())
    repo.write("untracked.safetensors", repo.manifest("good.safetensors").encode())
    return repo


def test_every_state_is_told_with_its_remedy(everything: Repo) -> None:
    assert _states(everything) == {
        "empty.safetensors": "empty",
        "good.safetensors": "complete",
        "left.safetensors": "manifest only",
        "pointer.safetensors": "Git LFS pointer",
        "text.safetensors": "text, as it is",
        "untracked.safetensors": "manifest only",
        "whole.safetensors": "whole in Git",
    }
    told = everything.git("theta", "status")
    for words in ("git add --renormalize", "git lfs pull", "git theta pull", "1 checkpoint complete"):
        assert words in told
    everything.git("theta", "pull")
    everything.git("add", "--renormalize", "whole.safetensors")
    states = _states(everything)
    for name in ("whole", "left", "untracked"):
        assert states.get(f"{name}.safetensors", "complete") == "complete"


@pytest.mark.slow
def test_ls_files_and_fsck_agree(everything: Repo) -> None:
    rows = {row["path"]: row["state"] for row in json.loads(everything.git("theta", "ls-files", "--json"))}
    assert rows == {path: state for path, state in _states(everything).items() if "untracked" not in path}
    done = everything.run("theta", "fsck")
    assert "0 problems" in done.stdout
    for words in ("whole.safetensors", "--renormalize", "pointer.safetensors", "git lfs pull", "text, as it is: text."):
        assert words in done.stderr
    assert "good.safetensors" not in done.stderr


@pytest.mark.slow
def test_show_says_what_a_file_is_instead(everything: Repo) -> None:
    told = {"whole": "renormalize", "pointer": "git lfs pull", "text": "text", "empty": "empty"}
    for name, words in told.items():
        assert words in everything.fails("theta", "show", f"{name}.safetensors", status=12)


def test_nothing_to_tell(repo: Repo) -> None:
    repo.commit(model(1))
    assert repo.git("theta", "status") == "1 checkpoint complete\n"


@pytest.mark.slow
def test_what_was_not_pushed(world: World, repo: Repo) -> None:
    hub = world.bare()
    repo.git("remote", "add", "origin", str(hub))
    repo.commit(model(1))
    repo.git("push", "-q", "--no-verify", "origin", "main")
    assert "git theta push origin" in repo.git("theta", "status")
    assert "not on" not in repo.git("theta", "status", "--no-remote")
    repo.git("theta", "push", "origin")
    assert "not on" not in repo.git("theta", "status")
    repo.write(M, model(2))
    repo.git("add", M)
    assert "not on 'origin':\n  (git push" in repo.git("theta", "status")
    repo.git("remote", "set-url", "origin", "https://localhost:1/x.git")
    assert "was not asked" in repo.git("theta", "status")


def test_broken_files(world: World, repo: Repo) -> None:
    repo.commit(model(1))
    repo.commit(b"gittheta manifest 1: and nothing that follows\n" + noise(1, 50), "odd.bin")
    repo.write(".gitattributes", b"* filter=theta merge=theta diff=theta -text\n")
    for file in repo.objects():
        file.unlink()
    files = {file["path"]: file for file in json.loads(repo.git("theta", "status", "--json"))["files"]}
    assert files[M]["state"] == files["odd.bin"]["state"] == "broken"
    assert "neither here nor on a remote" in files[M]["reason"]
    assert "manifest" in files["odd.bin"]["reason"]


def test_pending_and_objects_that_only_the_remote_has(world: World, repo: Repo) -> None:
    repo.commit(model(1))
    clone = world.clone(repo.path, "clone", "--no-checkout")
    (clone.path / M).write_text(repo.manifest())
    clone.git("read-tree", "HEAD")
    assert _states(clone) == {M: "manifest only"}
    (clone.git_dir / "theta-pending").write_bytes(M.encode() + b"\0")
    assert _states(clone) == {M: "pending"}


@pytest.mark.slow
def test_a_filter_that_is_not_in_force(repo: Repo) -> None:
    repo.commit(model(1))
    repo.git("config", "filter.theta.required", "false")
    assert "git theta install" in repo.git("theta", "status")
    assert "filter.theta.required" in repo.run("theta", "track", "*.bin").stderr
    repo.git("config", "filter.theta.process", "")
    assert "does not know gittheta" in repo.git("theta", "status")


def test_a_whole_file_is_told_once_at_checkout(everything: Repo) -> None:
    name = "whole.safetensors"
    (everything.path / name).unlink()
    done = everything.run("checkout", "--", name)
    assert done.stderr.count(name) == 1
    assert "--renormalize" in done.stderr
    (everything.path / "text.safetensors").unlink()
    assert everything.run("checkout", "--", "text.safetensors").stderr == ""
