"""What a blob is, told from its bytes."""

from __future__ import annotations

import pytest

from gittheta.api import NullReporter
from gittheta.files.kinds import Kind, is_pointer, kind_of
from gittheta.registry import Registry
from tests.support.checkpoints import model

HASH = b"sha256:" + b"0a" * 32
VERSION = b"version https://git-lfs.github.com/spec/v1\n"
POINTER = VERSION + b"oid " + HASH + b"\nsize 12\n"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", Kind.EMPTY),
        (b"gittheta manifest 99: of a time to come\n", Kind.MANIFEST),
        (b"gittheta manifest but no number", Kind.MANIFEST),
        (POINTER, Kind.POINTER),
        (b'{"a": 1}\n', Kind.TEXT),
        ("é\t\r\n\f".encode(), Kind.TEXT),
        (model(1), Kind.WHOLE),
        (b"\x80\x02pickle", Kind.WHOLE),
        (b"\x1b[31mred", Kind.WHOLE),
        (b"x" * (1 << 20), Kind.WHOLE),
        (b'{"w": {"tensor_metadata": 1, "theta_metadata": 2}}', Kind.WHOLE),
    ],
)
def test_kinds(content: bytes, kind: Kind) -> None:
    assert kind_of(Registry(), NullReporter(), content) is kind


def test_pointers() -> None:
    assert is_pointer(POINTER)
    assert is_pointer(POINTER.replace(b"\n", b"\r\n"))
    assert is_pointer(VERSION + b"ext-0-case " + HASH + b"\noid " + HASH + b"\nsize 12\n")
    assert is_pointer(POINTER.replace(b"git-lfs.github", b"hawser.github"))
    assert not is_pointer(POINTER[:-9])
    assert not is_pointer(POINTER + b"and more\n")
    assert not is_pointer(POINTER.replace(b"0a", b"0A"))
    assert not is_pointer(VERSION + b"oid sha256:0\nsize 0\n")
