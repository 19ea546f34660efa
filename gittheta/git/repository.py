"""One repository, and the questions that most commands ask of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gittheta.errors import GitError
from gittheta.git import index
from gittheta.git.configuration import all_settings
from gittheta.git.entries import Entry
from gittheta.git.process import Git
from gittheta.runtime import lazy


@dataclass
class Repository:
    """One repository, and the work tree in it that a command was started for. Safe to use from several threads."""

    git: Git
    #: The directory of this work tree (``.git``, or ``.git/worktrees/NAME``).
    git_dir: Path
    #: The directory that all work trees share; the store lies in it.
    common_dir: Path
    #: None in a bare repository.
    top: Path | None

    @classmethod
    def discover(cls, start: Path) -> Repository:
        """The repository around a directory, or the one that Git called us for. Raises GitError if there is none."""
        return cls._around(Git(start))

    @classmethod
    def elsewhere(cls, start: Path) -> Repository:
        """The repository around a directory, whichever Git called us for. Raises GitError if there is none."""
        return cls._around(Git.elsewhere(start))

    @classmethod
    def _around(cls, git: Git) -> Repository:
        answer = git.attempt("rev-parse", "--path-format=absolute", "--git-dir", "--git-common-dir", "--show-toplevel")
        lines = os.fsdecode(answer.stdout).split("\n")
        if answer.returncode and len(lines) < 3:
            said = answer.stderr.decode(errors="replace").strip()
            raise GitError(f"no git repository here: {said}", hint="change into a repository, or run `git init`")
        top = Path(lines[2]) if answer.returncode == 0 else None
        return cls(git.within(top) if top else git, Path(lines[0]), Path(lines[1]), top)

    @property
    def objects_dir(self) -> Path:
        """Where Git writes objects."""
        elsewhere = self.git.environment.get("GIT_OBJECT_DIRECTORY")
        return (self.git.directory / elsewhere) if elsewhere else self.common_dir / "objects"

    @lazy
    def config(self) -> dict[str, list[str]]:
        """Every setting that is in force, by lower-case section and key; read once."""
        return all_settings(self.git)

    def setting(self, key: str) -> str | None:
        """The last value of one setting."""
        values = self.config.get(key)
        return values[-1] if values else None

    def remote_names(self) -> list[str]:
        """The names of all remotes, in the order of the configuration."""
        return [key[7:-4] for key in self.config if key.startswith("remote.") and key.endswith(".url")]

    def remotes(self) -> dict[str, str]:
        """Remote names and the URLs that they are fetched from, `insteadOf` applied; the likeliest first.

        Asked once: a filter that writes a thousand files asks for each.
        """
        return dict(self._remotes)

    @lazy
    def _remotes(self) -> dict[str, str]:
        names = self.remote_names()
        head = self.git.attempt("symbolic-ref", "--short", "-q", "HEAD").stdout
        branch = os.fsdecode(head).strip()
        preferred = [self.setting(f"branch.{branch}.remote"), self.setting("checkout.defaultremote"), "origin"]
        names.sort(key=lambda name: preferred.index(name) if name in preferred else len(preferred))
        return {name: self.git.line("remote", "get-url", name) for name in names}

    def push_urls(self, name: str) -> list[str]:
        """Where a push to a remote goes, which may be several places; a URL that is no remote goes to itself."""
        answer = self.git.attempt("remote", "get-url", "--push", "--all", name)
        return os.fsdecode(answer.stdout).splitlines() if answer.returncode == 0 else [name]

    def remote_heads(self, url: str) -> list[str]:
        """The commits that the refs of a remote name; none if it cannot be asked."""
        listed = self.git.attempt("ls-remote", "--", url).stdout.decode(errors="replace")
        return [line.partition("\t")[0] for line in listed.splitlines()]

    def has_remote_ref(self, url: str, ref: str) -> bool:
        """Whether a remote has a ref of this whole name; False if it cannot be asked."""
        return self.git.attempt("ls-remote", "--exit-code", "--", url, ref).returncode == 0

    def git_version(self) -> str:
        """Such as ``2.39.5``."""
        return self.git.line("version").removeprefix("git version ")

    def index(self) -> Iterator[Entry]:
        """The entries of the index, unmerged ones too."""
        return index.entries(self.git)

    def tree(self, revision: str) -> Iterator[Entry]:
        """Every file of a commit or tree."""
        for item in os.fsdecode(self.git.run("ls-tree", "-r", "-z", "--full-tree", revision)).split("\0")[:-1]:
            words, _, path = item.partition("\t")
            mode, kind, oid = words.split(" ")
            if kind == "blob":
                yield Entry(mode, oid, path)

    def commits(self, *names: str) -> list[str]:
        """The commits that some names resolve to, in their order; an empty string for one that has no commit."""
        stdin = b"".join(os.fsencode(f"{name}^{{commit}}\n") for name in names)
        lines = self.git.run("cat-file", "--batch-check=%(objectname)", stdin=stdin).decode(errors="replace")
        return ["" if line.endswith(" missing") else line for line in lines.splitlines()]

    def commit(self, name: str) -> str | None:
        """The commit that a branch, a tag or another name stands for; None if it is none, or a range."""
        answer = self.git.attempt("rev-parse", "--verify", "-q", "--end-of-options", f"{name}^{{commit}}")
        return answer.stdout.decode().strip() if answer.returncode == 0 else None

    def tree_of(self, revision: str) -> str | None:
        """The tree of a commit, a tag or a tree; None if there is none, as for a tag of a blob."""
        answer = self.git.attempt("rev-parse", "--verify", "-q", "--end-of-options", f"{revision}^{{tree}}")
        return answer.stdout.decode().strip() if answer.returncode == 0 else None

    def revisions(self, word: str) -> list[str]:
        """The commits that a revision or a range (``a..b``) names, excluded ones with ``^``; none if it is neither."""
        commit = self.commit(word)
        if commit:
            return [commit]
        if ".." not in word or word.startswith("-"):
            return []
        answer = self.git.attempt("rev-parse", "--revs-only", word)
        return answer.stdout.decode().split() if answer.returncode == 0 else []

    def attributes(self, names: Sequence[str], paths: Iterable[str]) -> dict[str, dict[str, str]]:
        """The values of attributes, by path and name."""
        stdin = b"".join(os.fsencode(path) + b"\0" for path in paths)
        if not stdin:
            return {}
        words = os.fsdecode(self.git.run("check-attr", "-z", "--stdin", *names, stdin=stdin)).split("\0")
        found: dict[str, dict[str, str]] = {}
        for path, name, value in zip(words[0::3], words[1::3], words[2::3], strict=False):
            found.setdefault(path, {})[name] = value
        return found

    def object_of(self, name: str) -> str | None:
        """The id of the object that a name such as ``HEAD:path`` stands for; None if there is none."""
        answer = self.git.attempt("rev-parse", "--verify", "-q", "--end-of-options", name)
        return answer.stdout.decode().strip() if answer.returncode == 0 else None

    def kind_of(self, name: str) -> str | None:
        """``blob``, ``tree``, ``commit`` or ``tag``; None if the name resolves to nothing."""
        answer = self.git.attempt("cat-file", "-t", name)
        return answer.stdout.decode().strip() if answer.returncode == 0 else None
