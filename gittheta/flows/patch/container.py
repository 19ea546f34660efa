"""A patch as a file: a manifest of the new version, then the objects that it needs (``docs/spec/patch.md``).

The recipes in the manifest end at tensors of the old version: at the link :data:`FROM`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from gittheta.errors import FormatError, ManifestError
from gittheta.model import Link, ObjectId, Place
from gittheta.storage.files import reading, replacing, translated, write_all
from gittheta.storage.manifest import MAX_TEXT, format_manifest, parse_manifest

if TYPE_CHECKING:
    from gittheta.model import Digest, Manifest, Recipe
    from gittheta.storage.objects import ObjectStore

_FIRST = b"gittheta patch 1\n"
_HEAD = re.compile(rb"manifest ([1-9][0-9]{0,8})\n((?:object [0-9a-f]{64} [1-9][0-9]{0,18}\n)*+)\n")
_OBJECT = re.compile(rb"object ([0-9a-f]{64}) ([0-9]+)\n")
#: Bytes of a header: some ten thousand objects, each of which holds 64 MiB.
_MAX_HEAD = 1 << 20
_STEP = 1 << 20

#: The last link of a recipe: the tensor of the old version whose digest the link above gives, or the stanza itself.
FROM = Link("from", (Place(ObjectId("0" * 64), 0, 1),))


def origin(recipe: Recipe, digest: Digest) -> Digest | None:
    """The digest of the old tensor at which the recipe of a tensor with this digest ends; None if it needs none."""
    if not recipe or recipe[-1] != FROM:
        return None
    return recipe[-2].base if len(recipe) > 1 else digest


@dataclass(frozen=True)
class PatchFile:
    """An open patch. For one thread."""

    manifest: Manifest
    objects: Mapping[ObjectId, int]
    _file: BinaryIO
    _begin: int

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[PatchFile]:
        """Open a patch. Raises FormatError if it is none, or cut short; StoreError if it cannot be read."""
        with translated(path), reading(path) as file:
            yield cls._read(path, file)

    @classmethod
    def _read(cls, path: Path, file: BinaryIO) -> PatchFile:
        head = file.read(_MAX_HEAD)
        found = _HEAD.match(head, len(_FIRST)) if head.startswith(_FIRST) else None
        if found is None or int(found[1]) > MAX_TEXT:
            later = head.startswith(b"gittheta patch ") and not head.startswith(_FIRST)
            what = "a patch that needs a newer gittheta" if later else "not a patch"
            raise FormatError(what, path=str(path), hint="patches are made by `git theta patch A B -o FILE`")
        objects = {ObjectId(name.decode()): int(size) for name, size in _OBJECT.findall(found[2])}
        begin = found.end() + int(found[1])
        total, size = begin + sum(objects.values()), os.fstat(file.fileno()).st_size
        if total != size:
            raise FormatError(f"{size} bytes, where its header promises {total}", path=str(path), hint="get it again")
        file.seek(found.end())
        try:
            manifest = parse_manifest(file.read(int(found[1])))
        except ManifestError as error:
            raise FormatError(f"broken patch: {error.what}", path=str(path), hint="get it again") from None
        return cls(manifest, objects, file, begin)

    def unpack(self, store: ObjectStore) -> None:
        """Put the objects into a store, each compared with its name. Raises StoreError, ObjectCorrupt."""
        self._file.seek(self._begin)
        for object_id, size in self.objects.items():
            store.import_file(object_id, partial(self._copy, size))

    def _copy(self, size: int, target: Path) -> None:
        with open(target, "xb", buffering=0) as file:
            while size:
                block = self._file.read(min(_STEP, size))
                if not block:
                    raise FormatError("the patch became shorter while it was read", hint="get it again")
                write_all(file.fileno(), block)
                size -= len(block)


def write_patch(path: Path, manifest: Manifest, store: ObjectStore) -> int:
    """Write a patch whose objects are all those of a store; returns its size in bytes. Raises StoreError."""
    objects = {object_id: found for object_id in store.all() if (found := store.find(object_id))}
    text = format_manifest(manifest)
    lines = [f"manifest {len(text)}\n", *(f"object {name} {file.stat().st_size}\n" for name, file in objects.items())]
    with replacing(path) as descriptor:
        write_all(descriptor, _FIRST + "".join(lines).encode() + b"\n" + text)
        for file in objects.values():
            with reading(file) as source:
                while block := source.read(_STEP):
                    write_all(descriptor, block)
        return os.fstat(descriptor).st_size
