"""Which tensor a changed one is derived from: only what is committed."""

from __future__ import annotations

import numpy as np
import pytest

from gittheta.storage.manifest import parse_manifest
from tests.support.bases import (
    SHAPE,
    TRACKED,
    V1,
    V2,
    V3,
    M,
    attributes,
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
from tests.support.safetensors_file import safetensors


@pytest.fixture
def tracked(repo: Repo) -> Repo:
    attributes(repo, TRACKED)
    return repo


def test_the_same_name_in_head(repo: Repo) -> None:
    first = commit(repo, file_of(V1))
    assert base_digest(first) is None
    assert base_digest(commit(repo, file_of(V2))) == digest(V1)
    assert base_digest(commit(repo, file_of(V3))) == digest(V2)


def test_nothing_that_was_only_staged(repo: Repo) -> None:
    commit(repo, file_of(V1))
    assert base_digest(repo.add(file_of(V2))) == digest(V1)
    third = repo.add(file_of(V3))
    assert base_digest(third) == digest(V1)


def test_what_was_only_staged_may_be_deleted(repo: Repo) -> None:
    """Its objects are garbage as soon as something else is staged, or nothing."""
    first = commit(repo, file_of(V1))
    second = repo.add(file_of(V2))
    third = repo.add(file_of(V3))
    own = objects_of(stanza(second).recipe) - objects_of(stanza(first).recipe)
    assert own
    assert not own & objects_of(stanza(third).recipe)
    for name in own:
        repo.objects()[name].unlink()
    forget(repo)
    assert repo.smudge(third) == file_of(V3)
    assert repo.clean(file_of(V3)) == third


@pytest.mark.parametrize("known", [True, False])
def test_after_a_reset_the_staged_version_is_nobodys_base(repo: Repo, known: bool) -> None:
    commit(repo, file_of(V1))
    second = repo.add(file_of(V2))
    git(repo.top, "reset", "-q")
    if not known:
        forget(repo)
    third = repo.add(file_of(V3))
    assert base_digest(third) == digest(V1)
    assert not (objects_of(stanza(second).recipe) - objects_of(stanza(third).recipe)) & objects_of(stanza(third).recipe)


def test_a_staged_new_file_is_nobodys_base(tracked: Repo) -> None:
    tracked.add(file_of(V1), "a.safetensors")
    assert base_digest(tracked.add(file_of(V2), "b.safetensors")) is None


def test_before_the_first_commit(repo: Repo) -> None:
    (repo.top / ".gitattributes").write_text(TRACKED + f"{M} theta-base=other.safetensors\n")
    repo.add(file_of(V1))
    assert base_digest(repo.add(file_of(V2))) is None
    repo.check_fixed_point(file_of(V3))


def test_a_detached_head(repo: Repo) -> None:
    commit(repo, file_of(V1))
    commit(repo, file_of(weights(9)))
    git(repo.top, "checkout", "-q", "--detach", "HEAD^")
    assert base_digest(repo.add(file_of(V2))) == digest(V1)


def test_a_branch_without_commits(repo: Repo) -> None:
    commit(repo, file_of(V1))
    git(repo.top, "checkout", "-q", "--orphan", "fresh")
    git(repo.top, "rm", "-rfq", "--cached", ".")
    repo.check_fixed_point(file_of(V2))


def test_the_attribute_names_the_file_that_a_model_is_derived_from(repo: Repo) -> None:
    attributes(repo, TRACKED + "tuned.safetensors theta-base=bases/big.safetensors\n")
    commit(repo, file_of(V1), "bases/big.safetensors")
    commit(repo, file_of(few(weights(7), 1)), "a.safetensors")
    assert base_digest(commit(repo, file_of(V2), "tuned.safetensors")) == digest(V1)


def test_the_attribute_serves_tensors_of_another_shape(repo: Repo) -> None:
    """Elsewhere only equal shapes are looked at; the named file may have grown."""
    attributes(repo, TRACKED + "tuned.safetensors theta-base=big.safetensors\n")
    commit(repo, file_of(V1), "big.safetensors")
    grown = np.concatenate([V1, weights(4, (8, 50))])
    text = commit(repo, file_of(grown), "tuned.safetensors")
    assert [link.encoding for link in stanza(text).recipe][1:] == ["resize", "dense"]


def test_a_files_own_past_comes_before_the_attribute(repo: Repo) -> None:
    attributes(repo, TRACKED + "tuned.safetensors theta-base=big.safetensors\n")
    commit(repo, file_of(V1), "big.safetensors")
    commit(repo, file_of(V2), "tuned.safetensors")
    assert base_digest(commit(repo, file_of(V3), "tuned.safetensors")) == digest(V2)


@pytest.mark.parametrize(
    "name",
    [
        "missing.safetensors", "plain.txt", "folder", "tuned.safetensors", "/somewhere/else", "HEAD:big.safetensors",
        "broken.safetensors", "-x", "*", "ü.safetensors",
    ],
)  # fmt: skip
def test_an_attribute_that_names_no_checkpoint_is_a_warning(repo: Repo, name: str) -> None:
    attributes(repo, TRACKED + f"tuned.safetensors theta-base={name}\n")
    (repo.top / "folder").mkdir()
    (repo.top / "folder" / "x").write_text("x")
    (repo.top / "plain.txt").write_text("x")
    (repo.top / "broken.safetensors").write_text("gittheta manifest 1: broken\n")
    git(repo.top, "-c", "core.attributesFile=/dev/null", "add", "folder", "plain.txt")
    oid = git(repo.top, "hash-object", "-w", "--no-filters", "broken.safetensors")
    git(repo.top, "update-index", "--add", "--cacheinfo", f"100644,{oid},broken.safetensors")
    git(repo.top, "commit", "-q", "-m", "odd files")
    data = file_of(V2)
    text = repo.add(data, "tuned.safetensors")
    assert base_digest(text) is None
    assert repo.smudge(text, "tuned.safetensors") == data
    assert any("theta-base" in warning for warning in repo.warnings)


@pytest.mark.parametrize("line", ["tuned.safetensors theta-base", "tuned.safetensors -theta-base", "x theta-base=y"])
def test_an_attribute_without_a_value(repo: Repo, line: str) -> None:
    attributes(repo, TRACKED + line + "\n")
    commit(repo, file_of(V1), "big.safetensors")
    assert base_digest(commit(repo, file_of(V2), "tuned.safetensors")) == digest(V1)
    assert not repo.warnings


def test_a_same_named_tensor_of_another_tracked_checkpoint(tracked: Repo) -> None:
    commit(tracked, file_of(weights(5)), "x/near.safetensors")
    commit(tracked, file_of(V1), "far.safetensors")
    assert base_digest(commit(tracked, file_of(V2), "x/new.safetensors")) == digest(V1)


def test_the_checkpoint_that_lies_nearest_comes_first(tracked: Repo) -> None:
    commit(tracked, file_of(V1), "a.safetensors")
    commit(tracked, file_of(V2), "x/y/near.safetensors")
    assert base_digest(commit(tracked, file_of(V3), "x/y/new.safetensors")) == digest(V2)


def test_only_tracked_checkpoints_serve(tracked: Repo) -> None:
    commit(tracked, file_of(V1), "not-tracked.bin")
    assert base_digest(commit(tracked, file_of(V2))) is None


@pytest.mark.parametrize(
    "other", [file_of(V1, "v"), file_of(V1.reshape(50, 80)), safetensors([("w", "I32", SHAPE, V1.tobytes())])]
)
def test_another_name_shape_or_dtype_elsewhere_is_not_a_base(tracked: Repo, other: bytes) -> None:
    commit(tracked, other, "other.safetensors")
    assert base_digest(commit(tracked, file_of(V2))) is None


def test_a_renamed_tensor_that_did_not_change_costs_nothing(repo: Repo) -> None:
    commit(repo, file_of(V1))
    commit(repo, file_of(V2))
    before = parse_manifest(git(repo.top, "show", f"HEAD:{M}").encode() + b"\n").stanzas[0]
    after = stanza(commit(repo, file_of(V2, "renamed")))
    assert after.recipe == before.recipe


def test_a_renamed_tensor_that_changed_comes_back_too(repo: Repo) -> None:
    commit(repo, file_of(V1))
    repo.check_fixed_point(file_of(V2, "renamed"))


def test_swapped_tensors(repo: Repo) -> None:
    one, two = weights(1), weights(2)
    for first, second in ((one, two), (two, one), (few(two, 3), few(one, 4)), (one, one)):
        data = safetensors([("a", "F32", SHAPE, first.tobytes()), ("b", "F32", SHAPE, second.tobytes())])
        repo.check_fixed_point(data)
        git(repo.top, "commit", "-q", "-m", "version")


def test_a_manifest_of_head_that_is_broken(repo: Repo) -> None:
    text = commit(repo, file_of(V1))
    for broken in (text[:-40], b"gittheta manifest 7: from the future\n", b"plain text", b""):
        repo.stage(broken)
        git(repo.top, "commit", "-q", "-m", "broken")
        repo.check_fixed_point(file_of(V2))


def test_a_tensor_that_became_another_dtype_or_rank(repo: Repo) -> None:
    kinds = [
        ("F32", SHAPE),
        ("I32", SHAPE),
        ("BF16", (80, 100)),
        ("F32", (50, 80)),
        ("F32", (4000,)),
        ("F32", (80, 5, 10)),
    ]
    for at, (dtype, shape) in enumerate(kinds):
        repo.check_fixed_point(safetensors([("w", dtype, shape, few(V1, at).tobytes())]))
        git(repo.top, "commit", "-q", "-m", "version")


def test_empty_and_single_tensors_as_bases(repo: Repo) -> None:
    for shape in ((0,), (1,), (), (3, 0), (1, 1), (2,), (0,)):
        values = weights(1, shape)
        repo.check_fixed_point(safetensors([("w", "F32", shape, np.asarray(values, np.float32).tobytes())]))
        git(repo.top, "commit", "-q", "-m", "version")


@pytest.mark.parametrize("name", ["../outside.safetensors", "../../etc/passwd"])
def test_an_attribute_that_leads_out_of_the_repository(repo: Repo, name: str) -> None:
    attributes(repo, TRACKED + f"tuned.safetensors theta-base={name}\n")
    assert base_digest(repo.add(file_of(V2), "tuned.safetensors")) is None
    assert any("theta-base" in warning for warning in repo.warnings)
