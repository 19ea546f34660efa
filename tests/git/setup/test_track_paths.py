"""What users type after `git theta track`: paths, folders, names with odd characters, and what can match nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checkpoints import model
from tests.support.world import Repo, World

LINE = "filter=theta merge=theta diff=theta -text"
LFS = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


@pytest.fixture
def fresh(world: World) -> Repo:
    """A repository that tracks nothing and has a few empty files and folders."""
    repo = world.repo(attributes="")
    for name in ("m.bin", "sub/m.bin", "models/a.bin", "models/deep/b.bin", "my model.bin", "m[1].bin", "!bang.bin"):
        repo.write(name, b"")
    return repo


def _tracked(repo: Repo) -> set[str]:
    """The files of the fixture that get the filter."""
    names = [str(path.relative_to(repo.path)) for path in repo.path.rglob("*") if path.is_file()]
    names = [name for name in names if not name.startswith(".git/")]
    words = repo.git("check-attr", "-z", "filter", "--", *names).split("\0")
    return {path for path, value in zip(words[0::3], words[2::3], strict=False) if value == "theta"}


@pytest.mark.parametrize(
    ("folder", "typed", "files"),
    [
        ("", "m.bin", {"m.bin", "sub/m.bin"}),
        ("", "./m.bin", {"m.bin"}),
        ("", "{top}/m.bin", {"m.bin"}),
        ("", "/m.bin", {"m.bin"}),
        ("", "sub//m.bin", {"sub/m.bin"}),
        ("", "sub/../m.bin", {"m.bin"}),
        ("", "models", {"models/a.bin", "models/deep/b.bin"}),
        ("", "models/", {"models/a.bin", "models/deep/b.bin"}),
        ("", "./models/", {"models/a.bin", "models/deep/b.bin"}),
        ("", "{top}/models", {"models/a.bin", "models/deep/b.bin"}),
        ("", "./models/*.bin", {"models/a.bin"}),
        ("", "my model.bin", {"my model.bin"}),
        ("", "./my model.bin", {"my model.bin"}),
        ("", "m[1].bin", {"m[1].bin"}),
        ("", "./m[1].bin", {"m[1].bin"}),
        ("", "!bang.bin", {"!bang.bin"}),
        ("sub", "../m.bin", {"m.bin"}),
        ("sub", "../models/*.bin", {"models/a.bin"}),
        ("sub", "m.bin", {"sub/m.bin"}),
        ("sub", "{top}/models/deep/b.bin", {"models/deep/b.bin"}),
        ("models", ".", {"models/a.bin", "models/deep/b.bin"}),
    ],
)
def test_what_is_typed_is_what_is_tracked(fresh: Repo, folder: str, typed: str, files: set[str]) -> None:
    below = Repo(fresh.path / folder, fresh.env)
    typed = typed.format(top=fresh.path)
    below.git("theta", "track", typed)
    assert _tracked(fresh) == files
    assert "already" in below.git("theta", "track", typed)
    below.git("theta", "untrack", typed)
    assert _tracked(fresh) == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    "typed",
    [
        "",
        "  ",
        "!no.bin",
        "../m.bin",
        "/etc/passwd",
        "m[1.bin",
        "m\\",
        "[attr]x",
        ".git/x",
        ".gitignore",
        "sub/theta.toml",
        "x" * 2100,
    ],
)
def test_what_can_match_nothing_is_refused_and_nothing_written(fresh: Repo, typed: str) -> None:
    assert fresh.fails("theta", "track", "*.bin", typed).startswith("gittheta: ")
    assert not (fresh.path / ".gitattributes").exists()


@pytest.mark.slow
@pytest.mark.parametrize("typed", ["*", ".", "**", "models/**"])
def test_what_git_reads_itself_stays_text(fresh: Repo, typed: str) -> None:
    for name in (".gitignore", "theta.toml", "models/.gitattributes", "models/.gitkeep"):
        fresh.write(name, b"")
    fresh.git("theta", "track", typed)
    fresh.git("theta", "track", "*.bin")
    assert "models/a.bin" in _tracked(fresh)
    assert not {name for name in _tracked(fresh) if ".git" in name or "theta.toml" in name}
    assert fresh.git("theta", "track").splitlines() == [typed.replace(".", "*"), "*.bin"]
    fresh.git("theta", "untrack", typed, "*.bin")
    assert (fresh.path / ".gitattributes").read_bytes() == b""


def test_without_patterns_those_of_all_folders_are_listed(fresh: Repo) -> None:
    fresh.git("theta", "track", "*.safetensors")
    below = Repo(fresh.path / "sub", fresh.env)
    below.git("theta", "track", "*.pt")
    fresh.write(".git/info/attributes", f"*.own {LINE} theta-merge=ties\n".encode())
    fresh.write("models/.gitattributes", b"# filter=theta\n*.png binary\n")
    lines = ["*.safetensors", "*.pt    (in sub/.gitattributes)", "*.own    (in .git/info/attributes)"]
    assert fresh.git("theta", "track").splitlines() == lines
    assert below.git("theta", "track").splitlines()[1] == "*.pt"


def test_a_pattern_that_was_written_by_hand_can_be_taken_away(fresh: Repo) -> None:
    fresh.write(".gitattributes", f"./m.bin {LINE}\n".encode())
    assert "no longer" in fresh.git("theta", "untrack", "./m.bin")
    assert (fresh.path / ".gitattributes").read_bytes() == b""


@pytest.mark.parametrize("typed", ["*.safetensors", "models/**", "m.safetensors"])
def test_what_git_lfs_tracks_is_an_error(fresh: Repo, typed: str) -> None:
    fresh.write(".gitattributes", LFS)
    fresh.write("m.safetensors", b"")
    fresh.write("models/m.safetensors", b"")
    assert "git lfs untrack" in fresh.fails("theta", "track", typed)
    assert (fresh.path / ".gitattributes").read_bytes() == LFS


def test_other_attributes_that_win_are_told(fresh: Repo) -> None:
    fresh.write("sub/.gitattributes", b"m.bin filter=other\n")
    message = fresh.run("theta", "track", "*.bin").stderr
    assert "sub/m.bin" in message
    assert "'other'" in message


def test_a_bare_repository_has_nothing_to_track(world: World) -> None:
    hub = Repo(Path(world.bare()), world.env)
    assert "work tree" in hub.fails("theta", "track", "*.bin")


def test_names_of_models_survive(fresh: Repo) -> None:
    """A line end and a quote in a name."""
    name = 'odd\n"name".bin'
    fresh.git("theta", "track", name)
    fresh.commit(model(1), name)
    assert fresh.manifest(name).startswith("gittheta manifest ")
    assert fresh.git("theta", "track") == 'odd\\u000a"name".bin\n'
