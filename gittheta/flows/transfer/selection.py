"""Some of the models that a revision has, and some of their tensors: what a user asks for by patterns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gittheta.model import Manifest, ObjectId


@dataclass(frozen=True, slots=True)
class Selection:
    """What a command is about. No patterns stand for everything.

    A pattern matches a whole name; ``*`` stands for anything, slashes and dots included. A pattern of a folder's name
    also takes what lies below the folder.
    """

    #: Patterns of paths, as Git writes them from the top of the work tree.
    paths: tuple[str, ...] = ()
    #: Patterns of tensors' names.
    tensors: tuple[str, ...] = ()

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return not self.paths and not self.tensors

    def takes(self, path: str) -> bool:
        """Whether a file is meant."""
        return not self.paths or _matches(path, (*self.paths, *(f"{folder.rstrip('/')}/*" for folder in self.paths)))

    def objects(self, manifest: Manifest) -> dict[ObjectId, int]:
        """Every object that the chosen tensors of a checkpoint need, and the least size that the object must have.

        What lies between tensors, such as the header, is always among it; an object may hold other tensors as well.
        """
        if not self.tensors:
            return manifest.objects()
        chosen = tuple(stanza for stanza in manifest.stanzas if _matches(stanza.spec.name, self.tensors))
        return replace(manifest, stanzas=chosen).objects()


EVERYTHING = Selection()


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
