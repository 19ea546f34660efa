"""Each wrapper keeps its one promise, over a remote that fails as it is asked to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Lock

import pytest

from gittheta.api import NullReporter, ObjectId, RemoteError, TemporaryRemoteError
from gittheta.errors import ObjectCorrupt
from gittheta.remotes.directory import DirectoryRemote
from gittheta.remotes.limit import Bandwidth, LimitedRemote
from gittheta.remotes.progress import ReportingRemote
from gittheta.remotes.retry import RetryingRemote
from gittheta.remotes.verify import VerifyingRemote
from gittheta.remotes.wrapper import Wrapper
from gittheta.testing import Fault, FaultyRemote
from tests.support.stores import object_file

DATA = bytes(range(250)) * 40
NAME = ObjectId(hashlib.sha256(DATA).hexdigest())
GONE = ObjectId("0" * 64)

Call = Callable[[Wrapper | FaultyRemote, Path], object]
#: Each method that does something, called with an object that is there, or may be sent.
CALLS: dict[str, Call] = {
    "sizes": lambda remote, folder: remote.sizes([NAME]),
    "upload": lambda remote, folder: remote.upload(NAME, folder / "source", uncounted),
    "download": lambda remote, folder: remote.download(NAME, folder / "target", uncounted),
    "read": lambda remote, folder: remote.read(NAME, 10, 20),
}


def uncounted(amount: int) -> None:
    """For transfers that nobody watches."""


@pytest.fixture
def inner(tmp_path: Path) -> DirectoryRemote:
    """A remote that has the object."""
    (tmp_path / "source").write_bytes(DATA)
    remote = DirectoryRemote(tmp_path / "theta")
    remote.upload(NAME, tmp_path / "source", uncounted)
    return remote


class Pauses(list[float]):
    """Remembers for how long somebody would have slept."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


# Retries


def retrying(inner: DirectoryRemote, *plan: Fault, attempts: int = 5) -> tuple[RetryingRemote, FaultyRemote, Pauses]:
    pauses = Pauses()
    faulty = FaultyRemote(inner, plan, pauses)
    return RetryingRemote(faulty, attempts, pauses), faulty, pauses


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("kind", ["busy", "drop", "lose"])
def test_what_may_succeed_later_does(inner: DirectoryRemote, tmp_path: Path, method: str, kind: str) -> None:
    remote, faulty, pauses = retrying(inner, Fault(kind, times=4))  # type: ignore[arg-type]
    CALLS[method](remote, tmp_path)
    assert faulty.calls[method] == 5
    assert len(pauses) == 4
    if method == "download":
        assert (tmp_path / "target").read_bytes() == DATA


@pytest.mark.parametrize("method", CALLS)
def test_attempts_come_to_an_end(inner: DirectoryRemote, tmp_path: Path, method: str) -> None:
    remote, faulty, pauses = retrying(inner, Fault("busy", times=99), attempts=3)
    with pytest.raises(TemporaryRemoteError, match="the server is busy"):
        CALLS[method](remote, tmp_path)
    assert faulty.calls[method] == 3
    assert len(pauses) == 2


@pytest.mark.parametrize("method", CALLS)
def test_what_is_refused_is_not_tried_again(inner: DirectoryRemote, tmp_path: Path, method: str) -> None:
    remote, faulty, pauses = retrying(inner, Fault("refuse"))
    with pytest.raises(RemoteError, match="the server refuses"):
        CALLS[method](remote, tmp_path)
    assert faulty.calls[method] == 1
    assert not pauses


def test_pauses_are_those_that_the_server_asks_for(inner: DirectoryRemote, tmp_path: Path) -> None:
    """Up to a minute; otherwise they are random, and their bound grows up to a minute."""
    asked = [Fault("busy", after=after) for after in (0.0, 7.5, 59.0, 3600.0)]
    remote, _, pauses = retrying(inner, *asked)
    CALLS["sizes"](remote, tmp_path)
    assert pauses == [0.0, 7.5, 59.0, 60.0]
    remote, _, pauses = retrying(inner, Fault("busy", times=40), attempts=41)
    CALLS["sizes"](remote, tmp_path)
    assert all(0 <= pause <= min(60, 2**at) for at, pause in enumerate(pauses))
    assert len(set(pauses)) > 10


