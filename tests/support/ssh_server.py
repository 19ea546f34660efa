"""An SSH server on this machine, for this user alone, with keys of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_PLACES = "/usr/sbin:/usr/local/sbin:/usr/bin"
_SERVER = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PidFile none
MaxStartups 100
Subsystem sftp internal-sftp
"""


@dataclass(frozen=True)
class SshServer:
    """Where it listens, and how ssh is called to get in."""

    port: int
    folder: Path

    @property
    def user(self) -> str:
        """Who may log in."""
        return getpass.getuser()

    @property
    def command(self) -> tuple[str, ...]:
        """The words of a call of ssh that knows key and host."""
        options = ("StrictHostKeyChecking=no", f"UserKnownHostsFile={self.folder}/known", "IdentitiesOnly=yes")
        return ("ssh", "-F", "none", "-i", f"{self.folder}/user", *(f"-o{option}" for option in options))

    def url(self, path: Path) -> str:
        """A folder, by sftp."""
        return f"sftp://{self.user}@127.0.0.1:{self.port}{path}"


@contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    """A server that runs for a while; skips where there is none."""
    program = shutil.which("sshd", path=_PLACES)
    if program is None or shutil.which("sftp") is None:
        pytest.skip("OpenSSH's server and sftp are not installed: make services")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "config").write_text(_SERVER.format(port=port, folder=folder))
    server = subprocess.Popen([program, "-D", "-e", "-f", folder / "config"], stderr=subprocess.PIPE)
    try:
        _wait_for(port, server)
        yield SshServer(port, folder)
    finally:
        server.terminate()
        server.wait()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if server.poll() is not None:
            said = server.stderr.read().decode(errors="replace") if server.stderr else ""
            pytest.skip(f"sshd does not start: {said.strip()}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("sshd does not listen")
