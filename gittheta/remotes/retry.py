"""Once more, a little later, what a remote says may then succeed."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from gittheta.api import Advance, ObjectId, TemporaryRemoteError
from gittheta.remotes.wrapper import Wrapper

Answer = TypeVar("Answer")
#: Seconds: a server that asks for a longer pause than this is not waited for that long.
_LONGEST = 60.0


@dataclass(frozen=True)
class RetryingRemote(Wrapper):
    """Calls up to ``attempts`` times, after pauses that grow to a minute, or as long as the remote asks for."""

    attempts: int = 5
    sleep: Callable[[float], None] = time.sleep

    def sizes(self, objects: Collection[ObjectId]) -> Mapping[ObjectId, int]:
        """With retries."""
        return self.retrying()(self.inner.sizes, objects)

    def upload(self, object_id: ObjectId, source: Path, advance: Advance) -> None:
        """With retries; progress goes back by what an attempt that failed had counted."""
        with _counted(advance) as counted:
            self.retrying(lambda _: counted.take_back())(self.inner.upload, object_id, source, counted.advance)

    def download(self, object_id: ObjectId, target: Path, advance: Advance) -> None:
        """With retries, which go on where the one before stopped; progress goes back as that of uploads does."""
        with _counted(advance) as counted:
            again = self.retrying(lambda _: counted.take_back())
            again(self.inner.download, object_id, target, counted.advance)

    def read(self, object_id: ObjectId, offset: int, length: int) -> bytes:
        """With retries."""
        return self.retrying()(self.inner.read, object_id, offset, length)

    def retrying(self, before: Callable[[RetryCallState], None] = lambda _: None) -> Retrying:
        """What calls again: `remote.retrying()(function, argument)`."""
        return Retrying(
            retry=retry_if_exception_type(TemporaryRemoteError),
            stop=stop_after_attempt(self.attempts),
            wait=_pause,
            before_sleep=before,
            sleep=self.sleep,
            reraise=True,
        )


_growing = wait_random_exponential(multiplier=0.5, max=_LONGEST)


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    after = error.after if isinstance(error, TemporaryRemoteError) else None
    return min(after, _LONGEST) if after is not None else _growing(state)


class _Counted:
    """Progress of one attempt, which can be taken back. For one thread."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._done = 0

    def advance(self, amount: int) -> None:
        self._done += amount
        self._advance(amount)

    def take_back(self) -> None:
        self._advance(-self._done)
        self._done = 0


@contextmanager
def _counted(advance: Advance) -> Iterator[_Counted]:
    """Progress that goes back where the last attempt fails too."""
    counted = _Counted(advance)
    try:
        yield counted
    except BaseException:
        counted.take_back()
        raise
