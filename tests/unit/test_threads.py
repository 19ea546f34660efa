"""What is safe to use from several threads, used from many at once."""

from __future__ import annotations

import ast
import io
import os
import re
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

import gittheta
from gittheta.api import Encoding, TensorReader
from gittheta.cli.console import Console
from gittheta.codec.chain import CheckedReader, open_tensor
from gittheta.codec.choose import BaseCandidate, Chooser
from gittheta.codec.encode import Encoder
from gittheta.codec.readers import FileReader, HeldReader, PartReader
from gittheta.codec.spool import Spool
from gittheta.codec.tensor_store import TensorStore
from gittheta.conformance.common import random_of
from gittheta.errors import PluginError
from gittheta.flows.workspace import Workspace
from gittheta.model import DTYPES, Recipe, Tensor, TensorSpec, digest_of
from gittheta.registry import BUILT_IN, Registry
from gittheta.runtime import close_parts, lazy
from gittheta.storage.objects import ObjectReader, ObjectStore
from gittheta.testing import block_values, tensor
from tests.support.limits import SMALL
from tests.support.reporting import Listening
from tests.support.repository import Repo

THREADS = 32
Answer = TypeVar("Answer")


@pytest.fixture(autouse=True)
def _threads_take_turns_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="module")
def crowd() -> Iterator[Callable[[Callable[[int], Any]], list[Any]]]:
    """Calls something from many threads that begin at the same moment, and gives what it answers to each."""
    barrier = threading.Barrier(THREADS)
    with ThreadPoolExecutor(THREADS) as pool:

        def call(work: Callable[[int], Any]) -> list[Any]:
            def wait_and_work(number: int) -> Any:
                barrier.wait(30)
                return work(number)

            return list(pool.map(wait_and_work, range(THREADS)))

        yield call


class Crowd(Protocol):
    """Calls something from many threads at once, with their numbers, and returns what each got."""

    def __call__(self, work: Callable[[int], Answer]) -> list[Answer]: ...


class Part:
    """Something that must be made once, and closed."""

    def __init__(self) -> None:
        time.sleep(0.0001)
        self.closed = False

    def close(self) -> None:
        self.closed = True


@dataclass
class Owner:
    made: list[str] = field(default_factory=list)
    fail: int = 0

    @lazy
    def part(self) -> Part:
        self.made.append("part")
        return Part()

    @lazy
    def above(self) -> tuple[Part, Part]:
        self.made.append("above")
        return self.part, Part()

    @lazy
    def fragile(self) -> Part:
        self.made.append("fragile")
        if len(self.made) <= self.fail:
            raise OSError("not yet")
        return Part()


# What is promised


SHARED = {
    "PackWriter", "ObjectStore", "ObjectReader", "RecipeCache", "TensorStore", "Decoder", "Encoder", "Chooser", "Spool",
    "Registry", "Workspace", "Console", "Compute", "Prefetch", "CheckpointFile", "Wrapper", "Bandwidth", "FaultyRemote",
    "Metric", "Format", "Encoding", "Remote",
}  # fmt: skip


@cache
def classes() -> list[ast.ClassDef]:
    sources = [ast.parse(path.read_text()) for path in Path(gittheta.__file__).parent.rglob("*.py")]
    return [node for source in sources for node in source.body if isinstance(node, ast.ClassDef)]


def reads_a_tensor(kind: ast.ClassDef) -> bool:
    """Whether it is a :class:`gittheta.api.TensorReader`."""
    methods = [node for node in kind.body if isinstance(node, ast.FunctionDef) and node.name == "read"]
    signatures = [(ast.unparse(method.args), ast.unparse(method.returns or method)) for method in methods]
    return ("self, begin: int, end: int", "memoryview") in signatures


def test_what_threads_share_says_what_it_promises() -> None:
    shared = {kind.name: ast.get_docstring(kind) or "" for kind in classes() if kind.name in SHARED}
    readers = {kind.name: ast.get_docstring(kind) or "" for kind in classes() if reads_a_tensor(kind)}
    assert shared.keys() == SHARED
    assert readers.keys() > {"HeldReader", "FileReader", "StoredReader", "CheckedReader", "PredictedReader", "Spool"}
    promise = re.compile(r"[Ss]afe to use from\s+several\s+threads|[Ff]or\s+one\s+thread")
    assert [name for name, text in (shared | readers).items() if not promise.search(text)] == []


# Lazy parts


