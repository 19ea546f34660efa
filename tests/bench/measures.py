"""What is measured, each as whole git commands, the tools by turns."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

from tests.bench.bench import Bench, add
from tests.bench.change_sizes import measure_sizes
from tests.bench.change_speeds import measure_speeds
from tests.bench.changes import fine_tune, write_version
from tests.bench.handshake import seconds_to_first_answer
from tests.bench.histories import HISTORY_VERBS, seconds_of_verb, write_history
from tests.bench.manifests import large_manifest, seconds_to_parse_and_format
from tests.bench.many_files import measure_many_files
from tests.bench.merge_git import measure_merge_git
from tests.bench.merge_measures import measure_merge_gpu, measure_merge_memory
from tests.bench.model import decoder_shapes, one_tensor, write_model
from tests.bench.peak import can_measure, peaks
from tests.bench.samples import PLAIN
from tests.bench.transfers import measure_transfers
from tests.bench.worlds import FILE, THETA, Tool, World, sha256

THROUGH_GIT = ("-c", "theta.smudgeLimit=100g")
HUGE = 3 << 30
TENSORS = 100_000
#: Of the long history, and tensors of each version in it.
COMMITS = 10_000
VERSION_TENSORS = 100
#: Each side of the merge moved every weight, most of them by a few units in the last place.
MERGED_STEP = 0.0005
_STARTS = 10
_STATUSES = 31


def measure_add(bench: Bench) -> None:
    """Add of a new file, and what it takes in the store."""
    bench.by_turns(add)


def measure_status(bench: Bench) -> None:
    """`git status` when only the time of the file has changed."""
    turns = count(1)

    def status(world: World) -> dict[str, float]:
        _age(world.file, next(turns))
        took = world.seconds("status")
        world.expect_quiet()
        return {"status": took}

    bench.by_turns(status)


def measure_checkout(bench: Bench) -> None:
    """Checkout of the deleted file, `git status` at once, and the same through Git's memory."""
    for key, options in (("checkout", ()), ("checkout through git", THROUGH_GIT)):

        def checkout(world: World, key: str = key, options: tuple[str, ...] = options) -> dict[str, float]:
            world.file.unlink()
            took = world.seconds(*options, "checkout", "--", FILE)
            began = time.perf_counter()
            world.git("status")
            status = time.perf_counter() - began
            world.expect_file(bench.digest)
            return {key: took, f"{key} status": status}

        bench.by_turns(checkout)


def measure_memory(bench: Bench) -> None:
    """Peaks of git, of the filter and of the hook."""
    if not can_measure():
        return

    def memory(world: World) -> dict[str, float]:
        world.renew()
        found = _peaks(world, "add", "add", FILE)
        world.expect_stored()
        world.commit("the model")
        for key, options in (("checkout", ()), ("through", THROUGH_GIT)):
            world.file.unlink()
            found |= _peaks(world, key, *options, "checkout", "--", FILE)
            world.expect_file(bench.digest)
        return found

    bench.by_turns(memory)


def _peaks(world: World, key: str, *words: str) -> dict[str, float]:
    found = peaks(["git", *words], world.repository, world.environment)
    return {f"{key} {role}": float(peak) for role, peak in found.items()}


def measure_huge(bench: Bench) -> None:
    """The same peaks for a file that is one tensor of 3 GB; of gittheta only."""
    if not can_measure():
        return
    world = World(bench.folder / "huge", THETA)
    world.renew()
    write_model(world.file, one_tensor(HUGE))
    digest = sha256(world.file)
    began = time.perf_counter()
    found = _peaks(world, "huge add", "add", FILE)
    found["huge add"] = time.perf_counter() - began
    world.expect_stored()
    world.commit("the model")
    world.file.unlink()
    found |= _peaks(world, "huge checkout", "checkout", "--", FILE)
    world.expect_file(digest)
    bench.samples.add(THETA.name, found)
    shutil.rmtree(world.folder)


def measure_start(bench: Bench) -> None:
    """The start of the filter."""
    worlds = [World(bench.folder / f"start-{tool.name}", tool) for tool in bench.tools]
    for world in worlds:
        world.renew()
    for _ in range(_STARTS):
        for world in worlds:
            assert world.tool is not None
            bench.samples.add(world.tool.name, {"start": seconds_to_first_answer(world)})


def measure_quiet(bench: Bench) -> None:
    """`git status` where no checkpoint is tracked, with each tool and without any."""
    worlds = {tool.name if tool else PLAIN: _text_world(bench, tool) for tool in (None, *bench.tools)}
    for turn in range(_STATUSES):
        for key in ("quiet", "touched"):
            took = {}
            for name, world in worlds.items():
                if key == "touched":
                    _age(world.repository / "notes-0.txt", turn)
                began = time.perf_counter()
                world.git("status")
                took[name] = time.perf_counter() - began
            for name, seconds in took.items():
                bench.samples.add(name, {key: seconds, f"{key} extra": seconds - took[PLAIN]})


