"""The table for people and the JSON for machines."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.change_sizes import ADAPTER, NEW, SPARSIFIED, size_key
from tests.bench.change_speeds import CHAINS, SPEEDS
from tests.bench.changes import APPENDED, ELEMENTS, FINE_TUNE, IA3, LORA, REINFORCED, TRIMMED
from tests.bench.histories import HISTORY_VERBS
from tests.bench.many_files import KEYS
from tests.bench.merge_rows import MERGE_ROWS
from tests.bench.merge_toolkit import NAME as MERGEKIT
from tests.bench.model import BF16, F32
from tests.bench.samples import PLAIN, Row, Samples, shown
from tests.bench.transfers import KEYS as TRANSFERS
from tests.bench.worlds import LFS, THETA

_WHOLE = "whole"
#: A kind of change, and what it may take of the bytes that changed: in bf16, in f32.
_SHARES = (
    (NEW, "new model", 0.67, 0.84),
    (FINE_TUNE.key, FINE_TUNE.what, 0.28, 0.65),
    (LORA.key, LORA.what, 0.08, 0.06),
    (IA3.key, IA3.what, 0.005, 0.005),
    (ELEMENTS.key, ELEMENTS.what, 0.009, 0.008),
    (REINFORCED.key, REINFORCED.what, 0.010, None),
    (APPENDED.key, f"{APPENDED.what}, beyond their own size", 0.001, 0.001),
    (TRIMMED.key, TRIMMED.what, 0.001, 0.001),
)


def _sizes() -> Iterator[Row]:
    """The rows of what versions take."""
    for place, dtype in enumerate((BF16, F32)):
        name = dtype.name.lower()
        for key, what, *bounds in _SHARES:
            yield Row(size_key(key, dtype), f"{name}: {what}", "of changed", most=bounds[place], other=_WHOLE)
        yield Row(size_key(ADAPTER, dtype), f"{name}: LoRA applied; by its size", "times", most=1.1, other=_WHOLE)
        for method in SPARSIFIED:
            what = f"{name}: sparsified by {method}; less than dense"
            yield Row(size_key(method, dtype), what, "times", least=8, other=_WHOLE)


ROWS = (
    Row("add", "git add of a new file", ahead=2),
    Row("stored", "stored by it", unit="of file", most=0.67),
    Row("status", "git status after touch", ahead=8),
    Row("checkout", "checkout, default theta.smudgeLimit", ahead=1.5),
    Row("checkout status", "git status right after it"),
    Row("checkout through git", "checkout through git (theta.smudgeLimit=100g)"),
    Row("checkout through git status", "git status right after it"),
    Row("add filter", "peak memory of the filter, add", unit="MB", most=600e6),
    Row("add git", "peak memory of git, add", unit="MB", most=20e6),
    Row("checkout filter", "peak memory of the filter, checkout", unit="MB", most=600e6),
    Row("checkout hook", "peak memory of the hook, checkout", unit="MB", most=600e6),
    Row("checkout git", "peak memory of git, checkout", unit="MB"),
    Row("through filter", "peak memory of the filter, checkout through git", unit="MB", most=600e6),
    Row("through git", "peak memory of git, checkout through git", unit="MB"),
    Row("huge add", "git add of one tensor of 3 GB", other="not run"),
    Row("huge add filter", "peak memory of the filter, add of it", unit="MB", most=600e6, other="not run"),
    Row("huge add git", "peak memory of git, add of it", unit="MB", most=20e6, other="not run"),
    Row("huge checkout filter", "peak memory of the filter, checkout of it", unit="MB", most=600e6, other="not run"),
    Row("huge checkout hook", "peak memory of the hook, checkout of it", unit="MB", most=600e6, other="not run"),
    Row("huge checkout git", "peak memory of git, checkout of it", unit="MB", other="not run"),
    Row("start", "filter: start to first answer", unit="ms", most=0.15),
    Row("quiet", "git status, no tracked checkpoint", unit="ms"),
    Row("quiet extra", "more than without the tool", unit="ms", most=0.005),
    Row("touched", "git status, no tracked checkpoint, a text file touched", unit="ms"),
    Row("touched extra", "more than without the tool", unit="ms", most=0.005),
    Row("parse", "manifest of 100 000 tensors: parse", other="none"),
    Row("format", "manifest of 100 000 tensors: format", other="none"),
    Row("manifest", "both", most=2, other="none"),
    *(
        Row(f"history {key}", f"git theta {key}: a thousand commits of a long history", most=1, other="none")
        for key in HISTORY_VERBS
    ),
    *(Row(key, words, other="none", most=3 if "clone" in key else None) for key, words in KEYS.items()),
    *(Row(key, words, unit=unit, most=most, other="none") for key, (words, unit, most) in TRANSFERS.items()),
    Row("push", "git push to a bare repository"),
    Row("clone", "git clone from it"),
    Row("merge", "git merge of two fine-tunes (see below)", other="conflicts"),
    *_sizes(),
    *(Row(f"change {change.key}", f"git add: {change.what}", ahead=1.5) for change in SPEEDS),
    Row("change fine-tune filter", "peak memory of the filter, add of the fine-tune", unit="MB", most=600e6),
    Row("change fine-tune git", "peak memory of git, add of the fine-tune", unit="MB", most=20e6),
    *(Row(f"chain {key}", f"checkout of the last of four versions: {key}", ahead=1) for key in CHAINS),
)
SCALE = (
    Row("cp", "cp of the file"),
    Row("cp synced", "cp of the file, then sync of the copy"),
    Row("cat", "cat of the file > /dev/null"),
    Row("quiet", "git status with no tool installed", unit="ms"),
    Row("touched", "git status with no tool installed, a text file touched", unit="ms"),
)


#: Tables: their rows, and beside whom gittheta stands there.
TABLES = ((ROWS, LFS.name), (MERGE_ROWS, MERGEKIT))


def print_tables(samples: Samples, title: str, notes: Sequence[str], present: Collection[str]) -> None:
    """Print what was measured; rows of which nothing was are left out. ``present``: the other tools that are there."""
    console = Console()
    if not console.is_terminal:
        console.width = 140
    for rows, other in TABLES:
        table = _table(rows, other, samples, other in present)
        if table.row_count:
            table.title, table.title_justify = title, "left"
            console.print(table)
    for note in notes:
        console.print(note, style="dim")


def _table(rows: Sequence[Row], other: str, samples: Samples, present: bool) -> Table:
    table = Table("what")
    for column in (THETA.name, other, f"{other} / {THETA.name}", "bound", "is it met"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        if row.key in samples.values:
            table.add_row(_told(row, samples), *_cells(row, other, samples, present))
    for row in SCALE if rows is ROWS else ():
        value = samples.summary(row, PLAIN)
        if value is not None:
            table.add_row(f"for scale: {row.what}", shown(value, row.unit))
    return table


def _told(row: Row, samples: Samples) -> str:
    remark = samples.remarks.get(row.key)
    return f"{row.what} ({remark})" if remark else row.what


def _cells(row: Row, other: str, samples: Samples, present: bool) -> tuple[str, ...]:
    theta, theirs = samples.summary(row, THETA.name), samples.summary(row, other)
    nothing = row.other if present else "absent"
    return (
        shown(theta, row.unit) if theta is not None else "-",
        shown(theirs, row.unit) if theirs is not None else nothing,
        f"{theirs / theta:.2f}" if theta and theirs and not row.key.endswith("extra") else "",
        row.bound,
        row.met(theta, theirs),
    )


def write_json(folder: Path, samples: Samples, options: dict[str, Any]) -> Path:
    """Keep every sample beside its summary; returns the file."""
    now = datetime.now(UTC)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{now:%Y%m%dT%H%M%SZ}.json"
    content: dict[str, Any] = {"at": now.isoformat(timespec="seconds"), "options": options, "versions": _versions()}
    content["rows"] = [
        _described(row, other, samples) for rows, other in TABLES for row in rows if row.key in samples.values
    ]
    content["scale"] = [
        {"key": row.key, "what": row.what, "samples": samples.values[row.key][PLAIN]}
        for row in SCALE
        if samples.summary(row, PLAIN) is not None
    ]
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def _described(row: Row, other: str, samples: Samples) -> dict[str, Any]:
    theta, theirs = samples.summary(row, THETA.name), samples.summary(row, other)
    return {
        "key": row.key,
        "what": row.what,
        "unit": {"MB": "bytes", "GB/s": "bytes/s", "ms": "s", "ns": "s"}.get(row.unit, row.unit),
        "gittheta": theta,
        other: theirs,
        "bound": row.bound,
        "met": row.met(theta, theirs),
        "remark": samples.remarks.get(row.key),
        "samples": samples.values[row.key],
    }


def _versions() -> dict[str, str]:
    return {
        "gittheta": version("gittheta"),
        "git": _said("git", "--version"),
        "git-lfs": _said("git", "lfs", "version"),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "torch": version("torch"),
        "zstandard": version("zstandard"),
        "blake3": version("blake3"),
        "system": platform.system(),
        "processors": str(os.cpu_count()),
    }


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "absent"