def test_a_part_is_made_once(crowd: Crowd) -> None:
    for _ in range(50):
        owner = Owner()
        parts = crowd(lambda number, owner=owner: owner.part if number % 2 else owner.above[0])  # type: ignore[misc]
        assert len(set(map(id, parts))) == 1
        assert sorted(owner.made) == ["above", "part"]


def test_a_part_that_could_not_be_made_is_tried_again(crowd: Crowd) -> None:
    def ask(owner: Owner) -> object:
        try:
            return owner.fragile
        except OSError:
            return None

    owner = Owner(fail=3)
    parts = crowd(lambda number: ask(owner))
    assert parts.count(None) == 3
    assert len(set(map(id, filter(None, parts)))) == 1
    assert len(owner.made) == 4


def test_parts_are_closed_once_and_made_anew(crowd: Crowd) -> None:
    for _ in range(20):
        owner = Owner()
        parts = [owner.part]
        close_parts(owner, "above", "part", "fragile")
        assert parts[0].closed
        assert owner.made == ["part"], "what nobody needed was made to be closed"

        def use_or_close(number: int, owner: Owner = owner, parts: list[Part] = parts) -> None:
            if number % 4:
                parts.append(owner.part)
            else:
                close_parts(owner, "part")

        crowd(use_or_close)
        close_parts(owner, "part")
        assert all(part.closed for part in parts)
        assert len(set(map(id, parts))) <= len(owner.made)


def test_each_object_has_parts_of_its_own() -> None:
    one, other = Owner(), Owner()
    assert one.part is not other.part


def test_a_tensor_store_has_one_of_each_part(tmp_path: Path, crowd: Crowd) -> None:
    names = ("reader", "recipes", "workers", "digesters")
    for _ in range(20):
        with TensorStore.at(tmp_path) as tensors:
            found = crowd(lambda number, tensors=tensors: getattr(tensors, names[number % 4]))  # type: ignore[misc]
            assert len(set(map(id, found))) == len(names)
            tensors.close()
            again = tensors.workers
            assert again not in found, "a pool that was shut down"
            assert again.submit(int, "7").result() == 7


def test_a_workspace_has_one_of_each_part(repo: Repo, crowd: Crowd) -> None:
    names = ("settings", "tensors", "blobs")
    for _ in range(5):
        with Workspace.open(repo.top, Listening(), SMALL) as workspace:
            found = crowd(lambda number, workspace=workspace: getattr(workspace, names[number % 3]))  # type: ignore[misc]
            assert len(set(map(id, found))) == len(names)
            pools = crowd(lambda number, workspace=workspace: workspace.tensors.workers)  # type: ignore[misc]
            assert len(set(map(id, pools))) == 1


