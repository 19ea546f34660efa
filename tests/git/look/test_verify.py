"""`git theta verify`: is that this version? To the bit, by tensor, by digest, by a signature."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import checkpoint, sha256
from tests.support.world import Repo, Template, World

M = "m.safetensors"
A, B = (np.random.default_rng(seed).normal(0, 1, (8, 8)).astype(np.float32) for seed in (1, 2))
FIRST = checkpoint({"a": A, "b": B})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, installed_home: Path) -> Template:
    world = World(tmp_path_factory.mktemp("signed"), installed_home)
    repo = world.repo()
    repo.commit(FIRST)
    repo.commit(b"notes\n", "model/README")
    repo.commit(FIRST, "model/m.safetensors")
    return Template(world.root, {})


@pytest.fixture
def signed(world: World, built: Template) -> Repo:
    return built.copy_to(world)


def statement(digests: dict[str, str], **more: object) -> dict[str, object]:
    resources = [{"name": name, "algorithm": "sha256", "digest": digest} for name, digest in digests.items()]
    serialization = {"method": "files", "hash_type": "sha256", "ignore_paths": [".gitattributes"]} | more
    return {
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {"resources": resources, "serialization": serialization},
    }


def signature(file: Path, content: object) -> str:
    payload = base64.b64encode(json.dumps(content).encode()).decode()
    file.write_text(json.dumps({"dsseEnvelope": {"payload": payload}}))
    return str(file)


def test_a_file(signed: Repo, tmp_path: Path) -> None:
    file = tmp_path / "copy.safetensors"
    file.write_bytes(FIRST)
    assert "the same, to the bit" in signed.git("theta", "verify", f"HEAD:{M}", str(file))
    file.write_bytes(checkpoint({"b": B, "a": A}, {"made": "elsewhere"}))
    done = signed.attempt("git", "theta", "verify", f"HEAD:{M}", str(file))
    assert done.returncode == 1
    assert "other bytes, but 2 tensors, all of them the same" in done.stdout
    signed.git("theta", "verify", "--tensors", f"HEAD:{M}", str(file))
    file.write_bytes(checkpoint({"a": A + 1, "c": B}))
    done = signed.attempt("git", "theta", "verify", "--tensors", f"HEAD:{M}", str(file))
    assert done.returncode == 1
    assert [line for line in done.stdout.splitlines() if ":" in line] == ["other values: a", "not there: b", "new: c"]
    file.write_bytes(b"no model")
    assert signed.attempt("git", "theta", "verify", f"HEAD:{M}", str(file)).returncode == 1


def test_a_digest(signed: Repo) -> None:
    for digest in (sha256(FIRST), f"sha256:{sha256(FIRST).upper()}"):
        signed.git("theta", "verify", f"HEAD:{M}", digest)
    done = signed.attempt("git", "theta", "verify", f"HEAD:{M}", "0" * 64)
    assert (done.returncode, sha256(FIRST) in done.stdout) == (1, True)
    tensor = re.search(r"\[a\]\nf32 8x8 (b3:[0-9a-f]{64})", signed.manifest())
    assert tensor
    assert signed.git("theta", "verify", f"HEAD:{M}", tensor[1]) == "a\n"
    assert "not a file of a commit" in signed.fails("theta", "verify", "HEAD:none", "0" * 64, status=50)
    assert "a folder" in signed.fails("theta", "verify", "HEAD:model", "0" * 64)
    signed.git("theta", "verify", "HEAD:model/README", sha256(b"notes\n"))


def test_a_signature(signed: Repo, tmp_path: Path) -> None:
    right = {"m.safetensors": sha256(FIRST), "README": sha256(b"notes\n")}
    said = signed.git("theta", "verify", "HEAD:model", "--oms", signature(tmp_path / "sig", statement(right)))
    assert "2 files as signed" in said
    assert "who has signed was not checked" in said
    one = signature(tmp_path / "one", statement({".": sha256(FIRST)}))
    signed.git("theta", "verify", f"HEAD:{M}", "--oms", one)
    wrong = {"m.safetensors": "0" * 64, "gone": "0" * 64}
    done = signed.attempt("git", "theta", "verify", "HEAD:model", "--oms", signature(tmp_path / "no", statement(wrong)))
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "gone: signed, and not there",
        "m.safetensors: not what was signed",
        "README: there, and not signed",
    ]


def test_what_is_not_a_signature(signed: Repo, tmp_path: Path) -> None:
    other, empty = {"predicateType": "other", "predicate": {}}, {"predicate": 1}
    wrong: tuple[object, ...] = ("x", [], statement({"a": "b"}, method="shards"), other, empty)
    for content in wrong:
        words = ("theta", "verify", "HEAD:model", "--oms", signature(tmp_path / "sig", content))
        assert "signature" in signed.fails(*words, status=11)
    (tmp_path / "sig").write_text("{")
    signed.fails("theta", "verify", "HEAD:model", "--oms", str(tmp_path / "sig"), status=11)


def test_who_has_signed(signed: Repo, tmp_path: Path) -> None:
    signing = pytest.importorskip("model_signing.signing", reason="model_signing is not installed")
    for name in ("right", "wrong"):
        key, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key], check=True)
        subprocess.run(["openssl", "ec", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)
    file = tmp_path / "model.sig"
    signing.Config().use_elliptic_key_signer(private_key=tmp_path / "right.pem").sign(signed.path / "model", file)
    words = ("git", "theta", "verify", "HEAD:model", "--oms", str(file), "--public-key")
    assert "signed by them" in signed.attempt(*words, str(tmp_path / "right.pub")).stdout
    done = signed.attempt(*words, str(tmp_path / "wrong.pub"))
    assert done.returncode == 1
    assert "not signed by them" in done.stdout


def test_without_the_library(signed: Repo, tmp_path: Path) -> None:
    try:
        import model_signing  # noqa: F401
    except ImportError:
        one = signature(tmp_path / "one", statement({".": sha256(FIRST)}))
        message = signed.fails("theta", "verify", f"HEAD:{M}", "--oms", one, "--public-key", "key.pub")
        assert "pip install model_signing" in message
    else:
        pytest.skip("model_signing is installed")
