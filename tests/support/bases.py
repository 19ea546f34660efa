"""Three versions of a tensor, each a small change to the one before; and what each was derived from."""

from __future__ import annotations

import numpy as np

from gittheta.model import Digest, Recipe, Stanza, digest_of
from gittheta.storage.manifest import parse_manifest
from tests.support.command import git
from tests.support.repository import Repo
from tests.support.safetensors_file import safetensors

M = "m.safetensors"
SHAPE = (80, 50)
TRACKED = "*.safetensors filter=theta\n"


def weights(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def few(values: np.ndarray, seed: int) -> np.ndarray:
    """Some elements are others, as large as any."""
    changed = values.copy()
    rng = np.random.default_rng(seed)
    changed.flat[rng.choice(values.size, 30, replace=False)] = rng.standard_normal(30)
    return changed


def file_of(values: np.ndarray, name: str = "w") -> bytes:
    return safetensors([(name, "F32", values.shape, values.tobytes())])


V1, V2, V3 = weights(1), few(weights(1), 2), few(few(weights(1), 2), 3)


def stanza(text: bytes) -> Stanza:
    return parse_manifest(text).stanzas[0]


def base_digest(text: bytes) -> Digest | None:
    """The digest of the base; None if the tensor stands by itself."""
    recipe = stanza(text).recipe
    return recipe[0].base


def digest(values: np.ndarray) -> Digest:
    return digest_of(values.tobytes())


def objects_of(recipe: Recipe) -> set[str]:
    return {place.object for link in recipe for place in link.places}


def commit(repo: Repo, data: bytes, path: str = M) -> bytes:
    text = repo.add(data, path)
    git(repo.top, "commit", "-q", "-m", "version")
    assert repo.smudge(text, path) == data
    return text


def attributes(repo: Repo, text: str) -> None:
    (repo.top / ".gitattributes").write_text(text)
    git(repo.top, "add", ".gitattributes")
    git(repo.top, "commit", "-q", "-m", "attributes")


def forget(repo: Repo) -> None:
    """The table of known tensors is a cache."""
    for file in repo.theta.glob("known.sqlite*"):
        file.unlink()
