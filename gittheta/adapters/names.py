"""Match the names in an adapter with the tensors of a checkpoint, whose names may have another prefix."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from gittheta.errors import AdapterError

if TYPE_CHECKING:
    from gittheta.adapters.file import AdapterFile

_Renaming = Callable[[str], str]


def find_names(file: AdapterFile, targets: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """The name in the checkpoint for each target of the adapter.

    ``targets`` gives, by the name of the target, the adapter's tensor that changes it; ``names`` are the tensors of the
    checkpoint. Names match as they are, or after one prefix is added to, or removed from, all of them. Raises
    AdapterError if a target is missing, or if several prefixes would match.
    """
    if not targets:
        raise AdapterError("holds no tensors", path=str(file.path), hint="fetch the adapter again")
    exact = _Attempt.make(targets, names, lambda name: name)
    if exact.complete:
        return exact.matches
    attempts = [_Attempt.make(targets, names, renaming) for renaming in _renamings(targets, names)]
    complete = [attempt.matches for attempt in attempts if attempt.complete]
    if len({tuple(matches.items()) for matches in complete}) > 1:
        first = next(name for name in targets if len({matches[name] for matches in complete}) > 1)
        meant = sorted({matches[first] for matches in complete})
        raise file.wrong(
            targets[first], f"could mean '{meant[0]}' as well as '{meant[1]}'", "rename the tensors of the checkpoint"
        )
    if complete:
        return complete[0]
    raise _missing(file, targets, max([exact, *attempts], key=lambda attempt: len(attempt.matches)))


class _Attempt:
    """The names that one renaming matches: by target, the tensor of the checkpoint."""

    def __init__(self, matches: dict[str, str], *, complete: bool) -> None:
        self.matches = matches
        self.complete = complete

    @classmethod
    def make(cls, targets: Collection[str], names: Collection[str], renaming: _Renaming) -> _Attempt:
        matches = {}
        for name in targets:
            if (renamed := renaming(name)) in names:
                matches[name] = renamed
            elif name in names:  # what lies beside the model proper, such as a head, has no prefix
                matches[name] = name
        return cls(matches, complete=len(set(matches.values())) == len(targets))


def _renamings(targets: Collection[str], names: Collection[str]) -> Iterator[_Renaming]:
    """Every renaming that matches at least one target."""
    longer = defaultdict(list)
    for name in names:
        for tail in _tails(name):
            longer[tail].append(name.removesuffix(tail))
    added = {prefix for name in targets for prefix in longer.get(name, ())}
    dropped = {name.removesuffix(tail) for name in targets for tail in _tails(name) if tail in names}
    for prefix in sorted(added):
        yield lambda name, prefix=prefix: prefix + name  # type: ignore[misc]
    for prefix in sorted(dropped):
        yield lambda name, prefix=prefix: name.removeprefix(prefix)  # type: ignore[misc]


def _tails(name: str) -> Iterator[str]:
    """A dotted name without its first parts, as long as at least two remain (a module and a parameter)."""
    steps = name.split(".")
    for first in range(1, len(steps) - 1):
        yield ".".join(steps[first:])


def _missing(file: AdapterFile, targets: Mapping[str, str], best: _Attempt) -> AdapterError:
    missing = [name for name in targets if name not in best.matches]
    if not missing:  # two of the adapter's tensors match the same tensor of the checkpoint
        missing = list(targets)
    return file.wrong(
        targets[missing[0]],
        f"is for '{missing[0]}', which is not in this file; nor are {len(missing) - 1} more "
        f"of the adapter's {len(targets)} targets"
        if len(missing) > 1
        else f"is for '{missing[0]}', which is not in this file",
        "apply it to the checkpoint that it was trained on, in one file (not to one shard of several); tied weights "
        "have only one name there",
    )
