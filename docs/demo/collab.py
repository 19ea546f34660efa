"""Many hands on one model, by plain git: contributors fine-tune it, an octopus merge puts their work together, again.

Four people share a small network that reads handwritten digits. Each has a part of the data in which most of the ten
digits are rare; practising on it makes the network better at some digits and worse on the whole. So each pushes a
branch, a maintainer merges all branches at once (`git merge -s theta`) and pushes the result, from which everybody goes
on: the idea of ColD Fusion (Don-Yehiya et al., 2023). That is told three times, for three methods, each in a repository
of its own, whose committed theta.toml names the method. Run it with `make demo-collab`, or

    python docs/demo/collab.py [FOLDER] [--rounds N] [--methods linear ties fisher]

It leaves the repositories in FOLDER (./demo-collab) to play with. Nothing outside that folder is touched. It ends with
an error if a merged model is not better than each of those that were merged, or the rounds do not help.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from digits import MODEL, Digits, console, fresh_folder, isolate, kilobytes, load_data
from digits import git as told
from git import Git, GitCommandError, Repo
from rich import box
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gittheta.statistics import fisher

#: Who they are, and what they have a lot of.
CONTRIBUTORS = {"ada": (0, 1, 2), "ben": (3, 4), "cleo": (5, 6, 7), "dan": (8, 9)}
#: What theta.toml says in each of the three repositories.
RULES = {
    "linear": '[[rule]]\nmethod = "linear"\n',
    "ties": '[[rule]]\nmethod = "ties"\ndensity = 0.2\n',
    "fisher": '[[rule]]\npath = "*.fisher.safetensors"\nmethod = "linear"\n\n[[rule]]\nmethod = "fisher"\n',
}
#: The share of each digit's images that is dealt out to all alike.
SPREAD = 0.2
FEW = 50
#: By how much an accuracy may fall from one round to the next: there are 540 images to test with.
SLACK = 0.02


# -- the model ---------------------------------------------------------------------------------------------------------


def new_model() -> nn.Sequential:
    """A network of about 85 thousand parameters: 340 kB."""
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def load_model(file: Path) -> nn.Sequential:
    """A saved model."""
    model = new_model()
    model.load_state_dict(load_file(file))
    return model


def train(model: nn.Module, data: Digits, optimizer: torch.optim.Optimizer, epochs: int, seed: int = 0) -> None:
    """On shuffled batches of 16."""
    random = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(data.labels), generator=random).split(16):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data.images[batch]), data.labels[batch]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(file: Path, data: Digits) -> float:
    """The share of images that a saved model reads correctly."""
    return float((load_model(file)(data.images).argmax(1) == data.labels).float().mean())


def dealt(data: Digits) -> dict[str, Digits]:
    """Each contributor's own part: nearly all images of some digits, and a few of the others."""
    random = torch.Generator().manual_seed(0)
    names = list(CONTRIBUTORS)
    at_home = torch.tensor([next(at for at, name in enumerate(names) if n in CONTRIBUTORS[name]) for n in range(10)])
    anybody = torch.randint(len(names), data.labels.shape, generator=random)
    strays = torch.rand(data.labels.shape, generator=random) < SPREAD
    owner = torch.where(strays, anybody, at_home[data.labels])
    size = int(owner.bincount().min())  # the same for all
    parts = {name: Digits(data.images[owner == at], data.labels[owner == at]) for at, name in enumerate(names)}
    return {name: part.first(size) for name, part in parts.items()}


