"""The values that all other modules share: dtypes, tensors, layouts, recipes, manifests.

A *checkpoint* is its tensor segments plus the *skeleton*, which is every other byte of the file. A *recipe* says how
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

Kind = Literal["float", "int", "bool", "complex", "raw", "block"]
#: What the largest exponent of a float means: ``ieee``: infinities and NaNs; ``fn``: numbers, but all ones are NaN;
#: ``fnuz``: numbers, and negative zero is NaN.
Specials = Literal["ieee", "fn", "fnuz"]


@dataclass(frozen=True, slots=True)
class Dtype:
    """A data type: its name and all facts about it. Elements of less than a byte are packed without gaps.

    In a *block* dtype (quantised formats), ``unit`` elements take ``bits`` bits together, and their values are not
    known; for all other dtypes ``unit`` is 1.
    """

    name: str
    bits: int
    kind: Kind
    unit: int = 1
    #: For floats, and for each part of a complex number: bits of exponent and mantissa, and the exponent's bias.
    exponent_bits: int = 0
    mantissa_bits: int = 0
    bias: int = 0
    specials: Specials = "ieee"
    #: Whether :mod:`gittheta.numerics.floats` can convert its values.
    arithmetic: bool = False
    #: The name of the dtype in torch (``bfloat16``), or None if torch lacks it.
    torch: str | None = None

    @property
    def itemsize(self) -> int:
        """Bytes of one element (of one unit of a block dtype); 1 for packed sub-byte types."""
        return max(1, self.bits // 8)

    @property
    def quiet_nan(self) -> int:
        """For an ``ieee`` float: the bits of the positive quiet NaN without payload."""
        return ((1 << self.exponent_bits + 1) - 1) << (self.mantissa_bits - 1)


def block_dtype(name: str, unit: int, nbytes: int) -> Dtype:
    """A dtype of which ``unit`` elements take ``nbytes`` bytes together: 32 elements of GGUF's ``q4_0`` take 18."""
    return Dtype(name, 8 * nbytes, "block", unit)


def _float(name: str, exponent: int, mantissa: int, bias: int, torch: str, specials: Specials = "ieee") -> Dtype:
    bits = 1 + exponent + mantissa
    return Dtype(name, bits, "float", 1, exponent, mantissa, bias, specials, arithmetic=True, torch=torch)


def _integer(name: str, bits: int) -> Dtype:
    return Dtype(f"{name[0]}{bits}", bits, "int", torch=f"{name}{bits}")


#: Every dtype that a manifest may name, except block dtypes, which a manifest describes itself. ``raw`` is for bytes
#: of unknown meaning.
DTYPES: dict[str, Dtype] = {
    dtype.name: dtype
    for dtype in (
        Dtype("raw", 8, "raw"),
        Dtype("bool", 8, "bool", torch="bool"),
        *(_integer(name, bits) for bits in (8, 16, 32, 64) for name in ("uint", "int")),
        _float("f16", 5, 10, 15, "float16"),
        _float("bf16", 8, 7, 127, "bfloat16"),
        _float("f32", 8, 23, 127, "float32"),
        _float("f64", 11, 52, 1023, "float64"),
        Dtype("f4", 4, "float", 1, 2, 1, 1),
        Dtype("f6_e2m3", 6, "float", 1, 2, 3, 1),
        Dtype("f6_e3m2", 6, "float", 1, 3, 2, 3),
        _float("f8_e4m3", 4, 3, 7, "float8_e4m3fn", "fn"),
        _float("f8_e5m2", 5, 2, 15, "float8_e5m2"),
        _float("f8_e4m3fnuz", 4, 3, 8, "float8_e4m3fnuz", "fnuz"),
        _float("f8_e5m2fnuz", 5, 2, 16, "float8_e5m2fnuz", "fnuz"),
        Dtype("f8_e8m0", 8, "float", 1, 8, 0, 127, torch="float8_e8m0fnu"),
        Dtype("c64", 64, "complex", 1, 8, 23, 127, torch="complex64"),
    )
}
RAW = DTYPES["raw"]

