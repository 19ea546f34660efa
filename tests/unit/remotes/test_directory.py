"""Which addresses are folders, and which folder they mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from gittheta.api import RemoteContext
from gittheta.errors import RemoteError
from gittheta.remotes.directory import DirectoryRemote
from tests.support.command import git


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
def test_addresses_that_are_not_folders(base: Path, url: str) -> None:
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
    expected = (base / folder / "theta").resolve()
    result = DirectoryRemote.open(url, RemoteContext(base))
    assert result is not None
    assert result.root.resolve() == expected
    assert result.may_link
    absolute = DirectoryRemote.open(f"{base}/{url}", RemoteContext(Path("/nowhere")))
    assert absolute is not None
    assert absolute.root.resolve() == expected


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
    result = DirectoryRemote.open(url.format(base), RemoteContext(Path("/nowhere")))
    assert result is not None
    assert result.root == base / folder / "theta"
    assert not result.may_link
    git(base / folder, "init", "-q", "--bare", ".")
    assert git(base, "ls-remote", url.format(base)) == "", "git finds a repository there too"


def test_a_work_tree_beside_its_git_directory(base: Path) -> None:
    (base / "linked").mkdir()
    (base / "linked" / ".git").write_text(f"gitdir: {base / 'bare.git' / 'worktrees' / 'linked'}\n")
    inner = base / "bare.git" / "worktrees" / "linked"
    inner.mkdir(parents=True)
    (inner / "HEAD").write_text("ref: refs/heads/x\n")
    (inner / "commondir").write_text("../..\n")
    result = DirectoryRemote.open("linked", RemoteContext(base))
    assert result is not None
    assert result.root == base / "bare.git" / "theta"


@pytest.mark.parametrize("url", ["nothing", "./nothing.git", "file:///no/such/folder", "~nobody_of_that_name/x"])
def test_a_folder_that_is_not_there(base: Path, url: str) -> None:
    with pytest.raises(RemoteError) as caught:
        DirectoryRemote.open(url, RemoteContext(base))
    assert caught.value.hint
