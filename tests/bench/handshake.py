"""How long a long-running filter takes from its start to its first answer."""

from __future__ import annotations

import shlex
import subprocess
import time
from typing import IO

from tests.bench.worlds import World

_CONTENT = b"hello\n"


def seconds_to_first_answer(world: World) -> float:
    """Start the filter as git would, shake hands, and have it pass six bytes through: then it is ready."""
    command = shlex.split(world.filter_command())
    began = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=world.repository,
        env=world.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        answer = _talk(process.stdin, process.stdout)
        took = time.perf_counter() - began
    if answer != [_CONTENT]:
        raise SystemExit(f"{world.tool}: the filter answered {answer!r}")
    return took


def _talk(to: IO[bytes], back: IO[bytes]) -> list[bytes]:
    _say(to, b"git-filter-client\n", b"version=2\n")
    _hear(back)
    _say(to, b"capability=clean\n", b"capability=smudge\n", b"capability=delay\n")
    _hear(back)
    _say(to, b"command=smudge\n", b"pathname=model.safetensors\n")
    _say(to, _CONTENT)
    _hear(back)
    content = _hear(back)
    _hear(back)
    return content


def _say(to: IO[bytes], *packets: bytes) -> None:
    to.write(b"".join(b"%04x%s" % (len(packet) + 4, packet) for packet in packets) + b"0000")
    to.flush()


def _hear(back: IO[bytes]) -> list[bytes]:
    packets = []
    while size := int(back.read(4) or b"0000", 16):
        packets.append(back.read(size - 4))
    return packets
