"""Git hooks: small shims that hand over to ``git theta hook``. A hook that was there is kept and called first."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.errors import ThetaError

if TYPE_CHECKING:
    from gittheta.git.repository import Repository

NAMES = ("pre-push", "post-checkout", "post-merge", "post-rewrite", "post-index-change", "prepare-commit-msg")
_MARK = b"# gittheta: handed over to"
LEGACY = ".legacy"


@dataclass(frozen=True, slots=True)
class HookChange:
    """A hook that was installed or removed, and what became of the one before it."""

    path: Path
    chained: bool


def missing_hooks(folder: Path) -> list[str]:
    """The hooks that are not ours yet."""
    return [name for name in NAMES if not _is_ours(folder / name)]


def install_hooks(repository: Repository) -> list[HookChange]:
    """Put the shims where Git looks for hooks. Raises ThetaError rather than lose a hook."""
    folder = repository.hooks_dir()
    changes = []
    for name in NAMES:
        path = folder / name
        legacy = path.with_name(name + LEGACY)
        text = _shim(name)
        if _is_ours(path):
            if path.read_bytes() != text:
                _write(path, text)
            continue
        chained = path.exists()
        if chained and legacy.exists():
            raise ThetaError(
                f"there are two hooks already: {path} and {legacy}",
                hint="call the second from the first, remove the second, then run `git theta install` again",
            )
        if chained:
            os.link(path, legacy)  # fails if another process was faster, where a rename would lose the hook
        _write(path, text)
        changes.append(HookChange(path, chained))
    return changes


def remove_hooks(repository: Repository) -> list[HookChange]:
    """Take the shims away and put back what was there before."""
    folder = repository.hooks_dir()
    changes = []
    for name in NAMES:
        path = folder / name
        legacy = path.with_name(name + LEGACY)
        if not _is_ours(path):
            continue
        chained = legacy.exists()
        if chained:
            os.replace(legacy, path)
        else:
            path.unlink()
        changes.append(HookChange(path, chained))
    return changes


def _shim(name: str) -> bytes:
    package = Path(__file__).parents[1]
    installed = package / "hooks" / name
    return (installed if installed.is_file() else package.parent / "hooks" / name).read_bytes()


def _is_ours(path: Path) -> bool:
    try:
        return _MARK in path.read_bytes()
    except OSError:
        return False


def _write(path: Path, text: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.urandom(4).hex()}.new")
    temporary.write_bytes(text)
    temporary.chmod(0o755)
    os.replace(temporary, path)
