"""What two people do to the models of their clones, at random, and what must be true of them at every moment."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from gittheta.errors import ManifestError
from gittheta.storage.manifest import claims_to_be_manifest, parse_manifest
from tests.support.checkpoints import checkpoint
from tests.support.stores import object_file
from tests.support.world import Place, Repo
from tests.torture.faults import Faults

NAMES = ("m.safetensors", "other.safetensors", "models/deep.safetensors")
BRANCHES = ("main", "one", "two")


@dataclass
class People:
    """Two clones of a hub, and what each version of a model must be."""

    random: random.Random
    hub: Place
    clones: tuple[Repo, Repo]
    faults: Faults
    #: By the id of a manifest as Git stores it: the SHA-256 of the checkpoint.
    truth: dict[str, str] = field(default_factory=dict)
    count: int = 0

    def step(self) -> None:
        """One of them does something, which may fail; after that everything is as Git says it is."""
        repo = self.random.choice(self.clones)
        operations, weights = zip(*OPERATIONS, strict=True)
        self.random.choices(operations, weights)[0](self, repo)
        self.count += 1
        self.settle(repo)
        self.check(repo)

    def do(self, repo: Repo, *words: str) -> bool:
        """A git command, perhaps under a fault; says whether it succeeded."""
        return self.faults.attempt(repo, *words).returncode == 0

    def settle(self, repo: Repo) -> None:
        """Give up whatever is going on. Without a fault, that works."""
        for verb, state in (
            ("rebase", "rebase-merge"),
            ("rebase", "rebase-apply"),
            ("merge", "MERGE_HEAD"),
            ("cherry-pick", "CHERRY_PICK_HEAD"),
            ("revert", "REVERT_HEAD"),
        ):
            if (repo.git_dir / state).exists():
                repo.attempt("git", verb, "--abort")
        if (repo.git_dir / "rebase-merge").exists():
            repo.attempt("git", "rebase", "--quit")
        repo.git("reset", "-q", "--hard")
        repo.git("clean", "-fdq")

    def check(self, repo: Repo) -> None:
        """Each model of the work tree is the one that the index names.

        Where the disk was full as a large one was to be written, its manifest may stand there, and a pull mends that.
        """
        if any((repo.path / name).is_file() and claims_to_be_manifest(repo.read(name)) for name in NAMES):
            repo.git("theta", "pull")
        for line in repo.git("ls-files", "--stage", "--", *NAMES).splitlines():
            oid, path = line.split()[1], line.partition("\t")[2]
            sha = repo.sha(path)
            assert self.truth.setdefault(oid, sha) == sha, (
                f"{path} in {repo.path.name} is not what was added but {repo.read(path)[:40]!r}; before:\n"
                + "\n".join(self.faults.told[-12:])
            )

    def check_all(self) -> None:
        """Both stores are healthy, and the hub has the objects of all that its branches have."""
        for repo in self.clones:
            repo.git("theta", "fsck")
            assert repo.status() == ""
        refs = self.hub.git("for-each-ref", "--format=%(refname)").split()
        blobs = self.hub.git("rev-list", "--objects", *refs).splitlines() if refs else []
        for oid in {line.split(" ")[0] for line in blobs if line.endswith(".safetensors")}:
            text = self.hub.git("cat-file", "blob", oid).encode()
            assert claims_to_be_manifest(text), "a model went into Git whole"
            for object_id in _objects(text):
                assert object_file(self.hub.path / "theta", object_id).exists(), (
                    f"{object_id} of {oid} did not arrive; before:\n" + "\n".join(self.faults.told[-60:])
                )

    def write(self, repo: Repo, name: str) -> None:
        """Train a model a little, or make one."""
        seed = self.random.randrange(4) if self.random.random() < 0.4 else self.count + 10
        rng = np.random.default_rng(seed)
        base = np.random.default_rng(NAMES.index(name)).normal(0, 0.02, (48, 64)).astype(np.float32)
        few = base.copy()
        few.flat[rng.integers(0, few.size, 5)] += 1
        tuned = base + rng.normal(0, 1e-4, base.shape).astype(np.float32)
        tensors = {"a": few, "b": tuned, "c": base, "step": np.array(seed)}
        repo.write(name, checkpoint(tensors))


def _objects(text: bytes) -> set[str]:
    try:
        return set(parse_manifest(text).objects())
    except ManifestError as error:
        raise AssertionError(f"the hub has a manifest that is none: {error}") from error


def change(people: People, repo: Repo) -> None:
    """Write one or two models, add and commit them."""
    names = people.random.sample(NAMES, people.random.choice((1, 1, 2)))
    for name in names:
        people.write(repo, name)
    shas = {name: repo.sha(name) for name in names}
    if people.do(repo, "add", "--", *names):
        for line in repo.git("ls-files", "--stage", "--", *names).splitlines():
            oid, name = line.split()[1], line.partition("\t")[2]
            assert people.truth.setdefault(oid, shas[name]) == shas[name], f"{name} was added as something else"
        people.do(repo, "commit", "-q", "-m", f"change {people.count}")


def look(people: People, repo: Repo) -> None:
    people.write(repo, people.random.choice(NAMES))
    people.do(repo, *people.random.choice((("status", "--short"), ("diff", "--stat"), ("theta", "status"))))


def switch(people: People, repo: Repo) -> None:
    branch = people.random.choice(BRANCHES)
    if not people.do(repo, "switch", "-q", branch):
        people.do(repo, "switch", "-q", "-c", branch)


def merge(people: People, repo: Repo) -> None:
    strategy = people.random.choice(((), ("-s", "theta")))
    people.do(repo, "merge", "-q", "--no-edit", *strategy, people.random.choice(BRANCHES))


def take(people: People, repo: Repo) -> None:
    words = people.random.choice((("cherry-pick",), ("revert", "--no-edit"), ("rebase", "-q")))
    people.do(repo, *words, people.random.choice(BRANCHES))


def stash(people: People, repo: Repo) -> None:
    people.write(repo, people.random.choice(NAMES))
    if people.do(repo, "stash", "push", "-q", *people.random.choice(((), ("-u",)))):
        people.do(repo, "stash", "pop", "-q")


def go_back(people: People, repo: Repo) -> None:
    words = people.random.choice(
        (("reset", "-q", "--hard", "HEAD~1"), ("reset", "-q", "HEAD~1"), ("checkout", "-q", "HEAD~1", "--", "."))
    )
    people.do(repo, *words)


def amend(people: People, repo: Repo) -> None:
    people.write(repo, NAMES[0])
    people.do(repo, "commit", "-q", "-a", "--amend", "--no-edit")


def rename(people: People, repo: Repo) -> None:
    source, target = people.random.sample(NAMES, 2)
    if people.do(repo, "mv", "-f", source, target):
        people.do(repo, "commit", "-q", "-m", "rename")


def push(people: People, repo: Repo) -> None:
    people.do(repo, "push", "-q", "--force", "origin", "--all")


def fetch(people: People, repo: Repo) -> None:
    branch = people.random.choice(BRANCHES)
    if people.do(repo, "fetch", "-q", "origin") and people.random.random() < 0.5:
        people.do(repo, "reset", "-q", "--hard", f"origin/{branch}")
    else:
        people.do(repo, "theta", "fetch")


def tidy(people: People, repo: Repo) -> None:
    choices = (
        ("theta", "gc"),
        ("theta", "gc", "--prune=now"),
        ("theta", "fsck"),
        ("theta", "pull"),
        ("gc", "-q", "--prune=now"),
        ("theta", "repack"),
    )
    people.do(repo, *people.random.choice(choices))


OPERATIONS: list[tuple[Callable[[People, Repo], None], int]] = [
    (change, 30),
    (look, 10),
    (switch, 12),
    (merge, 3),
    (take, 4),
    (stash, 5),
    (go_back, 7),
    (amend, 5),
    (rename, 3),
    (push, 8),
    (fetch, 6),
    (tidy, 7),
]
