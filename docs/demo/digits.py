"""The main job of gittheta, on a real model: train, commit, fine-tune on two branches, merge, push, clone.

A small network learns to read handwritten digits from a few examples. On one branch it then practises the digits 0 to
4, on another 5 to 9, and on each it forgets the rest; `git merge` puts the two together. Run it with `make demo`, or

    python docs/demo/digits.py [FOLDER]

It leaves three repositories in FOLDER (./demo) to play with. Nothing outside that folder is touched.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import sys
import time
from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from git import GitCommandError, Repo
from rich import box
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

MODEL = "model.safetensors"
MARKER = ".gittheta-demo"
ZERO_TO_FOUR, FIVE_TO_NINE = range(5), range(5, 10)
FEW = 200

console = Console(highlight=False)


# -- the model ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Digits:
    """Images, one flattened 8x8 image a row with values from 0 to 1, and what each shows."""

    images: Tensor
    labels: Tensor

    def only(self, digits: range) -> Digits:
        """Those that show one of some digits."""
        wanted = torch.isin(self.labels, torch.tensor(list(digits)))
        return Digits(self.images[wanted], self.labels[wanted])

    def first(self, count: int) -> Digits:
        """The first few."""
        return Digits(self.images[:count], self.labels[:count])


def load_data() -> tuple[Digits, Digits]:
    """Handwritten digits that come with scikit-learn: to train with, and to test with."""
    bunch = load_digits()
    parts = train_test_split(bunch.data / 16, bunch.target, test_size=0.3, random_state=0, stratify=bunch.target)
    train_images, test_images, train_labels, test_labels = map(torch.tensor, parts)
    return Digits(train_images.float(), train_labels), Digits(test_images.float(), test_labels)


def new_model() -> nn.Sequential:
    """A network of about 560 thousand parameters: 2.3 MB."""
    layers = OrderedDict[str, nn.Module]()
    widths = (64, 512, 512, 512)
    for number, (inputs, outputs) in enumerate(pairwise(widths), start=1):
        layers[f"layer{number}"] = nn.Linear(inputs, outputs)
        layers[f"relu{number}"] = nn.ReLU()
    layers["head"] = nn.Linear(widths[-1], 10)
    return nn.Sequential(layers)


def train(model: nn.Module, data: Digits, epochs: int, rate: float) -> None:
    """Adam on shuffled batches of 64."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=rate)
    for _ in range(epochs):
        for batch in torch.randperm(len(data.labels)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data.images[batch]), data.labels[batch]).backward()
            optimizer.step()


def fine_tune(file: Path, data: Digits) -> None:
    """Train a saved model further, but for its lower half, which is left as it is."""
    model = new_model()
    model.load_state_dict(load_file(file))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(("layer1.", "layer2.")))
    train(model, data, epochs=10, rate=3e-4)
    save_file(model.state_dict(), file)


@torch.no_grad()
def accuracy(file: Path, data: Digits) -> float:
    """The share of images that a saved model reads correctly."""
    model = new_model()
    model.load_state_dict(load_file(file))
    return float((model(data.images).argmax(1) == data.labels).float().mean())


# -- the repositories --------------------------------------------------------------------------------------------------


def git(repository: Repo, *words: str) -> None:
    """Run a git command as a user would, and show it and what gittheta says to it."""
    console.print(f"$ {shlex.join(['git', *words])}", markup=False)
    _, _, said = repository.git.execute(["git", *words], with_extended_output=True)
    for line in str(said).splitlines():
        if line.startswith("gittheta:"):
            console.print(f"  {line}", style="cyan", markup=False)


def isolate() -> None:
    """Let git find gittheta beside this Python, and nothing of the user's own settings."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    os.environ["GIT_CONFIG_GLOBAL"] = os.devnull
    os.environ["GIT_CONFIG_NOSYSTEM"] = "1"


def fresh_folder(folder: Path) -> Path:
    """An empty folder in place of a former demo, but of nothing else."""
    if (folder / MARKER).is_file():
        shutil.rmtree(folder)
    elif folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        sys.exit(f"{folder} exists and is no demo of gittheta; name another folder: {sys.argv[0]} FOLDER")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    return folder


def new_repository(folder: Path) -> Repo:
    """A repository that knows gittheta and somebody to commit as."""
    repository = Repo.init(folder, initial_branch="main")
    with repository.config_writer() as config:
        config.set_value("user", "name", "Demo")
        config.set_value("user", "email", "demo@example.org")
    git(repository, "theta", "install", "--local")
    git(repository, "theta", "track", "*.safetensors")
    return repository


def clone(source: Path, folder: Path) -> Repo:
    """A clone that gets its files once it knows gittheta; for who ran `git theta install`, `git clone` is enough."""
    console.print(f"$ git clone --no-checkout {source.name} {folder.name}", markup=False)
    repository = Repo.clone_from(str(source), str(folder), no_checkout=True)
    git(repository, "theta", "install", "--local")
    git(repository, "checkout", "main")
    return repository


def stored_bytes(repository: Repo) -> int:
    """What gittheta's store holds."""
    objects = Path(repository.git_dir, "theta", "objects").glob("*/*/*")
    return sum(file.stat().st_size for file in objects)


