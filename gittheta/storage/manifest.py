"""Read and write manifests: the text that Git stores for a checkpoint. Specified in ``docs/spec/manifest.md``.

A manifest has exactly one valid form: parsing accepts nothing else, and for every text that it accepts,
``format_manifest(parse_manifest(text)) == text``.
"""

from __future__ import annotations

import re
from binascii import unhexlify
from codecs import getincrementaldecoder
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, NoReturn

from gittheta.errors import ManifestError
from gittheta.model import (
    DTYPES,
    EMPTY_DIGEST,
    OPAQUE,
    Digest,
    Dtype,
    Link,
    Manifest,
    ObjectId,
    Place,
    Recipe,
    Skeleton,
    Stanza,
    TensorSpec,
    block_dtype,
    digest_of,
)
from gittheta.runtime import without_collecting
from gittheta.wording import quoted

if TYPE_CHECKING:
    from gittheta.storage.stanzas import KnownStanzas

#: The newest version that can be read. Version 2 is written only for checkpoints that version 1 cannot describe.
VERSION = 2
MAGIC = b"gittheta manifest "
_FIRST_LINES = {
    version: f"gittheta manifest {version}: this is not the model itself; "
    "to get it: pip install gittheta, git theta install, git theta pull"
    for version in range(1, VERSION + 1)
}

# A manifest is hostile input: these bound its text (in bytes), lines (in characters), names (in bytes) and counts.
MAX_TEXT = 1 << 28
MAX_LINE = 1 << 20
MAX_NAME = 4096
MAX_TENSORS = 1 << 20
MAX_DIMENSIONS = 64
MAX_LINKS = 64
MAX_BYTES = 1 << 62
#: Bytes of a skeleton, which is held in memory while its file is read or written.
MAX_SKELETON = 1 << 28
#: The most elements, and the most bytes, of one block of a block dtype.
MAX_BLOCK_UNIT = 1 << 16
#: Characters of the longest shape: the dimensions, of 19 digits each, and what stands between them.
_LONGEST_SHAPE = 20 * MAX_DIMENSIONS
#: Bytes that are looked at at a time.
_STEP = 1 << 20

# Texts are parsed as bytes, and names alone decoded: one character beyond Latin-1 would make a text take four times the
# memory. Repetitions give nothing back (``++``): a run of links, or of places, must not be remembered place by place.
_NUMBER = rb"(?:0|[1-9][0-9]{0,18})"
_DIGEST = rb"b3:[0-9a-f]{64}"
_WORD = rb"[a-z][a-z0-9_]*"
_PLACE = rb"[0-9a-f]{64}:%b\+%b" % (_NUMBER, _NUMBER)

_LINK = rb"%b(?: %b=[A-Za-z0-9._:,+-]+)*(?: %b)?(?: %b)++\n" % (_WORD, _WORD, _DIGEST, _PLACE)

_HEADER = re.compile(
    rb"format (%b)(?: (%b))?\nskeleton (%b) (%b) (%b)\n((?:%b)*+)" % (_WORD, _DIGEST, _NUMBER, _NUMBER, _DIGEST, _LINK)
)
_STANZA = re.compile(
    rb"\[([^\n]*)\]\n(%b)(?:/(%b):(%b))? (scalar|%b(?:x%b)*+) (%b)(?: skip ([1-9][0-9]{0,18}))?\n"
    rb"((?:also \[[^\n]*\]\n)*+)((?:%b)*+)" % (_WORD, _NUMBER, _NUMBER, _NUMBER, _NUMBER, _DIGEST, _LINK)
)
_LINKS = re.compile(rb"(?:%b)*+" % _LINK)

