"""Which tensor of a checkpoint an adapter means, whose names may have another prefix than those it was trained with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping

from gittheta.adapters.file import AdapterFile
from gittheta.errors import AdapterError

_Renaming = Callable[[str], str]


def find_names(file: AdapterFile, wanted: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """The name in the checkpoint for each wanted one, exactly so or with one prefix added to all, or taken off.

    ``wanted`` also says which of the adapter's tensors wants it. Raises AdapterError if a name is not there, or if
    more than one prefix would do.
    """
    if not wanted:
        raise AdapterError("holds no tensors", path=str(file.path), hint="fetch the adapter again")
    exact = _Attempt.make(wanted, names, lambda name: name)
    if exact.complete:
        return exact.found
    attempts = [_Attempt.make(wanted, names, renaming) for renaming in _renamings(wanted, names)]
    complete = [attempt.found for attempt in attempts if attempt.complete]
    if len({tuple(found.items()) for found in complete}) > 1:
        first = next(name for name in wanted if len({found[name] for found in complete}) > 1)
        meant = sorted({found[first] for found in complete})
        raise file.wrong(
            wanted[first], f"could mean '{meant[0]}' as well as '{meant[1]}'", "rename the tensors of the checkpoint"
        )
    if complete:
        return complete[0]
    raise _missing(file, wanted, max([exact, *attempts], key=lambda attempt: len(attempt.found)))


class _Attempt:
    """What is found by one way to rename."""

    def __init__(self, found: dict[str, str], complete: bool) -> None:
        self.found = found
        self.complete = complete

    @classmethod
    def make(cls, wanted: Collection[str], names: Collection[str], renaming: _Renaming) -> _Attempt:
        found = {}
        for name in wanted:
            if (renamed := renaming(name)) in names:
                found[name] = renamed
            elif name in names:  # what stands beside the model proper, such as a head, has no prefix
                found[name] = name
        return cls(found, len(set(found.values())) == len(wanted))


def _renamings(wanted: Collection[str], names: Collection[str]) -> Iterator[_Renaming]:
    """Every way to rename that finds at least one name."""
    longer = defaultdict(list)
    for name in names:
        for tail in _tails(name):
            longer[tail].append(name.removesuffix(tail))
    added = {prefix for name in wanted for prefix in longer.get(name, ())}
    dropped = {name.removesuffix(tail) for name in wanted for tail in _tails(name) if tail in names}
    for prefix in sorted(added):
        yield lambda name, prefix=prefix: prefix + name  # type: ignore[misc]
    for prefix in sorted(dropped):
        yield lambda name, prefix=prefix: name.removeprefix(prefix)  # type: ignore[misc]


def _tails(name: str) -> Iterator[str]:
    """A name without its first steps, as long as a module and a parameter remain."""
    steps = name.split(".")
    for first in range(1, len(steps) - 1):
        yield ".".join(steps[first:])


def _missing(file: AdapterFile, wanted: Mapping[str, str], best: _Attempt) -> AdapterError:
    missing = [name for name in wanted if name not in best.found]
    if not missing:  # two of the adapter's tensors would mean one of the checkpoint's
        missing = list(wanted)
    return file.wrong(
        wanted[missing[0]],
        f"is for '{missing[0]}', which is not in this file; nor are those of {len(missing) - 1} more "
        f"of its {len(wanted)} targets"
        if len(missing) > 1
        else f"is for '{missing[0]}', which is not in this file",
        "apply it to the checkpoint that it was trained on, in one file (not to one shard of several); tied weights "
        "have only one name there",
    )
