"""mergekit, where it is installed already: the same merge of the same files, without Git."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.bench.model import HIDDEN, Shapes, read_header
from tests.bench.worlds import FILE

NAME = "mergekit"
HEAD_SIZE = 128


def find_toolkit() -> tuple[str, ...] | None:
    """How mergekit is called: by the Python that MERGEKIT_PYTHON names, or as ``mergekit-yaml``."""
    python = os.environ.get("MERGEKIT_PYTHON")
    if python:
        return (python, "-m", "mergekit.scripts.run_yaml")
    program = shutil.which("mergekit-yaml")
    return (program,) if program else None


@dataclass(frozen=True)
class Toolkit:
    """mergekit in a folder of its own, which holds a folder for each model."""

    command: tuple[str, ...]
    folder: Path

    @property
    def result(self) -> Path:
        """What it merges into."""
        return self.folder / "merged"

    def put(self, name: str, model: Path) -> None:
        """Lay out a checkpoint as it wants one: a folder with a description of the architecture."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        shutil.copyfile(model, folder / FILE)
        with open(model, "rb") as file:
            shapes, _ = read_header(file)
        (folder / "config.json").write_text(json.dumps(_described(shapes)))

    def warm_up(self) -> None:
        """Have its modules compiled and in memory; refuse to go on if it does not run."""
        self._run("--help")

    def seconds(self, base: str, sides: Sequence[str]) -> float:
        """How long ``ties`` takes, density 0.2, on the processor."""
        shutil.rmtree(self.result, ignore_errors=True)
        recipe = {
            "merge_method": "ties",
            "base_model": str(self.folder / base),
            "models": [{"model": str(self.folder / side)} for side in sides],
            "parameters": {"density": 0.2, "weight": 1.0},
            "dtype": "bfloat16",
        }
        written = self.folder / "merge.yml"
        written.write_text(json.dumps(recipe))  # which is YAML, too
        os.sync()
        began = time.perf_counter()
        self._run(str(written), str(self.result), "--no-copy-tokenizer", "--no-write-model-card", "--quiet")
        return time.perf_counter() - began

    def _run(self, *words: str) -> None:
        environment = {**os.environ, "HOME": str(self.folder), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [*self.command, *words], env=environment, capture_output=True, check=False, cwd=self.folder
        )
        if done.returncode:
            raise SystemExit(f"mergekit: status {done.returncode}\n{done.stderr.decode(errors='replace')}")


def _described(shapes: Shapes) -> dict[str, object]:
    vocabulary, hidden = shapes["model.embed_tokens.weight"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": shapes["model.layers.0.mlp.up_proj.weight"][0],
        "num_hidden_layers": sum(name.endswith("q_proj.weight") for name in shapes),
        "num_attention_heads": HIDDEN // HEAD_SIZE,
        "num_key_value_heads": HIDDEN // HEAD_SIZE,
        "vocab_size": vocabulary,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    }


def equal_share(one: Path, other: Path) -> float:
    """Of the elements of two checkpoints of the same tensors, in whatever order, the share that are the same bits."""
    first, second = _words(one), _words(other)
    if first.keys() != second.keys():
        raise SystemExit(f"other tensors in {one} than in {other}: {sorted(first.keys() ^ second.keys())}")
    same = sum(int((first[name] == second[name]).sum()) for name in first)
    return same / sum(words.size for words in first.values())


def _words(path: Path) -> dict[str, np.memmap]:
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    found = {}
    for name, entry in entries.items():
        begin, end = entry["data_offsets"]
        found[name] = np.memmap(path, np.uint16, "r", 8 + length + begin, ((end - begin) // 2,))
    return found
