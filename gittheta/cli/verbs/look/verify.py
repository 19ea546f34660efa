"""``git theta verify``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gittheta.cli.console import open_workspace, stop_progress
from gittheta.errors import GitError
from gittheta.flows.maintain.signature import Signer, check_signer, differences, read_signature
from gittheta.flows.maintain.verify import FileVerdict, Version, compare_file, hashed, tensors_with, versions_of
from gittheta.model import Digest
from gittheta.runtime import keep_memory
from gittheta.wording import counted, shown

if TYPE_CHECKING:
    from gittheta.flows.workspace import Workspace

_DIGEST = re.compile(r"(?:(sha256|b3):)?([0-9a-fA-F]{64})")
_LISTED = 20


@click.command()
@click.argument("version", metavar="REV:PATH")
@click.argument("other", metavar="FILE|DIGEST", required=False)
@click.option("--tensors", is_flag=True, help="Enough that all tensors of FILE are the same.")
@click.option("--oms", metavar="FILE", type=click.Path(path_type=Path), help="An OpenSSF model signature: model.sig.")
@click.option("--public-key", type=click.Path(path_type=Path), metavar="FILE", help="Whose signature it must be.")
@click.option("--identity", metavar="NAME", help="Who must have signed, together with --issuer.")
@click.option("--issuer", metavar="URL", help="Who knows that identity.")
def verify(
    version: str,
    other: str | None,
    tensors: bool,
    oms: Path | None,
    public_key: Path | None,
    identity: str | None,
    issuer: str | None,
) -> None:
    """Say whether a file, a digest or a signature is that of a version; ends with 1 if not.

    FILE is compared to the bit; if it differs, tensor by tensor. DIGEST is the SHA-256 of a file, or b3:... of a
    tensor. A signature may be that of a folder, REV:FOLDER. Who has signed is checked by
    model_signing, if that is installed.
    """
    if (other is None) == (oms is None):
        raise click.UsageError("name a FILE or DIGEST, or a signature by --oms")
    if bool(identity) != bool(issuer) or (public_key and identity):
        raise click.UsageError("name --public-key, or --identity and --issuer")
    keep_memory()
    with open_workspace() as workspace:
        if oms is not None:
            same = _signature(workspace, version, oms, Signer(public_key, identity or "", issuer or ""))
        else:
            same = _one(workspace, version, other or "", tensors)
    if not same:
        sys.exit(1)


def _one(workspace: Workspace, name: str, other: str, tensors: bool) -> bool:
    found = versions_of(workspace, name)
    if "." not in found:
        raise GitError(f"a folder, not a file: {shown(name)}", hint="name a file, or compare a folder by --oms")
    digest = None if Path(other).exists() else _DIGEST.fullmatch(other)
    if digest is None:
        verdict = compare_file(workspace, found["."], Path(other))
        stop_progress(workspace)
        _show(verdict)
        return verdict.same or (tensors and verdict.tensors is not None and verdict.tensors.none)
    return _digest(workspace, found["."], digest[1] or "sha256", digest[2].lower())


def _digest(workspace: Workspace, version: Version, kind: str, digest: str) -> bool:
    if kind == "b3":
        names = tensors_with(workspace, version, Digest(bytes.fromhex(digest)))
        click.echo("\n".join(map(shown, names)) if names else "no tensor has that digest")
        return bool(names)
    own = hashed(workspace, version)
    stop_progress(workspace)
    click.echo("the same, to the bit" if own == digest else f"another file: its SHA-256 is {own}")
    return own == digest


def _show(verdict: FileVerdict) -> None:
    if verdict.same:
        click.echo(f"the same, to the bit: sha256:{verdict.sha256}")
        return
    found = verdict.tensors
    if found is None:
        click.echo("another file")
    elif found.none:
        click.echo(f"other bytes, but {counted(len(found.alike), 'tensor')}, all of them the same")
    else:
        click.echo(f"another file; {counted(len(found.alike), 'tensor')} of it the same")
        for word, names in (("other values", found.different), ("not there", found.missing), ("new", found.added)):
            for name in names[:_LISTED]:
                click.echo(f"{word}: {shown(name)}")
            if len(names) > _LISTED:
                click.echo(f"{word}: {len(names) - _LISTED} more")


def _signature(workspace: Workspace, name: str, file: Path, signer: Signer) -> bool:
    versions, signed = versions_of(workspace, name), read_signature(file)
    found = differences(workspace, versions, signed)
    stop_progress(workspace)
    for line in found:
        click.echo(line)
    if found:
        return False
    click.echo(f"{counted(len(signed.digests), 'file')} as signed, to the bit")
    if not (signer.public_key or signer.identity):
        click.echo("who has signed was not checked: name --public-key, or --identity and --issuer")
        return True
    problem = check_signer(workspace, versions, file, signed, signer)
    click.echo(f"not signed by them: {shown(problem)}" if problem else "signed by them")
    return not problem
