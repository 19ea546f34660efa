"""How long the manifest of a very large model takes to parse and to format."""

from __future__ import annotations

import time

from gittheta.limits import Limits
from gittheta.model import (
    DTYPES,
    RAW,
    Link,
    Manifest,
    ObjectId,
    Place,
    Recipe,
    Skeleton,
    Stanza,
    TensorSpec,
    digest_of,
)
from gittheta.storage.manifest import format_manifest, parse_manifest
from gittheta.storage.packs import OBJECT_HEAD

_EXPERTS = 500
_SHAPE = (1024, 1024)
#: Of the bytes of Gaussian bf16 weights, about so many are left when stored.
_PACKED = 0.66


def large_manifest(tensors: int) -> bytes:
    """A mixture of experts: so many matrices of 2 MiB, packed into objects as an add packs them."""
    length = int(2 * _SHAPE[0] * _SHAPE[1] * _PACKED)
    an_object = Limits().object_size // length + 1
    stanzas = [
        Stanza(
            TensorSpec(f"model.layers.{index // _EXPERTS}.experts.{index % _EXPERTS}.w1", DTYPES["bf16"], _SHAPE),
            digest_of(b"tensor %d" % index),
            _recipe(index // an_object, len(OBJECT_HEAD) + index % an_object * length, length),
        )
        for index in range(tensors)
    ]
    skeleton = Skeleton(1 << 23, 1 << 23, digest_of(RAW.name.encode()), _recipe(tensors, len(OBJECT_HEAD), 1 << 20))
    return format_manifest(Manifest("safetensors", skeleton, tuple(stanzas)))


def _recipe(number: int, offset: int, length: int) -> Recipe:
    name = ObjectId(digest_of(b"object %d" % number).hex())
    return (Link("dense", (Place(name, offset, length),)),)


def seconds_to_parse_and_format(text: bytes) -> tuple[float, float]:
    """The one, and the other."""
    began = time.perf_counter()
    manifest = parse_manifest(text)
    parsed = time.perf_counter()
    again = format_manifest(manifest)
    took = time.perf_counter() - parsed
    if again != text:
        raise SystemExit("the manifest is not what it was")
    return parsed - began, took
