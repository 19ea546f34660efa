"""What a merge would do, shown beforehand; what it did, recorded in the commit; and whether it can be repeated."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint, normal
from tests.support.world import Repo, Template, World

M = "m.safetensors"
BASE = {
    "both": normal(1, 300, 300),
    "alike": normal(2, 9),
    "one": normal(3, 9),
    "n": np.arange(3),
    "still": normal(4, 9),
}
OURS = BASE | {"both": normal(11, 300, 300), "alike": normal(12, 9), "one": normal(13, 9), "n": np.arange(3) + 1}
THEIRS = BASE | {"both": normal(21, 300, 300), "alike": normal(12, 9), "n": np.arange(3) + 2, "added": normal(5, 2)}
#: A method that reads no tensor, for tests of everything around it.
TAKE = ("-c", "theta.merge.method=take", "-c", "theta.merge.from=theirs")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, installed_home: Path) -> Template:
    """Two branches that changed a model; main is checked out. `early` is where they parted, `third` another."""
    world = World(tmp_path_factory.mktemp("built"), installed_home)
    repo = world.repo()
    repo.commit(checkpoint(BASE))
    repo.git("branch", "early")
    repo.branch("third", checkpoint(BASE | {"one": normal(33, 9)}))
    repo.branch("side", checkpoint(THEIRS))
    repo.git("checkout", "-q", "main")
    repo.commit(checkpoint(OURS))
    return Template(world.root, {})


@pytest.fixture
def sides(world: World, built: Template) -> Repo:
    """The repository of these."""
    return built.copy_to(world)


def preview(repo: Repo, *words: str) -> dict[str, Any]:
    """The plan for the one model."""
    (plan,) = json.loads(repo.git("theta", "merge-plan", "--json", *words))
    return {"sides": plan["sides"], "summary": plan["summary"]} | {each.pop("name"): each for each in plan["tensors"]}


def everything(repo: Repo) -> dict[str, str]:
    """All files, but for what Git itself notes about files when it looks at them."""
    files = (path for path in repo.path.rglob("*") if path.is_file() and path.name not in ("index", "known.sqlite-shm"))
    results = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return results | {"index": repo.git("ls-files", "--stage"), "status": repo.status()}


def trailers(repo: Repo, revision: str = "HEAD") -> list[str]:
    """Of a commit."""
    result = repo.git("log", "-1", "--format=%(trailers:key=Theta-Merge,valueonly)", revision)
    return [line for line in result.splitlines() if line]


@pytest.mark.slow
def test_each_action_and_its_numbers(sides: Repo) -> None:
    before = everything(sides)
    plan = preview(sides, "side")
    assert everything(sides) == before
    assert plan["sides"] == ["ours", "theirs"]
    assert plan["still"] == {"action": "unchanged"}
    assert plan["alike"] == {"action": "same"}
    assert plan["one"] == {"action": "taken", "from": "ours"}
    assert plan["added"] == {"action": "taken", "from": "theirs"}
    assert plan["n"] == {"action": "conflict", "reason": "i64 values changed differently on both sides"}
    both = plan["both"]
    assert (both["action"], both["method"], both["options"], both["because"]) == (
        "merge",
        "linear",
        {"weight": "1"},
        "default",
    )
    one, other = ((each["both"].astype(np.float64) - BASE["both"]).ravel() for each in (OURS, THEIRS))
    np.testing.assert_allclose(both["norms"], [np.linalg.norm(one), np.linalg.norm(other)], rtol=1e-12)
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    np.testing.assert_allclose(both["cosines"], [cosine], rtol=1e-10)
    changed = (one != 0) & (other != 0)
    assert both["sign_agreements"] == [(np.sign(one) == np.sign(other))[changed].mean()]
    assert both["hint"]


@pytest.mark.slow
def test_three_sides_and_options(sides: Repo) -> None:
    plan = preview(sides, "--no-numbers", "-X", "method=task_arithmetic", "-X", "weight=1,2,3", "side", "third")
    assert plan["sides"] == ["HEAD", "side", "third"]
    assert plan["one"]["method"] == "task_arithmetic"
    assert plan["one"]["options"]["weight"] == "1,2,3"
    assert plan["one"]["because"] == "the command line"
    assert "norms" not in plan["one"]
    assert plan["still"] == {"action": "unchanged"}
    message = sides.fails("theta", "merge-plan", "-X", "weight=1,2", "side", "third", status=40)
    assert "HEAD, side, third" in message
    table = sides.git("theta", "merge-plan", "-X", "method=take", "-X", "from=third", "side", "third").splitlines()
    assert table[0].startswith(f"{M}: 1 unchanged")
    assert [line.split()[:3] for line in table if line.startswith("both")] == [["both", "from", "third"]]


@pytest.mark.slow
def test_nothing_to_merge_and_names_of_nothing(sides: Repo) -> None:
    for name in ("nonesuch", "HEAD:m.safetensors", "", "-", "side..main", "--no-such-option"):
        done = sides.attempt("git", "theta", "merge-plan", name)
        assert done.returncode in (2, 50), name
        assert "Traceback" not in done.stderr
    for words in ([], ["-X", "density", "side"], ["-X", "=1", "side"], ["--replay", "HEAD", "side"]):
        assert sides.attempt("git", "theta", "merge-plan", *words).returncode == 2, words
    assert sides.git("theta", "merge-plan", "HEAD") == "no checkpoint would change\n"
    assert sides.git("theta", "merge-plan", "early") == "no checkpoint would change\n"
    sides.git("checkout", "-q", "early")
    assert preview(sides, "side")["both"] == {"action": "taken", "from": "theirs"}
    sides.git("checkout", "-q", "--orphan", "unrelated")
    sides.git("commit", "-q", "-m", "the same file, added")
    plan = preview(sides, "--no-numbers", "side")
    assert plan["still"] == {"action": "same"}
    assert plan["both"]["reason"] == "added on both sides with different values"


@pytest.mark.slow
def test_values_that_are_not_finite_are_said_in_json(sides: Repo) -> None:
    sides.commit(checkpoint(OURS | {"both": np.full((300, 300), np.inf, np.float32)}))
    both = preview(sides, "side")["both"]
    assert both["norms"][0] is None
    assert both["cosines"] == [None]
    assert "not finite" in both["hint"]


@pytest.mark.slow
def test_a_merge_says_how_it_was_made_and_is_repeated(sides: Repo, world: World) -> None:
    sides.commit(checkpoint(OURS | {"n": THEIRS["n"]}))
    sides.write("k.safetensors", checkpoint({"k": normal(1, 9)}))
    sides.git(
        "-c", "theta.merge.method=task_arithmetic", "-c", "theta.merge.lambda=0.5", "merge", "-q", "-m", "Both", "side"
    )
    message = sides.git("log", "-1", "--format=%B")
    assert message.startswith(f"Both\n\nTheta-Merge: {M} task_arithmetic lambda=0.5 ")
    assert sides.git("theta", "merge-plan", "--replay", "HEAD") == f"{M}: reproduces to the bit\n"
    (sides.path / "k.safetensors").unlink()
    copy = world.clone(sides.path)
    replayed = json.loads(copy.git("theta", "merge-plan", "--replay", "origin/main", "--json"))
    assert replayed == [{"path": M, "different": [], "problem": ""}]
    assert copy.status() == ""
    sides.write(M, checkpoint(OURS | {"both": normal(99, 300, 300)}))
    sides.git("commit", "-q", "-a", "--amend", "--no-edit")
    done = sides.attempt("git", "theta", "merge-plan", "--replay", "HEAD")
    assert done.returncode == 1
    assert f"{M}: " in done.stdout
    assert "come out otherwise" in done.stdout
    assert "both" in done.stdout
    assert "added" in done.stdout
    assert "still" not in done.stdout
    for name in ("HEAD^", "HEAD^2", "early"):
        assert "not a merge in which tensors were computed" in sides.fails(
            "theta", "merge-plan", "--replay", name, status=50
        )
    assert "not a commit" in sides.fails("theta", "merge-plan", "--replay", "nonesuch", status=50)


@pytest.mark.slow
def test_messages(sides: Repo) -> None:
    """Of whatever kind, they keep what they say, and have the trailers as a paragraph of their own."""
    line = f"Theta-Merge: {M} take from=theirs"
    tip = sides.git("rev-parse", "HEAD").strip()
    for words, expected in [
        (["-m", "Two", "-m", "paragraphs"], "Two\n\nparagraphs"),
        (["-m", "Signed\n\nReviewed-by: A <a@b>"], "Signed\n\nReviewed-by: A <a@b>"),
        (["--no-edit", "--signoff"], "Merge branch 'side'\n\nSigned-off-by: Tester <tester@example.com>"),
    ]:
        sides.git(*TAKE, "merge", "-q", *words, "side")
        separator = "\n" if ": " in expected else "\n\n"
        assert sides.git("log", "-1", "--format=%B").strip() == f"{expected}{separator}{line}", words
        sides.git("reset", "-q", "--hard", tip)
    sides.git("-c", "commit.verbose=true", *TAKE, "merge", "-q", "--no-commit", "side")
    sides.git("-c", "commit.verbose=true", "commit", "-q", "-e", "--no-edit")
    assert sides.git("log", "-1", "--format=%B").strip() == f"Merge branch 'side'\n\n{line}"
    sides.git("commit", "-q", "--amend", "-m", "amended")
    assert trailers(sides) == [], "who writes another message means it"


@pytest.mark.slow
def test_where_no_trailers_belong(sides: Repo) -> None:
    tip = sides.git("rev-parse", "HEAD").strip()
    sides.git(*TAKE, "merge", "-q", "--squash", "side")
    sides.git("commit", "-q", "-m", "squashed")
    assert trailers(sides) == []
    sides.git("reset", "-q", "--hard", tip)
    sides.git(*TAKE, "cherry-pick", "side")
    assert trailers(sides) == []
    sides.git("reset", "-q", "--hard", "early")
    sides.git("merge", "-q", "--ff-only", "side")
    sides.git("reset", "-q", "--hard", "early")
    sides.git("merge", "-q", "--no-ff", "--no-edit", "side")
    assert trailers(sides) == []
    sides.git("merge", "-q", "--no-edit", "third")
    assert trailers(sides) == [], "nothing was decided by a method"


@pytest.mark.slow
def test_an_annotated_tag_is_merged_like_its_commit(sides: Repo) -> None:
    sides.git("tag", "-a", "-m", "a release", "v1", "side")
    sides.git(*TAKE, "merge", "-q", "--no-edit", "v1")
    assert trailers(sides) == [f"{M} take from=theirs"]


@pytest.mark.slow
def test_the_user_s_own_hook_is_kept(sides: Repo) -> None:
    hook = sides.git_dir / "hooks" / "prepare-commit-msg"
    hook.unlink(missing_ok=True)
    hook.write_text('#!/bin/sh\nprintf "Ticket: 7\\n" | cat "$1" - >"$1.new" && mv "$1.new" "$1"\n')
    hook.chmod(0o755)
    sides.git("theta", "install")
    sides.git(*TAKE, "merge", "-q", "-m", "Both\n", "side")
    message = sides.git("log", "-1", "--format=%B")
    assert "Ticket: 7" in message
    assert message.count("Theta-Merge: ") == 1
    assert trailers(sides) == [f"{M} take from=theirs"]
    sides.commit(checkpoint(BASE))
    assert trailers(sides) == []


@pytest.mark.slow
def test_several_files(sides: Repo) -> None:
    name = "a b.safetensors"
    for branch, values in {"early": BASE, "late": THEIRS, "mine": OURS}.items():
        sides.git("checkout", "-q", *([branch] if branch == "early" else ["-b", branch, "early"]))
        sides.write(name, checkpoint(values))
        sides.commit(checkpoint(values | {"still": normal(77, 9)}), "third.safetensors")
        sides.commit(checkpoint(values), name, branch)
    sides.git(*TAKE, "merge", "-q", "--no-edit", "late")
    assert trailers(sides) == [f"'{name}' take from=theirs", "third.safetensors take from=theirs"]
    assert sides.git("theta", "merge-plan", "--replay", "HEAD").count("reproduces to the bit") == 2


@pytest.mark.parametrize("recursive", ["binary", "theta"])
@pytest.mark.slow
def test_criss_cross(sides: Repo, recursive: str) -> None:
    """With two merge bases: Git may have them merged first, which is not part of this merge."""
    sides.git("config", "merge.theta.recursive", recursive)
    sides.git("branch", "first")
    sides.git(*TAKE, "merge", "-q", "--no-edit", "side")
    sides.git("checkout", "-q", "side")
    sides.git("-c", "theta.merge.method=take", "-c", "theta.merge.from=ours", "merge", "-q", "--no-edit", "first")
    sides.commit(checkpoint(OURS | {"n": np.arange(3) + 9, "both": THEIRS["both"]}))
    sides.git("checkout", "-q", "main")
    sides.commit(checkpoint(OURS | {"n": np.arange(3) + 8}))
    done = sides.attempt("git", *TAKE, "merge", "--no-edit", "side")
    assert done.returncode == 0, done.stderr
    assert trailers(sides) == [f"{M} take from=theirs"]
    done = sides.attempt("git", "theta", "merge-plan", "--replay", "HEAD")
    assert "Traceback" not in done.stderr
    assert "reproduces to the bit" in done.stdout or "criss-cross" in done.stdout
    sides.healthy()