# Plugins


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A module of plugins that counts how often each is taken from it."""
    taken: list[str] = []

    def get(name: str) -> type:
        if name.startswith("_"):
            raise AttributeError(name)
        taken.append(name)
        time.sleep(0.001)
        return type(name, (), {"name": name})

    module = types.ModuleType("plugins_that_count")
    module.__getattr__ = get  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return taken  # type: ignore[return-value]


def test_a_plugin_is_loaded_once(counting: list[str], crowd: Crowd) -> None:
    built_in = {"metrics": {name: f"plugins_that_count:{name}" for name in "abcd"}}
    registry = Registry(built_in)
    classes = crowd(lambda number: registry.load("metrics", "abcd"[number % 4]))
    assert sorted(counting) == ["a", "b", "c", "d"]
    assert len(set(classes)) == 4


def test_a_plugin_that_is_not_there_is_missed_by_every_thread(crowd: Crowd) -> None:
    registry = Registry()

    def ask(number: int) -> str:
        try:
            registry.load("encodings", "nowhere")
        except PluginError as error:
            return error.what
        return ""

    assert set(crowd(ask)) == {"no encoding named 'nowhere' is installed"}
    assert len(set(map(tuple, crowd(lambda number: registry.names("encodings"))))) == 1


def blockwise() -> list[Encoding]:
    registry = Registry()
    plugins = [registry.encoding(name) for name in BUILT_IN["encodings"]]
    return [plugin for plugin in plugins if plugin.kind == "blockwise"]


@pytest.mark.parametrize("encoding", blockwise(), ids=lambda encoding: encoding.name)
def test_threads_share_an_encoding_and_a_base(encoding: Encoding, crowd: Crowd) -> None:
    """Each has a coder of its own, several at once; a coder may go from one thread to another."""
    for dtype in (DTYPES["bf16"], DTYPES["f32"], DTYPES["i16"], DTYPES["u8"]):
        base = tensor(dtype, block_values(dtype, 3000, 0))
        news = [sparsely_changed(base, seed) for seed in range(4)]
        shared = base if encoding.needs_base else None
        expected = [encoding.over(shared).encode(new) for new in news]
        coders = crowd(lambda number, shared=shared: encoding.over(shared))  # type: ignore[misc]

        def there_and_back(
            number: int, coders: list[Any] = coders, news: list[Tensor] = news, expected: list[bytes | None] = expected
        ) -> bool:
            coder, at = coders[-number], number % 4
            payloads = [coder.encode(new) for new in news]
            payload = payloads[at]
            same = payload is None or bytes(coder.decode(memoryview(payload), news[at].spec).data) == news[at].data
            return payloads == expected and same

        assert all(crowd(there_and_back)), dtype.name


def sparsely_changed(base: Tensor, seed: int) -> Tensor:
    data = bytearray(base.data)
    for at in range(seed, len(data), 101 + seed):
        data[at] ^= 3
    return Tensor(base.spec, memoryview(bytes(data)))


# Tensors


def weights(seed: int, elements: int = 4000) -> Tensor:
    spec = TensorSpec("w", DTYPES["bf16"], (elements,))
    return Tensor(spec, memoryview(block_values(spec.dtype, elements, seed)))


def chain_of(tensors: TensorStore, length: int = 3) -> list[tuple[Tensor, Recipe]]:
    """Versions of a tensor, each stored over the one before."""
    versions: list[tuple[Tensor, Recipe]] = []
    for seed in range(length):
        new = sparsely_changed(versions[-1][0], seed) if versions else weights(1)
        candidates = [BaseCandidate(old.spec, digest_of(old.data), recipe) for old, recipe in versions[-1:]]
        encoder = Encoder(tensors)
        try:
            pending = encoder.add(HeldReader(new.spec, [new.data]), candidates=candidates)
            encoder.finish()
        finally:
            encoder.abort()
        versions.append((new, pending.recipe()))
    return versions


def test_every_reader_of_tensors_serves_many_threads(tmp_path: Path, crowd: Crowd) -> None:
    with TensorStore(ObjectStore(tmp_path / "theta"), limits=SMALL) as tensors:
        new, recipe = chain_of(tensors)[-1]
        assert len(recipe) == 3, "this tests no chain"
        (tmp_path / "file").write_bytes(b"head" + new.data)
        spool, descriptor = Spool(tensors, new.spec, 100), os.open(tmp_path / "file", os.O_RDONLY)
        spool.append(new.data)
        readers: list[TensorReader] = [
            open_tensor(tensors, new.spec, recipe),
            CheckedReader(open_tensor(tensors, new.spec, recipe), 500),
            HeldReader(new.spec, [new.data[at : at + 700] for at in range(0, new.spec.nbytes, 700)]),
            FileReader(new.spec, descriptor, 4),
            PartReader(new.spec, FileReader(TensorSpec("f", DTYPES["raw"], (1,)), descriptor, 0), 4),
            spool,
        ]

        def look(number: int) -> list[str]:
            random, wrong = random_of(number), []
            for _ in range(2):
                for reader in readers:
                    begin = random.randrange(new.spec.nbytes // 2) * 2
                    end = random.randrange(begin, new.spec.nbytes + 1) // 2 * 2
                    if reader.read(begin, end) != new.data[begin:end]:
                        wrong.append(f"{type(reader).__name__}: {begin} to {end}")
            return wrong

        assert not [wrong for found in crowd(look) for wrong in found]
        os.close(descriptor)


def test_a_spool_is_read_while_it_grows(tmp_path: Path, crowd: Crowd) -> None:
    """Also at the moment when it moves from memory into a file."""
    data = random_of(1).randbytes(40_000)
    for held in (0, 999, 20_000, 1 << 20):
        spool = Spool(TensorStore.at(tmp_path / "theta"), TensorSpec("w", DTYPES["raw"], (len(data),)), held)

        def use(number: int, spool: Spool = spool) -> bool:
            if number == 0:
                for at in range(0, len(data), 100):
                    spool.append(memoryview(data)[at : at + 100])
                return True
            random, size = random_of(number), 0
            while size < len(data):
                size = spool.size
                begin = random.randrange(size + 1)
                if spool.read(begin, size) != data[begin:size]:
                    return False
            return True

        assert all(crowd(use)), f"{held} bytes held"
        spool.close()


@pytest.mark.parametrize("most", [2, 64])
def test_a_reader_of_objects_keeps_no_file_open_twice(
    tmp_path: Path, crowd: Crowd, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr("gittheta.storage.objects._OPEN_FILES", most)
    store = ObjectStore(tmp_path / "theta")
    with TensorStore(store, limits=SMALL) as tensors:
        chain_of(tensors, 4)
    names = list(store.all())
    whole = {name: store.home_of(name).read_bytes() for name in names}
    before = len(os.listdir("/dev/fd"))
    reader = ObjectReader(store)

    def look(number: int) -> bool:
        random = random_of(number)
        for _ in range(20):
            name = random.choice(names)
            at = random.randrange(len(whole[name]))
            if reader.read(name, at, len(whole[name]) - at) != whole[name][at:]:
                return False
        return True

    assert all(crowd(look))
    assert len(os.listdir("/dev/fd")) == before + min(most, len(names))
    reader.close()
    assert len(os.listdir("/dev/fd")) == before


def test_threads_share_a_chooser(tmp_path: Path, crowd: Crowd) -> None:
    """The same choice for the same tensor in every thread, and one warning about what is not installed."""
    reporter = Listening()
    store = ObjectStore(tmp_path / "theta")
    encodings = ("sparse", "nowhere", "delta", "scale")
    with TensorStore(store, reporter=reporter, limits=SMALL, encodings=encodings) as tensors:
        versions = chain_of(tensors)
        reporter.warnings.clear()
        for _ in range(2):
            chooser = Chooser(tensors)
            old, recipe = versions[-1]
            candidate = BaseCandidate(old.spec, digest_of(old.data), recipe)
            news = [sparsely_changed(old, 9), sparsely_changed(old, 10), weights(5)]

            def choose(number: int, chooser: Chooser = chooser) -> list[tuple[float, str, bool]]:
                new = news[number % 3]  # noqa: B023
                ways = chooser.choose(HeldReader(new.spec, [new.data]), [candidate])  # noqa: B023
                return [(way.size, way.choice.encoding.name, way.choice.candidate is None) for way in ways]

            found = crowd(choose)
            assert found == [choose(number) for number in range(THREADS)]
            assert found[0] != found[2]
            assert len(reporter.warnings) == 1
            reporter.warnings.clear()


# The terminal


class Terminal(io.StringIO):
    """Standard error of somebody who watches."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What becomes of progress bars."""
    from rich.progress import Progress

    happened: list[str] = []
    for name in ("start", "stop"):
        original = getattr(Progress, name)

        def noted(bar: Progress, name: str = name, original: Callable[[Progress], None] = original) -> None:
            happened.append(name)
            time.sleep(0.001)
            original(bar)

        monkeypatch.setattr(Progress, name, noted)
    return happened


