"""Manifests that are foreign, malformed or from the future, and damaged objects: a clear error, and nothing written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from tests.support.checkpoints import checkpoint, model, normal
from tests.support.parameters import first_often
from tests.support.world import Repo, World

M = "m.safetensors"


def _commit_text(repo: Repo, text: str, name: str = M) -> None:
    """Commit a blob as it is, past the filter; the work tree keeps what it has."""
    blob = repo.git("hash-object", "-w", "--stdin", stdin=text).strip()
    tree = f"100644 blob {blob}\t{name}\n" + repo.git("ls-tree", "HEAD", ".gitattributes")
    commit = repo.git("commit-tree", repo.git("mktree", stdin=tree).strip(), "-p", "HEAD", "-m", "odd").strip()
    repo.git("branch", "-f", "odd", commit)


@pytest.fixture
def good(repo: Repo) -> str:
    """The manifest of a committed checkpoint."""
    repo.commit(checkpoint({"a.weight": normal(1, 4, 8), "b": normal(2, 5)}))
    return repo.manifest()


def _change(pattern: str, by: str, count: int = 1) -> Callable[[str], str]:
    def changed(text: str) -> str:
        result, made = re.subn(pattern, by, text, count=count)
        assert made, pattern
        return result

    return changed


ORIGINAL = json.dumps(
    {"a/weight": {"tensor_metadata": {"shape": [4]}, "lfs_metadata": {}, "theta_metadata": {"update_type": "dense"}}},
    indent=1,
)
#: What is done to the manifest, and what must be said besides the file's name.
BAD: dict[str, tuple[Callable[[str], str], tuple[str, ...]]] = {
    "future version": (_change("manifest 1:", "manifest 3:"), ("version 3", "pip install")),
    "far future": (_change("manifest 1:.*", "manifest 99 whatever"), ("version 99", "pip install")),
    "no version": (_change("manifest 1:", "manifest x:"), ()),
    "line ends of Windows": (_change("\n", "\r\n", 0), ()),
    "truncated": (lambda text: text[:-30], ()),
    "truncated to one line": (lambda text: text.partition("\n")[0] + "\n", ()),
    "unknown encoding": (_change(r"(\[a.weight\]\n.*\n)dense", r"\1psychic"), ("psychic", "a.weight", "gittheta")),
    "unknown encoding of the skeleton": (_change("\ndense", "\npsychic"), ("psychic",)),
    "unknown format": (_change("format safetensors", "format papyrus"), ("papyrus", "git theta plugins")),
    "unknown dtype": (_change("f32 4x8", "f31 4x8"), ("f31", "a.weight", "pip install")),
    "shape denies the size": (_change("f32 4x8", "f32 4x9"), ("a.weight",)),
    "smaller shape": (_change("f32 4x8", "f32 4x7"), ("a.weight",)),
    "absurd shape": (_change("f32 4x8", "f32 " + "x".join(["9999999999"] * 9)), ("a.weight",)),
    "wrong digest": (_change(r"(\[a.weight\]\nf32 4x8 b3:).{8}", r"\g<1>00000000"), ("a.weight", "git theta fsck")),
    "wrong digest of the skeleton": (_change(r"(skeleton \d+ \d+ b3:).{8}", r"\g<1>00000000"), ()),
    "over-long line": (lambda text: text + f"[{'x' * (2 << 20)}]\n", ("longer than",)),
    "over-long name": (_change("a.weight", "a" * 5000), ("name",)),
    "duplicate name": (_change(r"\[b\]", "[a.weight]"), ("a.weight",)),
    "unescaped name": (_change("a.weight", "a\tweight"), ()),
    "no recipe": (_change(r"(\[a.weight\]\n.*\n)dense.*\n", r"\1"), ("a.weight",)),
    "place beyond the object": (_change(r"(\[a.weight\]\n.*\ndense \w+:\d+\+)\d+", r"\g<1>99999999"), ("a.weight",)),
    "place of another tensor": (_change(r"(\[a.weight\]\n.*\ndense \w+:)\d+", r"\g<1>17"), ("a.weight",)),
    "unknown object": (
        _change(r"(\[a.weight\]\n.*\ndense )\w{4}", r"\g<1>0000"),
        ("a.weight", "0000", "git theta push"),
    ),
    "path in it": (_change(r"(\[a.weight\]\n.*\ndense )\w+", r"\g<1>../../../etc/passwd"), ()),
    "huge skeleton": (_change(r"skeleton \d+", "skeleton 999999999999"), ()),
    "extra blank line": (lambda text: text + "\n", ()),
    "the original Git-Theta": (lambda text: ORIGINAL, ("original Git-Theta",)),
    "invalid text": (lambda text: text.replace("[b]", "[\udcff]"), ()),
}


@pytest.mark.slow
def test_checkout_of_bad_manifests(repo: Repo, good: str) -> None:
    sha = repo.sha()
    for name, (change, _) in BAD.items():
        blob = repo.git("hash-object", "-w", "--stdin", stdin=change(good).encode(errors="surrogateescape")).strip()
        repo.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{name}.safetensors")
    for name, (_, words) in BAD.items():
        done = repo.attempt("git", "checkout-index", f"{name}.safetensors")
        assert "Traceback" not in done.stderr
        assert done.returncode != 0, name
        assert f"gittheta: {name}.safetensors: " in done.stderr
        for word in words:
            assert word in done.stderr, (name, word)
        assert not (repo.path / f"{name}.safetensors").exists()
    assert {line[:2] for line in repo.status().splitlines()} == {"AD"}
    repo.git("diff")
    repo.git("diff", "--cached")
    assert repo.sha() == sha


#: The documented exit codes: see gittheta.errors.
CODES = {
    "future version": 12,
    "unknown encoding": 10,
    "unknown format": 10,
    "unknown dtype": 12,
    "over-long line": 12,
    "wrong digest": 13,
    "unknown object": 21,
    "place beyond the object": 22,
    "line ends of Windows": 12,
    "the original Git-Theta": 12,
}


def test_exit_codes_of_smudge(repo: Repo, good: str) -> None:
    for name, code in CODES.items():
        done = repo.attempt("git-theta", "smudge", "--", "x.safetensors", stdin=BAD[name][0](good))
        assert (name, done.returncode) == (name, code), done.stderr
        assert done.stderr.startswith("gittheta: x.safetensors: ")


@pytest.mark.parametrize(
    "name",
    ["wrong digest", *(pytest.param(name, marks=pytest.mark.slow) for name in ("future version", "unknown object"))],
)
def test_fsck_and_the_way_back_from_a_bad_commit(repo: Repo, good: str, name: str) -> None:
    change, words = BAD[name]
    sha = repo.sha()
    _commit_text(repo, change(good))
    repo.fails("checkout", "-q", "odd")
    repo.git("checkout", "-q", "-f", "main")
    assert repo.sha() == sha
    message = repo.fails("theta", "fsck", "--deep", status=CODES[name])
    assert f"gittheta: {M}: " in message
    for word in words:
        assert word in message or word.startswith(("git theta", "pip"))
    repo.git("branch", "-D", "odd")
    repo.git("reflog", "expire", "--expire=now", "--all")
    repo.healthy()


def test_show_and_ls_files_of_bad_manifests(repo: Repo, good: str) -> None:
    _commit_text(repo, BAD["unknown dtype"][0](good))
    message = repo.fails("theta", "show", f"odd:{M}", status=12)
    assert "f31" in message
    assert M in message
    assert re.search(f"broken +{M}", repo.git("theta", "ls-files", "odd"))


@pytest.mark.slow
def test_bad_manifests_in_the_work_tree_are_opaque(repo: Repo, good: str) -> None:
    texts = {name: BAD[name][0](good).encode() for name in ("truncated", "unknown dtype", "line ends of Windows")}
    texts["the original Git-Theta"] = ORIGINAL.encode()
    for name, text in texts.items():
        repo.write(f"{name}.safetensors", text)
    message = repo.run("add", ".").stderr
    for name in texts:
        assert re.search(rf"^gittheta: warning: {name}\.safetensors: .*\s.*opaque bytes", message, re.M), name
    repo.git("commit", "-q", "-m", "copies")
    repo.healthy()
    for name in texts:
        (repo.path / f"{name}.safetensors").unlink()
    repo.git("checkout", "--", ".")
    for name, text in texts.items():
        assert repo.read(f"{name}.safetensors") == text


def test_a_manifest_from_the_future_is_kept_as_it_is(repo: Repo, good: str) -> None:
    text = BAD["future version"][0](good)
    repo.write("copy.safetensors", text.encode())
    assert "upgrade gittheta" in repo.run("add", ".").stderr
    assert repo.manifest("copy.safetensors") == text


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "flipped bit in the head": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "flipped bit in a frame": lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
    "flipped bit in the values": lambda data: data[:400] + bytes([data[400] ^ 16]) + data[401:],
    "truncated": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "empty": lambda data: b"",
    "missing": lambda data: None,
    "other object": lambda data: b"gittheta-pack-1\n" + bytes(len(data) - 16),
}
FSCK = {"missing": 21}


@pytest.mark.slow
@pytest.mark.parametrize("name", first_often(2, DAMAGES))
def test_damaged_objects(world: World, repo: Repo, name: str) -> None:
    sha = repo.commit(checkpoint({"a.weight": normal(1, 64, 16), "b": normal(2, 5)}))
    healthy = repo.path.parent / "healthy"
    repo.git("clone", "-q", "--bare", ".", str(healthy))
    repo.git("theta", "push", str(healthy))
    file = repo.objects()[0]
    damaged = DAMAGES[name](file.read_bytes())
    file.unlink()
    if damaged is not None:
        file.write_bytes(damaged)
    message = repo.fails("theta", "fsck", status=FSCK.get(name, 22))
    assert f"gittheta: {M}: tensor 'a.weight': object {file.name}" in message
    (repo.path / M).unlink()
    done = repo.attempt("git", "checkout", "--", M)
    if name != "flipped bit in the head":
        assert done.returncode != 0, done.stderr
        assert f"gittheta: {M}: " in done.stderr
        assert "git theta " in done.stderr
        assert name not in ("truncated", "one byte short", "empty") or "truncated" in done.stderr
        assert not (repo.path / M).exists()
    assert "Traceback" not in done.stderr
    repo.git("status")
    file.unlink(missing_ok=True)
    repo.git("remote", "add", "origin", str(healthy))
    repo.git("theta", "fetch")
    repo.git("checkout", "--", M)
    assert repo.sha() == sha
    repo.healthy()


def test_adding_the_file_again_mends_the_store(repo: Repo) -> None:
    whole = model(1)
    repo.commit(whole)
    repo.objects()[0].unlink()
    repo.write("again.safetensors", whole)
    repo.git("add", "again.safetensors")
    repo.git("commit", "-q", "-m", "again")
    (repo.path / "again.safetensors").unlink()
    repo.git("checkout", "--", "again.safetensors")
    assert repo.read("again.safetensors") == whole
