"""Settings, read once from Git's own configuration. The repository's content never sets any."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gittheta.errors import ConfigError

if TYPE_CHECKING:
    from gittheta.git.repository import Repository

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0", "")


@dataclass(frozen=True)
class Settings:
    """What ``git config theta.*`` says."""

    #: ``theta.smudgeLimit``: files larger than this, in bytes, are written by gittheta, not through Git's memory.
    smudge_limit: int = 256 << 20
    #: ``theta.smudge``, GITTHETA_SKIP_SMUDGE: whether Git writes models into the work tree, or leaves manifests there.
    smudge: bool = True
    #: ``theta.threads``: workers for encoding and decoding.
    threads: int = 2
    #: ``theta.encodings``: what is tried for a changed tensor, in this order; of two as small, the first is taken.
    encodings: tuple[str, ...] = ("sparse", "ternary", "delta", "scale", "lowrank", "resize", "dense")
    #: ``theta.memory``: about how many bytes of tensors wait in buffers.
    memory: int = 512 << 20
    #: ``theta.device``: where merges are computed: auto, cpu, cuda, cuda:1, ..., mps.
    device: str = "auto"
    #: ``theta.transfers``: the most objects that travel at a time.
    transfers: int = 8
    #: ``theta.bandwidth``: bytes a second that all transfers together may move; None: as many as they can.
    bandwidth: int | None = None
    #: ``theta.autoGc``: whether unused objects are deleted now and then, as a side effect of other commands.
    auto_gc: bool = True
    #: ``theta.allowLfsPointers``: pointers of Git LFS may be committed under tracked patterns.
    allow_lfs_pointers: bool = False

    @classmethod
    def read(cls, repository: Repository) -> Settings:
        """The settings in force. Raises ConfigError."""
        limit = repository.setting("theta.smudgelimit")
        threads = repository.setting("theta.threads")
        encodings = repository.setting("theta.encodings")
        memory = repository.setting("theta.memory")
        transfers = repository.setting("theta.transfers")
        bandwidth = repository.setting("theta.bandwidth")
        return cls(
            smudge_limit=_size("theta.smudgeLimit", limit) if limit is not None else cls.smudge_limit,
            smudge=_smudges(repository),
            encodings=_names("theta.encodings", encodings) if encodings is not None else cls.encodings,
            memory=_size("theta.memory", memory) if memory is not None else cls.memory,
            transfers=_few("theta.transfers", transfers) if transfers is not None else cls.transfers,
            bandwidth=max(1, _size("theta.bandwidth", bandwidth)) if bandwidth is not None else None,
            device=repository.setting("theta.device") or cls.device,
            auto_gc=_truth("theta.autoGc", repository.setting("theta.autogc") or "true"),
            allow_lfs_pointers=_truth("theta.allowLfsPointers", repository.setting("theta.allowlfspointers")),
            threads=max(1, _size("theta.threads", threads) if threads is not None else os.cpu_count() or 1),
        )


def _size(key: str, text: str) -> int:
    found = re.fullmatch(r"\s*([0-9]+)\s*([kKmMgG]?)\s*", text)
    if not found:
        raise ConfigError(f"{key} is '{text}', which is no number", hint=f"git config {key} 256m")
    return int(found[1]) * _UNITS[found[2].lower()]


def _few(key: str, text: str) -> int:
    """A number of connections: from 1 to 64."""
    return min(max(1, _size(key, text)), 64)


def _truth(key: str, text: str | None) -> bool:
    """A setting that is true or false, in Git's words; false if it is not set."""
    word = (text or "").lower()
    if word not in _TRUE + _FALSE:
        raise ConfigError(f"{key} is '{text}', which is neither true nor false", hint=f"git config {key} true")
    return word in _TRUE


def _smudges(repository: Repository) -> bool:
    if _truth("GITTHETA_SKIP_SMUDGE", repository.git.environment.get("GITTHETA_SKIP_SMUDGE")):
        return False
    return _truth("theta.smudge", repository.setting("theta.smudge") or "true")


def _names(key: str, text: str) -> tuple[str, ...]:
    names = tuple(name for name in re.split(r"[\s,]+", text) if name)
    if not names or not all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names):
        raise ConfigError(
            f"{key} is '{text}', which is no list of names", hint=f"git config {key} 'delta sparse dense'"
        )
    return names
