"""A repository whose flows are called without the command line."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from gittheta.flows.add.clean import clean
from gittheta.flows.checkout.smudge import read_manifest, smudge
from gittheta.flows.workspace import Workspace
from gittheta.git.repository import Repository
from gittheta.limits import Limits
from tests.support.command import git
from tests.support.reporting import Listening
from tests.support.stores import object_files


@dataclass
class Repo:
    """A real repository whose flows are called without the command line; each opens it anew."""

    top: Path
    warnings: list[str] = field(default_factory=list)
    limits: Limits | None = None
    _place: Repository | None = None

    def open(self) -> Workspace:
        """As another process would, which knows nothing yet but where the repository lies."""
        self._place = replace(self._place) if self._place else Repository.discover(self.top)
        return Workspace(self._place, Listening(self.warnings), self.limits)

    def clean(self, data: bytes, path: str = "m.safetensors") -> bytes:
        with self.open() as workspace:
            return clean(workspace, path, io.BytesIO(data))

    def smudge(self, text: bytes, path: str = "m.safetensors") -> bytes:
        with self.open() as workspace:
            manifest = read_manifest(workspace, path, text)
            if manifest is None:  # left to Git as it is
                return text
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
        return {path.name: path for path in object_files(self.theta)}

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