# -- the people --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contributor:
    """A clone, and data that nobody else has."""

    name: str
    repository: Repo
    data: Digits

    @property
    def file(self) -> Path:
        """The model."""
        return Path(self.repository.working_dir, MODEL)

    def take_part(self, number: int, *, with_fisher: bool) -> None:
        """One round: get what all have made, practise on one's own data, push a branch of one's own."""
        run = partial(told if self.name == "ada" and number == 1 else untold, self.repository)
        run("pull", "-q", "--ff-only", "origin", "main")
        model = load_model(self.file)
        train(model, self.data, torch.optim.SGD(model.parameters(), lr=0.05 / number**0.5), epochs=4, seed=number)
        save_file(model.state_dict(), self.file)
        if with_fisher:
            fisher(model, DataLoader(TensorDataset(self.data.images, self.data.labels), 256)).beside(self.file)
        run("add", "--all")
        run("commit", "-q", "-m", f"Round {number}, {self.name}")
        run("push", "-q", "origin", self.name)


@dataclass(frozen=True)
class Round:
    """What came of one round."""

    single: dict[str, float]
    merged: float
    #: Bytes that arrived at the origin: five branches' worth of objects, Git's and gittheta's.
    pushed: int

    @property
    def best(self) -> float:
        """The best of those that were merged."""
        return max(self.single.values())


@dataclass(frozen=True)
class Project:
    """A bare repository that all push to, the maintainer's clone, and the contributors."""

    method: str
    origin: Path
    main: Repo
    contributors: tuple[Contributor, ...]
    test: Digits

    @property
    def file(self) -> Path:
        """The maintainer's model: the merged one."""
        return Path(self.main.working_dir, MODEL)

    def rounds(self, count: int) -> Iterator[Round]:
        """Round after round."""
        for number in range(1, count + 1):
            before = size_of(self.origin)
            self._all_take_part(number)
            untold(self.main, "fetch", "-q", "origin")
            branches = [f"origin/{contributor.name}" for contributor in self.contributors]
            told(self.main, "merge", "-s", "theta", "-m", f"Round {number}", *branches)
            untold(self.main, "push", "-q", "origin", "main")
            single = {each.name: accuracy(each.file, self.test) for each in self.contributors}
            yield Round(single, accuracy(self.file, self.test), size_of(self.origin) - before)

    def _all_take_part(self, number: int) -> None:
        with ThreadPoolExecutor(len(self.contributors)) as at_once:
            people = self.contributors
            parts = [at_once.submit(each.take_part, number, with_fisher=self.method == "fisher") for each in people]
        for part in parts:
            part.result()


def size_of(origin: Path) -> int:
    """What lies in a bare repository's object database and in gittheta's store there."""
    files = (file for folder in ("objects", "theta") for file in (origin / folder).rglob("*"))
    return sum(file.stat().st_size for file in files if file.is_file())


def new_project(folder: Path, method: str, start: Path, training: Digits, test: Digits) -> Project:
    """A project that has a first model and a rule how to merge, and everybody's clones."""
    console.print(f"\n{method}:", style="bold")
    origin = Repo.init(folder / "hub.git", mkdir=True, bare=True, initial_branch="main")
    main = clone(origin, folder / "maintainer")
    untold(main, "theta", "track", "*.safetensors")
    Path(main.working_dir, "theta.toml").write_text(RULES[method])
    Path(main.working_dir, MODEL).write_bytes(start.read_bytes())
    untold(main, "add", "--all")
    untold(main, "commit", "-q", "-m", f"Train on {FEW} digits")
    untold(main, "push", "-q", "-u", "origin", "main")
    people = []
    for name, data in dealt(training).items():
        repository = clone(origin, folder / name)
        untold(repository, "switch", "-q", "-c", name)
        people.append(Contributor(name, repository, data))
    return Project(method, Path(origin.git_dir), main, tuple(people), test)


def clone(origin: Repo, folder: Path) -> Repo:
    """A clone whose owner has a name."""
    repository = Repo.clone_from(origin.git_dir, str(folder))
    with repository.config_writer() as config:
        config.set_value("user", "name", folder.name)
        config.set_value("user", "email", f"{folder.name}@example.org")
    return repository


def untold(repository: Repo, *words: str) -> None:
    """Run a git command as a user would."""
    repository.git.execute(["git", *words])


