"""Every built-in remote keeps the contract, bare and behind the wrappers."""

from __future__ import annotations

import re
from pathlib import Path

from gittheta.api import NullReporter, ObjectId, Remote, RemotePlugin
from gittheta.conformance.faulty_remote import Kind, Method
from gittheta.registry import BUILT_IN
from gittheta.remotes.directory import DirectoryRemote
from gittheta.remotes.limit import Bandwidth, LimitedRemote
from gittheta.remotes.progress import ReportingRemote
from gittheta.remotes.retry import RetryingRemote
from gittheta.remotes.verify import VerifyingRemote
from gittheta.testing import Fault, FaultyRemote, RemoteConformance
from tests.support.stores import object_file


class TestDirectory(RemoteConformance):
    plugin: type[RemotePlugin] | None = DirectoryRemote
    foreign = ("unknown-scheme://host/path", "https://example.org/x.git", "git@example.org:x.git", "ext::helper x")

    def open_remote(self, folder: Path) -> Remote:
        return DirectoryRemote(folder / "theta")

    def plant(self, folder: Path, object_id: ObjectId, data: bytes) -> bool:
        path = object_file(folder / "theta", object_id)
        path.unlink()
        path.write_bytes(data)
        return True


class TestDirectoryWithLinks(TestDirectory):
    def open_remote(self, folder: Path) -> Remote:
        return DirectoryRemote(folder / "theta", may_link=True)


class TestWrapped(TestDirectory):
    """Through every wrapper, over a line that drops, damages and forgets."""

    plugin = None

    def open_remote(self, folder: Path) -> Remote:
        kinds: tuple[Kind, ...] = ("busy", "drop", "lose", "truncate", "flip", "slow", "vanish")
        methods: tuple[Method, ...] = ("upload", "download")
        plan = [Fault(kind, method) for kind in kinds for method in methods]
        remote: Remote = FaultyRemote(super().open_remote(folder), plan)
        remote = RetryingRemote(VerifyingRemote(remote), attempts=20, sleep=lambda seconds: None)
        return ReportingRemote(LimitedRemote(remote, 4, Bandwidth(1e12)), NullReporter())


def test_no_built_in_is_left_out() -> None:
    """Each kind has a suite in a module of its own, which is skipped where its service cannot be had."""
    texts = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    tested = set(re.findall(r"^    plugin(?:: .+)? = (\w+)$", texts, re.MULTILINE))
    assert {target.partition(":")[2] for target in BUILT_IN["remotes"].values()} <= tested
