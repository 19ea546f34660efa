"""Objects in a folder on another machine, over SSH, by the program ``sftp`` of the system.

All calls share one connection where the system's ssh can do that (``ControlMaster``). A call is one script of sftp.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import ClassVar
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from gittheta.api import Advance, ObjectId, RemoteContext, RemoteError, TemporaryRemoteError
from gittheta.runtime import lazy

#: What ssh and sftp say where the same call may succeed a little later.
_PASSING = re.compile(
    r"timed out|connection (refused|reset|closed|lost)|broken pipe|temporary failure|too many|unreachable|kex_exchange",
    re.IGNORECASE,
)
#: What they say where ssh itself needs the user.
_REFUSED = re.compile(r"denied \(|host key|resolve hostname", re.IGNORECASE)
#: A line of ``ls -ln``: the mode of a regular file, links, two owners, the size, three words of date, the name.
_LISTED = re.compile(r"-\S+ +\S+ +\S+ +\S+ +([0-9]+) .*[ /]([0-9a-f]{64})")
_LISTED_NOTE = re.compile(r"-\S+ +\S+ +\S+ +\S+ +([0-9]+) .*[ /]([a-z0-9.-]{1,100})")
#: ``user@host:path``, as Git and scp write it: no slash before the colon.
_SHORT = re.compile(r"(?:([^/@:]+)@)?(\[[^\]/]+\]|[^/:\[\]]{2,}):(?!:)(?!//)(.+)")
#: What sftp shows before it carries out a command that gives an object its name.
_RENAMING = re.compile(r"sftp> rename \S+ \S+/([0-9a-f]{64})")
#: Options of ssh that sftp calls otherwise.
_OTHERWISE = {"-p": "-P", "-l": "-oUser="}
_WITH_VALUE = frozenset(f"-{letter}" for letter in "bcDEeFIiJLlmOopQRSWw")


@dataclass(frozen=True)
class SftpRemote:
    """A folder at ``sftp://USER@HOST:PORT/PATH``. Safe to use from several threads."""

    name: ClassVar[str] = "sftp"
    wants_pointers: ClassVar[bool] = False
    verifies: ClassVar[bool] = False
    batch: ClassVar[int] = 1000
    manages: ClassVar[bool] = True

    host: str
    path: str
    #: The words with which sftp is called, without the host.
    command: tuple[str, ...]
    #: Whether there is a Git repository at the path: then the folder is ``theta`` in its git directory.
    in_repository: bool = False
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)
    #: Folders that are there, and unfinished files of uploads that were cut short, by object.
    _folders: set[str] = field(default_factory=set, repr=False, compare=False)
    _unfinished: dict[ObjectId, str] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, url: str, context: RemoteContext) -> SftpRemote | None:
        """The folder at an ``sftp://`` URL, or the store of a Git remote over SSH; None for other URLs.

        Raises RemoteError for a URL that makes no sense.
        """
        place = _Place.parse(url)
        if place is None:
            return None
        program, *options = context.network.ssh
        words = ["sftp", *_options(options), *(["-P", str(place.port)] if place.port else [])]
        words += ["-S", program] if program != "ssh" else []
        return cls(place.login, place.path, (*words, "-b", "-"), in_repository=place.in_repository)

    def sizes(self, objects: Collection[ObjectId]) -> Mapping[ObjectId, int]:
        """One question for each object, all in one script."""
        sizes: dict[ObjectId, int] = {}

        def look(line: str) -> None:
            listed = _LISTED.fullmatch(line)
            if listed:
                sizes[ObjectId(listed[2])] = int(listed[1])

        if objects:
            self._run([f"-ls -ln {_home(object_id)}" for object_id in dict.fromkeys(objects)], look)
        return sizes

    def upload(self, object_id: ObjectId, source: Path, advance: Advance) -> None:
        """Under a temporary name, on which the next attempt goes on; synced if the server can; then renamed."""
        with self._lock:
            known = self._unfinished.pop(object_id, None)
        temporary = known or f"tmp/{uuid4().hex}"
        put = "reput" if known else "put"
        try:
            self._run([*self._making([object_id]), *_sending(put, object_id, source, temporary)])
        except BaseException:
            with self._lock:
                self._unfinished[object_id] = temporary
            raise
        advance(source.stat().st_size)

    def upload_batch(self, sources: Mapping[ObjectId, Path], advance: Advance) -> None:
        """All in one script."""
        script = self._making(sources)
        for object_id, source in sources.items():
            script += _sending("put", object_id, source, f"tmp/{uuid4().hex}")

        def look(line: str) -> None:
            renaming = _RENAMING.fullmatch(line)
            if renaming:
                advance(sources[ObjectId(renaming[1])].stat().st_size)

        self._run(script, look)

    def download(self, object_id: ObjectId, target: Path, advance: Advance) -> None:
        """Behind what is there already."""
        self._run([_getting(object_id, target)])
        advance(target.stat().st_size)

    def download_batch(self, targets: Mapping[ObjectId, Path], advance: Advance) -> None:
        """All in one script."""
        self._run([_getting(object_id, target) for object_id, target in targets.items()])
        advance(sum(target.stat().st_size for target in targets.values()))

    def read(self, object_id: ObjectId, offset: int, length: int) -> bytes:
        """sftp knows no ranges: the object is fetched whole."""
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "object")
            self.download(object_id, target, lambda _: None)
            with open(target, "rb") as file:
                file.seek(offset)
                data = file.read(length)
        if len(data) != length or (offset and offset >= self.sizes([object_id]).get(object_id, 0)):
            raise RemoteError(
                f"object {object_id} at {self.host} is shorter than {offset + length} bytes",
                hint="push it again from a clone that has it: git theta push --all",
            )
        return data

    def reservation(self) -> str:
        """Of a repository over SSH nobody can tell from here whether it has work trees, or borrowers."""
        return "the store lies in a repository, whose own needs cannot be seen over SSH" if self.in_repository else ""

    def names(self) -> Iterator[tuple[ObjectId, int]]:
        """One listing of all folders."""
        for name, size in self._listing(["-ls -ln objects/*/*/*"], _LISTED):
            yield ObjectId(name), size

    def remove(self, object_id: ObjectId) -> None:
        """One script."""
        self._run([f"-rm {_home(object_id)}"])
        if object_id in self.sizes([object_id]):
            raise RemoteError(f"object {object_id} cannot be deleted on {self.host}", hint="may the folder be written?")

    def notes(self) -> list[str]:
        """One listing."""
        # A folder that cannot be listed is an error here: it is not the same as one without notes.
        return sorted(name for name, _ in self._listing(["-mkdir notes", "ls -ln notes"], _LISTED_NOTE))

    def read_note(self, name: str) -> bytes | None:
        """Fetched into a temporary file."""
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "note")
            self._run([f"-get notes/{name} {_quoted(str(target))}"])
            return target.read_bytes() if target.exists() else None

    def write_note(self, name: str, data: bytes) -> None:
        """Under a temporary name, then renamed."""
        with tempfile.TemporaryDirectory() as folder:
            source, temporary = Path(folder, "note"), f"tmp/{uuid4().hex}"
            source.write_bytes(data)
            put = f"put -f {_quoted(str(source), pattern=True)} {temporary}"
            self._run(["-mkdir tmp", "-mkdir notes", put, f"rename {temporary} notes/{name}"])

    def remove_note(self, name: str) -> None:
        """One script."""
        self._run([f"-rm notes/{name}"])

    def _listing(self, script: list[str], line_of: re.Pattern[str]) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []

        def look(line: str) -> None:
            listed = line_of.fullmatch(line)
            if listed:
                found.append((listed[2], int(listed[1])))

        self._run(script, look)
        return found

    def close(self) -> None:
        """End the connection."""
        control = vars(self).pop("_control", None)
        if control is None:
            return
        with suppress(OSError):
            leave = ["ssh", "-O", "exit", "-o", f"ControlPath={control}/%C", *self._ssh_options(), self.host]
            subprocess.run(leave, capture_output=True, stdin=subprocess.DEVNULL, check=False)
        shutil.rmtree(control, ignore_errors=True)

    def _ssh_options(self) -> list[str]:
        """The options of the connection as ssh itself calls them."""
        words = list(self.command[1:-2])
        return ["-p" if word == "-P" else word for word in words if word != "-S"]

    @lazy
    def _control(self) -> str:
        """The folder of the socket over which all calls share a connection; its path must be short."""
        return tempfile.mkdtemp(prefix="gt-")

    def _sharing(self) -> list[str]:
        if os.name == "nt":
            return []
        return [f"-oControlPath={self._control}/%C", "-oControlMaster=auto", "-oControlPersist=60"]

    def _making(self, objects: Iterable[ObjectId]) -> list[str]:
        """Lines that make folders which may not be there yet."""
        wanted = dict.fromkeys(["tmp", "objects", *(folder for object_id in objects for folder in _folders(object_id))])
        with self._lock:
            missing = [folder for folder in wanted if folder not in self._folders]
        return [f"-mkdir {folder}" for folder in missing]

    @lazy
    def _base(self) -> str:
        """The folder. Of a repository it is looked up in the order in which Git's own server looks for one."""
        if not self.in_repository:
            return self.path
        candidates = [f"{self.path}{end}" for end in ("/.git", "", ".git/.git", ".git")]
        found: list[str] = []

        def look(line: str) -> None:
            if line.startswith("-") and line.endswith("/HEAD"):
                found.append(line)

        self._call([f"-ls -ln {_quoted(f'{candidate}/HEAD', pattern=True)}" for candidate in candidates], look)
        for candidate in candidates:
            if any(line.endswith(f" {candidate}/HEAD") for line in found):
                return f"{candidate}/theta"
        raise RemoteError(
            f"there is no repository at {self.path} on {self.host}",
            hint="if objects are elsewhere: git config remote.NAME.thetaUrl sftp://USER@HOST/PATH",
        )

    def _run(self, script: Iterable[str], look: Callable[[str], None] = lambda _: None) -> None:
        """Carry out a script in the folder. ``look`` sees each line that sftp prints. Raises RemoteError."""
        lines = list(script)
        base = _quoted(self._base)
        self._call([f"-mkdir {base}", f"cd {base}", *lines], look)
        with self._lock:
            self._folders.update(line.removeprefix("-mkdir ") for line in lines if line.startswith("-mkdir "))

    def _call(self, script: list[str], look: Callable[[str], None]) -> None:
        text = "\n".join([*script, ""])
        command = [self.command[0], *self._sharing(), *self.command[1:], self.host]
        with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as given:
            given.write(os.fsencode(text))
            given.seek(0)
            try:
                process = subprocess.Popen(command, stdin=given, stdout=subprocess.PIPE, stderr=errors)
            except OSError as error:
                raise RemoteError(f"cannot start sftp: {error.strerror}", hint="install OpenSSH's client") from error
            with process:
                try:
                    for line in _lines(process):
                        look(line)
                except BaseException:
                    process.kill()
                    raise
            if process.returncode:
                errors.seek(0)
                raise self._error(errors.read().decode(errors="replace"))

    def _error(self, said: str) -> RemoteError:
        lines = [line.strip() for line in said.splitlines() if line.strip() and "mkdir" not in line]
        refused = next(filter(_REFUSED.search, lines), None)
        what = f"sftp to {self.host}: {refused or (lines[-1] if lines else 'ended without a word')}"
        if refused:
            return RemoteError(what, hint=f"try `ssh {self.host}` by hand; only keys and agents count: nobody is asked")
        if _PASSING.search(said):
            return TemporaryRemoteError(what, hint="check the network and the host, then run the command again")
        return RemoteError(what, hint=f"check the folder {self.path} on {self.host}: may it be read and written?")