# Characters that a name line cannot hold as they are: controls, line separators, direction overrides, and the escape.
_ESCAPED = re.compile("[\x00-\x1f%\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_ESCAPE_RUN = re.compile("(?:%[0-9A-F]{2})+")


def claims_to_be_manifest(head: bytes) -> bool:
    """Whether a file that begins with these bytes claims to be a gittheta manifest, of any version."""
    return head.startswith(MAGIC)


def is_foreign_manifest(head: bytes) -> bool:
    """Whether these bytes begin a metadata file of the original Git-Theta (JSON)."""
    return head.lstrip().startswith(b"{") and b'"theta_metadata"' in head and b'"tensor_metadata"' in head


def has_conflict_markers(text: bytes) -> bool:
    """Whether the text has the conflict markers of a failed line merge by Git."""
    return b"\n<<<<<<< " in text and b"\n=======\n" in text and b"\n>>>>>>> " in text


def claimed_version(head: bytes) -> int | None:
    """The version in a manifest's first line, or None if there is no number."""
    match = re.match(rb"gittheta manifest ([1-9][0-9]{0,8})[: \n]", head)
    return int(match[1]) if match else None


def format_manifest(manifest: Manifest) -> bytes:
    """The only valid text of a manifest."""
    skeleton = manifest.skeleton
    lines = [
        _FIRST_LINES[_version(manifest)],
        f"format {manifest.format}{_seal(manifest)}",
        f"skeleton {skeleton.length} {skeleton.lead} b3:{skeleton.digest.hex()}",
        *map(_format_link, skeleton.recipe),
    ]
    for stanza in manifest.stanzas:
        lines += format_stanza(stanza)
    lines.append("")
    return "\n".join(lines).encode()


def _version(manifest: Manifest) -> int:
    """The lowest version that can describe a manifest."""
    return 2 if any(stanza.aliases or stanza.spec.dtype.kind == "block" for stanza in manifest.stanzas) else 1


def _seal(manifest: Manifest) -> str:
    """A digest over all pieces of an opaque file, for the format line; empty for other formats.

    With it, two versions conflict when Git merges their manifests as text: pieces of a file of unknown structure must
    not be mixed, while tensors may.
    """
    if manifest.format != OPAQUE:
        return ""
    return f" b3:{digest_of(b''.join(stanza.digest for stanza in manifest.stanzas)).hex()}"


def format_stanza(stanza: Stanza) -> Iterator[str]:
    """The lines of one tensor, without newlines."""
    spec = stanza.spec
    shape = "x".join(map(str, spec.shape)) if spec.shape else "scalar"
    skip = f" skip {stanza.skip}" if stanza.skip else ""
    yield f"[{_escape(spec.name)}]"
    block = f"/{spec.dtype.unit}:{spec.dtype.itemsize}" if spec.dtype.kind == "block" else ""
    yield f"{spec.dtype.name}{block} {shape} b3:{stanza.digest.hex()}{skip}"
    yield from (f"also [{_escape(alias)}]" for alias in stanza.aliases)
    yield from map(_format_link, stanza.recipe)


_HEADS = re.compile(rb"^(\[[^\n]*\]\n[^ \n]+ [^ \n]+) b3:", re.MULTILINE)


def stanza_heads(text: bytes) -> list[bytes]:
    """Of each tensor in a manifest's text: the line of its name, and dtype and shape, as they stand there.

    Much faster than parsing; the text is not checked, and may be none of a manifest.
    """
    return _HEADS.findall(text) if claims_to_be_manifest(text) else []


def format_recipe(recipe: Recipe) -> str:
    """The link lines of a recipe."""
    return "".join(f"{_format_link(link)}\n" for link in recipe)


def parse_recipe(lines: str) -> Recipe:
    """A recipe from its link lines, as :func:`format_recipe` wrote them. Raises ManifestError."""
    text = lines.encode()
    if not _LINKS.fullmatch(text):
        raise ManifestError("not an encoding and where its payload lies")
    return _Parser().chain(text)


def _format_link(link: Link) -> str:
    words = [link.encoding, *(f"{key}={value}" for key, value in link.parameters)]
    if link.base is not None:
        words.append(f"b3:{link.base.hex()}")
    words += [f"{place.object}:{place.offset}+{place.length}" for place in link.places]
    return " ".join(words)


def _escape(name: str) -> str:
    return _ESCAPED.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), name)


