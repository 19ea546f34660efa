"""The long-running filter: one process for all files of a git command.

Protocol: https://git-scm.com/docs/gitattributes#_long_running_filter_process
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.api.reporting import timed
from gittheta.cli.console import Console
from gittheta.cli.plumbing.delayed import DelayedFiles
from gittheta.cli.plumbing.pktline import PacketContent, PacketReader, PacketWriter
from gittheta.codec.stream import ByteStream
from gittheta.errors import GitError, ManifestError, ObjectMissing, ThetaError
from gittheta.files.kinds import SHORT
from gittheta.flows.checkout.materialise import is_large, must_wait, note_pending, pending_mark
from gittheta.flows.checkout.smudge import read_manifest, smudge, warn_of_whole
from gittheta.flows.transfer.unpushed import warn_of_unsent
from gittheta.flows.workspace import Workspace
from gittheta.git.operation import Operation
from gittheta.runtime import keep_memory
from gittheta.storage.manifest import MAX_TEXT, claims_to_be_manifest, parse_manifest
from gittheta.wording import shown

if TYPE_CHECKING:
    from gittheta.model import Manifest

_F_SETPIPE_SZ = 1031
_SNIFF = 4096
#: Bytes of the longest manifest that may wait for the others, and of the longest file that needs no care for memory.
_SHORT = 1 << 20


def serve() -> None:
    """Answer git until it goes away."""
    console = Console()
    stdin, stdout = _own_pipes()
    reader, writer = PacketReader(stdin), PacketWriter(stdout)
    with Workspace.open(Path.cwd(), console) as workspace:
        before = pending_mark(workspace.repository)
        try:
            _greet(reader, writer)
            ensure_hooks(workspace)
            console.trace("filter ready")
            _answer_all(workspace, reader, writer, console)
        except (EOFError, BrokenPipeError):
            console.trace("git has gone")
        _clean_up(workspace)
        warn_of_unsent(workspace)
        remains = pending_mark(workspace.repository) not in (None, before)
    if remains:
        from gittheta.cli.plumbing.after_git import write_remaining

        write_remaining()


def _answer_all(workspace: Workspace, reader: PacketReader, writer: PacketWriter, console: Console) -> None:
    delayed = DelayedFiles()
    while True:
        _answer(workspace, reader, writer, delayed)
        console.stop()


def _clean_up(workspace: Workspace) -> None:
    """Git has ended; it waits for us, so this must be quick."""
    from gittheta.flows.maintain.gc import collect_now_and_then

    collect_now_and_then(workspace)


def _own_pipes() -> tuple[int, int]:
    """Git's pipes as descriptors of our own, so that nothing else can print into the protocol."""
    stdin, stdout = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    if sys.platform == "win32":
        import msvcrt

        for descriptor in (stdin, stdout):
            msvcrt.setmode(descriptor, os.O_BINARY)
    if sys.platform == "linux":
        import fcntl

        for descriptor in (stdin, stdout):
            try:
                fcntl.fcntl(descriptor, _F_SETPIPE_SZ, 1 << 20)
            except OSError:
                break
    return stdin, stdout


def _greet(reader: PacketReader, writer: PacketWriter) -> None:
    if reader.lines() != [b"git-filter-client", b"version=2"]:
        raise GitError("this is for git to call", hint="set up with `git theta install`")
    writer.lines("git-filter-server", "version=2")
    offered = reader.lines()
    writer.lines(
        *(f"capability={name}" for name in ("clean", "smudge", "delay") if f"capability={name}".encode() in offered)
    )


def _answer(workspace: Workspace, reader: PacketReader, writer: PacketWriter, delayed: DelayedFiles) -> None:
    request = dict(line.partition(b"=")[::2] for line in reader.lines())
    path = os.fsdecode(request.get(b"pathname", b""))
    command = request.get(b"command", b"").decode()
    if command == "list_available_blobs":
        _list_delayed(workspace, writer, delayed)
        return
    content = PacketContent(reader)
    waited = delayed.take(path) if command == "smudge" else None
    stream = ByteStream(io.BytesIO(waited) if waited is not None else content)
    # Git crashes on the answer `delayed` in a `checkout --merge`; where it names a tree, it can wait.
    may_delay = command == "smudge" and b"treeish" in request and request.get(b"can-delay") == b"1"
    if may_delay and _delays(workspace, path, stream, delayed):
        content.drain()
        writer.lines("status=delayed")
        return
    with timed(workspace.reporter, f"{command} {path}"):
        _serve_file(workspace, command, path, _Content(content, stream), writer)


def _delays(workspace: Workspace, path: str, stream: ByteStream, delayed: DelayedFiles) -> bool:
    """Let a small checkpoint wait for the others; says whether it does. What is wrong with one is said at once."""
    if not claims_to_be_manifest(stream.peek(_SNIFF)):
        return False
    text = stream.peek(_SHORT + 1)
    if len(text) > _SHORT:
        return False
    try:
        manifest = parse_manifest(text)
    except ManifestError:
        return False
    return workspace.settings.smudge and not is_large(workspace, manifest) and delayed.add(path, text, manifest)