@dataclass(frozen=True)
class _Place:
    """A folder or repository on another machine."""

    login: str
    port: int | None
    path: str
    in_repository: bool

    @classmethod
    def parse(cls, url: str) -> _Place | None:
        """``sftp://``: a folder; ``ssh://`` and ``host:path``: a repository. Raises RemoteError."""
        scheme, separator, _ = url.partition("://")
        if not separator:
            short = _SHORT.fullmatch(url)
            return cls._checked(short[1] or "", short[2], None, short[3], in_repository=True) if short else None
        if scheme not in ("sftp", "ssh", "git+ssh", "ssh+git"):
            return None
        try:
            parts = urlsplit(url)
            user, port = unquote(parts.username or ""), parts.port
        except ValueError as error:
            raise RemoteError("not the URL of a folder over SSH", hint="sftp://USER@HOST/PATH") from error
        if parts.password is not None:
            raise RemoteError("a URL with a password, which SSH does not take", hint="sftp://USER@HOST/PATH, and a key")
        return cls._checked(user, parts.hostname or "", port, unquote(parts.path), in_repository=scheme != "sftp")

    @classmethod
    def _checked(cls, user: str, host: str, port: int | None, path: str, *, in_repository: bool) -> _Place:
        if not host or host.startswith("-") or user.startswith("-") or "\n" in path:
            raise RemoteError("not the URL of a folder over SSH", hint="sftp://USER@HOST/PATH")
        bracketed = f"[{host.strip('[]')}]" if ":" in host else host
        home = path.startswith(("/~/", "~/"))
        path = (path.partition("~/")[2] if home else path).rstrip("/") or ("." if home or not path else "/")
        return cls(f"{user}@{bracketed}" if user else bracketed, port, path, in_repository)


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    for line in process.stdout or ():
        yield line.decode(errors="replace").rstrip("\r\n")


