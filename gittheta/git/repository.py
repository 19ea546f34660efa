"""The only module that talks to Git: argv lists, NUL-separated output, a known environment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gittheta.errors import GitError
from gittheta.git.entries import Blob, Entry, FileChange
from gittheta.git.process import Git

_DEBUG_SIZE = re.compile(r"([^\0]*)\0  ctime: [^\0]*?\n  size: ([0-9]+)\tflags: [0-9a-f]+\n")
_OID = re.compile(rb"[0-9a-f]{40,64}")


@dataclass
class Repository:
    """One repository, and the work tree in it that a command was started for."""

    git: Git
    #: The directory of this work tree (``.git``, or ``.git/worktrees/NAME``).
    git_dir: Path
    #: The directory that all work trees share; the store lies in it.
    common_dir: Path
    #: None in a bare repository.
    top: Path | None
    _config: dict[str, list[str]] | None = field(default=None, repr=False)

    @classmethod
    def discover(cls, start: Path) -> Repository:
        """The repository around a directory. Raises GitError if there is none."""
        git = Git(start)
        answer = git.attempt("rev-parse", "--path-format=absolute", "--git-dir", "--git-common-dir", "--show-toplevel")
        lines = os.fsdecode(answer.stdout).split("\n")
        if answer.returncode and len(lines) < 3:
            said = answer.stderr.decode(errors="replace").strip()
            raise GitError(f"no git repository here: {said}", hint="change into a repository, or run `git init`")
        top = Path(lines[2]) if answer.returncode == 0 else None
        return cls(Git(top or start), Path(lines[0]), Path(lines[1]), top)

    def config(self) -> dict[str, list[str]]:
        """Every setting that is in force, by lower-case section and key; read once."""
        if self._config is None:
            found: dict[str, list[str]] = {}
            for item in os.fsdecode(self.git.run("config", "-z", "--list")).split("\0"):
                key, separator, value = item.partition("\n")
                if key:
                    found.setdefault(key, []).append(value if separator else "true")
            self._config = found
        return self._config

    def setting(self, key: str) -> str | None:
        """The last value of one setting."""
        values = self.config().get(key)
        return values[-1] if values else None

    def remotes(self) -> dict[str, str]:
        """Remote names and the URLs that they are fetched from, `insteadOf` applied; the likeliest first."""
        names = [key[7:-4] for key in self.config() if key.startswith("remote.") and key.endswith(".url")]
        head = self.git.attempt("symbolic-ref", "--short", "-q", "HEAD").stdout
        branch = os.fsdecode(head).strip()
        preferred = [self.setting(f"branch.{branch}.remote"), self.setting("checkout.defaultremote"), "origin"]
        names.sort(key=lambda name: preferred.index(name) if name in preferred else len(preferred))
        return {name: self.git.line("remote", "get-url", name) for name in names}

    def remote_heads(self, url: str) -> list[str]:
        """The commits that the refs of a remote name; none if it cannot be asked."""
        listed = self.git.attempt("ls-remote", "--", url).stdout.decode(errors="replace")
        return [line.partition("\t")[0] for line in listed.splitlines()]

    def index(self) -> Iterator[Entry]:
        """The entries of the index, unmerged ones too."""
        listed = os.fsdecode(self.git.run("ls-files", "-z", "--stage"))
        for item in listed.split("\0")[:-1]:
            words, _, path = item.partition("\t")
            mode, oid, stage = words.split(" ")
            yield Entry(mode, oid, path, int(stage))

    def tree(self, revision: str) -> Iterator[Entry]:
        """Every file of a commit or tree."""
        for item in os.fsdecode(self.git.run("ls-tree", "-r", "-z", "--full-tree", revision)).split("\0")[:-1]:
            words, _, path = item.partition("\t")
            mode, kind, oid = words.split(" ")
            if kind == "blob":
                yield Entry(mode, oid, path)

    def walk(self, revisions: Iterable[str]) -> Iterator[Blob]:
        """Every blob that the revisions reach (``^`` excludes), each once, with a path that leads to it."""
        words = list(revisions)
        options = [word for word in words if word.startswith("--")]
        names = "".join(f"{word}\n" for word in words if not word.startswith("--"))
        asked = ("rev-list", "--objects", "--ignore-missing", "--stdin", *options)
        listed = self.git.run(*asked, stdin=names.encode())
        paths = {}
        for line in listed.split(b"\n"):
            oid, _, path = line.partition(b" ")
            if _OID.fullmatch(oid):
                paths[oid] = path
        if not paths:
            return
        kinds = ("cat-file", "--batch-check=%(objectname) %(objecttype)", "--buffer")
        for line in self.git.run(*kinds, stdin=b"\n".join(paths) + b"\n").splitlines():
            oid, _, kind = line.partition(b" ")
            if kind == b"blob":
                yield Blob(oid.decode(), os.fsdecode(paths[oid]))

    def revisions(self, word: str) -> list[str]:
        """The commits that a revision or a range (``a..b``) names, excluded ones with ``^``; none if it is neither."""
        found = self.git.attempt("rev-parse", "--verify", "-q", "--end-of-options", f"{word}^{{commit}}")
        if found.returncode and ".." in word and not word.startswith("-"):
            found = self.git.attempt("rev-parse", "--revs-only", word)
        return found.stdout.decode().split() if not found.returncode else []

    def changes(self, revisions: Iterable[str]) -> Iterator[FileChange]:
        """The files that commits wrote, oldest commit first; of a merge, those that no parent has like that."""
        listed = self.git.run("rev-list", "--reverse", "--topo-order", "--format=%cI", *revisions).decode().splitlines()
        dates = {line[len("commit ") :]: date for line, date in zip(listed[0::2], listed[1::2], strict=True)}
        compared = ("diff-tree", "--stdin", "-r", "-c", "--root", "--raw", "--no-abbrev", "--no-renames", "-z")
        found = self.git.run(*compared, stdin="".join(f"{oid}\n" for oid in dates).encode())
        items = iter(os.fsdecode(found).split("\0"))
        commit = ""
        for item in items:
            if not item.startswith(":"):
                commit = item
                continue
            # One colon for each parent; then the modes and blobs in each parent, those in the commit last.
            parents = len(item) - len(item.lstrip(":"))
            words = item[parents:].split(" ")
            mode, *oids = words[parents : 2 * parents + 2]
            before, path = tuple(oid for oid in oids[:-1] if oid.strip("0")), next(items)
            if mode.startswith("100") and oids[-1] not in before:
                yield FileChange(commit, dates[commit], path, oids[-1], before)

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

    def hooks_dir(self) -> Path:
        """Where Git looks for hooks (`core.hooksPath` honoured)."""
        if self.setting("core.hookspath") is None:
            return self.common_dir / "hooks"
        return Path(self.git.line("rev-parse", "--path-format=absolute", "--git-path", "hooks"))

    def index_sizes(self) -> dict[str, int]:
        """The size in bytes that the index remembers of each file; 0 where it has none."""
        listed = os.fsdecode(self.git.run("ls-files", "-z", "--debug"))
        return {path: int(size) for path, size in _DEBUG_SIZE.findall(listed)}

    def stage(self, entry: Entry, content: bytes) -> None:
        """Put other content in the place of an entry of the index; the file itself is left alone."""
        oid = os.fsdecode(self.git.run("hash-object", "-w", "--stdin", "--no-filters", stdin=content)).strip()
        self.git.run("update-index", "--cacheinfo", f"{entry.mode},{oid},{entry.path}")

    def forget_stat(self, entries: Iterable[Entry]) -> None:
        """Replace entries of the index by themselves without file times, so that Git looks at the files anew."""
        lines = [f"{entry.mode} {entry.oid} {entry.stage}\t{entry.path}\0" for entry in entries]
        self.git.run("update-index", "-z", "--index-info", stdin=os.fsencode("".join(lines)))