def _unescape(text: str) -> str:
    if "%" not in text and not _ESCAPED.search(text):
        return text
    try:
        name = _ESCAPE_RUN.sub(lambda run: bytes.fromhex(run[0].replace("%", "")).decode(), text)
    except UnicodeDecodeError:
        raise ManifestError("a tensor name has an escape that is not UTF-8") from None
    if _escape(name) != text:
        raise ManifestError("a tensor name is not escaped as it should be")
    return name


def parse_manifest(text: bytes, known: KnownStanzas | None = None) -> Manifest:
    """A manifest from its text; ``known`` spares parsing stanzas again that other versions share.

    Raises ManifestError unless the text is the valid form of a manifest, of a known version, within all bounds.
    """
    version = claimed_version(text)
    if version is not None and version > VERSION:
        raise ManifestError(
            f"the manifest has version {version}; this gittheta knows up to {VERSION}",
            hint="install a newer gittheta: pip install --upgrade gittheta",
        )
    if len(text) > MAX_TEXT:
        raise ManifestError(f"the manifest is longer than {MAX_TEXT} bytes")
    version = _version_of(text)
    _check_lines(text)
    with without_collecting():
        return _parse(text, version, known)


def _version_of(text: bytes) -> int:
    """The version that the first line names."""
    version = next((version for version, line in _FIRST_LINES.items() if text.startswith(line.encode() + b"\n")), None)
    if version is None:
        raise ManifestError("the manifest does not begin with the line that it should")
    return version


def _check_lines(text: bytes) -> None:
    """Raise ManifestError unless the text is UTF-8 in lines that are not too long. Takes no memory to speak of."""
    decoder = getincrementaldecoder("utf-8")()
    try:
        for at in range(0, len(text), _STEP):
            decoder.decode(text[at : at + _STEP])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise ManifestError("the manifest is not UTF-8") from None
    at = 0
    while len(text) - at > MAX_LINE:
        end = text.rfind(b"\n", at, at + MAX_LINE + 1)
        if end < 0:  # a line of many bytes, and of fewer characters perhaps
            end = text.find(b"\n", at)
            end = len(text) if end < 0 else end
            if end - at > 4 * MAX_LINE or len(text[at:end].decode()) > MAX_LINE:
                raise ManifestError(f"the manifest has a line longer than {MAX_LINE} characters")
        at = end + 1


def _parse(text: bytes, version: int, known: KnownStanzas | None) -> Manifest:
    position = len(_FIRST_LINES[version]) + 1
    parser = _Parser()
    header = _HEADER.match(text, position)
    try:
        if not header:
            raise ManifestError("no format and skeleton where they should be")
        position = header.end()
        length = int(header[3])
        recipe = parser.recipe(header[6], length)
        skeleton = Skeleton(length, int(header[4]), _digest(header[5]), recipe)
        stanzas: dict[str, Stanza] = {}
        while position < len(text):
            stanza, end = _next_stanza(text, position, parser, known)
            if stanza.spec.name in stanzas:
                raise ManifestError(f"a second tensor named {quoted(stanza.spec.name)}")
            stanzas[stanza.spec.name] = stanza
            if len(stanzas) > MAX_TENSORS:
                raise ManifestError(f"more than {MAX_TENSORS} tensors")
            position = end
    except ManifestError as error:
        line = text.count(b"\n", 0, position) + 1
        raise error.but(what=f"malformed manifest, at line {line}: {error.what}") from None
    _check_aliases(stanzas)
    manifest = Manifest(header[1].decode(), skeleton, tuple(stanzas.values()))
    _check_whole(manifest, version, header[2])
    return manifest


def _check_whole(manifest: Manifest, version: int, seal: bytes | None) -> None:
    """Raise ManifestError unless the parts of a manifest, each of which is well formed, fit each other."""
    if (f" {seal.decode()}" if seal else "") != _seal(manifest):
        raise ManifestError("the format line does not fit the pieces of the file")
    if _version(manifest) != version:
        raise ManifestError(f"a manifest of version {version} that should be one of version {_version(manifest)}")
    _check_sizes(manifest)
    if manifest.format == OPAQUE:
        _check_pieces(manifest)


