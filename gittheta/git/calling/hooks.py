"""Git hooks: in which of three ways Git comes to call ``git theta hook`` in a repository.

With Git 2.54 and newer, the configuration names them (``events``). With an older Git they are shims: where the
folder for hooks is the repository's own, beside what lies there (``files``); where it belongs to the project or
to others, in a folder of gittheta's to which this clone's `core.hooksPath` points (``redirect``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.errors import GitError
from gittheta.git.calling import events, files, redirect
from gittheta.git.calling.redirect import HooksPath

if TYPE_CHECKING:
    from gittheta.git.calling.script import Modes
    from gittheta.git.repository import Repository

NAMES = ("pre-push", "post-checkout", "post-merge", "post-rewrite", "post-index-change", "prepare-commit-msg")

#: Does something about hooks, and says what, a line each. May raise OSError or GitError.
Errand = Callable[[], Iterable[str]]


@dataclass(frozen=True, slots=True)
class HookReport:
    """What was done about the hooks, a line each, and what could not be done."""

    changes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def hooks_in_force(repository: Repository) -> bool:
    """Whether Git calls gittheta for every hook, as things stand in the repository."""
    hooks_path = HooksPath.read(repository)
    folder = redirect.former_folder(repository, hooks_path)
    if hooks_path.is_ours:
        by_files = redirect.in_force(repository, hooks_path, NAMES)
    else:
        by_files = not redirect.is_foreign(repository, folder) and all(files.in_force(folder, name) for name in NAMES)
    return by_files or (events.in_force(repository, NAMES) and events.are_supported(repository))


def install_hooks(repository: Repository, modes: Modes) -> HookReport:
    """Let Git call gittheta, in the way that fits; each hook by itself, so that one that resists stops no other."""
    if events.are_supported(repository):
        return _done([partial(events.install, repository, NAMES, modes)])
    hooks_path = HooksPath.read(repository)
    folder = redirect.former_folder(repository, hooks_path)
    if redirect.is_foreign(repository, folder):
        return _done([partial(redirect.install, repository, hooks_path, NAMES, modes)])
    return _done([
        *([partial(redirect.remove, repository, hooks_path)] if hooks_path.is_ours else []),
        *(partial(files.install, folder, name, modes) for name in NAMES),
    ])  # fmt: skip


def renew_hooks(repository: Repository, modes: Modes) -> HookReport:
    """The same where the user asks for it: shims that this Git does not need (any more) are taken away as well."""
    before = _done(_removals(repository)).changes if events.are_supported(repository) else ()
    report = install_hooks(repository, modes)
    return HookReport((*before, *report.changes), report.problems)


def remove_hooks(repository: Repository) -> HookReport:
    """Undo all of it, and put back what was there before."""
    return _done([partial(events.remove, repository), *_removals(repository)])


def _removals(repository: Repository) -> list[Errand]:
    hooks_path = HooksPath.read(repository)
    folders: dict[Path, None] = dict.fromkeys(
        [repository.common_dir / "hooks", redirect.former_folder(repository, hooks_path)]
    )
    shims = [partial(files.remove, folder, name) for folder in folders for name in NAMES]
    redirected = hooks_path.is_ours or hooks_path.saved is not None
    return [*([partial(redirect.remove, repository, hooks_path)] if redirected else []), *shims]


def _done(errands: Iterable[Errand]) -> HookReport:
    changes: list[str] = []
    problems: list[str] = []
    for errand in errands:
        try:
            changes.extend(errand())
        except OSError as error:
            problems.append(str(error))
        except GitError as error:
            problems.append(error.what)
    return HookReport(tuple(changes), tuple(problems))