def _list_delayed(workspace: Workspace, writer: PacketWriter, delayed: DelayedFiles) -> None:
    try:
        names = delayed.ready(workspace)
    except (ThetaError, OSError) as error:  # each file says what it lacks when it is asked for
        workspace.reporter.trace(f"not all objects came: {error}")
        names = delayed.ready(workspace)
    writer.lines(*(f"pathname={name}" for name in names))
    writer.lines("status=success")


@dataclass(frozen=True)
class _Content:
    """What Git sends of one file, and the stream in which some of it may have been looked at."""

    packets: PacketContent
    stream: ByteStream


def _serve_file(workspace: Workspace, command: str, path: str, content: _Content, writer: PacketWriter) -> None:
    parts: Iterator[bytes | memoryview] = iter(())
    try:
        if command == "clean":
            parts = iter((_cleaned(workspace, path, content.stream),))
        elif command == "smudge":
            parts = smudged(workspace, path, content.stream, may_wait=True)
        else:
            raise GitError(f"git asks for '{command}', which was not offered")
        # The first part is made before success is claimed: most that can go wrong has gone wrong by then.
        parts = chain([next(parts, b"")], parts)
        content.packets.drain()
        writer.lines("status=success")
        writer.content(parts)
        writer.flush()
    except (BrokenPipeError, EOFError):
        raise
    except (ThetaError, OSError) as error:
        told = error.located(path=path) if isinstance(error, ThetaError) else f"{shown(path)}: {error}"
        sys.stderr.write(f"gittheta: {told}\n")
        content.packets.drain()
        if isinstance(parts, chain):
            writer.flush()
        writer.lines("status=error")


def _cleaned(workspace: Workspace, path: str, stream: ByteStream) -> bytes:
    from gittheta.flows.add.clean import clean  # a command that only writes files needs nothing of it

    if len(stream.peek(_SHORT)) == _SHORT:
        keep_memory()
    return clean(workspace, path, stream)


def smudged(workspace: Workspace, path: str, stream: ByteStream, may_wait: bool) -> Iterator[bytes | memoryview]:
    """What the file should hold: the checkpoint; or the manifest itself if it is large and may wait for a hook."""
    text = stream.peek(_SNIFF)
    if claims_to_be_manifest(text):
        text = stream.peek(MAX_TEXT + 1)
    manifest = read_manifest(workspace, path, text)
    if manifest is None:
        warn_of_whole(workspace, path, stream.peek(SHORT))
        return _spooled(stream)
    if not workspace.settings.smudge:
        return iter((text,))
    if may_wait and _must_wait(workspace, manifest):
        note_pending(workspace.repository, path)
        workspace.reporter.trace(f"smudge {path}: above theta.smudgeLimit, left to the hook")
        return iter((text,))
    if manifest.file_size >= _SHORT:
        keep_memory()
    return _smudged_or_left(workspace, path, manifest, text)


def _smudged_or_left(workspace: Workspace, path: str, manifest: Manifest, text: bytes) -> Iterator[bytes | memoryview]:
    """The checkpoint; its manifest if it is kept at a place that the repository proposes and its user must agree to."""
    parts = _advancing(workspace, smudge(workspace, path, manifest), path, manifest.file_size)
    try:
        return chain([next(parts, b"")], parts)
    except ObjectMissing:
        from gittheta.flows.transfer.proposed import how_to_agree, proposed_store

        # While a pull writes files, HEAD is still the commit from before.
        url = proposed_store(workspace) or proposed_store(workspace, "FETCH_HEAD")
        if url is None:
            raise
        workspace.warn_once("proposed store", f"models are left as manifests: {how_to_agree(workspace, url)}")
        return iter((text,))


def _must_wait(workspace: Workspace, manifest: Manifest) -> bool:
    # Git may pick one commit after the other while this process lives: what goes on is looked at for each large file.
    return is_large(workspace, manifest) and must_wait(workspace, manifest, Operation.read(workspace.repository))


def _spooled(stream: ByteStream) -> Iterator[bytes | memoryview]:
    """Content that is left as it is: read whole before any of it is written, because git does so too."""
    from tempfile import SpooledTemporaryFile

    with SpooledTemporaryFile(max_size=64 << 20) as spool:
        while piece := stream.take(1 << 20):
            spool.write(piece)
        spool.seek(0)
        while read := spool.read(1 << 20):
            yield read


def _advancing(
    workspace: Workspace, parts: Iterator[bytes | memoryview], path: str, total: int
) -> Iterator[bytes | memoryview]:
    workspace.reporter.start(f"Writing {path}", total)
    for part in parts:
        yield part
        workspace.reporter.advance(len(part))


def ensure_hooks(workspace: Workspace) -> None:
    """A clone has no hooks, and without them a push would leave the objects behind: set them up."""
    from gittheta.git.calling.hooks import hooks_in_force, install_hooks

    if hooks_in_force(workspace.repository):
        return
    report = install_hooks(workspace.repository, workspace.permissions)
    for change in report.changes:
        workspace.reporter.trace(change)
    for problem in report.problems:
        workspace.reporter.warn(
            f"a hook could not be installed, so a push may leave model objects behind: {problem}\n"
            "  mend that, then run `git theta install` in this repository; or send them by `git theta push`"
        )
