"""A signature of a model, as OpenSSF's model signing writes it, compared with what a commit has.

The digests are compared here. Whether the right person has signed them is for the library ``model_signing`` to say, if
it is installed and the user has named a key or an identity.
"""

from __future__ import annotations

import base64
import binascii
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gittheta.errors import ConfigError, FormatError
from gittheta.flows.maintain.verify import Version, blocks_of, hashed
from gittheta.storage.files import translated
from gittheta.wording import quoted, shown

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace

_MAX = 64 << 20
_KIND = "https://model_signing/signature/v1.0"
_ALGORITHMS = {"sha256": "sha256", "blake2b": "blake2b"}


@dataclass(frozen=True)
class Signed:
    """What a signature says: the digest of each file, by its path in the model."""

    digests: Mapping[str, tuple[str, str]]
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Signer:
    """Whose signature it must be: of a key, or of somebody whom an issuer knows."""

    public_key: Path | None = None
    identity: str = ""
    issuer: str = ""


def read_signature(file: Path) -> Signed:
    """The digests in a sigstore bundle. Raises FormatError, and StoreError if it cannot be read."""
    with translated(file), open(file, "rb") as stream:
        data = stream.read(_MAX)
    try:
        bundle = json.loads(data)
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"], validate=True))
        kind, predicate = statement["predicateType"], statement["predicate"]
        if kind != _KIND or predicate["serialization"]["method"] != "files":
            raise FormatError(f"a signature of another kind than by files: {shown(str(kind))}", path=str(file))
        digests = {str(entry["name"]): _digest(entry) for entry in predicate["resources"]}
        return Signed(digests, tuple(map(str, predicate["serialization"].get("ignore_paths", ()))))
    except (KeyError, TypeError, ValueError, binascii.Error, RecursionError) as error:
        raise FormatError("not a signature of a model", path=str(file), hint="model.sig is its usual name") from error


def _digest(entry: Mapping[str, Any]) -> tuple[str, str]:
    algorithm = _ALGORITHMS.get(str(entry["algorithm"]))
    if algorithm is None:
        raise FormatError(f"digests by {quoted(str(entry['algorithm']))}, which is not known here")
    return algorithm, str(entry["digest"]).lower()


def differences(workspace: Workspace, versions: Mapping[str, Version], signed: Signed) -> list[str]:
    """What is otherwise than was signed, in words; nothing if all is the same. Raises ThetaError."""
    found = []
    for name, (algorithm, digest) in sorted(signed.digests.items()):
        version = versions.get(name)
        if version is None:
            found.append(f"{shown(name)}: signed, and not there")
        elif hashed(workspace, version, algorithm) != digest:
            found.append(f"{shown(name)}: not what was signed")
    unsigned = sorted(name for name in versions.keys() - signed.digests.keys() if not _ignored(name, signed))
    return found + [f"{shown(name)}: there, and not signed" for name in unsigned]


def _ignored(name: str, signed: Signed) -> bool:
    parts = name.split("/")
    below = {"/".join(parts[:count]) for count in range(1, len(parts) + 1)}
    return not below.isdisjoint(signed.ignored) or parts[0].startswith(".git")


def check_signer(
    workspace: Workspace, versions: Mapping[str, Version], file: Path, signed: Signed, signer: Signer
) -> str:
    """Why a signature is not that of the signer; empty if it is. The files are written to a temporary folder for that.

    Raises ConfigError if the library for that is not installed.
    """
    try:
        from model_signing.verifying import Config
    except ImportError as error:
        raise ConfigError(
            "who has signed can only be checked by model_signing, which is not installed",
            hint="pip install model_signing",
        ) from error
    if signer.public_key:
        config = Config().use_elliptic_key_verifier(public_key=signer.public_key)
    else:
        config = Config().use_sigstore_verifier(identity=signer.identity, oidc_issuer=signer.issuer)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "model")
        for name in signed.digests:
            target = root if name == "." else root / name
            if not target.resolve().is_relative_to(root.resolve()):
                return f"a name outside of the model: {shown(name)}"
            target.parent.mkdir(parents=True, exist_ok=True)
            with translated(target), open(target, "wb") as stream:
                for block in blocks_of(workspace, versions[name]):
                    stream.write(block)
        try:
            config.verify(root, file)
        except Exception as error:  # noqa: BLE001 - the library raises whatever its own libraries do
            return f"{type(error).__name__}: {error}"
    return ""