#: The format of a file of unknown format, stored as bytes: each tensor is a piece of the file, named by its offset.
OPAQUE = "opaque"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype and shape of a tensor."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    #: Size in bits; a multiple of 8 in any tensor that a file can hold.
    bits: int = field(init=False, repr=False, compare=False)
    #: Size in bytes.
    nbytes: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        bits = prod(self.shape) // self.dtype.unit * self.dtype.bits
        object.__setattr__(self, "bits", bits)
        object.__setattr__(self, "nbytes", bits // 8)

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a 0-d tensor."""
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
    """Where a file's tensors lie: segments by ascending offset, not overlapping; all other bytes are skeleton.

    ``length`` is the size in bytes that the file claims to have. A file that turns out shorter or longer is broken.
    """

    segments: tuple[Segment, ...]
    length: int
    #: Other names of tensors (tied weights): pairs of an alias and the name of the segment that it stands for, whose
    #: bytes, dtype and shape it shares.
    aliases: tuple[tuple[str, str], ...] = ()


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
    #: Other names of the tensor (tied weights), in order.
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Every byte of a file outside the tensors; ``lead`` of these bytes lie before the first tensor."""

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
        """Size of the checkpoint in bytes."""
        return self.skeleton.length + sum(stanza.spec.nbytes for stanza in self.stanzas)

    def recipes(self) -> Iterator[Recipe]:
        """The skeleton's recipe, then that of each tensor."""
        yield self.skeleton.recipe
        for stanza in self.stanzas:
            yield stanza.recipe

    def objects(self) -> dict[ObjectId, int]:
        """Every object that the checkpoint needs, and the least size in bytes that the object must have."""
        needed: dict[ObjectId, int] = {}
        for recipe in self.recipes():
            for link in recipe:
                for place in link.places:
                    end = place.offset + place.length
                    if end > needed.get(place.object, 0):
                        needed[place.object] = end
        return needed


def stored_bytes(recipe: Recipe) -> int:
    """Bytes that the payloads of a recipe take in the store."""
    return sum(place.length for link in recipe for place in link.places)


def recipe_keys(digest: Digest, spec: TensorSpec) -> tuple[Digest, Digest]:
    """The two cache keys of a tensor.

    Its digest, for recipes of one link, which give the same bytes whatever the dtype; and the digest of its digest,
    dtype and shape, for recipes over a base, whose decoding may depend on dtype and shape.
    """
    return digest, digest_of(digest + f"{spec.dtype.name} {spec.shape}".encode())


def recipe_key(digest: Digest, spec: TensorSpec, recipe: Recipe) -> Digest:
    """The cache key of one recipe of a tensor: one of its :func:`recipe_keys`."""
    return recipe_keys(digest, spec)[len(recipe) > 1]


#: The name of the skeleton where it is handled like a tensor.
SKELETON = "(skeleton)"


def skeleton_spec(length: int) -> TensorSpec:
    """The spec of a skeleton of ``length`` bytes, which is stored and rebuilt like a tensor of bytes."""
    return TensorSpec(SKELETON, RAW, (length,))


def flat_spec(spec: TensorSpec, nbytes: int) -> TensorSpec:
    """The spec of a run of ``nbytes`` bytes of a tensor: one-dimensional, of its dtype, or raw if an element is cut."""
    units, odd = divmod(nbytes * 8, spec.dtype.bits)
    if odd:
        return TensorSpec(spec.name, RAW, (nbytes,))
    return TensorSpec(spec.name, spec.dtype, (units * spec.dtype.unit,))


def piece_spec(offset: int, length: int) -> TensorSpec:
    """The spec of a piece of a file of unknown format; its name is its offset."""
    return TensorSpec(str(offset), RAW, (length,))


def digest_of(data: bytes | memoryview) -> Digest:
    """BLAKE3-256 of these bytes."""
    return Digest(blake3(data).digest())


class RunningDigest:
    """BLAKE3-256 of bytes that come block by block. Used by one thread at a time.

    ``parallel`` uses all processors for each block; it is for when nothing else needs them.
    """

    def __init__(self, *, parallel: bool = False) -> None:
        self._hash = blake3(max_threads=blake3.AUTO if parallel else 1)

    def update(self, block: bytes | memoryview) -> None:
        """Add the next bytes."""
        self._hash.update(block)

    def digest(self) -> Digest:
        """The digest of all bytes so far."""
        return Digest(self._hash.digest())


EMPTY_DIGEST = digest_of(b"")