def _folders(object_id: ObjectId) -> tuple[str, str]:
    return f"objects/{object_id[:2]}", f"objects/{object_id[:2]}/{object_id[2:4]}"


def _home(object_id: ObjectId) -> str:
    return f"{_folders(object_id)[1]}/{object_id}"


def _sending(put: str, object_id: ObjectId, source: Path, temporary: str) -> list[str]:
    return [
        f"{put} -f {_quoted(str(source.absolute()), pattern=True)} {temporary}",
        f"rename {temporary} {_home(object_id)}",
    ]


def _getting(object_id: ObjectId, target: Path) -> str:
    again = " -a" if target.exists() else ""
    return f"get{again} {_home(object_id)} {_quoted(str(target.absolute()))}"


def _quoted(path: str, *, pattern: bool = False) -> str:
    """A path as a word of sftp. With ``pattern``, sftp would look for files that match it."""
    escaped = re.sub(r'(["\\])', r"\\\1", path)
    if pattern:
        escaped = re.sub(r"([*?\[])", r"\\\1", escaped)
    return f'"{escaped}"'


def _options(words: list[str]) -> Iterator[str]:
    """Options of ssh as sftp takes them."""
    rest = iter(words)
    for word in rest:
        key = word[:2]
        if key not in _WITH_VALUE:
            yield word
            continue
        value = word[2:] or next(rest, "")
        other = _OTHERWISE.get(key, key)
        if other.endswith("="):
            yield other + value
        else:
            yield from (other, value)
