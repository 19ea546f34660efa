"""Every way in which gittheta fails, each with the exit code it ends in.

::

    ThetaError                  1   anything not listed below
    |-- PluginError            10   a plugin is missing, broken or named twice
    |   `-- MissingExtra       15   what a feature needs is not installed
    |-- FormatError            11   a file is not the checkpoint it claims to be
    |-- ManifestError          12   a manifest that is malformed, or of another or a newer kind
    |-- PayloadError           13   stored bytes do not decode to the tensor they should
    |-- AdapterError           14   an adapter that is broken, unknown, or made for another checkpoint
    |-- StoreError             20   the local store cannot be read or written
    |   |-- ObjectMissing      21   an object is neither here nor on a remote
    |   |-- ObjectCorrupt      22   an object is truncated or has changed
    |   `-- ObjectUnreadable   23   the system fails to read an object (permissions, a failing disk)
    |-- RemoteError            30   a remote cannot be reached, or refuses
    |   `-- TemporaryRemoteError 31   the same call may succeed a little later
    |-- MergeError             40   a merge cannot be computed at all
    |-- GitError               50   git itself failed
    `-- ConfigError            51   a setting has no meaning

The command line translates these once, at the top (``gittheta.cli.main``). Exit code 2 is a wrong command line.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Self

from gittheta.wording import quoted, shown


class ThetaError(Exception):
    """What happened, to which file and tensor, and what to do now.

    Immutable: a caller who knows more raises a changed copy, see :meth:`located` and :meth:`but`.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self, what: str, *, path: str | None = None, tensor: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.path = path
        self.tensor = tensor
        self.hint = hint

    def located(self, *, path: str | None = None, tensor: str | None = None) -> Self:
        """A copy of the error that says where it happened, as far as it did not say so already."""
        return self.but(path=self.path or path, tensor=self.tensor or tensor)

    def but(self, **changes: str | None) -> Self:
        """A copy of the error with some of ``what``, ``path``, ``tensor`` and ``hint`` changed."""
        other = type(self).__new__(type(self))
        vars(other).update(vars(self), **changes)
        other.args = (other.what,)
        other.__cause__, other.__suppress_context__ = self.__cause__, self.__suppress_context__
        return other.with_traceback(self.__traceback__)

    def __str__(self) -> str:
        where = [shown(self.path)] if self.path else []
        if self.tensor is not None:
            where.append(f"tensor {quoted(self.tensor)}")
        text = ": ".join([*where, self.what])
        return f"{text}\n  {self.hint}" if self.hint else text


class PluginError(ThetaError):
    """A plugin is missing, cannot be loaded, or shares its name with another."""

    exit_code = 10


class MissingExtra(PluginError):
    """A package that a feature needs is not installed; it comes with an extra of gittheta."""

    exit_code = 15

    def __init__(self, extra: str, what: str) -> None:
        super().__init__(f"{what}, which is not installed", hint=f"pip install 'gittheta[{extra}]'")


@contextmanager
def needing_torch(what: str) -> Iterator[None]:
    """Around the imports of what computes with torch: MissingExtra instead of ImportError if torch is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        raise MissingExtra("merge", f"{what} needs torch") from error


class FormatError(ThetaError):
    """A file's bytes break a rule of the format it claims to be. ``clean`` then stores it as opaque bytes."""

    exit_code = 11


class ManifestError(ThetaError):
    """A text that claims to be a manifest but is not valid."""

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


class ObjectUnreadable(StoreError):
    """The system fails to read an object: permissions, a failing disk. Nothing is known of its bytes."""

    exit_code = 23


class RemoteError(ThetaError):
    """A remote cannot be reached, has no store, or refuses an object."""

    exit_code = 30


class TemporaryRemoteError(RemoteError):
    """A remote did not answer as it should, but the same call may succeed a little later.

    ``after`` is the number of seconds that the remote asks to wait, if it does.
    """

    exit_code = 31

    def __init__(self, what: str, *, hint: str | None = None, after: float | None = None) -> None:
        super().__init__(what, hint=hint)
        self.after = after


class MergeError(ThetaError):
    """A merge cannot be computed; a *conflict* is not an error but a decision (``gittheta.flows.merge.plan``)."""

    exit_code = 40


class GitError(ThetaError):
    """A git command failed."""

    exit_code = 50


class ConfigError(ThetaError):
    """A setting has a value without meaning."""

    exit_code = 51
