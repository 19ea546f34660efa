"""A repository as it was, to begin from again."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.bench.worlds import World


@dataclass(frozen=True)
class Kept:
    """A repository as it was, to begin from again. Objects are shared: they never change."""

    world: World

    @property
    def _folder(self) -> Path:
        return self.world.folder / "kept.git"

    @property
    def _repository(self) -> Path:
        return self.world.repository / ".git"

    def keep(self) -> None:
        """Remember how it is now."""
        _copy(self._repository, self._folder)

    def restore(self) -> None:
        """Have it as it was."""
        shutil.rmtree(self._repository)
        _copy(self._folder, self._repository)

    def forget(self) -> None:
        """Have it as it was, once and for all."""
        shutil.rmtree(self._repository)
        os.rename(self._folder, self._repository)


def _copy(repository: Path, target: Path) -> None:
    def copy(one: str, other: str) -> None:
        if "objects" in Path(one).relative_to(repository).parts:
            os.link(one, other)
        else:
            shutil.copy2(one, other)

    shutil.copytree(repository, target, copy_function=copy)