@pytest.mark.parametrize("method", ["upload", "download"])
def test_progress_goes_back_by_what_failed(inner: DirectoryRemote, tmp_path: Path, method: str) -> None:
    progress: list[int] = []
    calls: dict[str, Callable[[RetryingRemote], None]] = {
        "upload": lambda remote: remote.upload(NAME, tmp_path / "source", progress.append),
        "download": lambda remote: remote.download(NAME, tmp_path / "target", progress.append),
    }
    remote, _, _ = retrying(inner, Fault("drop", times=2), Fault("lose"))
    calls[method](remote)
    half = len(DATA) // 2
    assert progress == [half, -half, half, -half, len(DATA), -len(DATA), len(DATA)]
    progress.clear()
    (tmp_path / "target").unlink(missing_ok=True)
    remote, _, _ = retrying(inner, Fault("drop", times=99))
    with pytest.raises(TemporaryRemoteError):
        calls[method](remote)
    assert sum(progress) == 0, "what no attempt could finish still counts"


def test_a_half_written_file_is_not_in_the_way_of_the_next_attempt(inner: DirectoryRemote, tmp_path: Path) -> None:
    remote, _, _ = retrying(inner, Fault("drop", "download"))
    remote.download(NAME, tmp_path / "target", uncounted)
    assert (tmp_path / "target").read_bytes() == DATA


# Verification


@pytest.mark.parametrize("kind", ["truncate", "flip", "vanish"])
def test_what_arrives_damaged_is_refused_and_may_be_whole_next_time(
    inner: DirectoryRemote, tmp_path: Path, kind: str
) -> None:
    target = tmp_path / "target"
    verifying = VerifyingRemote(FaultyRemote(inner, [Fault(kind, "download", times=2)]))  # type: ignore[arg-type]
    with pytest.raises(TemporaryRemoteError, match=NAME) as caught:
        verifying.download(NAME, target, uncounted)
    assert caught.value.hint
    assert not target.exists(), "a damaged object was left behind"
    RetryingRemote(verifying, sleep=lambda seconds: None).download(NAME, target, uncounted)
    assert target.read_bytes() == DATA


def test_an_object_that_is_damaged_there_is_never_accepted(inner: DirectoryRemote, tmp_path: Path) -> None:
    path = object_file(inner.root, NAME)
    path.unlink()
    path.write_bytes(DATA[:-1] + b"?")
    pauses = Pauses()
    remote = RetryingRemote(VerifyingRemote(inner), sleep=pauses)
    with pytest.raises(RemoteError, match="damaged"):
        remote.download(NAME, tmp_path / "target", uncounted)
    assert not (tmp_path / "target").exists()
    assert len(pauses) == 4


def test_a_damaged_object_of_ours_is_never_sent(inner: DirectoryRemote, tmp_path: Path) -> None:
    faulty = FaultyRemote(inner)
    (tmp_path / "source").write_bytes(DATA[:-1])
    with pytest.raises(ObjectCorrupt, match=NAME):
        RetryingRemote(VerifyingRemote(faulty)).upload(NAME, tmp_path / "source", uncounted)
    assert faulty.calls["upload"] == 0


def test_a_remote_that_says_it_has_what_it_has_not(inner: DirectoryRemote, tmp_path: Path) -> None:
    remote = RetryingRemote(VerifyingRemote(FaultyRemote(inner, [Fault("claim")])), sleep=Pauses())
    assert dict(remote.sizes([NAME, GONE])) == {NAME: len(DATA), GONE: 1}
    with pytest.raises(RemoteError) as caught:
        remote.download(GONE, tmp_path / "target", uncounted)
    assert caught.value.hint
    assert not (tmp_path / "target").exists()


# Limits


@pytest.mark.parametrize("method", ["upload", "download", "read"])
def test_no_more_transfers_at_once_than_allowed_and_no_fewer(
    inner: DirectoryRemote, tmp_path: Path, method: str
) -> None:
    lock, together = Lock(), Barrier(3)
    now = most = 0

    def meet(seconds: float) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait(timeout=30)  # breaks where fewer than three are let in
        with lock:
            now -= 1

    def call(number: int) -> None:
        if method == "download":
            limited.download(NAME, tmp_path / f"target {number}", uncounted)
        else:
            CALLS[method](limited, tmp_path)

    limited = LimitedRemote(FaultyRemote(inner, [Fault("slow", times=12)], meet), transfers=3)
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(call, range(12)))
    assert most == 3


