"""Every way in which gittheta fails, each with the exit code it ends in.

::

    ThetaError                  1   anything not listed below
    |-- PluginError            10   a plugin is missing, broken or named twice
    |-- FormatError            11   a file is not the checkpoint it claims to be
    |-- ManifestError          12   a manifest that is malformed, foreign or from the future
    |-- PayloadError           13   stored bytes do not decode to the tensor they should
    |-- AdapterError           14   an adapter that is broken, unknown, or made for another checkpoint
    |-- StoreError             20   the local store cannot be read or written
    |   |-- ObjectMissing      21   an object is neither here nor on a remote
    |   `-- ObjectCorrupt      22   an object is truncated or has changed
    |-- RemoteError            30   a remote cannot be reached, or refuses
    |-- MergeError             40   a merge cannot be computed at all
    |-- GitError               50   git itself failed
    `-- ConfigError            51   a setting has no meaning

The command line translates these once, at the top (``gittheta.cli.main``). Exit code 2 is a wrong command line.
"""

from __future__ import annotations

from typing import ClassVar


class ThetaError(Exception):
    """What happened, to which file and tensor, and what to do now.

    ``path`` and ``tensor`` may be filled in later by a caller who knows them: see :meth:`located`.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self, what: str, *, path: str | None = None, tensor: str | None = None, mend: str | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.path = path
        self.tensor = tensor
        self.mend = mend

    def located(self, *, path: str | None = None, tensor: str | None = None) -> ThetaError:
        """Fill in where it happened, unless that is known already."""
        self.path = self.path or path
        self.tensor = self.tensor or tensor
        return self

    def __str__(self) -> str:
        where = [self.path] if self.path else []
        if self.tensor is not None:
            where.append(f"tensor '{self.tensor}'")
        text = ": ".join([*where, self.what])
        return f"{text}\n  {self.mend}" if self.mend else text


class PluginError(ThetaError):
    """A plugin is missing, cannot be loaded, or shares its name with another."""

    exit_code = 10


class FormatError(ThetaError):
    """A file's bytes break a rule of the format it claims to be. ``clean`` then stores it as opaque bytes."""

    exit_code = 11


class ManifestError(ThetaError):
    """Text that claims to be a manifest and is not a valid one."""

    exit_code = 12


class PayloadError(ThetaError):
    """Stored bytes do not decode to the tensor that the manifest names."""

    exit_code = 13


class AdapterError(ThetaError):
    """An adapter that is broken, of an unknown kind, or made for another checkpoint."""

    exit_code = 14


class StoreError(ThetaError):
    """The local store cannot be read or written (full disk, permissions)."""

    exit_code = 20


class ObjectMissing(StoreError):
    """An object that a manifest names is neither in the store nor on a remote."""

    exit_code = 21


class ObjectCorrupt(StoreError):
    """An object's bytes are not those that its name promises."""

    exit_code = 22


class RemoteError(ThetaError):
    """A remote cannot be reached, has no store, or refuses an object."""

    exit_code = 30


class MergeError(ThetaError):
    """A merge cannot be computed; a *conflict* is not an error but a decision (``gittheta.flows.merge.plan``)."""

    exit_code = 40


class GitError(ThetaError):
    """A git command failed."""

    exit_code = 50


class ConfigError(ThetaError):
    """A setting has a value without meaning."""

    exit_code = 51