def _next_stanza(text: bytes, begin: int, parser: _Parser, known: KnownStanzas | None) -> tuple[Stanza, int]:
    """The stanza that begins there, and where it ends."""
    if known is not None:
        end = text.find(b"\n[", begin) + 1 or len(text)  # no line within a stanza begins like that
        own = text[begin:end]
        stanza = known.get(own)
        if stanza is not None:
            return stanza, end
    matched = _STANZA.match(text, begin)
    if not matched:
        raise ManifestError("not a tensor's name, dtype, shape, digest and recipe")
    stanza = parser.stanza(matched)
    if known is not None and matched.end() == end:
        known.put(own, stanza)
    return stanza, matched.end()


class _Parser:
    """Parses the parts of one manifest; equal words, of which there are many, become one. For one thread."""

    def __init__(self) -> None:
        self._words: dict[bytes, str] = {}

    def stanza(self, match: re.Match[bytes]) -> Stanza:
        text, dtype, unit, size, shape, digest, skip, also, links = match.groups()
        name = _name(text)
        try:
            its_dtype = _dtype(dtype) if unit is None else _block_dtype(dtype, unit, size)
            spec = TensorSpec(name, its_dtype, _shape(shape) if len(shape) <= _LONGEST_SHAPE else _too_large())
            if spec.dtype.unit > 1 and (not spec.shape or spec.shape[-1] % spec.dtype.unit):
                raise ManifestError(f"the last dimension is not a multiple of {spec.dtype.unit}")
            bits = spec.bits
            if bits % 8:
                raise ManifestError("the shape is not a whole number of bytes")
            recipe = self.recipe(links, bits)
            return Stanza(spec, _digest(digest), recipe, int(skip) if skip else 0, tuple(_aliases(also)))
        except ManifestError as error:
            raise error.located(tensor=name) from None

    def recipe(self, lines: bytes, size: int) -> Recipe:
        """The recipe in some link lines. A tensor of ``size`` zero must have none, all others must have one."""
        recipe = self.chain(lines)
        if bool(recipe) != bool(size):
            raise ManifestError("a tensor with bytes needs a recipe, and one without bytes must not have any")
        return recipe

    def chain(self, lines: bytes) -> Recipe:
        """The links in some lines, which ``_LINKS`` must have matched."""
        if lines.count(b"\n") > MAX_LINKS:
            raise ManifestError(f"a chain of more than {MAX_LINKS} links")
        recipe = tuple([self._link(line.split(b" ")) for line in lines.split(b"\n")[:-1]])
        if recipe and (recipe[-1].base is not None or any(link.base is None for link in recipe[:-1])):
            raise ManifestError("every link but the last must name its base, and the last must not")
        return recipe

    def _link(self, words: list[bytes]) -> Link:
        at = 1
        while b"=" in words[at]:
            at += 1
        encoding = self._word(words[0])
        if at == 1 and len(words) == 2:
            return Link(encoding, (self._place(words[1]),))
        pairs = tuple(
            (key.decode(), value.decode()) for key, _, value in (word.partition(b"=") for word in words[1:at])
        )
        if any(first[0] >= second[0] for first, second in pairwise(pairs)):
            raise ManifestError("parameters that are not in order")
        base = _digest(words[at]) if words[at].startswith(b"b3:") else None
        return Link(encoding, tuple(map(self._place, words[at + (base is not None) :])), pairs, base)

    def _place(self, word: bytes) -> Place:
        offset, _, length = word[65:].partition(b"+")
        start, size = int(offset), int(length)
        if size == 0 or start + size > MAX_BYTES:
            raise ManifestError("a place of no bytes, or beyond what an object can hold")
        return Place(ObjectId(self._word(word[:64])), start, size)

    def _word(self, word: bytes) -> str:
        text = self._words.get(word)
        if text is None:
            text = self._words[word] = word.decode()
        return text


