"""Read and write manifests: the text that Git stores for a checkpoint. Specified in ``docs/spec/manifest.md``.

A manifest has exactly one valid form: parsing accepts nothing else, and for every text that it accepts,
``format_manifest(parse_manifest(text)) == text``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from math import prod

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
from gittheta.wording import quoted

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

_NUMBER = r"(?:0|[1-9][0-9]{0,18})"
_DIGEST = r"b3:[0-9a-f]{64}"
_WORD = r"[a-z][a-z0-9_]*"
_PLACE = rf"[0-9a-f]{{64}}:{_NUMBER}\+{_NUMBER}"

_LINK = rf"{_WORD}(?: {_WORD}=[A-Za-z0-9._:,+-]+)*(?: {_DIGEST})?(?: {_PLACE})+\n"

_HEADER = re.compile(
    rf"format ({_WORD})(?: ({_DIGEST}))?\nskeleton ({_NUMBER}) ({_NUMBER}) ({_DIGEST})\n((?:{_LINK})*)"
)
_STANZA = re.compile(
    rf"\[([^\n]*)\]\n({_WORD})(?:/({_NUMBER}):({_NUMBER}))? (scalar|{_NUMBER}(?:x{_NUMBER})*) ({_DIGEST})"
    rf"(?: skip ([1-9][0-9]{{0,18}}))?\n((?:also \[[^\n]*\]\n)*)((?:{_LINK})*)"
)
_LINKS = re.compile(rf"(?:{_LINK})*")

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
    if not _LINKS.fullmatch(lines):
        raise ManifestError("not an encoding and where its payload lies")
    return _chain(lines)


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


def parse_manifest(text: bytes) -> Manifest:
    """A manifest from its text.

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
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        raise ManifestError("the manifest is not UTF-8") from None
    return _parse(decoded)


def _version_of(text: str) -> int:
    """The version that the first line names."""
    version = next((version for version, line in _FIRST_LINES.items() if text.startswith(line + "\n")), None)
    if version is None:
        raise ManifestError("the manifest does not begin with the line that it should")
    return version


def _parse(text: str) -> Manifest:
    version = _version_of(text)
    if max(map(len, text.split("\n"))) > MAX_LINE:
        raise ManifestError(f"the manifest has a line longer than {MAX_LINE} characters")
    position = len(_FIRST_LINES[version]) + 1
    header = _HEADER.match(text, position)
    try:
        if not header:
            raise ManifestError("no format and skeleton where they should be")
        position = header.end()
        length = int(header[3])
        skeleton = Skeleton(length, int(header[4]), _digest(header[5]), _recipe(header[6], length))
        stanzas: dict[str, Stanza] = {}
        while position < len(text):
            matched = _STANZA.match(text, position)
            if not matched:
                raise ManifestError("not a tensor's name, dtype, shape, digest and recipe")
            stanza = _stanza(matched)
            if stanzas.setdefault(stanza.spec.name, stanza) is not stanza:
                raise ManifestError(f"a second tensor named {quoted(stanza.spec.name)}")
            position = matched.end()
        if len(stanzas) > MAX_TENSORS:
            raise ManifestError(f"more than {MAX_TENSORS} tensors")
    except ManifestError as error:
        line = text.count("\n", 0, position) + 1
        raise error.but(what=f"malformed manifest, at line {line}: {error.what}") from None
    manifest = Manifest(header[1], skeleton, tuple(stanzas.values()))
    _check_whole(manifest, version, header[2])
    return manifest


def _check_whole(manifest: Manifest, version: int, seal: str | None) -> None:
    """Raise ManifestError unless the parts of a manifest, each of which is well formed, fit each other."""
    if (f" {seal}" if seal else "") != _seal(manifest):
        raise ManifestError("the format line does not fit the pieces of the file")
    if _version(manifest) != version:
        raise ManifestError(f"a manifest of version {version} that should be one of version {_version(manifest)}")
    _check_sizes(manifest)
    _check_aliases(manifest)
    if manifest.format == OPAQUE:
        _check_pieces(manifest)