def _advance(console: Console, _number: int) -> None:
    for _ in range(50):
        console.advance(1)


def test_many_threads_start_one_progress_bar(bars: list[str], crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    for _ in range(5):
        console = Console(patience=0)
        console.start("Working", 32 * 50)
        crowd(partial(_advance, console))
        assert bars == ["start"]
        assert console.done == 32 * 50
        console.stop()
        console.stop()
        assert bars == ["start", "stop"]
        bars.clear()


def test_everything_at_once_on_a_terminal(bars: list[str], crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts, advances, stops and speaks at the same time: each bar that begins ends, each line is there."""
    monkeypatch.setenv("GITTHETA_TRACE", "1")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    console = Console(patience=0)

    def use(number: int) -> None:
        for step in range(5):
            console.start(f"Working {number}", 100)
            console.advance(10)
            console.warn(f"warning {number}.{step}.")
            console.trace(f"trace {number}.{step}.")
            console.say(f"word {number}.{step}.")
            console.stop()

    crowd(use)
    console.stop()
    assert bars.count("start") == bars.count("stop")
    assert all(bars[at : at + 2] == ["start", "stop"] for at in range(0, len(bars), 2)), "two bars at once"
    shown = terminal.getvalue()
    for number in range(THREADS):
        for step in range(5):
            assert all(f"{word} {number}.{step}." in shown for word in ("warning", "trace", "word"))


def test_no_bar_where_nobody_watches(bars: list[str], monkeypatch: pytest.MonkeyPatch, crowd: Crowd) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    console = Console(patience=0)
    console.start("Working", 100)
    crowd(lambda number: console.advance(1))
    assert not bars
    assert console.done == THREADS