def _aliases(lines: bytes) -> Iterator[str]:
    begin = 0
    while begin < len(lines):
        end = lines.index(b"\n", begin)
        yield _name(lines[begin + len(b"also [") : end - 1])
        begin = end + 1


def _name(text: bytes) -> str:
    name = _unescape(text.decode())
    if len(name) > MAX_NAME or len(name.encode()) > MAX_NAME:
        raise ManifestError(f"a tensor name longer than {MAX_NAME} bytes")
    return name


def _check_sizes(manifest: Manifest) -> None:
    skeleton = manifest.skeleton
    if skeleton.length > MAX_SKELETON:
        raise ManifestError(f"a skeleton of {skeleton.length} bytes, which is more than any format needs")
    if manifest.file_size > MAX_BYTES:
        raise ManifestError("the file would be larger than a file can be")
    if manifest.stanzas and manifest.stanzas[0].skip:
        raise ManifestError("the first tensor skips bytes, which belong to the skeleton's lead")
    if not manifest.stanzas and skeleton.lead != skeleton.length:
        raise ManifestError("without tensors the whole skeleton is lead")
    if skeleton.lead + sum(stanza.skip for stanza in manifest.stanzas) > skeleton.length:
        raise ManifestError("the skeleton is shorter than the pieces that are taken from it")


def _check_aliases(stanzas: Mapping[str, Stanza]) -> None:
    seen: set[str] = set()
    for stanza in stanzas.values():
        for alias in stanza.aliases:
            if alias in stanzas:
                raise ManifestError("another name of a tensor that is also the name of a tensor")
            if alias in seen or len(seen) == MAX_TENSORS:
                raise ManifestError("too many other names of tensors, or one that appears twice")
            seen.add(alias)


def _check_pieces(manifest: Manifest) -> None:
    """The pieces of a file without known structure follow each other, and each is called by its offset."""
    if manifest.skeleton != Skeleton(0, 0, EMPTY_DIGEST, ()):
        raise ManifestError("a file without known structure has no skeleton")
    offset = 0
    for stanza in manifest.stanzas:
        if stanza.aliases:
            raise ManifestError("pieces of a file without known structure have no other names")
        if stanza.spec.name != str(offset) or not stanza.spec.nbytes:
            raise ManifestError(f"a piece named {quoted(stanza.spec.name)} that should be at {offset} and have bytes")
        offset += stanza.spec.nbytes
    if not offset:
        raise ManifestError("an empty file has no manifest")


def _digest(word: bytes) -> Digest:
    return Digest(unhexlify(word[3:]))


@lru_cache(maxsize=64)
def _dtype(word: bytes) -> Dtype:
    try:
        return DTYPES[word.decode()]
    except KeyError:
        raise ManifestError(
            f"unknown dtype '{word.decode()}'", hint="install a newer gittheta: pip install --upgrade gittheta"
        ) from None


@lru_cache(maxsize=64)
def _block_dtype(word: bytes, unit: bytes, size: bytes) -> Dtype:
    name, elements, nbytes = word.decode(), int(unit), int(size)
    if name in DTYPES or not 2 <= elements <= MAX_BLOCK_UNIT or not 1 <= nbytes <= MAX_BLOCK_UNIT:
        raise ManifestError(f"'{name}/{elements}:{nbytes}' is not a dtype of blocks")
    return block_dtype(name, elements, nbytes)


@lru_cache(maxsize=4096)
def _shape(text: bytes) -> tuple[int, ...]:
    if text == b"scalar":
        return ()
    shape = tuple(map(int, text.split(b"x")))
    if len(shape) > MAX_DIMENSIONS or prod(shape) > MAX_BYTES or max(shape) > MAX_BYTES:
        _too_large()
    return shape


def _too_large() -> NoReturn:
    raise ManifestError("a shape that is too large")
