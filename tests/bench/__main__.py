"""``python -m tests.bench``: measure, print a table, write JSON to ``bench-results``."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.bench import FULL, Bench
from tests.bench.measures import HUGE, MEASURES, merge_size
from tests.bench.merge_toolkit import NAME as MERGEKIT
from tests.bench.merge_toolkit import find_toolkit
from tests.bench.peak import can_measure
from tests.bench.report import print_tables, write_json
from tests.bench.worlds import LFS, THETA, works

RESULTS = Path(__file__).parents[2] / "bench-results"
QUICK = 64 << 20
_UNITS = {"k": 10, "m": 20, "g": 30}


def main() -> None:
    """Run what was asked for."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the temporary folder goes, too
    RESULTS.mkdir(exist_ok=True)
    lfs = works(LFS)
    with TemporaryDirectory(prefix="gittheta-bench-", dir=os.environ.get("TMPDIR") or RESULTS) as folder:
        bench = Bench(Path(folder).resolve(), options.size, options.runs, (THETA, LFS) if lfs else (THETA,))
        names, left_out = _chosen(options, bench.folder)
        try:
            for name in names:
                _measure(bench, name)
        finally:  # what was measured before something went wrong is worth seeing
            _report(bench, options, [*_notes(bench, lfs), *left_out], lfs)


def _report(bench: Bench, options: argparse.Namespace, notes: list[str], lfs: bool) -> None:
    title = f"decoder of {options.size / 1e6:.0f} MB, bf16; median of {options.runs} (peaks: the highest)"
    present = {name for name, there in ((LFS.name, lfs), (MERGEKIT, find_toolkit() is not None)) if there}
    print_tables(bench.samples, title, notes, present)
    path = write_json(RESULTS, bench.samples, {"size": options.size, "runs": options.runs})
    print(f"written to {os.path.relpath(path)}")


def _measure(bench: Bench, name: str) -> None:
    began = time.monotonic()
    print(f"measuring: {name} ...", end="", flush=True, file=sys.stderr)
    MEASURES[name](bench)
    print(f" {time.monotonic() - began:.0f} s", file=sys.stderr)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--size", type=_size, help="bytes of the model, as 64m or 1g (1g)")
    parser.add_argument("--runs", type=int, help="runs of each measurement (3)")
    parser.add_argument("--only", action="append", choices=MEASURES, help="only this; may be given again")
    parser.add_argument("--quick", action="store_true", help="64m, one run, without the tensor of 3 GB")
    parser.add_argument("--huge", action=argparse.BooleanOptionalAction, help="the tensor of 3 GB (if it fits)")
    options = parser.parse_args()
    options.size = options.size or (QUICK if options.quick else FULL)
    options.runs = options.runs or (1 if options.quick else 3)
    return options


def _size(text: str) -> int:
    found = re.fullmatch(r"([0-9]+)([kmg]?)", text.lower())
    if not found or not int(found[1]):
        raise argparse.ArgumentTypeError(f"'{text}' is no size such as 64m or 1g")
    return int(found[1]) << _UNITS.get(found[2], 0)


def _chosen(options: argparse.Namespace, folder: Path) -> tuple[list[str], list[str]]:
    """The names of what to measure, and a word on each that is left out."""
    names = list(options.only or MEASURES)
    free = shutil.disk_usage(folder).free
    left_out = []
    if free < 12 * options.size:
        raise SystemExit(f"{12 * options.size / 1e9:.0f} GB of free disk are needed; set TMPDIR or a smaller --size")
    if "huge" in names and not options.only and not options.huge:
        fits = free > 12 * options.size + 4 * HUGE
        if options.quick or options.huge is False or not fits:
            names.remove("huge")
            left_out.append("the tensor of 3 GB: left out" + ("" if fits else " for want of disk"))
    if not can_measure() and {"memory", "changes-speed", "merge-git", "huge"} & set(names):
        left_out.append("memory: not measured, this system has no /proc/PID/task/TID/children")
    return names, left_out


def _notes(bench: Bench, lfs: bool) -> list[str]:
    notes = list(bench.notes)
    if "merge" in bench.samples.values:
        about = merge_size(bench.size) / 1e6
        notes.append(f"the merge: of a model of about {about:.0f} MB, both sides changed every tensor")
    if any(key.startswith("size ") for key in bench.samples.values):
        notes.append("bf16, f32: versions of a model of one layer; stored / bytes of the tensors that changed")
    if any(key.startswith("change ") for key in bench.samples.values):
        notes.append("git add of changes: in brackets how they were stored, and in what share of the changed bytes")
    if not bench.full:
        notes.append("the bounds are meant for a model of 1 GB; at this size the start of programs weighs more")
    if not lfs:
        notes.append("git-lfs: absent, install it for the comparison")
    return notes


if __name__ == "__main__":
    main()
