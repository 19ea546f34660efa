"""The values that everything else speaks of: dtypes, tensors, layouts, recipes, manifests.

A *checkpoint* is its tensor segments plus the *skeleton*, which is every other byte of the file. A *recipe* tells how
to rebuild a tensor's bytes: a chain of links, newest first, of which the last needs no base.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Literal, NewType

from blake3 import blake3

#: BLAKE3-256 of raw bytes, 32 bytes long. Equal digests mean equal values.
Digest = NewType("Digest", bytes)
#: SHA-256 of an object's bytes, 64 lower-case hexadecimal digits: the object's name.
ObjectId = NewType("ObjectId", str)

#: Elements in one block. A tensor is encoded, checked and decoded block by block.
BLOCK_ELEMENTS = 1 << 20

Kind = Literal["float", "int", "bool", "complex", "raw"]


@dataclass(frozen=True, slots=True)
class Dtype:
    """A data type by name, with its width in bits. Sub-byte types are packed without gaps."""

    name: str
    bits: int
    kind: Kind

    @property
    def itemsize(self) -> int:
        """Bytes of one element; 1 for packed sub-byte types."""
        return max(1, self.bits // 8)


_KINDS: tuple[tuple[Kind, dict[str, int]], ...] = (
    ("raw", {"raw": 8}),
    ("bool", {"bool": 8}),
    ("int", {"u8": 8, "i8": 8, "u16": 16, "i16": 16, "u32": 32, "i32": 32, "u64": 64, "i64": 64}),
    ("float", {"f16": 16, "bf16": 16, "f32": 32, "f64": 64}),
    ("float", {"f4": 4, "f6_e2m3": 6, "f6_e3m2": 6}),
    ("float", {"f8_e4m3": 8, "f8_e5m2": 8, "f8_e4m3fnuz": 8, "f8_e5m2fnuz": 8, "f8_e8m0": 8}),
    ("complex", {"c64": 64}),
)

#: Every dtype that a manifest may name. ``raw`` stands for bytes of unknown meaning.
DTYPES: dict[str, Dtype] = {name: Dtype(name, bits, kind) for kind, names in _KINDS for name, bits in names.items()}
RAW = DTYPES["raw"]

#: The format of a file that is kept as bytes without meaning: each tensor is a piece, named by its offset.
OPAQUE = "opaque"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a tensor is, without its values."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    #: Size in bits; a multiple of 8 in any tensor that a file can hold.
    bits: int = field(init=False, repr=False, compare=False)
    #: Size in bytes.
    nbytes: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        bits = prod(self.shape) * self.dtype.bits
        object.__setattr__(self, "bits", bits)
        object.__setattr__(self, "nbytes", bits // 8)

    @property
    def elements(self) -> int:
        """How many elements; 1 for a 0-d tensor."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor, or one block of it: raw little-endian bytes (``spec.nbytes`` of them), row-major."""

    spec: TensorSpec
    data: memoryview


@dataclass(frozen=True, slots=True)
class Segment:
    """Where a tensor's bytes lie in a file: ``spec.nbytes`` bytes from ``offset``."""

    spec: TensorSpec
    offset: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a file's tensors lie: segments by ascending offset, not overlapping; the rest is skeleton.

    ``length`` is the size in bytes that the file claims to have. A file that turns out shorter or longer is broken.
    """

    segments: tuple[Segment, ...]
    length: int


@dataclass(frozen=True, slots=True)
class Place:
    """A run of bytes within an object."""

    object: ObjectId
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Link:
    """One step of a recipe: an encoding by name, its parameters, and where its payload lies.

    ``base`` is the digest of the tensor that the rest of the chain yields; None in the last link.
    """

    encoding: str
    places: tuple[Place, ...]
    parameters: tuple[tuple[str, str], ...] = ()
    base: Digest | None = None


#: A chain of links, newest first. Empty only for tensors of no bytes.
Recipe = tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Stanza:
    """A tensor in a manifest. ``skip`` skeleton bytes lie between the tensor before it and this one."""

    spec: TensorSpec
    digest: Digest
    recipe: Recipe
    skip: int = 0


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Every byte of a file that is no tensor's: ``lead`` of them before the first tensor."""

    length: int
    lead: int
    digest: Digest
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Manifest:
    """What Git stores for a checkpoint; stanzas stand in file order."""

    format: str
    skeleton: Skeleton
    stanzas: tuple[Stanza, ...]

    @property
    def file_size(self) -> int:
        """Bytes of the checkpoint itself."""
        return self.skeleton.length + sum(stanza.spec.nbytes for stanza in self.stanzas)

    def recipes(self) -> Iterator[Recipe]:
        """The skeleton's recipe, then every tensor's."""
        yield self.skeleton.recipe
        for stanza in self.stanzas:
            yield stanza.recipe

    def objects(self) -> dict[ObjectId, int]:
        """Every object that the checkpoint needs, and the least size that it must have."""
        needed: dict[ObjectId, int] = {}
        for recipe in self.recipes():
            for link in recipe:
                for place in link.places:
                    end = place.offset + place.length
                    if end > needed.get(place.object, 0):
                        needed[place.object] = end
        return needed


def stored_bytes(recipe: Recipe) -> int:
    """Bytes that the payloads of a recipe take."""
    return sum(place.length for link in recipe for place in link.places)


def recipe_keys(digest: Digest, spec: TensorSpec) -> tuple[Digest, Digest]:
    """Under what recipes for a tensor are remembered: those that do with its bytes alone, and all others.

    A recipe of one link is one for bytes, whatever they mean. What was told from a base may depend on dtype and shape.
    """
    return digest, digest_of(digest + f"{spec.dtype.name} {spec.shape}".encode())


def recipe_key(digest: Digest, spec: TensorSpec, recipe: Recipe) -> Digest:
    """Which of the two a recipe has."""
    return recipe_keys(digest, spec)[len(recipe) > 1]


#: What the skeleton is called where it is handled like a tensor.
SKELETON = "(skeleton)"


def skeleton_spec(length: int) -> TensorSpec:
    """The skeleton, seen as a tensor of bytes, so that it is stored and rebuilt like one."""
    return TensorSpec(SKELETON, RAW, (length,))


def flat_spec(spec: TensorSpec, nbytes: int) -> TensorSpec:
    """A run of bytes of a tensor as a tensor of its own: one-dimensional, of its dtype if they are whole elements."""
    elements, odd = divmod(nbytes * 8, spec.dtype.bits)
    return TensorSpec(spec.name, RAW, (nbytes,)) if odd else TensorSpec(spec.name, spec.dtype, (elements,))


def block_bytes(dtype: Dtype) -> int:
    """Bytes in one full block of a tensor of this dtype."""
    return BLOCK_ELEMENTS * dtype.bits // 8


def digest_of(data: bytes | memoryview) -> Digest:
    """BLAKE3-256 of some bytes."""
    return Digest(blake3(data).digest())


EMPTY_DIGEST = digest_of(b"")