def first_model(file: Path, training: Digits) -> None:
    """Something to start from, trained on a few images."""
    torch.manual_seed(0)
    model = new_model()
    train(model, training.first(FEW), torch.optim.Adam(model.parameters(), lr=1e-3), epochs=6)
    save_file(model.state_dict(), file)


# -- the story ---------------------------------------------------------------------------------------------------------


def report(start: float, history: dict[str, list[Round]]) -> Table:
    """Round by round."""
    table = Table(
        box=box.SIMPLE, caption=f"accuracy on 540 digits that nobody trained on; the first model: {start:.1%}"
    )
    table.add_column("method, round", no_wrap=True)
    for heading in (*CONTRIBUTORS, "best\nof them", "merged", "pushed"):
        table.add_column(heading, justify="right", no_wrap=True)
    for method, rounds in history.items():
        for number, each in enumerate(rounds, 1):
            shares = (*each.single.values(), each.best, each.merged)
            table.add_row(f"{method:<6} {number}", *(f"{share:.1%}" for share in shares), kilobytes(each.pushed))
        table.add_section()
    return table


def problems(start: float, history: dict[str, list[Round]]) -> Iterator[str]:
    """What is not as this demo claims."""
    for method, rounds in history.items():
        merged = [start, *(each.merged for each in rounds)]
        for number, (before, after) in enumerate(pairwise(merged), 1):
            if after < before - SLACK:
                yield f"{method}: round {number} made the merged model worse: {before:.1%}, then {after:.1%}"
        for number, each in enumerate(rounds, 1):
            if each.merged <= each.best:
                yield f"{method}: in round {number} one contributor alone was as good: {each.best:.1%}"
        if len(rounds) > 1 and merged[-1] < merged[1] + SLACK:
            yield f"{method}: {len(rounds)} rounds were no better than one: {merged[1]:.1%}, then {merged[-1]:.1%}"


def main() -> int:
    """Everything, in order; 1 if it did not turn out as it should."""
    parser = argparse.ArgumentParser(description="Four contributors, one model, plain git.")
    parser.add_argument("folder", nargs="?", default="demo-collab", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=RULES, default=list(RULES))
    options = parser.parse_args()
    began = time.monotonic()
    isolate()
    torch.set_num_threads(1)  # so small a network is slower with more
    folder = fresh_folder(options.folder.absolute())
    os.environ["GIT_CONFIG_GLOBAL"] = str(folder / "gitconfig")
    console.print("$ git theta install", markup=False)
    Git(folder).execute(["git", "theta", "install"])

    training, test = load_data()
    first = folder / "first.safetensors"
    first_model(first, training)
    start = accuracy(first, test)
    history = {}
    for method in options.methods:
        project = new_project(folder / method, method, first, training, test)
        history[method] = list(project.rounds(options.rounds))

    console.print()
    console.print(report(start, history))
    console.print(f"Done in {time.monotonic() - began:.0f} seconds.", markup=False)
    suggest(folder / options.methods[-1] / "maintainer")
    found = list(problems(start, history))
    for problem in found:
        console.print(problem, style="red", markup=False)
    return 1 if found else 0


def suggest(repository: Path) -> None:
    """What to do next."""
    lines = ["The repositories are yours to play in; run the demo again for fresh ones:", ""]
    lines += [f'  export PATH="{Path(sys.executable).parent}:$PATH"']
    lines += [f"  export GIT_CONFIG_GLOBAL={shlex.quote(os.environ['GIT_CONFIG_GLOBAL'])}"]
    lines += [f"  cd {shlex.quote(str(repository))}"]
    lines += [f"  {command:<36} # {meaning}" for command, meaning in TO_TRY]
    console.print("\n".join(lines), markup=False, soft_wrap=True)


TO_TRY = (
    ("git log --graph --oneline", "five rounds, one octopus each"),
    ("git log -1", "how they were merged stands in the message"),
    ("git theta merge-plan --replay HEAD", "does that merge give the same bits again?"),
    ("git theta du", "what each version added"),
)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GitCommandError as error:
        sys.exit(str(error))
