"""A format that needs the whole file, with block dtypes and tensors under several names, through real git."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gittheta.model import DTYPES
from gittheta.storage.manifest import parse_manifest
from gittheta.testing import block_values
from tests.contract.test_index_at_end import indexed, with_index
from tests.support.index_at_end import BLOCKS, HEAD, Content, install
from tests.support.parameters import first_often
from tests.support.world import Repo, World

FILE = "m.theirs"
ATTRIBUTES = "*.theirs filter=theta merge=theta diff=theta -text\n"
FIRST, SECOND = (f"gittheta manifest {version}: ".encode() for version in (1, 2))


@pytest.fixture
def repo(world: World) -> Repo:
    """A repository on a machine with the plugin."""
    world.heed_python_path(install(world.root / "site"))
    return world.repo(attributes=ATTRIBUTES)


def blocks(name: str, rows: int, columns: int, seed: int) -> tuple[str, tuple[int, ...], bytes]:
    dtype = BLOCKS[name]
    return name, (rows, columns), block_values(dtype, rows * columns // dtype.unit, seed)


def content(seed: int = 1) -> Content:
    """A quantised model with tied weights."""
    tensors = {
        "token_embd.weight": blocks("q4_0", 50, 320, seed),
        "ffn.weight": blocks("q6_k", 8, 512, seed + 1),
        "norm.weight": ("f32", (320,), block_values(DTYPES["f32"], 320, seed + 2)),
        "nothing": ("q4_0", (3, 0), b""),
    }
    return Content(tensors, {"output.weight": "token_embd.weight", "100% ü": "norm.weight"}, {"by": "hand"}, b"gap..")


def with_tensor(model: Content, name: str, seed: int) -> Content:
    """The same model but for one byte of one tensor."""
    dtype, shape, data = model.tensors[name]
    at = seed * 13 % len(data)
    changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    return replace(model, tensors=model.tensors | {name: (dtype, shape, changed)})


def manifest(repo: Repo, revision: str = "") -> bytes:
    return repo.manifest(FILE, revision).encode()


def come_back(repo: Repo, data: bytes) -> None:
    """The file is the same after another checkout, and git sees no change."""
    (repo.path / FILE).unlink()
    repo.git("checkout", "--", FILE)
    assert repo.read(FILE) == data
    assert repo.status() == ""


def test_added_and_checked_out(repo: Repo) -> None:
    data = content().data()
    repo.commit(data, FILE)
    text = manifest(repo)
    assert text.startswith(SECOND)
    parsed = parse_manifest(text)
    assert parsed.format == "index_at_end"
    said = {one.spec.name: (one.spec.dtype, one.spec.shape, one.aliases) for one in parsed.stanzas}
    assert said == {
        "token_embd.weight": (BLOCKS["q4_0"], (50, 320), ("output.weight",)),
        "ffn.weight": (BLOCKS["q6_k"], (8, 512), ()),
        "norm.weight": (DTYPES["f32"], (320,), ("100% ü",)),
        "nothing": (BLOCKS["q4_0"], (3, 0), ()),
    }
    come_back(repo, data)
    repo.healthy()


@pytest.mark.slow
def test_a_file_that_version_one_has_words_for_stays_of_version_one(repo: Repo) -> None:
    plain = Content({"norm.weight": content().tensors["norm.weight"], "ids": ("i64", (2,), bytes(16))}, gap=b"--")
    for model, first in (
        (plain, FIRST),
        (replace(plain, aliases={"ids again": "ids"}), SECOND),
        (replace(plain, tensors=plain.tensors | {"q": blocks("q4_0", 1, 32, 1)}), SECOND),
        (plain, FIRST),
    ):
        repo.write(FILE, model.data())
        repo.git("add", FILE)
        assert manifest(repo).startswith(first)
        repo.git("commit", "-q", "-m", "version", "--allow-empty")
        come_back(repo, model.data())


@pytest.mark.slow
def test_a_changed_tensor_is_a_small_change(repo: Repo) -> None:
    """Of a block dtype, and under several names; the others keep their stanzas."""
    first = content()
    repo.commit(first.data(), FILE)
    before = parse_manifest(manifest(repo)).stanzas
    second = with_tensor(first, "token_embd.weight", 3)
    repo.commit(second.data(), FILE)
    after = parse_manifest(manifest(repo)).stanzas
    assert after[1:] == before[1:]
    assert [link.encoding for link in after[0].recipe] == ["sparse", "dense"]
    assert after[0].aliases == before[0].aliases
    come_back(repo, second.data())
    repo.git("checkout", "-q", "HEAD~")
    assert repo.read(FILE) == first.data()
    repo.healthy()


def test_large_files_are_read_from_a_temporary_one(repo: Repo) -> None:
    model = Content({f"layer {at}": blocks("q4_0", 512, 4096, at) for at in range(4)}, {"tied": "layer 2"})
    data = model.data()
    repo.commit(data, FILE)
    assert manifest(repo).startswith(SECOND)
    come_back(repo, data)
    assert not list((repo.store / "tmp").iterdir())


@pytest.mark.slow
def test_two_sides_change_different_tensors(repo: Repo) -> None:
    base = content()
    repo.commit(base.data(), FILE)
    repo.branch("side", with_tensor(base, "ffn.weight", 5).data(), file=FILE)
    repo.git("checkout", "-q", "main")
    repo.commit(with_tensor(base, "token_embd.weight", 7).data(), FILE)
    repo.git("merge", "--no-edit", "side")
    both = with_tensor(with_tensor(base, "token_embd.weight", 7), "ffn.weight", 5)
    assert repo.read(FILE) == both.data()
    assert parse_manifest(manifest(repo)).stanzas[0].aliases == ("output.weight",)
    repo.healthy()


WHOLE = content().data()
BROKEN = {
    "cut within the index": WHOLE[:-20],
    "cut within a tensor": WHOLE[:5000],
    "nothing but the first bytes": HEAD,
    "more behind the trailer": WHOLE + b"more",
    "index outside the file": indexed([["w", "f32", [2], 8]], begin=1 << 40),
    "index before the data": indexed([["w", "f32", [2], 8]], begin=0),
    "tensor outside the data": indexed([["w", "f32", [2], 1 << 40]]),
    "tensor within the index": indexed([["w", "f32", [2], 106]]),
    "tensors that overlap": indexed([["a", "u8", [50], 8], ["b", "u8", [50], 40]]),
    "part of a block": indexed([["w", "q4_0", [2, 16], 8]]),
    "one name for two tensors": indexed([["w", "u8", [5], 8], ["v", "u8", [5], 13]], {"v": "w"}),
    "another name for nothing": indexed([["w", "u8", [5], 8]], {"v": "u"}),
    "no index": with_index(b"not JSON"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", first_often(8, BROKEN))
def test_a_broken_file_is_kept_as_it_is(repo: Repo, fault: str) -> None:
    data = BROKEN[fault]
    repo.write(FILE, data)
    said = repo.run("add", FILE).stderr
    assert f"{FILE}: a broken index_at_end file, stored as opaque bytes" in said
    repo.git("commit", "-q", "-m", "broken")
    assert parse_manifest(manifest(repo)).format == "opaque"
    assert manifest(repo).startswith(FIRST)
    come_back(repo, data)
    repo.commit(WHOLE, FILE)
    come_back(repo, WHOLE)
    repo.healthy()


@pytest.mark.slow
def test_where_the_plugin_is_not_installed(repo: Repo) -> None:
    """Nothing is lost: the manifest is left as it is, and the file is there once the plugin is."""
    repo.commit(WHOLE, FILE)
    text = manifest(repo)
    (repo.path / FILE).unlink()
    without = Repo(repo.path, {name: value for name, value in repo.env.items() if name != "PYTHONPATH"})
    assert "no format named 'index_at_end' is installed" in without.fails("checkout", "--", FILE)
    repo.write(FILE, text)
    without.git("add", FILE)
    assert manifest(repo) == text
    come_back(repo, WHOLE)
