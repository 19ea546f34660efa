"""What the documentation shows is what happens: the README's tour, the specification's examples, the sample plugin."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gittheta import errors
from gittheta.model import DTYPES, Tensor
from gittheta.storage.manifest import format_manifest, parse_manifest
from gittheta.testing import FormatConformance, MergeConformance, PredictorConformance, block_values, tensor
from tests.support.parameters import first_often
from tests.support.world import IDENTITY, environment

ROOT = Path(__file__).parents[1]
MERGE_GUIDE = "docs/guide/write-a-merge-plugin.md"
MINIMAL = "plugins/gittheta-merge-minimal"
_STEP = re.compile(r"```sh\n(.*?)```(?:\s+```text\n(.*?)```)?", re.DOTALL)


def blocks(file: str, language: str) -> list[str]:
    """The fenced blocks of one language in a document."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / file).read_text(), re.DOTALL)


def tour(file: str) -> list[tuple[str, list[str]]]:
    """The commands of a document's tour, and the lines that each step promises; ``...`` stands for anything."""
    text = (ROOT / file).read_text()
    if "<!-- tour -->" in text:
        text = text[text.index("<!-- tour -->") : text.index("<!-- /tour -->")]
    return [(commands, promised.splitlines()) for commands, promised in _STEP.findall(text)]


