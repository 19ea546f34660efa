"""What was added comes back, byte for byte: every dtype, and headers as odd as the format allows."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save

from tests.support.checkpoints import BITS, Raw, checkpoint, framed, noise, normal, raw
from tests.support.world import Repo


def _of(dtype: str, seed: int = 0) -> dict[str, Raw]:
    bits = BITS[dtype]
    wide = (6, 8)
    sizes = {"matrix": wide, "vector": (8,), "empty": (0,), "empty.matrix": (4, 0, 3), "deep": (1, 2, 1, 4, 1)}
    sizes |= {"scalar": ()} if bits >= 8 else {}
    return {name: (dtype, shape, noise(seed, int(np.prod(shape)) * bits // 8)) for name, shape in sizes.items()}


def _twins(dtype: str) -> dict[str, bytes]:
    """Two versions of a file, so that a change is stored as well."""
    first, second = _of(dtype), _of(dtype)
    second["vector"] = _of(dtype, 1)["vector"]
    return {"first": checkpoint(first), "second": checkpoint(second)}


@pytest.mark.everywhere
def test_every_dtype_comes_back(repo: Repo) -> None:
    versions = {dtype: _twins(dtype) for dtype in BITS}
    for version in ("first", "second"):
        for dtype, contents in versions.items():
            repo.write(f"{dtype}.safetensors", contents[version])
        repo.git("add", ".")
        repo.git("commit", "-q", "-m", version)
    for version, revision in (("first", "HEAD^"), ("second", "main")):
        repo.git("checkout", "-q", revision)
        for dtype, contents in versions.items():
            assert repo.read(f"{dtype}.safetensors") == contents[version], dtype
        repo.healthy()


def test_show_names_every_dtype(repo: Repo) -> None:
    tensors = {dtype: (dtype, (8,), noise(0, BITS[dtype])) for dtype in BITS}
    repo.write("m.safetensors", checkpoint(tensors))
    repo.git("add", ".")
    shown = repo.git("theta", "show", "m.safetensors").splitlines()
    assert [line.split()[:2] for line in shown[:-1]] == [[dtype, dtype.lower()] for dtype in BITS]


ODD = {
    "nothing at all": framed(b"{}", b""),
    "only metadata": checkpoint({}, {"format": "pt"}),
    "empty metadata": checkpoint({"a": normal(0, 3)}, {}),
    "unicode metadata": checkpoint({"a": normal(0, 3)}, {"käse": "\u2028\U0001f600", "": "empty key"}),
    "spaces after the header": checkpoint({"a": normal(0, 3)}, padding=b" " * 1001),
    "no padding": checkpoint({"a": normal(0, 5)}),
    "line ends and indents": checkpoint(
        {"a": normal(0, 3), "b": normal(1, 2)}, {"x": "y"}, indent=3, padding=b"\r\n\t "
    ),
    "header order is not data order": checkpoint(
        {"a": normal(0, 3), "b": normal(1, 5), "c": normal(2, 7)}, header_order=["c", "a", "b"]
    ),
    "metadata last": framed(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"__metadata__":{"k":"v"}}', noise(0, 4)
    ),
    "keys in another order": framed(b'{"a":{"data_offsets":[0,4],"shape":[1],"dtype":"F32"}}', noise(0, 4)),
    "escaped name": framed(b'{"\\u0061":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', noise(0, 4)),
    "odd names": checkpoint(
        {
            "": normal(0, 2),
            "a b": normal(1, 2),
            "[x]": normal(2, 2),
            "a\nb": normal(3, 2),
            "%0A": normal(4, 2),
            "ü": normal(5, 2),
        }
    ),
    "same values twice": checkpoint({"a": normal(0, 9), "b": normal(0, 9), "c": normal(0, 9)}),
    "nan and infinity": checkpoint({"a": np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32)}),
    "one byte": checkpoint({"a": np.array([7], np.uint8)}),
    "unknown dtype": framed(b'{"a":{"dtype":"F3_NEW","shape":[9],"data_offsets":[0,7]}}', noise(0, 7)),
    "larger than a block": checkpoint({"a": raw(normal(0, 1500, 1000)), "b": normal(1, 3)}),
    "empty tensors everywhere": checkpoint(
        {"z": normal(0, 0), "a": normal(1, 2), "y": normal(0, 0, 3), "b": normal(2, 2), "x": normal(0, 5, 0)}
    ),
}


@pytest.mark.slow
@pytest.mark.everywhere
def test_odd_files_come_back(repo: Repo) -> None:
    for number, content in enumerate(ODD.values()):
        repo.write(f"{number}.safetensors", content)
    added = repo.run("add", ".")
    assert "warning" not in added.stderr
    repo.git("commit", "-q", "-m", "odd")
    repo.healthy()
    for number in range(len(ODD)):
        (repo.path / f"{number}.safetensors").unlink()
    repo.git("checkout", "--", ".")
    for number, (name, content) in enumerate(ODD.items()):
        assert repo.read(f"{number}.safetensors") == content, name
    repo.healthy()


def test_an_empty_file_stays_empty(repo: Repo) -> None:
    repo.commit(b"")
    assert repo.manifest() == ""
    (repo.path / "m.safetensors").unlink()
    repo.git("checkout", "--", ".")
    assert repo.read() == b""
    repo.healthy()


def test_files_of_the_reference_implementation(repo: Repo) -> None:
    content = save({"w": normal(0, 64, 64), "b": normal(1, 64)}, {"format": "np"})
    repo.commit(content)
    repo.git("rm", "-q", "m.safetensors")
    repo.git("commit", "-q", "-m", "gone")
    repo.git("checkout", "-q", "HEAD^")
    assert repo.read() == content


def test_what_did_not_change_is_stored_once(repo: Repo) -> None:
    large = normal(0, 256, 256)
    repo.commit(checkpoint({"large": large, "small": normal(1, 4)}))
    before = sum(path.stat().st_size for path in repo.objects())
    repo.commit(checkpoint({"large": large, "small": normal(2, 4)}))
    repo.commit(checkpoint({"renamed": large}), "other.safetensors")
    after = sum(path.stat().st_size for path in repo.objects())
    assert after - before < 2000 < large.nbytes // 2 < before


def test_git_stores_a_readable_manifest(repo: Repo) -> None:
    repo.commit(checkpoint({"layer.weight": normal(0, 8, 4)}))
    lines = repo.manifest().splitlines()
    assert "pip install gittheta" in lines[0]
    assert "[layer.weight]" in lines
    assert lines[lines.index("[layer.weight]") + 1].startswith("f32 8x4 b3:")


def test_a_manifest_added_as_a_file_is_kept(repo: Repo) -> None:
    repo.commit(checkpoint({"a": normal(0, 8)}))
    text = repo.manifest()
    repo.commit(text.encode(), "copy.safetensors")
    assert repo.manifest("copy.safetensors") == text
    repo.git("rm", "-q", "--cached", "copy.safetensors")
    repo.git("commit", "-q", "-m", "gone")
    (repo.path / "copy.safetensors").unlink()
    repo.git("checkout", "-q", "HEAD^")
    assert repo.sha("copy.safetensors") == repo.sha()
