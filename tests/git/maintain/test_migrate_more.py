"""migrate in repositories that are harder: other work trees, links, submodules, a bare one; and what must stop it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from gittheta.errors import GitError, StoreError
from gittheta.flows.add.clean import clean
from gittheta.flows.maintain.migrate.directions import Import
from gittheta.flows.maintain.migrate.rewriting import Rewriting
from gittheta.flows.maintain.migrate.run import migrate
from gittheta.flows.workspace import Workspace
from gittheta.git.rewriting.history import Change, ExportedCommit
from tests.support.checkpoints import checkpoint, noise, sha256
from tests.support.world import Place, Repo, World

M = "m.safetensors"


def model(seed: int) -> bytes:
    weights = np.frombuffer(noise(seed, 1 << 15), np.uint8)
    return checkpoint({"w": ("U8", (weights.size,), weights.tobytes())})


@pytest.fixture
def raw(world: World, monkeypatch: pytest.MonkeyPatch) -> Repo:
    for key in ("HOME", "GIT_CONFIG_NOSYSTEM"):
        monkeypatch.setenv(key, world.env[key])
    repo = world.repo(attributes="")
    repo.commit(model(1))
    repo.commit(model(2))
    return repo


def in_process(repo: Repo) -> None:
    with Workspace.open(repo.path) as workspace:
        migrate(workspace, Import(("*.safetensors",)), move=True)


def unmoved(repo: Repo, head: str) -> None:
    assert repo.git("rev-parse", "main") == head
    assert "refs/original" not in repo.git("for-each-ref")
    assert repo.status() == ""


def test_a_version_that_comes_out_otherwise_stops_it(raw: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    head = raw.git("rev-parse", "main")
    texts: list[bytes] = []

    def wrong(*words: object) -> bytes:
        texts.append(clean(*words))  # type: ignore[arg-type]
        return texts[0]  # the second version gets the manifest of the first

    monkeypatch.setattr("gittheta.flows.maintain.migrate.directions.clean", wrong)
    with pytest.raises(StoreError, match="another SHA-256"):
        in_process(raw)
    unmoved(raw, head)
    monkeypatch.undo()
    raw.git("theta", "migrate", "import", "--yes")
    assert raw.read() == model(2)


def test_a_commit_that_differs_otherwise_stops_it(raw: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    head, edit = raw.git("rev-parse", "main"), Rewriting.edit

    def more(self: Rewriting, commit: ExportedCommit) -> Iterator[Change]:
        yield from edit(self, commit)
        yield Change("extra", "100644", raw.git("hash-object", "-w", "--stdin", stdin="extra").strip())

    monkeypatch.setattr(Rewriting, "edit", more)
    with pytest.raises(GitError, match="would have become another one: extra"):
        in_process(raw)
    unmoved(raw, head)


def test_work_trees_links_and_submodules(world: World, raw: Repo) -> None:
    raw.git("config", "--global", "protocol.file.allow", "always")
    other = world.repo("other")
    other.commit(b"text", "file")
    raw.git("submodule", "-q", "add", str(other.path), "sub")
    (raw.path / "link.safetensors").symlink_to(M)
    raw.git("add", ".")
    raw.git("commit", "-q", "-m", "a link and a submodule")
    raw.git("worktree", "add", "-q", "-b", "second", str(world.root / "second"), "main~1")
    second = Repo(world.root / "second", raw.env)
    raw.git("theta", "migrate", "import", "--yes")
    for repo, content in ((raw, model(2)), (second, model(2))):
        assert repo.status() == ""
        assert repo.read() == content
        assert repo.manifest(revision="HEAD").startswith("gittheta manifest")
    assert raw.git("ls-tree", "HEAD", "link.safetensors", "sub").split()[0::4] == ["120000", "160000"]
    raw.git("checkout", "-q", "main~2")
    assert raw.sha() == sha256(model(1))


def test_a_bare_repository(world: World, raw: Repo) -> None:
    bare = Place(world.bare(), world.env)
    raw.git("push", "-q", str(bare.path), "main")
    bare.git("theta", "migrate", "import", "--yes")
    assert world.clone(bare.path).sha() == sha256(model(2))


def test_other_paths_with_the_filter_already(raw: Repo) -> None:
    """What is a manifest already stays what it is; lines that are there are not repeated."""
    raw.commit(b"*.safetensors filter=theta merge=theta diff=theta -text\n", ".gitattributes")
    raw.commit(model(3))
    text = raw.manifest(revision="main")
    raw.git("theta", "migrate", "import", "--yes")
    assert raw.manifest(revision="main") == text
    assert raw.read(".gitattributes").decode().count("safetensors") == 1
    raw.healthy()


@pytest.mark.parametrize("pattern", ["*.safetensors", "m*"])
def test_lines_of_lfs_in_a_folder(world: World, pattern: str) -> None:
    repo = world.repo(attributes="")
    repo.commit(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n".encode(), "models/.gitattributes")
    content = model(1)
    name = sha256(content)
    repo.write(f".git/lfs/objects/{name[:2]}/{name[2:4]}/{name}", content)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{name}\nsize {len(content)}\n"
    repo.commit(pointer.encode(), "models/m.safetensors")
    repo.git("theta", "migrate", "import", "--from-lfs", "--yes")
    assert repo.read("models/m.safetensors") == content
    assert "lfs" not in repo.git("grep", "-h", "safetensors", "HEAD", "--", "*.gitattributes")
    repo.healthy()