def test_a_transfer_that_fails_makes_room_for_the_next(inner: DirectoryRemote, tmp_path: Path) -> None:
    limited = LimitedRemote(FaultyRemote(inner, [Fault("refuse", times=3)]), transfers=1)
    for method in ("upload", "download", "read"):
        with pytest.raises(RemoteError):
            CALLS[method](limited, tmp_path)
    for method in ("upload", "download", "read"):
        CALLS[method](limited, tmp_path)


class Clock(list[float]):
    """A clock that only sleeping moves."""

    def sleep(self, seconds: float) -> None:
        self.append(seconds)

    def __call__(self) -> float:
        return sum(self)


@pytest.mark.parametrize("method", ["upload", "download", "read"])
def test_the_bandwidth_holds_on_average(inner: DirectoryRemote, tmp_path: Path, method: str) -> None:
    clock = Clock()
    limited = LimitedRemote(inner, bandwidth=Bandwidth(1000, clock.sleep, clock))
    progress: list[int] = []
    for number in range(5):
        if method == "upload":
            limited.upload(NAME, tmp_path / "source", progress.append)
        elif method == "download":
            limited.download(NAME, tmp_path / f"target {number}", progress.append)
        else:
            progress.append(len(limited.read(NAME, 0, len(DATA))))
    assert sum(progress) == 5 * len(DATA)
    assert clock() == pytest.approx(5 * len(DATA) / 1000)


def test_threads_share_one_bandwidth() -> None:
    """However many there are, the last one is through when all bytes were due."""
    waits: list[float] = []
    bandwidth = Bandwidth(1000, waits.append, lambda: 100.0)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(bandwidth.used, [10] * 800))
    assert max(waits) == pytest.approx(8.0)
    assert len(set(waits)) == 800
    bandwidth.used(-5000)
    bandwidth.used(10)
    assert waits[-1] == pytest.approx(8.01), "bytes that are taken back went over the line all the same"


def test_time_that_nobody_used_is_not_saved_up() -> None:
    clock = Clock()
    bandwidth = Bandwidth(1000, clock.sleep, clock)
    bandwidth.used(1000)
    clock.sleep(60)
    bandwidth.used(5000)
    assert clock == [1, 60, 5]


# Progress


class Told(NullReporter):
    """Adds up what is reported to it."""

    def __init__(self) -> None:
        self.amounts: list[int] = []

    def advance(self, amount: int) -> None:
        self.amounts.append(amount)


@pytest.mark.parametrize("method", ["upload", "download"])
def test_the_reporter_hears_of_it_and_so_does_the_caller(inner: DirectoryRemote, tmp_path: Path, method: str) -> None:
    reporter, caller = Told(), Told()
    faulty = FaultyRemote(inner, [Fault("drop")])
    remote = ReportingRemote(RetryingRemote(faulty, sleep=lambda seconds: None), reporter)
    if method == "upload":
        remote.upload(NAME, tmp_path / "source", caller.advance)
    else:
        remote.download(NAME, tmp_path / "target", caller.advance)
    half = len(DATA) // 2
    assert reporter.amounts == caller.amounts == [half, -half, len(DATA)]


# All of them


@pytest.mark.parametrize(
    "wrap",
    [Wrapper, RetryingRemote, VerifyingRemote, LimitedRemote, lambda inner: ReportingRemote(inner, NullReporter())],
)
def test_everything_else_is_handed_on(
    inner: DirectoryRemote, tmp_path: Path, wrap: Callable[[FaultyRemote], Wrapper]
) -> None:
    faulty = FaultyRemote(inner)
    remote = wrap(faulty)
    objects: Collection[ObjectId] = {NAME, GONE}
    sizes: Mapping[ObjectId, int] = remote.sizes(objects)
    assert dict(sizes) == {NAME: len(DATA)}
    assert remote.read(NAME, 7, 5) == DATA[7:12]
    remote.upload(NAME, tmp_path / "source", uncounted)
    remote.download(NAME, tmp_path / "target", uncounted)
    assert (tmp_path / "target").read_bytes() == DATA
    remote.close()
    assert dict(faulty.calls) == {"sizes": 1, "read": 1, "upload": 1, "download": 1, "close": 1}
