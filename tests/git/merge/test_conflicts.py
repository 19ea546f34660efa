"""Conflicts between models: listed, resolved tensor by tensor, finished with plain git; nothing is lost on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint, metadata_of, normal, tensors_of
from tests.support.parameters import first_often
from tests.support.world import Place, Repo, Template, World, two_branches

M = "m.safetensors"
BASE = {"i": np.arange(4), "j": np.arange(5), "w": normal(1, 6, 4), "x": normal(2, 9), "still": normal(3, 400)}
OURS = BASE | {"i": np.arange(4) + 1, "j": np.arange(5) + 1}
THEIRS = BASE | {"i": np.arange(4) + 2, "j": np.arange(5) + 2, "x": normal(22, 9)}
MIXED = THEIRS | {"j": OURS["j"]}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, installed_home: Path) -> Template:
    """main and side have changed two tensors of integers each in its own way; main is checked out."""
    versions = map(checkpoint, (BASE, OURS, THEIRS))
    return two_branches(tmp_path_factory.mktemp("built"), installed_home, *versions)


@pytest.fixture
def sides(world: World, built: Template) -> Repo:
    """The repository of the two."""
    return built.copy_to(world)


def conflicts(place: Place, *paths: str) -> dict[str, list[str]]:
    """Tensors that are in conflict, by file."""
    return {each["path"]: [tensor["name"] for tensor in each["tensors"]] for each in conflicts_of(place, *paths)}


def conflicts_of(place: Place, *paths: str) -> list[dict[str, Any]]:
    """What is said about conflicts."""
    result: list[dict[str, Any]] = json.loads(place.git("theta", "conflicts", "--json", *paths))
    return result


def trailers(repo: Repo, revision: str = "HEAD") -> list[str]:
    """Of a commit."""
    result = repo.git("log", "-1", "--format=%(trailers:key=Theta-Merge,valueonly)", revision)
    return [line for line in result.splitlines() if line]


def test_resolved_tensor_by_tensor(sides: Repo) -> None:
    sides.fails("merge", "--no-edit", "side", status=1)
    (result,) = conflicts_of(sides)
    assert result["sides"] == ["ours", "theirs"]
    assert result["tensors"][0] == {"name": "i", "reason": "i64 values changed differently on both sides"}
    resolve = ("theta", "resolve", M)
    assert "1 still in conflict" in sides.git(*resolve, "--tensors", "i", "--method", "take", "-o", "from=ours")
    assert conflicts(sides) == {M: ["j"]}
    assert sides.read() == checkpoint(OURS)
    assert "1 still in conflict" in sides.git(*resolve, "--tensors", "[hi]", "take", "--from", "theirs")
    assert "all settled" in sides.git(*resolve, "take", "--from", "ours")
    assert sides.read() == checkpoint(MIXED)
    assert (conflicts(sides), sides.status()) == ({M: []}, f"UU {M}\n")
    assert f"all settled; to keep it: git add {M}" in sides.git("theta", "conflicts")
    assert "git checkout --merge" in sides.fails(*resolve, "take", "--from", "theirs", status=40)
    sides.git("add", M)
    assert sides.git("theta", "conflicts") == "no checkpoint is in conflict\n"
    sides.git("commit", "-q", "-m", "both")
    assert trailers(sides) == [f"{M} take from=theirs tensors=i", f"{M} take from=ours"]
    assert "reproduces to the bit" in sides.git("theta", "merge-plan", "--replay", "HEAD")
    sides.healthy()


@pytest.mark.slow
def test_what_cannot_resolve_changes_nothing(sides: Repo) -> None:
    sides.fails("merge", "--no-edit", "side", status=1)
    resolve = ("theta", "resolve", M)
    for words, message, status in [
        ((*resolve,), "say how", 2),
        ((*resolve, "linear", "--method", "ties"), "two methods", 2),
        ((*resolve, "conflict"), "name a method", 2),
        ((*resolve, "linear", "-o", "weight"), "not of the form KEY=VALUE", 2),
        ((*resolve, "nonesuch"), "'nonesuch'", 10),
        ((*resolve, "linear", "-o", "density=1"), "linear has no option 'density'", 40),
        ((*resolve, "linear"), "tensor 'i': linear cannot settle this: i64 values", 40),
        ((*resolve, "take"), "does not say from where", 40),
        ((*resolve, "take", "--from", "them"), "ours, theirs", 40),
        ((*resolve, "--metadata", "them"), "no side 'them'", 40),
        ((*resolve, "--tensors", "x", "take", "--from", "theirs"), "no tensor in conflict fits x", 40),
        (("theta", "resolve", "other.safetensors", "linear"), "no checkpoint in conflict", 40),
        (("theta", "resolve", "../outside", "linear"), "no checkpoint in conflict", 40),
    ]:
        assert message in sides.fails(*words, status=status), (words, message)
    assert conflicts(sides) == {M: ["i", "j"]}
    assert sides.read() == checkpoint(OURS)


@pytest.mark.slow
def test_what_was_done_to_the_file_meanwhile_is_not_lost(sides: Repo) -> None:
    sides.fails("merge", "--no-edit", "side", status=1)
    take = ("theta", "resolve", M, "take", "--from", "theirs")
    for mine in (checkpoint(MIXED), b"notes", checkpoint(OURS)[:-1] + b"\x01", checkpoint(OURS) + b"\x01", b""):
        sides.write(M, mine)
        assert "not ours any more" in sides.fails(*take, status=20)
        assert sides.read() == mine
        assert conflicts(sides) == {M: ["i", "j"]}
    (sides.path / M).unlink()
    assert f"git checkout --merge -- {M}" in sides.fails(*take, status=20)
    sides.git("checkout", "--merge", "--", M)
    assert sides.read() == checkpoint(OURS)
    sides.git("theta", "resolve", M, "--tensors", "i", "take", "--from", "theirs")
    sides.git("checkout", "--merge", "--", M)
    assert conflicts(sides) == {M: ["i", "j"]}, "that is to start again"
    sides.git(*take)
    sides.git("commit", "-q", "-a", "--no-edit")
    assert sides.read() == checkpoint(THEIRS)
    assert trailers(sides) == [f"{M} take from=theirs"]


@pytest.mark.slow
def test_what_was_resolved_by_hand_is_not_said_to_be_computed(sides: Repo) -> None:
    sides.fails("merge", "--no-edit", "side", status=1)
    sides.git("theta", "resolve", M, "take", "--from", "theirs")
    sides.write(M, checkpoint(MIXED))
    sides.git("commit", "-q", "-a", "--no-edit")
    assert trailers(sides) == []
    assert "not a merge in which tensors were computed" in sides.fails(
        "theta", "merge-plan", "--replay", "HEAD", status=50
    )


@pytest.mark.slow
def test_a_merge_that_was_given_up_leaves_nothing_behind(sides: Repo) -> None:
    sides.branch("other", checkpoint(BASE | {"j": np.arange(5) + 7, "x": normal(77, 9)}), "main~1")
    sides.git("checkout", "-q", "main")
    sides.fails("merge", "--no-edit", "side", status=1)
    sides.git("theta", "resolve", M, "--tensors", "j", "take", "--from", "theirs")
    sides.git("merge", "--abort")
    assert conflicts(sides) == {}
    assert "no checkpoint in conflict" in sides.fails("theta", "resolve", M, "linear", status=40)
    sides.fails("merge", "--no-edit", "other", status=1)
    assert conflicts(sides) == {M: ["j"]}
    sides.git("merge", "--abort")
    sides.fails("cherry-pick", "side", status=1)
    sides.git("theta", "resolve", M, "take", "--from", "base")
    sides.git("cherry-pick", "--abort")
    sides.fails("cherry-pick", "other", status=1)
    assert conflicts(sides) == {M: ["j"]}
    sides.git("cherry-pick", "--abort")
    sides.write("t.txt", b"text\n")
    sides.git("add", ".")
    sides.git("commit", "-q", "-m", "ordinary")
    sides.branch("text", b"text\n", "main~1", "u.txt")
    sides.git("checkout", "-q", "main")
    sides.git("merge", "-q", "--no-edit", "text")
    assert sides.git("log", "--format=%(trailers)").strip() == ""
    assert sides.read() == checkpoint(OURS)


@pytest.mark.slow
def test_odd_names_two_files_and_a_sub_directory(sides: Repo) -> None:
    folder = "models [v1]"
    names = [f"{folder}/a b's.safetensors", f"{folder}/[é]*.safetensors"]
    sides.git("branch", "early", "main~1")
    for branch, values in {"early": BASE, "late": THEIRS, "mine": OURS}.items():
        sides.git("checkout", "-q", *([branch] if branch == "early" else ["-b", branch, "early"]))
        for name in names:
            sides.write(name, checkpoint(values))
        sides.git("add", ".")
        sides.git("commit", "-q", "-m", branch)
    message = sides.fails("merge", "--no-edit", "late", status=1)
    assert f"git theta resolve '{names[1]}'" in message
    assert conflicts(sides) == conflicts(sides, folder) == {name: ["i", "j"] for name in sorted(names)}
    inside = Place(sides.path / folder, sides.env)
    bare = [name.rpartition("/")[2] for name in names]
    assert list(conflicts(inside, bare[1])) == [names[1]]
    assert conflicts(inside, M) == {}
    assert names[0] in inside.git("theta", "conflicts", ".")
    done = inside.git("theta", "resolve", bare[1], "take", "--from", "theirs")
    assert f"git add '{names[1]}'" in done
    inside.git("theta", "resolve", bare[0], "--tensors", "i", "take", "--from", "ours")
    inside.git("theta", "resolve", bare[0], "--tensors", "j", "take", "--from", "theirs")
    inside.git("add", ".")
    inside.git("commit", "-q", "-m", "both")
    assert sides.read(names[0]) == checkpoint(THEIRS | {"i": OURS["i"]})
    assert sides.read(names[1]) == checkpoint(THEIRS)
    lines = inside.git("theta", "merge-plan", "--replay", "HEAD").splitlines()
    assert sorted(lines) == sorted(f"{name}: reproduces to the bit" for name in names)
    sides.healthy()


@pytest.mark.slow
def test_in_a_linked_work_tree(sides: Repo) -> None:
    sides.git("worktree", "add", "-q", "-b", "mine", "../linked", "main")
    linked = Repo(sides.path.parent / "linked", sides.env)
    linked.fails("merge", "--no-edit", "side", status=1)
    assert (conflicts(linked), conflicts(sides)) == ({M: ["i", "j"]}, {})
    linked.git("theta", "resolve", M, "take", "--from", "theirs")
    linked.git("commit", "-q", "-a", "--no-edit")
    assert linked.read() == checkpoint(THEIRS)
    assert trailers(linked) == [f"{M} take from=theirs"]
    assert sides.read() == checkpoint(OURS)
    linked.healthy()


@pytest.mark.slow
@pytest.mark.parametrize("verb", first_often(1, ["rebase", "cherry-pick"]))
def test_during_a_rebase_or_several_picks(sides: Repo, verb: str) -> None:
    sides.git("checkout", "-q", "side")
    sides.commit(checkpoint(THEIRS | {"x": normal(33, 9)}))
    if verb == "rebase":
        sides.fails("rebase", "main", status=1)
    else:
        sides.git("checkout", "-q", "main")
        sides.fails("cherry-pick", "main..side", status=1)
    assert conflicts(sides) == {M: ["i", "j"]}
    sides.git("theta", "resolve", M, "--tensors", "i", "take", "--from", "ours")
    sides.git("theta", "resolve", M, "take", "--from", "theirs")
    sides.git("add", M)
    sides.git("-c", "core.editor=true", verb, "--continue")
    assert sides.read() == checkpoint(THEIRS | {"i": OURS["i"], "x": normal(33, 9)})
    assert (trailers(sides), trailers(sides, "HEAD^")) == ([], [])
    assert len(sides.git("rev-list", "main..HEAD" if verb == "rebase" else "main~2..HEAD").split()) == 2
    sides.healthy()


@pytest.mark.slow
def test_a_stash_that_clashes(sides: Repo) -> None:
    sides.write(M, checkpoint(THEIRS))
    sides.git("stash")
    sides.commit(checkpoint(OURS | {"i": np.arange(4) + 5}))
    assert sides.attempt("git", "stash", "pop").returncode == 1
    assert conflicts(sides) == {M: ["i"]}
    sides.git("theta", "resolve", M, "take", "--from", "theirs")
    sides.git("add", M)
    assert sides.read() == checkpoint(THEIRS)


@pytest.mark.slow
def test_large_files_go_past_git(sides: Repo) -> None:
    sides.git("config", "theta.smudgeLimit", "1k")
    sides.fails("merge", "--no-edit", "side", status=1)
    sides.git("theta", "resolve", M, "--tensors", "j", "take", "--from", "ours")
    sides.git("theta", "resolve", M, "take", "--from", "theirs")
    assert sides.read() == checkpoint(MIXED)
    sides.git("add", M)
    sides.git("commit", "-q", "--no-edit")
    assert sides.read() == checkpoint(MIXED)
    assert sides.git("show", f"HEAD:{M}").startswith("gittheta manifest")
    sides.healthy()


@pytest.mark.slow
def test_added_on_both_sides(sides: Repo) -> None:
    name = "new.safetensors"
    sides.git("checkout", "-q", "side")
    sides.commit(checkpoint({"same": normal(1, 9), "n": np.arange(3)}), name)
    sides.git("checkout", "-q", "-b", "mine", "main~1")
    sides.commit(checkpoint({"same": normal(1, 9), "n": np.arange(3) + 1}), name)
    sides.fails("merge", "--no-edit", "side", status=1)
    assert conflicts(sides) == {name: ["n"]}
    assert "theirs" in sides.fails("theta", "resolve", name, "take", "--from", "nobody", status=40)
    sides.git("theta", "resolve", name, "take", "--from", "theirs")
    sides.git("commit", "-q", "-a", "-m", "both")
    assert sides.read(name) == checkpoint({"same": normal(1, 9), "n": np.arange(3)})
    assert "reproduces" in sides.git("theta", "merge-plan", "--replay", "HEAD")
    sides.healthy()


@pytest.mark.slow
def test_deleted_on_one_side(sides: Repo) -> None:
    sides.git("rm", "-q", M)
    sides.git("commit", "-q", "-m", "gone")
    sides.fails("merge", "--no-edit", "side", status=1)
    assert f"{M}: deleted in ours, changed in theirs" in sides.git("theta", "conflicts")
    assert f"git rm {M}" in sides.fails("theta", "resolve", M, "take", "--from", "theirs", status=40)
    sides.git("add", M)
    sides.git("commit", "-q", "--no-edit")
    assert (sides.read(), trailers(sides)) == (checkpoint(THEIRS), [])
    sides.healthy()


@pytest.mark.slow
def test_files_of_no_known_format_can_be_taken_whole(sides: Repo) -> None:
    name = "o.safetensors"
    for branch, content in {"side": b"\0theirs" * 99, "main": b"\0ours" * 99}.items():
        sides.git("checkout", "-q", branch)
        sides.commit(content, name)
    sides.fails("merge", "--no-edit", "side", status=1)
    assert conflicts(sides) == {M: ["i", "j"], name: []}
    assert "no known format" in sides.git("theta", "conflicts", name)
    assert "taken whole" in sides.fails("theta", "resolve", name, "linear", status=40)
    sides.write(name, b"notes")
    assert "not ours any more" in sides.fails("theta", "resolve", name, "take", "--from", "theirs", status=20)
    sides.write(name, b"\0ours" * 99)
    sides.git("theta", "resolve", name, "take", "--from", "theirs")
    assert sides.read(name) == b"\0theirs" * 99
    sides.git("theta", "resolve", M, "take", "--from", "theirs")
    sides.git("commit", "-q", "-a", "--no-edit")
    sides.healthy()


@pytest.mark.slow
def test_clashing_metadata(sides: Repo) -> None:
    for branch, values, metadata in (("side", THEIRS, {"k": "theirs"}), ("main", OURS, {"k": "ours"})):
        sides.git("checkout", "-q", branch)
        sides.commit(checkpoint(values, metadata))
    sides.fails("merge", "--no-edit", "side", status=1)
    assert "metadata" not in sides.git("theta", "conflicts")
    sides.git("theta", "resolve", M, "--tensors", "j", "take", "--from", "ours")
    output = sides.git("theta", "resolve", M, "take", "--from", "theirs")
    assert f"git theta resolve {M} --metadata ours or --metadata theirs" in output
    assert sides.read() == checkpoint(OURS, {"k": "ours"})
    (result,) = conflicts_of(sides)
    assert ("metadata" in result["objections"][0], result["tensors"], result["settled"]) == (True, [], False)
    assert "all settled" in sides.git("theta", "resolve", M, "--metadata", "theirs")
    assert metadata_of(sides.read()) == {"k": "theirs"}
    assert tensors_of(sides.read()) == tensors_of(checkpoint(MIXED))
    sides.git("commit", "-q", "-a", "--no-edit")
    assert len(trailers(sides)) == 2
    sides.healthy()


@pytest.mark.slow
def test_values_that_are_not_finite_are_resolved_like_others(sides: Repo) -> None:
    """What turns out only when tensors are read: all of them are named at once."""
    nan, mine = np.full((6, 4), np.nan, np.float32), normal(5, 6, 4)
    sides.git("checkout", "-q", "side")
    sides.commit(checkpoint(BASE | {"w": nan, "x": nan.ravel()[:9], "still": normal(44, 400)}))
    sides.git("checkout", "-q", "-b", "mine", "main~1")
    sides.commit(checkpoint(BASE | {"w": mine, "x": mine.ravel()[:9], "still": normal(55, 400)}))
    message = sides.fails("merge", "--no-edit", "side", status=1)
    assert message.count("theirs has NaN or infinite values") == 2
    assert "nonfinite=propagate" in message
    assert conflicts(sides) == {M: ["w", "x"]}
    assert "NaN" in sides.fails("theta", "resolve", M, "--method", "linear", status=40)
    sides.git("theta", "resolve", M, "--tensors", "w", "take", "--from", "ours")
    assert conflicts(sides) == {M: ["x"]}
    sides.git("theta", "resolve", M, "--method", "linear", "-o", "nonfinite=propagate")
    sides.git("commit", "-q", "-a", "--no-edit")
    results = {name: np.frombuffer(raw[2], np.float32) for name, raw in tensors_of(sides.read()).items()}
    assert np.array_equal(results["w"].reshape(6, 4), mine)
    assert np.isnan(results["x"]).all()
    mean = (normal(44, 400).astype(np.float64) + normal(55, 400)) / 2
    assert np.array_equal(results["still"], mean.astype(np.float32))
    assert [line.split()[1] for line in trailers(sides)] == ["take", "linear", "linear"]
    assert "reproduces to the bit" in sides.git("theta", "merge-plan", "--replay", "HEAD")
    sides.healthy()


@pytest.mark.slow
def test_a_conflict_that_git_alone_has_made(sides: Repo) -> None:
    """Without the driver; or if it was killed. Nothing may look resolved then."""
    sides.fails("-c", "merge.theta.driver=false", "merge", "--no-edit", "side", status=1)
    sides.git("checkout", "--ours", "--", M)
    assert conflicts(sides) == {M: ["i", "j"]}
    sides.git("theta", "resolve", M, "take", "--from", "theirs")
    sides.git("commit", "-q", "-a", "--no-edit")
    assert sides.read() == checkpoint(THEIRS)
    sides.git("reset", "-q", "--hard", "HEAD^")
    sides.commit(checkpoint(BASE | {"w": normal(9, 6, 4)}))
    sides.fails("-c", "merge.theta.driver=false", "merge", "--no-edit", "side", status=1)
    (result,) = conflicts_of(sides)
    assert (result["tensors"], result["settled"]) == ([], False)
    assert f"git checkout --merge -- {M}" in sides.git("theta", "conflicts")
    sides.git("checkout", "--merge", "--", M)
    assert sides.read() == checkpoint(THEIRS | {"w": normal(9, 6, 4)})


@pytest.mark.slow
def test_records_that_are_damaged_are_none(sides: Repo) -> None:
    sides.fails("merge", "--no-edit", "side", status=1)
    (record,) = (sides.git_dir / "theta-merge").iterdir()
    for content in (b"", b"{", b"[]", b"\xff", b'{"path": 1}', record.read_bytes()[:-9], b"[" * 99999):
        record.write_bytes(content)
        assert conflicts(sides) == {M: ["i", "j"]}
    sides.git("theta", "resolve", M, "take", "--from", "theirs")
    sides.git("commit", "-q", "-a", "--no-edit")
    assert trailers(sides) == [f"{M} take from=theirs"]
