"""The frozen objects, put into a repository."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support.repository import Repo
from tests.support.stores import object_file

HERE = Path(__file__).parent


def objects_into(repo: Repo) -> None:
    """Put every frozen object into the store of ``repo``."""
    for path in (HERE / "objects").iterdir():
        target = object_file(repo.theta, path.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
