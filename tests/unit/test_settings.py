"""Settings, remote addresses and exit codes: small tables that users see."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from gittheta import errors
from gittheta.api import RemoteContext
from gittheta.errors import ConfigError, RemoteError, ThetaError
from gittheta.remotes.directory import DirectoryRemote
from gittheta.settings import Settings
from tests.support.command import git
from tests.support.repository import Repo


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("17", 17), ("1k", 1024), ("3K", 3072), ("2m", 2 << 20), ("1G", 1 << 30), (" 5 ", 5), ("5 m", 5 << 20)],
)
def test_sizes(repo: Repo, text: str, size: int) -> None:
    git(repo.top, "config", "theta.smudgeLimit", text)
    with repo.open() as workspace:
        assert workspace.settings.smudge_limit == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5g", "1t", "1gb", "0x10", "1 2", "m"])
def test_sizes_that_are_none(repo: Repo, text: str) -> None:
    git(repo.top, "config", "theta.smudgeLimit", text)
    with repo.open() as workspace, pytest.raises(ConfigError, match=re.escape("theta.smudgeLimit")) as caught:
        _ = workspace.settings
    assert caught.value.hint


def test_defaults_and_the_rest(repo: Repo) -> None:
    with repo.open() as workspace:
        assert workspace.settings.smudge_limit == Settings.smudge_limit
        assert workspace.settings.threads >= 1
    git(repo.top, "config", "theta.threads", "0")
    with repo.open() as workspace:
        assert workspace.settings.threads == 1


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for name in (
        "bare.git",
        "plain/.git",
        "with space.git",
        "percent%20.git",
        "hash#mark?.git",
        "a:b.git",
        "~user.git",
    ):
        folder = tmp_path / name
        (folder / "objects").mkdir(parents=True)
        (folder / "HEAD").write_text("ref: refs/heads/main\n")
    (tmp_path / "store").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    "url",
    [
        "ssh://host/bare.git",
        "host:bare.git",
        "user@host:bare.git",
        "host:/srv/bare.git",
        "[::1]:bare.git",
        "https://host/bare.git",
        "http://host/bare.git",
        "git://host/bare.git",
        "git+ssh://host/bare.git",
        "s3://bucket/bare.git",
        "ext::sh -c x",
        "C:bare.git",
    ],
)
def test_addresses_that_are_no_folder(base: Path, url: str) -> None:
    assert DirectoryRemote.open(url, RemoteContext(base)) is None


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("bare.git", "bare.git"),
        ("bare", "bare.git"),
        ("./bare.git", "bare.git"),
        ("plain/../bare.git", "bare.git"),
        ("plain", "plain/.git"),
        ("plain/.git", "plain/.git"),
        ("with space.git", "with space.git"),
        ("percent%20.git", "percent%20.git"),
        ("hash#mark?.git", "hash#mark?.git"),
        ("./a:b.git", "a:b.git"),
        ("store", "store"),
    ],
)
def test_paths(base: Path, url: str, folder: str) -> None:
    wanted = (base / folder / "theta").resolve()
    found = DirectoryRemote.open(url, RemoteContext(base))
    assert found is not None
    assert found.root.resolve() == wanted
    assert found.may_link
    absolute = DirectoryRemote.open(f"{base}/{url}", RemoteContext(Path("/nowhere")))
    assert absolute is not None
    assert absolute.root.resolve() == wanted


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("file://{}/bare.git", "bare.git"),
        ("file://{}/with%20space.git", "with space.git"),
        ("file://{}/with space.git", "with space.git"),
        ("file://{}/percent%2520.git", "percent%20.git"),
        ("file://{}/hash#mark?.git", "hash#mark?.git"),
    ],
)
def test_file_addresses_mean_what_git_takes_them_for(base: Path, url: str, folder: str) -> None:
    found = DirectoryRemote.open(url.format(base), RemoteContext(Path("/nowhere")))
    assert found is not None
    assert found.root == base / folder / "theta"
    assert not found.may_link
    git(base / folder, "init", "-q", "--bare", ".")
    assert git(base, "ls-remote", url.format(base)) == "", "git finds a repository there too"


def test_a_work_tree_beside_its_git_directory(base: Path) -> None:
    (base / "linked").mkdir()
    (base / "linked" / ".git").write_text(f"gitdir: {base / 'bare.git' / 'worktrees' / 'linked'}\n")
    inner = base / "bare.git" / "worktrees" / "linked"
    inner.mkdir(parents=True)
    (inner / "HEAD").write_text("ref: refs/heads/x\n")
    (inner / "commondir").write_text("../..\n")
    found = DirectoryRemote.open("linked", RemoteContext(base))
    assert found is not None
    assert found.root == base / "bare.git" / "theta"


@pytest.mark.parametrize("url", ["nothing", "./nothing.git", "file:///no/such/folder", "~nobody_of_that_name/x"])
def test_a_folder_that_is_not_there(base: Path, url: str) -> None:
    with pytest.raises(RemoteError) as caught:
        DirectoryRemote.open(url, RemoteContext(base))
    assert caught.value.hint


def documented() -> dict[str, int]:
    """Names and codes as drawn in the docstring."""
    lines = re.findall(r"^[ |`-]*([A-Za-z]+) +([0-9]+)   ", errors.__doc__ or "", re.MULTILINE)
    return {name: int(code) for name, code in lines}


def test_exit_codes_are_the_documented_ones() -> None:
    actual = {
        name: kind.exit_code
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, ThetaError)
    }
    assert actual == documented()
    assert len(set(actual.values())) == len(actual)
    assert not {0, 2} & set(actual.values())


def test_an_error_says_where_what_and_the_hint() -> None:
    error = ThetaError("it broke", hint="mend it").located(path="m.safetensors", tensor="w")
    assert str(error) == "m.safetensors: tensor 'w': it broke\n  mend it"
    assert str(error.located(path="other", tensor="other")) == str(error), "the first to know is right"
    assert str(ThetaError("it broke")) == "it broke"
    assert str(ThetaError("it broke", tensor="")) == "tensor '': it broke"
