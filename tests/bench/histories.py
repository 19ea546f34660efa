"""How long walks over a long history take: many versions of one checkpoint, written without adding each."""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from gittheta.model import DTYPES, Link, Manifest, ObjectId, Place, Skeleton, Stanza, TensorSpec, digest_of
from gittheta.storage.manifest import format_manifest
from tests.support.stores import object_file

#: Verbs that walk over history, by what the table calls them.
HISTORY_VERBS = {
    "fsck": ("fsck",),
    "fsck again": ("fsck",),
    "du": ("du",),
    "push": ("push", "--all"),
    "fetch": ("fetch", "--all"),
}
_LENGTH = 100
_ATTRIBUTES = b"*.safetensors filter=theta merge=theta diff=theta -text\n"


def _object(number: int) -> bytes:
    return b"object %d" % number * _LENGTH


def _place(number: int) -> Place:
    return Place(ObjectId(hashlib.sha256(_object(number)).hexdigest()), 16, _LENGTH)


def _stanza(tensor: int, version: int) -> Stanza:
    spec = TensorSpec(f"model.layers.{tensor}.self_attn.q_proj.weight", DTYPES["bf16"], (64, 64))
    return Stanza(spec, digest_of(b"%d of %d" % (tensor, version)), (Link("dense", (_place(version),)),))


def versions(commits: int, tensors: int) -> Iterator[bytes]:
    """Manifests of which each has one new tensor, in an object of its own."""
    stanzas = [_stanza(tensor, 0) for tensor in range(tensors)]
    skeleton = Skeleton(_LENGTH, _LENGTH, digest_of(b"skeleton"), (Link("dense", (_place(0),)),))
    for version in range(commits):
        stanzas[version % tensors] = _stanza(version % tensors, version)
        yield format_manifest(Manifest("safetensors", skeleton, tuple(stanzas)))


def write_history(repository: Path, commits: int, tensors: int) -> None:
    """A bare repository with so many versions of a checkpoint, and their objects."""
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", repository], check=True)
    for number in range(commits):
        content = _object(number)
        name = hashlib.sha256(content).hexdigest()
        file = object_file(repository / "theta", name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    stream = b"".join(_commits(commits, tensors))
    subprocess.run(["git", "fast-import", "--quiet"], cwd=repository, input=stream, check=True)


def _commits(commits: int, tensors: int) -> Iterator[bytes]:
    for number, text in enumerate(versions(commits, tensors)):
        yield b"commit refs/heads/main\ncommitter T <t@example.com> %d +0000\ndata 1\nx\n" % (10**9 + number)
        if not number:
            yield b"M 100644 inline .gitattributes\ndata %d\n%s\n" % (len(_ATTRIBUTES), _ATTRIBUTES)
        yield b"M 100644 inline model.safetensors\ndata %d\n%s\n" % (len(text), text)


def seconds_of_verb(repository: Path, *words: str) -> float:
    """How long a verb takes; it must succeed."""
    began = time.perf_counter()
    subprocess.run(["git", "theta", *words], cwd=repository, check=True, capture_output=True)
    return time.perf_counter() - began