# -- the story ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Version:
    """One version of the model, as it was when it was committed."""

    title: str
    commit: str
    sha256: str
    size: int
    stored: int
    overall: float
    low: float
    high: float


class History:
    """Measures each version of the model in a repository."""

    def __init__(self, repository: Repo, test: Digits) -> None:
        self.versions: list[Version] = []
        self._repository = repository
        self._test = test
        self._stored = 0

    def record(self, title: str) -> None:
        """The version that HEAD holds and that lies in the work tree."""
        file = Path(self._repository.working_dir, MODEL)
        before, self._stored = self._stored, stored_bytes(self._repository)
        parts = (self._test, self._test.only(ZERO_TO_FOUR), self._test.only(FIVE_TO_NINE))
        self.versions.append(
            Version(
                title,
                self._repository.head.commit.hexsha,
                sha256(file),
                file.stat().st_size,
                self._stored - before,
                *(accuracy(file, part) for part in parts),
            )
        )


def sha256(file: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def build_history(repository: Repo, training: Digits, test: Digits) -> list[Version]:
    """Train, fine-tune on two branches, merge."""
    history = History(repository, test)
    file = Path(repository.working_dir, MODEL)

    model = new_model()
    train(model, training.first(FEW), epochs=6, rate=1e-3)
    save_file(model.state_dict(), file)
    git(repository, "add", ".gitattributes", MODEL)
    git(repository, "commit", "-m", f"Train on {FEW} digits")
    history.record("base")

    for branch, digits in (("low", ZERO_TO_FOUR), ("high", FIVE_TO_NINE)):
        name = f"{digits[0]} to {digits[-1]}"
        git(repository, "switch", "-c", branch, "main")
        fine_tune(file, training.only(digits))
        git(repository, "commit", "-a", "-m", f"Practise {name}")
        history.record(f"{branch}: {name}")

    git(repository, "switch", "main")
    git(repository, "merge", "low")
    git(repository, "merge", "high", "-m", "Merge what both have learned")
    history.record("merged")
    return history.versions


def comes_back(repository: Repo, version: Version) -> bool:
    """Whether a clone has the very bytes that were committed."""
    repository.git.checkout(version.commit)
    return sha256(Path(repository.working_dir, MODEL)) == version.sha256


def report(versions: list[Version], returned: list[bool]) -> Table:
    """What each version is worth, and what it takes."""
    table = Table(box=box.SIMPLE, caption="accuracy on 540 digits that no version was trained on")
    table.add_column("version", no_wrap=True)
    for heading in ("file", "stored\nfor it", "accuracy", "on 0-4", "on 5-9", "SHA-256\nin clone"):
        table.add_column(heading, justify="right", no_wrap=True)
    for version, same in zip(versions, returned, strict=True):
        table.add_row(
            version.title,
            kilobytes(version.size),
            kilobytes(version.stored),
            *(f"{share:.1%}" for share in (version.overall, version.low, version.high)),
            "same" if same else "DIFFERENT",
        )
    table.add_section()
    sums = (sum(version.size for version in versions), sum(version.stored for version in versions))
    table.add_row("all four", *map(kilobytes, sums))
    return table


def kilobytes(size: int) -> str:
    """For people."""
    return f"{size / 1000:,.0f} kB"


def main() -> int:
    """Everything, in order; 1 if a version did not come back as it was."""
    began = time.monotonic()
    isolate()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so small a network is slower with more
    folder = fresh_folder(Path(sys.argv[1] if len(sys.argv) > 1 else "demo").absolute())

    repository = new_repository(folder / "digits")
    versions = build_history(repository, *load_data())

    Repo.init(folder / "hub.git", bare=True, initial_branch="main")
    git(repository, "remote", "add", "origin", "../hub.git")
    git(repository, "push", "origin", "--all")
    copy = clone(folder / "hub.git", folder / "clone")
    returned = [comes_back(copy, version) for version in versions]
    git(copy, "checkout", "main")

    console.print()
    console.print(report(versions, returned))
    console.print(f"Done in {time.monotonic() - began:.0f} seconds.", markup=False)
    suggest(Path(repository.working_dir))
    return 0 if all(returned) else 1


def suggest(folder: Path) -> None:
    """What to do next."""
    lines = ["The repository is yours to play in; run the demo again for a fresh one:", ""]
    lines += [f'  export PATH="{Path(sys.executable).parent}:$PATH"', f"  cd {shlex.quote(str(folder))}"]
    lines += [f"  {command:<40} # {meaning}" for command, meaning in TO_TRY]
    console.print("\n".join(lines), markup=False, soft_wrap=True)


TO_TRY = (
    ("git log --graph --oneline --all", "the history"),
    ("git theta show main:model.safetensors", "the tensors, and how each is stored"),
    ("git diff low high", "which tensors differ"),
    ("git switch low && git switch main", "the model's bytes change with the branch"),
    ("git theta fsck", "is everything there and whole?"),
)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GitCommandError as error:
        sys.exit(str(error))
