"""Hooks that lie in a folder of the project, or of others: `core.hooksPath` of this clone points to shims of our own.

Nothing is written into that folder. The shims run every hook of it, of any name, and those of ours hand over to
gittheta. Another tool may set `core.hooksPath` back: what it sets is then the folder whose hooks are run.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.git.calling.files import SUFFIX
from gittheta.git.calling.script import Modes, is_current, is_shim, shim, write_shim
from gittheta.git.configuration import Scope, remove_setting, scoped_settings, write_setting

if TYPE_CHECKING:
    from gittheta.git.repository import Repository

#: Where the shims lie, seen from the common directory.
FOLDER = ("theta", "hooks")
_PATH, _FORMER = "core.hooksPath", "theta.formerHooksPath"
#: Hooks that may be added to the other folder at any time. `push-to-checkout`, `proc-receive` and
#: `reference-transaction` are not among them: that they are there at all changes what Git does, or its speed.
_NAMES = (
    "applypatch-msg", "pre-applypatch", "post-applypatch", "pre-commit", "pre-merge-commit", "prepare-commit-msg",
    "commit-msg", "post-commit", "pre-rebase", "post-checkout", "post-merge", "pre-push", "pre-receive", "update",
    "post-receive", "post-update", "pre-auto-gc", "post-rewrite", "post-index-change", "sendemail-validate",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HooksPath:
    """What `core.hooksPath` says, but for `git -c`, which holds for one command only."""

    #: In the configuration of this clone, or of this work tree alone.
    local: str | None
    #: In that of the user or the machine.
    outer: str | None
    #: What the clone's own setting was before ours.
    saved: str | None
    #: Whose setting is in force, and is therefore changed.
    scope: Scope = "--local"

    @classmethod
    def read(cls, repository: Repository) -> HooksPath:
        """Starts Git only if there is such a setting at all."""
        if not repository.config.keys() & {_PATH.lower(), _FORMER.lower()}:
            return cls(None, None, None)
        path, former = _PATH.lower(), _FORMER.lower()
        values: dict[tuple[str, str], str] = {}
        for scope, key, value in scoped_settings(repository.git, f"^({path}|{former})$"):
            if value:
                values[scope, key] = value
        scope = "worktree" if ("worktree", path) in values else "local"
        outer = values.get(("global", path)) or values.get(("system", path))
        if scope == "worktree":
            outer = values.get(("local", path)) or outer
        return cls(values.get((scope, path)), outer, values.get((scope, former)), f"--{scope}")  # type: ignore[arg-type]

    @property
    def is_ours(self) -> bool:
        """Whether it points to shims of ours: of this clone, or of one that it was copied from."""
        return self.local is not None and Path(self.local).parts[-2:] == FOLDER

    @property
    def former(self) -> str | None:
        """Where Git would look for hooks without gittheta; None where it does so by itself."""
        return (self.saved if self.is_ours else self.local) or self.outer


def own_folder(repository: Repository) -> Path:
    """Where the shims lie that `core.hooksPath` may point to."""
    return repository.common_dir.joinpath(*FOLDER)


def former_folder(repository: Repository, hooks_path: HooksPath) -> Path:
    """Where the hooks lie that are not ours."""
    if hooks_path.former is None:
        return repository.common_dir / "hooks"
    return (repository.top or repository.git_dir) / Path(hooks_path.former).expanduser()


def is_foreign(repository: Repository, folder: Path) -> bool:
    """Whether a folder of hooks lies, links followed, elsewhere than in the git directory: then it is not ours."""
    return not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(repository.common_dir))


def in_force(repository: Repository, hooks_path: HooksPath, ours: Sequence[str]) -> bool:
    """Whether `core.hooksPath` points to our shims, and these run each hook that is in the other folder now."""
    folder = own_folder(repository)
    if hooks_path.local != str(folder):
        return False
    wanted = _former_hooks(repository, hooks_path, ours)
    return all(is_current(folder / name, name, former, ours=name in ours) for name, former in wanted.items())


def install(repository: Repository, hooks_path: HooksPath, ours: Sequence[str], modes: Modes) -> Iterator[str]:
    """Write the shims, then point to them; says what was done. Raises OSError or GitError."""
    folder = own_folder(repository)
    for name, former in _former_hooks(repository, hooks_path, ours).items():
        write_shim(folder / name, shim(name, former, ours=name in ours), modes)
    if hooks_path.local == str(folder):
        yield f"hooks in {folder} renewed"
        return
    if not hooks_path.is_ours:
        _save(repository, hooks_path)
    write_setting(repository.git, hooks_path.scope, _PATH, str(folder))
    former_path = former_folder(repository, hooks_path)
    yield f"git config {hooks_path.scope} {_PATH} '{folder}' (the hooks in {former_path} are called first)"


def remove(repository: Repository, hooks_path: HooksPath) -> Iterator[str]:
    """Let Git look for hooks where it did before; says what was done."""
    scope = hooks_path.scope
    if hooks_path.is_ours and hooks_path.saved:
        write_setting(repository.git, scope, _PATH, hooks_path.saved)
        yield f"git config {scope} {_PATH} '{hooks_path.saved}'"
    elif hooks_path.is_ours:
        remove_setting(repository.git, scope, _PATH)
        yield f"git config {scope} --unset {_PATH}"
    if hooks_path.saved:
        remove_setting(repository.git, scope, _FORMER)
    shutil.rmtree(own_folder(repository), ignore_errors=True)


def _save(repository: Repository, hooks_path: HooksPath) -> None:
    if hooks_path.local is not None:
        write_setting(repository.git, hooks_path.scope, _FORMER, hooks_path.local)
    elif hooks_path.saved is not None:
        remove_setting(repository.git, hooks_path.scope, _FORMER)


def _former_hooks(repository: Repository, hooks_path: HooksPath, ours: Sequence[str]) -> dict[str, str]:
    """The hooks that need a shim, and what was there before, as a word of the shell."""
    folder = former_folder(repository, hooks_path)
    there = [path.name for path in _files(folder) if os.access(path, os.X_OK) and path.suffix != ".sample"]
    if hooks_path.former is None:
        start = '"${0%/*}"/../../hooks/'
    else:
        start = shlex.quote(str(Path(hooks_path.former).expanduser()) + "/")
    names = dict.fromkeys([*ours, *_NAMES, *sorted(there)])
    # A shim that an older version wrote into that folder would hand over as well: what it has chained is meant.
    chained = {name: next((s for s in (SUFFIX, ".legacy") if (folder / (name + s)).exists()), SUFFIX) for name in there}
    return {
        name: start + shlex.quote(name + (chained[name] if name in there and is_shim(folder / name) else ""))
        for name in names
    }


def _files(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_file()]
    except OSError:
        return []