def _text_world(bench: Bench, tool: Tool | None) -> World:
    world = World(bench.folder / f"quiet-{tool.name if tool else PLAIN}", tool)
    world.renew()
    for index in range(20):
        (world.repository / f"notes-{index}.txt").write_text(f"note {index}\n")
    # Otherwise Git takes every file for one that may have changed within the second, and writes the index each time.
    for path in world.repository.iterdir():
        if path.is_file():
            _age(path, _STATUSES)
    world.git("add", ".")
    world.commit("notes")
    world.git("status")
    return world


def _age(path: Path, seconds: int) -> None:
    """Another time than before, in the past."""
    at = time.time() - 3600 - seconds
    os.utime(path, (at, at))


def measure_manifest(bench: Bench) -> None:
    """Parse and format a manifest of 100 000 tensors."""
    text = large_manifest(TENSORS)
    for _ in range(bench.runs):
        parsing, formatting = seconds_to_parse_and_format(text)
        bench.samples.add(THETA.name, {"parse": parsing, "format": formatting, "manifest": parsing + formatting})


def measure_transfer(bench: Bench) -> None:
    """Push to an empty bare repository on the same disk, and clone from it."""

    def transfer(world: World) -> dict[str, float]:
        bare, clone = world.folder / "bare.git", world.folder / "clone"
        world.git("init", "--quiet", "--bare", str(bare))
        world.git("remote", "add", "origin", bare.as_uri())
        push = world.seconds("push", "--quiet", "origin", "main")
        cloning = world.seconds("clone", "--quiet", bare.as_uri(), str(clone), cwd=world.folder)
        if sha256(clone / FILE) != bench.digest:
            raise SystemExit(f"{world.tool}: the clone has another SHA-256")
        world.git("remote", "remove", "origin")
        shutil.rmtree(bare)
        shutil.rmtree(clone)
        return {"push": push, "clone": cloning}

    bench.by_turns(transfer)


def measure_history(bench: Bench) -> None:
    """Verbs that walk over a long history, the first time and again."""
    repository, hub = bench.folder / "history.git", bench.folder / "history-hub.git"
    write_history(repository, COMMITS, VERSION_TENSORS)
    shutil.copytree(repository, hub)
    shutil.rmtree(hub / "theta/tmp", ignore_errors=True)
    for key, words in HISTORY_VERBS.items():
        took = seconds_of_verb(repository, *words, *([str(hub)] if words[0] == "push" else []))
        bench.samples.add(THETA.name, {f"history {key}": 1000 * took / COMMITS})
    bench.notes.append(f"history: {COMMITS} commits, each with one new tensor of {VERSION_TENSORS}")


def merge_size(size: int) -> int:
    """Bytes of the model that is merged, about: at least those of one layer."""
    return max(size // 5, 32 << 20)


def measure_merge(bench: Bench) -> None:
    """Merge of two fine-tunes that both changed everything. Git LFS would conflict."""
    world = World(bench.folder / "merge", THETA)
    world.renew()
    base = bench.folder / "base.safetensors"
    write_model(base, decoder_shapes(merge_size(bench.size)))
    shutil.copyfile(base, world.file)
    world.git("add", FILE)
    world.commit("base")
    for seed, branch in ((2, "theirs"), (1, "ours")):
        world.git("checkout", "--quiet", "-b", branch, "main")
        write_version(world.file, base, fine_tune(MERGED_STEP), seed)
        world.git("add", FILE)
        world.expect_stored()
        world.commit(branch)
    for _ in range(bench.runs):
        took = world.seconds("merge", "--quiet", "-m", "merged", "theirs")
        world.expect_stored()
        bench.samples.add(THETA.name, {"merge": took})
        world.git("reset", "--quiet", "--hard", "HEAD^")
    base.unlink()
    shutil.rmtree(world.folder)


def measure_scale(bench: Bench) -> None:
    """What the disk and the memory allow: a plain copy, a synced one, a plain read."""
    copy = bench.folder / "copy"
    for _ in range(bench.runs):
        os.sync()
        began = time.perf_counter()
        subprocess.run(["cp", str(bench.model), str(copy)], check=True)
        copied = time.perf_counter()
        with open(copy, "rb") as file:
            os.fsync(file.fileno())
        synced = time.perf_counter()
        subprocess.run(["cat", str(bench.model)], stdout=subprocess.DEVNULL, check=True)
        read = time.perf_counter() - synced
        bench.samples.add(PLAIN, {"cp": copied - began, "cp synced": synced - began, "cat": read})
        copy.unlink()


#: By the name that ``--only`` takes, in the order in which they run.
MEASURES: dict[str, Callable[[Bench], None]] = {
    "scale": measure_scale,
    "add": measure_add,
    "status": measure_status,
    "checkout": measure_checkout,
    "memory": measure_memory,
    "transfer": measure_transfer,
    "start": measure_start,
    "quiet": measure_quiet,
    "manifest": measure_manifest,
    "history": measure_history,
    "many-files": measure_many_files,
    "transfers": measure_transfers,
    "merge": measure_merge,
    "merge-memory": measure_merge_memory,
    "merge-git": measure_merge_git,
    "merge-gpu": measure_merge_gpu,
    "changes-size": measure_sizes,
    "changes-speed": measure_speeds,
    "huge": measure_huge,
}
