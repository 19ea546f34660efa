"""Stanzas that are parsed once for all versions that share them: the same manifests, and the same refusals."""

from __future__ import annotations

import pytest

from gittheta.errors import ManifestError
from gittheta.storage.manifest import format_manifest, parse_manifest
from gittheta.storage.stanzas import KnownStanzas
from tests.bench.histories import versions


def test_versions_that_share_stanzas_are_parsed_to_the_same_manifests() -> None:
    known = KnownStanzas()
    before = None
    for text in versions(9, 4):
        manifest = parse_manifest(text, known)
        assert manifest == parse_manifest(text)
        assert format_manifest(manifest) == text
        if before:
            shared = [one is other for one, other in zip(before.stanzas, manifest.stanzas, strict=True)]
            assert sorted(shared) == [False, True, True, True]
        before = manifest


def test_a_stanza_that_is_known_is_no_excuse_for_the_rest() -> None:
    known = KnownStanzas()
    text = next(versions(1, 3))
    parse_manifest(text, known)
    last = text[text.rindex(b"\n[") + 1 :]
    for bad in (text + last, text + b"x", text[:-1], text + last.replace(b"layers.2", b"layers.9") + b"\n"):
        for memory in (known, None):
            with pytest.raises(ManifestError):
                parse_manifest(bad, memory)


def test_no_more_is_remembered_than_there_is_room_for() -> None:
    known = KnownStanzas(most=1000)
    for text in versions(20, 5):
        assert parse_manifest(text, known) == parse_manifest(text)
