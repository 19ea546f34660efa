"""Things that the lower-level tests are made of: files by hand, repositories, small values."""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gittheta.flows.add.clean import clean
from gittheta.flows.checkout.smudge import read_manifest, smudge
from gittheta.flows.workspace import Workspace
from gittheta.limits import Limits
from gittheta.model import DTYPES

#: Names of the dtypes that are computed with.
ARITHMETIC = {dtype.name for dtype in DTYPES.values() if dtype.arithmetic}
#: name, dtype as safetensors spells it, shape, bytes
Entry = tuple[str, str, Sequence[int], bytes]


def framed(header: bytes | object, data: bytes = b"") -> bytes:
    """A header, as it is or as JSON, behind its length, then data."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + data


def safetensors(
    entries: Sequence[Entry], *, metadata: object = None, padding: bytes = b"", order: Sequence[int] | None = None
) -> bytes:
    """A safetensors file made by hand; ``order`` is that of the header, while data stand in the order of entries."""
    described, at = [], 0
    for name, dtype, shape, data in entries:
        described.append((name, {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}))
        at += len(data)
    header = {} if metadata is None else {"__metadata__": metadata}
    header |= dict(described[number] for number in order) if order is not None else dict(described)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode() + padding
    return framed(text, b"".join(entry[3] for entry in entries))


def git(directory: Path, *words: str, stdin: bytes | None = None) -> str:
    """What a git command prints; git with a home of its own (see conftest.py)."""
    return subprocess.run(
        ["git", *words], cwd=directory, input=stdin, check=True, capture_output=True
    ).stdout.decode().rstrip("\n")  # fmt: skip


#: Blocks of 64 elements; tensors above 1 KiB are too large to be held, and the other bounds are small in proportion.
SMALL = Limits(
    block_elements=64,
    piece=1024,
    object_size=8192,
    held=1024,
    in_flight=2048,
    per_worker=256,
    decoded_ahead=2048,
    kept_blocks=1024,
    whole_tensor=700,
    encode_batch=600,
    decode_batch=600,
    digest_inline=300,
    digest_waiting=2048,
    sample_window=32,
)


@dataclass
class Listening:
    """A reporter that remembers."""

    warnings: list[str] = field(default_factory=list)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def trace(self, message: str) -> None: ...

    def start(self, what: str, total: int) -> None: ...

    def advance(self, amount: int) -> None: ...


@dataclass
class Repo:
    """A real repository whose flows are called without the command line; each opens it anew."""

    top: Path
    warnings: list[str] = field(default_factory=list)
    limits: Limits | None = None

    def open(self) -> Workspace:
        return Workspace.open(self.top, Listening(self.warnings), self.limits)

    def clean(self, data: bytes, path: str = "m.safetensors") -> bytes:
        with self.open() as workspace:
            return clean(workspace, path, io.BytesIO(data))

    def smudge(self, text: bytes, path: str = "m.safetensors") -> bytes:
        with self.open() as workspace:
            manifest = read_manifest(workspace, path, text)
            assert manifest is not None
            return b"".join(smudge(workspace, path, manifest))

    def stage(self, text: bytes, path: str = "m.safetensors") -> None:
        """Put a manifest into the index, as `git add` does with what the filter answers."""
        oid = git(self.top, "hash-object", "-w", "--stdin", stdin=text)
        git(self.top, "update-index", "--add", "--cacheinfo", f"100644,{oid},{path}")

    def add(self, data: bytes, path: str = "m.safetensors") -> bytes:
        """Clean and stage."""
        text = self.clean(data, path)
        self.stage(text, path)
        return text

    @property
    def theta(self) -> Path:
        return self.top / ".git" / "theta"

    def objects(self) -> dict[str, Path]:
        return {path.name: path for path in (self.theta / "objects").glob("??/*")}

    def temporaries(self) -> list[str]:
        return os.listdir(self.theta / "tmp") if (self.theta / "tmp").is_dir() else []

    def check_fixed_point(self, data: bytes, path: str = "m.safetensors") -> bytes:
        """Add, check out, add again: the promises that `git status` rests on."""
        text = self.add(data, path)
        back = self.smudge(text, path)
        assert back == data
        assert self.clean(back, path) == text
        assert self.clean(text, path) == text
        assert not self.temporaries()
        return text
