"""What others have put into the index while we worked is not overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from gittheta.errors import GitError
from gittheta.flows.maintain import repack as repacking
from gittheta.flows.transfer.fetch import fetch_missing
from gittheta.flows.workspace import Workspace
from gittheta.git.index import entries
from gittheta.git.locked_index import locked_index, replace_entries
from gittheta.git.repository import Repository
from gittheta.model import Manifest
from tests.git.maintain.test_repack import M, _committed, _versions
from tests.support.reporting import Listening
from tests.support.world import Repo


def test_what_is_staged_while_repack_works_stays_staged(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    _committed(repo, _versions(3))
    newest = _versions(5)[-1]

    def meanwhile(workspace: Workspace, manifest: Manifest) -> int:
        repo.write(M, newest)
        repo.git("add", M)
        return fetch_missing(workspace, manifest)

    monkeypatch.setattr(repacking, "fetch_missing", meanwhile)
    warnings: list[str] = []
    with Workspace.open(repo.path, Listening(warnings)) as workspace:
        assert repacking.repack(workspace) == []
    assert any("staged anew" in warning for warning in warnings)
    repo.git("commit", "-q", "-m", "newest")
    assert repo.read() == newest
    repo.healthy()


def test_an_index_in_use_is_not_written_and_the_lock_of_others_stays(repo: Repo) -> None:
    repo.commit(_versions(1)[0])
    repository = Repository.discover(repo.path)
    (entry,) = (entry for entry in entries(repository.git) if entry.path == M)
    lock = Path(repository.git_dir / "index.lock")
    lock.write_bytes(b"")
    with pytest.raises(GitError, match=r"index\.lock"):
        replace_entries(repository, [(entry, entry)])
    assert lock.exists()
    lock.unlink()
    assert replace_entries(repository, [(entry, entry)]) == []
    assert repo.status() == ""


def test_a_failure_leaves_the_index_as_it_was(repo: Repo) -> None:
    repo.commit(_versions(1)[0])
    repository = Repository.discover(repo.path)
    before = (repository.git_dir / "index").read_bytes()
    with pytest.raises(ZeroDivisionError):
        _fail_halfway(repo, repository)
    assert (repository.git_dir / "index").read_bytes() == before
    assert not list(repository.git_dir.glob("*.lock"))
    assert not list(repository.git_dir.glob("theta-index*"))


def _fail_halfway(repo: Repo, repository: Repository) -> None:
    with locked_index(repository) as git:
        git.run("rm", "-q", "--cached", M)
        assert repo.fails("add", ".gitattributes", status=128)
        raise ZeroDivisionError
