"""Payloads and links made by hand, as a stranger may write them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from gittheta.api import Encoding
from gittheta.encodings.delta import Delta
from gittheta.encodings.dense import Dense
from gittheta.encodings.resize.predictor import Resize
from gittheta.encodings.sparse import Sparse
from gittheta.model import DTYPES, Digest, Link, ObjectId, Place, Recipe, Tensor, TensorSpec, digest_of, flat_spec
from gittheta.storage.frames import frame_head
from tests.support.in_memory import InMemory
from tests.support.stores import object_file

SPEC = TensorSpec("w", DTYPES["f32"], (96, 20))
ENCODINGS: dict[str, Encoding] = {"dense": Dense(), "delta": Delta(), "sparse": Sparse()}
UNKNOWN = digest_of(b"whatever")


def floats(seed: int, spec: TensorSpec = SPEC) -> bytes:
    return np.random.default_rng(seed).standard_normal(spec.elements).astype(np.float32).tobytes()


def touched(data: bytes, seed: int) -> bytes:
    """Some bits of some elements are others."""
    words = np.frombuffer(data, np.uint32).copy()
    rng = np.random.default_rng(seed)
    words[rng.integers(0, len(words), 9)] ^= rng.integers(1, 1 << 20, 9, np.uint32)
    return words.tobytes()


@dataclass
class Shelf:
    """Puts payloads into a store's folder, as a stranger would."""

    root: Path

    def put(self, *frames: bytes) -> tuple[Place, ...]:
        data = b"gittheta-pack-1\n" + b"".join(frames)
        name = hashlib.sha256(data).hexdigest()
        path = object_file(self.root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return (Place(ObjectId(name), 16, len(data) - 16),)

    def link(
        self,
        name: str,
        new: bytes,
        old: bytes | None = None,
        cuts: Sequence[int] = (),
        spec: TensorSpec = SPEC,
    ) -> Link:
        """A link of frames that are cut at these offsets."""
        frames = []
        for begin, end in pairwise((0, *cuts, len(new))):
            part = flat_spec(spec, end - begin)
            base = None if old is None else Tensor(part, memoryview(old)[begin:end])
            body = ENCODINGS[name].over(base).encode(Tensor(part, memoryview(new)[begin:end]))
            assert body is not None
            frames.append(frame(body, new[begin:end]))
        return Link(name, self.put(*frames), (), None if old is None else digest_of(old))


def frame(body: bytes, raw: bytes, digest: Digest | None = None) -> bytes:
    """A frame around a body that holds ``raw``, or claims the digest of something else."""
    return frame_head(body, len(raw), digest or digest_of(raw)) + body


def stacked(shelf: Shelf, cuts: Sequence[int] = ()) -> tuple[Recipe, bytes, bytes]:
    """A resized tensor, corrected: the recipe, the base, and the tensor."""
    base_spec = TensorSpec("w", SPEC.dtype, (90, 20))
    base = floats(1, base_spec)
    new = base + floats(2)[len(base) :]
    result = Resize().find(InMemory(SPEC, memoryview(new)), InMemory(base_spec, memoryview(base)))
    assert result
    predicted = base + bytes(len(new) - len(base))
    resized = Link("resize", shelf.put(frame(result.payload, result.payload)), result.parameters, digest_of(base))
    recipe = (shelf.link("sparse", new, predicted, cuts), resized, shelf.link("dense", base, None, (200,), base_spec))
    return recipe, base, new