def _stanza(match: re.Match[str]) -> Stanza:
    text, dtype, unit, size, shape, digest, skip, also, links = match.groups()
    name = _name(text)
    try:
        spec = TensorSpec(name, _dtype(dtype) if unit is None else _block_dtype(dtype, unit, size), _shape(shape))
        if spec.dtype.unit > 1 and (not spec.shape or spec.shape[-1] % spec.dtype.unit):
            raise ManifestError(f"the last dimension is not a multiple of {spec.dtype.unit}")
        bits = spec.bits
        if bits % 8:
            raise ManifestError("the shape is not a whole number of bytes")
        aliases = tuple(_name(line[len("also [") : -1]) for line in also.split("\n")[:-1])
        return Stanza(spec, _digest(digest), _recipe(links, bits), int(skip) if skip else 0, aliases)
    except ManifestError as error:
        raise error.located(tensor=name) from None


def _name(text: str) -> str:
    name = _unescape(text)
    if len(name) > MAX_NAME or len(name.encode()) > MAX_NAME:
        raise ManifestError(f"a tensor name longer than {MAX_NAME} bytes")
    return name


def _recipe(lines: str, size: int) -> Recipe:
    """The recipe in some link lines. A tensor of ``size`` zero must have none, all others must have one."""
    recipe = _chain(lines)
    if bool(recipe) != bool(size):
        raise ManifestError("a tensor with bytes needs a recipe, and one without bytes must not have any")
    return recipe


def _chain(lines: str) -> Recipe:
    """The links in some lines, which ``_LINKS`` must have matched."""
    recipe = tuple([_link(line.split(" ")) for line in lines.split("\n")[:-1]])
    if len(recipe) > MAX_LINKS:
        raise ManifestError(f"a chain of more than {MAX_LINKS} links")
    if recipe and (recipe[-1].base is not None or any(link.base is None for link in recipe[:-1])):
        raise ManifestError("every link but the last must name its base, and the last must not")
    return recipe


def _link(words: list[str]) -> Link:
    at = 1
    while "=" in words[at]:
        at += 1
    if at == 1 and len(words) == 2:
        return Link(words[0], (_place(words[1]),))
    pairs = tuple((key, value) for key, _, value in (word.partition("=") for word in words[1:at]))
    if any(first[0] >= second[0] for first, second in pairwise(pairs)):
        raise ManifestError("parameters that are not in order")
    base = _digest(words[at]) if words[at].startswith("b3:") else None
    return Link(words[0], tuple(map(_place, words[at + (base is not None) :])), pairs, base)


def _place(word: str) -> Place:
    offset, _, length = word[65:].partition("+")
    start, size = int(offset), int(length)
    if size == 0 or start + size > MAX_BYTES:
        raise ManifestError("a place of no bytes, or beyond what an object can hold")
    return Place(ObjectId(word[:64]), start, size)


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


def _check_aliases(manifest: Manifest) -> None:
    aliases = [alias for stanza in manifest.stanzas for alias in stanza.aliases]
    if len(aliases) > MAX_TENSORS or len(set(aliases)) < len(aliases):
        raise ManifestError("too many other names of tensors, or one that appears twice")
    if aliases and not {stanza.spec.name for stanza in manifest.stanzas}.isdisjoint(aliases):
        raise ManifestError("another name of a tensor that is also the name of a tensor")


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


def _digest(word: str) -> Digest:
    return Digest(bytes.fromhex(word[3:]))


def _dtype(name: str) -> Dtype:
    try:
        return DTYPES[name]
    except KeyError:
        raise ManifestError(
            f"unknown dtype '{name}'", hint="install a newer gittheta: pip install --upgrade gittheta"
        ) from None


@lru_cache(maxsize=64)
def _block_dtype(name: str, unit: str, size: str) -> Dtype:
    elements, nbytes = int(unit), int(size)
    if name in DTYPES or not 2 <= elements <= MAX_BLOCK_UNIT or not 1 <= nbytes <= MAX_BLOCK_UNIT:
        raise ManifestError(f"'{name}/{unit}:{size}' is not a dtype of blocks")
    return block_dtype(name, elements, nbytes)


@lru_cache(maxsize=4096)
def _shape(text: str) -> tuple[int, ...]:
    if text == "scalar":
        return ()
    shape = tuple(map(int, text.split("x")))
    if len(shape) > MAX_DIMENSIONS or prod(shape) > MAX_BYTES or max(shape) > MAX_BYTES:
        raise ManifestError("a shape that is too large")
    return shape
