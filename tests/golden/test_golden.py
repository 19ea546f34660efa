"""What was written once can be read for ever. See README.md before touching anything here."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

from gittheta.encodings.dense import Dense
from gittheta.model import DTYPES, Manifest, TensorSpec, digest_of
from gittheta.storage.frames import HEAD_LENGTH, parse_head
from gittheta.storage.manifest import format_manifest, parse_manifest
from gittheta.storage.packs import OBJECT_HEAD
from tests.golden.frozen import objects_into
from tests.support.repository import Repo

HERE = Path(__file__).parent
CHECKPOINT, OPAQUE = ((HERE / f"{name}.manifest").read_bytes() for name in ("checkpoint", "opaque"))
SHA256 = {
    "checkpoint": "2ce210b357e6dcf377521956ee0d3c2eedf7e6fa6e46b74e4bd5eb5cbf9d9f6b",
    "opaque": "5ad902bd1cc4987cfe97e0a219bf92b2e117e2104301144885d6cfc7e2dd98f3",
}


def noise(label: str, size: int) -> bytes:
    return hashlib.shake_128(label.encode()).digest(size)


def tensors() -> list[tuple[str, str, list[int], bytes]]:
    """Name, dtype, shape, bytes: each dtype, planes that compress and that do not, several blocks, nothing at all."""
    made = [
        (f"noise {name}", name.upper(), [8], noise(name, dtype.bits)) for name, dtype in DTYPES.items() if name != "raw"
    ]
    made += [
        (
            "layers.0.weight",
            "BF16",
            [30, 20],
            b"".join(bytes([byte, 60 + byte % 3]) for byte in noise("bf16 weights", 600)),
        ),
        ("layers.0.bias", "F32", [300], bytes(1200)),
        ("two blocks", "U8", [(1 << 20) + 5], bytes(at % 251 for at in range((1 << 20) + 5))),
        (
            "special",
            "F32",
            [8],
            struct.pack("<8I", 0, 1 << 31, 1, 0x7F800000, 0xFF800000, 0x7FC00001, 0xFFBFFFFF, 0x7F7FFFFF),
        ),
        ("scalar", "F64", [], struct.pack("<d", -0.1)),
        ("empty", "F16", [0, 4], b""),
        ("100% [odd]\n\u00fc", "I64", [2], struct.pack("<2q", -1, 1 << 40)),
        ("from the future", "F2_E1M0", [8], b"\x1b\xe4"),
    ]
    return made


def checkpoint() -> bytes:
    """A safetensors file: header in another order than the data, metadata, padding."""
    described, at = [], 0
    for name, dtype, shape, data in tensors():
        described.append((name, {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}))
        at += len(data)
    header = {"__metadata__": {"format": "pt", "note": "golden"}, **dict(reversed(described))}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode() + b"     "
    return len(text).to_bytes(8, "little") + text + b"".join(data for *_, data in tensors())


def opaque() -> bytes:
    """A file of no format."""
    return b"no checkpoint at all\n" * 40 + noise("opaque", 3000)


def test_the_expected_files_are_still_the_same() -> None:
    assert hashlib.sha256(checkpoint()).hexdigest() == SHA256["checkpoint"]
    assert hashlib.sha256(opaque()).hexdigest() == SHA256["opaque"]


def test_the_frozen_files_are_untouched() -> None:
    assert hashlib.sha256(CHECKPOINT).hexdigest() == "faa565df449eca8c790414c67d3aab5e72da8d92dd36b8d7271ec8f573cd41c8"
    assert hashlib.sha256(OPAQUE).hexdigest() == "2c8beb9385d222cd309410d1149740abfd203b7a1f16529197d12654c079b68b"
    for path in (HERE / "objects").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def test_manifests_parse_and_format_to_themselves() -> None:
    for text in (CHECKPOINT, OPAQUE):
        assert format_manifest(parse_manifest(text)) == text


def test_what_the_manifest_says() -> None:
    manifest = parse_manifest(CHECKPOINT)
    assert manifest.format == "safetensors"
    assert manifest.file_size == len(checkpoint())
    messages = [(one.spec.name, one.spec.dtype.name, one.spec.shape, one.digest) for one in manifest.stanzas]
    assert messages == [
        (name, dtype.lower(), tuple(shape), digest_of(data))
        if dtype.lower() in DTYPES
        else (name, "raw", (len(data),), digest_of(data))
        for name, dtype, shape, data in tensors()
    ]
    assert parse_manifest(OPAQUE).format == "opaque"


def test_the_files_come_back(repo: Repo) -> None:
    objects_into(repo)
    assert repo.smudge(CHECKPOINT) == checkpoint()
    assert repo.smudge(OPAQUE) == opaque()


def test_adding_what_is_stored_gives_the_frozen_text(repo: Repo) -> None:
    """Unchanged tensors keep their recipes, whatever this version would write anew."""
    objects_into(repo)
    repo.stage(CHECKPOINT)
    assert repo.clean(checkpoint()) == CHECKPOINT
    repo.stage(OPAQUE, "opaque.bin")
    assert repo.clean(opaque(), "opaque.bin") == OPAQUE


def test_objects_read_by_the_specification_alone() -> None:
    """No store and no flow: the head, the frames of each place one after the other, their bodies decoded."""
    manifest = parse_manifest(CHECKPOINT)
    expected = {name: data for name, _, _, data in tensors()}
    for stanza in manifest.stanzas:
        data = b"".join(raw for raw in blocks_of(manifest, stanza.spec.name))
        assert data == expected[stanza.spec.name], stanza.spec.name


def blocks_of(manifest: Manifest, name: str) -> list[bytes]:
    (stanza,) = (one for one in manifest.stanzas if one.spec.name == name)
    results = []
    for place in stanza.recipe[0].places if stanza.recipe else ():
        data = (HERE / "objects" / place.object).read_bytes()
        assert data.startswith(b"gittheta-pack-1\n")
        assert OBJECT_HEAD == b"gittheta-pack-1\n"
        at = place.offset
        while at < place.offset + place.length:
            head = parse_head(data[at : at + HEAD_LENGTH])
            body = memoryview(data)[at + HEAD_LENGTH : at + HEAD_LENGTH + head.body]
            spec = TensorSpec(name, stanza.spec.dtype, (head.raw * 8 // stanza.spec.dtype.bits,))
            raw = bytes(Dense().over(None).decode(body, spec).data)
            assert (len(raw), digest_of(raw)) == (head.raw, head.digest)
            results.append(raw)
            at += HEAD_LENGTH + head.body
        assert at == place.offset + place.length
    return results


def test_a_payload_in_literal_bytes() -> None:
    """The encoding `dense`, width 2, sign rotated to the end: no compression, so the bytes can be read by eye."""
    payload = bytes([2, 1]) + struct.pack("<2I", 3, 3) + b"\x7f\x80\xff" + b"\x00\x81\xff"
    spec = TensorSpec("w", DTYPES["bf16"], (3,))
    raw = struct.pack("<3H", 0x3F80, 0xC040, 0xFFFF)
    assert bytes(Dense().over(None).decode(memoryview(payload), spec).data) == raw