def pattern(line: str) -> str:
    """A promised line as a regular expression: ``...`` is anything, a run of blanks any run of blanks."""
    words = [".*".join(map(re.escape, word.split("..."))) for word in line.split()]
    return r"\s+".join(words)


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A home of its own."""
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(IDENTITY)
    return environment(home)


@pytest.mark.parametrize("file", first_often(1, ["README.md", "docs/guide/merging.md", MERGE_GUIDE]))
def test_the_tour_does_what_it_says(file: str, tmp_path: Path, env: dict[str, str]) -> None:
    steps = tour(file)
    assert len(steps) >= 4
    script = "set -e\nexec 2>&1\n" + "\n".join(f"echo '@@@ step {at}'\n{step}" for at, (step, _) in enumerate(steps))
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(["sh", "-c", script], cwd=work, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout
    outputs = re.split(r"@@@ step \d+\n", done.stdout)[1:]
    for (commands, promised), output in zip(steps, outputs, strict=True):
        for line in promised:
            assert re.search(pattern(line), output), f"{line!r} is not in what this prints:\n{commands}\n{output}"


@pytest.mark.slow
def test_the_demo_brings_every_version_back(tmp_path: Path, env: dict[str, str]) -> None:
    folder = tmp_path / "a demo"
    demo = [sys.executable, str(ROOT / "docs/demo/digits.py"), str(folder)]
    done = subprocess.run(demo, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^ +(base|low|high|merged)\b.* ([\d.]+)% .* (\w+) *$", done.stdout, re.MULTILINE)
    assert [(name, same) for name, _, same in rows] == [(name, "same") for name in ("base", "low", "high", "merged")]
    assert "4 unchanged, 4 merged by linear" in done.stdout
    status = subprocess.run(["git", "status", "--porcelain"], cwd=folder / "digits", env=env, capture_output=True)
    assert (status.returncode, status.stdout) == (0, b"")


@pytest.mark.slow
def test_the_demo_overwrites_nothing_but_a_former_demo(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "thesis.tex").touch()
    demo = [sys.executable, str(ROOT / "docs/demo/digits.py"), str(tmp_path)]
    done = subprocess.run(demo, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "no demo of gittheta" in done.stderr
    assert (tmp_path / "thesis.tex").exists()


def test_the_example_of_the_specification_is_a_manifest_in_its_one_form() -> None:
    examples = [text for text in blocks("docs/spec/manifest.md", "") if text.startswith("gittheta manifest")]
    assert len(examples) == 1
    manifest = parse_manifest(examples[0].encode())
    assert format_manifest(manifest).decode() == examples[0]
    assert manifest.file_size == 432
    assert max(manifest.objects().values()) == 570


def test_every_exit_code_is_in_the_table() -> None:
    table = (ROOT / "docs/spec/exit-codes.md").read_text()
    listed = {name: int(code) for code, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", table, re.MULTILINE)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ThetaError)]
    assert listed == {kind.__name__: kind.exit_code for kind in kinds}


def _npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def _sample_plugin(module: str, name: str) -> type:
    """A plugin of the document, which says of each block of code what file it is."""
    text = (ROOT / "plugins/README.md").read_text()
    code = text.split(f"`{module}.py`:\n\n```python\n")[1].split("```")[0]
    space: dict[str, type] = {"__name__": module}  # type: ignore[dict-item]
    sys.modules.setdefault(module, type(sys)(module))
    exec(code, space)  # noqa: S102 - it is our own documentation
    return space[name]


class TestSamplePlugin(FormatConformance):
    """The plugin in plugins/README.md keeps the contract of formats."""

    file_format = _sample_plugin("gittheta_npy", "Npy")()
    samples = (_npy(np.arange(12, dtype=np.float32).reshape(3, 4)), _npy(np.array(3.0)), _npy(np.zeros((0, 3), bool)))
    broken = (b"\x93NUMPY\x01\x00", _npy(np.array([1j])))


def _turned(dtype: str) -> tuple[Tensor, Tensor]:
    base = tensor(DTYPES[dtype], block_values(DTYPES[dtype], 600), (20, 30))
    size = DTYPES[dtype].itemsize
    turned = bytearray(base.data)
    for at in range(size - 1, len(turned), size):
        turned[at] ^= 0x80
    return Tensor(base.spec, memoryview(bytes(turned))), base


class TestSamplePredictor(PredictorConformance):
    """The other one there keeps the contract of predictors."""

    predictor = _sample_plugin("gittheta_negated", "Negated")()
    pairs = tuple(map(_turned, ("bf16", "f16", "f32", "f64")))


# -- how to write a merge plugin: what the guide shows is in plugins/, and make setup installs it ----------------------


@pytest.mark.parametrize("name", ["gittheta_merge_minimal.py", "test_minimal.py", "pyproject.toml"])
def test_the_guide_shows_the_minimal_plugin(name: str) -> None:
    shown = re.findall(rf"`{re.escape(name)}`:\n\n```\w+\n(.*?)```", (ROOT / MERGE_GUIDE).read_text(), re.DOTALL)
    assert shown == [(ROOT / MINIMAL / name).read_text()]


def test_the_minimal_plugin_is_small() -> None:
    files = [path for path in (ROOT / MINIMAL).iterdir() if path.is_file()]
    assert sorted(path.name for path in files) == ["gittheta_merge_minimal.py", "pyproject.toml", "test_minimal.py"]
    assert sum(len(path.read_text().splitlines()) for path in files) < 60


def _guide_code() -> list[dict[str, Any]]:
    """What each block of Python in the guide defines, run by itself."""
    spaces = []
    for at, code in enumerate(blocks(MERGE_GUIDE, "python")):
        module = type(sys)(f"guide_block_{at}")
        sys.modules[module.__name__] = module
        exec(code, vars(module))  # noqa: S102 - it is our own documentation
        spaces.append(vars(module))
    return spaces


class TestTheMethodThatLooksTwice(MergeConformance):
    """The other method of the guide keeps the contract, too; the guide's other blocks run, and check themselves."""

    method = next(space["Level"]() for space in _guide_code() if "Level" in space)


def test_every_block_of_the_guide_is_tested() -> None:
    kinds = re.findall(r"^```(\w*)\n.*?^```$", (ROOT / MERGE_GUIDE).read_text(), re.MULTILINE | re.DOTALL)
    assert set(kinds) == {"python", "toml", "sh", "text"}
    assert kinds.count("toml") == 1
    assert kinds.count("sh") == len(tour(MERGE_GUIDE))
    assert kinds.count("text") == sum(bool(promised) for _, promised in tour(MERGE_GUIDE))
