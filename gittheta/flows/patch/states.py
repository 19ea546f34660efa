"""``gittheta.patch`` and ``gittheta.apply_patch``: patches between models in memory, of torch or NumPy."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from gittheta.api import NullReporter
from gittheta.codec.readers import HeldReader
from gittheta.codec.tensor_store import TensorStore
from gittheta.errors import FormatError
from gittheta.flows.patch.apply import Patching, check_fits, unpacked
from gittheta.flows.patch.make import make_patch
from gittheta.flows.patch.sides import Side, SideTensor
from gittheta.model import DTYPES, Dtype, TensorSpec, digest_of
from gittheta.storage.objects import ObjectStore

#: A tensor of torch, on any device, or an array.
Values = Any
#: The format that manifests of such patches name: no file has it.
STATE = "state"
_BY_TORCH = {dtype.torch: dtype for dtype in DTYPES.values() if dtype.torch}


def patch(old: Mapping[str, Values], new: Mapping[str, Values], path: str | os.PathLike[str] | None = None) -> bytes:
    """Just what turns one state dict into another; it is also written to ``path`` if that is given.

    Tensors may have any shape, and any dtype that a checkpoint can have. Raises FormatError, naming the tensor, for
    another one.
    """
    with TemporaryDirectory(prefix="gittheta-patch-") as folder:
        target = Path(folder) / "patch"
        with TensorStore(ObjectStore(Path(folder) / "none")) as tensors:
            make_patch(tensors, _side(old), _side(new), target)
        data = target.read_bytes()
    if path is not None:
        Path(path).write_bytes(data)
    return data


def apply_patch(state_dict: MutableMapping[str, Values], patch: bytes | str | os.PathLike[str]) -> list[str]:
    """Turn a state dict into the one that a patch leads to; returns the names of the tensors that changed or went.

    ``patch`` is one of :func:`patch`, or a file of it. Tensors whose dtype and shape stay get their new values where
    they lie, on whatever device; others are replaced. Raises FormatError if the patch is broken or was made from
    another version, PayloadError if it does not decode; nothing has changed then.
    """
    with TemporaryDirectory(prefix="gittheta-patch-") as folder:
        file = Path(folder) / "patch"
        if isinstance(patch, bytes):
            file.write_bytes(patch)
        with unpacked(file if isinstance(patch, bytes) else Path(patch), NullReporter()) as (tensors, manifest):
            old = _side(state_dict)
            if manifest.format != STATE:
                raise FormatError("a patch for files", hint="git theta apply-patch PATCH CHECKPOINT")
            check_fits(old, manifest)
            patching = Patching(tensors, manifest, old.by_digest)
            before = {tensor.spec: tensor.digest for tensor in old.tensors}
            changed = [stanza for stanza in manifest.stanzas if before.get(stanza.spec) != stanza.digest]
            # All of them before the first is written: one may be told from another.
            values = {stanza.spec: b"".join(patching.tensor(stanza)) for stanza in changed}
    gone = [name for name in state_dict if name not in {stanza.spec.name for stanza in manifest.stanzas}]
    for spec, data in values.items():
        _put(state_dict, spec, data, next(iter(state_dict.values()), None))
    for name in gone:
        del state_dict[name]
    return [*(spec.name for spec in values), *gone]


def _side(state: Mapping[str, Values]) -> Side:
    found = []
    for name, values in state.items():
        spec = TensorSpec(name, _dtype_of(name, values), tuple(values.shape))
        data = _bytes_of(values)
        found.append(SideTensor(HeldReader(spec, [data]), digest_of(data), 0))
    return Side(STATE, b"", 0, tuple(found))


def _dtype_of(name: str, values: Values) -> Dtype:
    word = _word(values)
    if word not in _BY_TORCH or (isinstance(values, np.ndarray) and not values.dtype.isnative):
        raise FormatError(f"its dtype is {word}, which no checkpoint has", tensor=name)
    return _BY_TORCH[word]


def _bytes_of(values: Values) -> memoryview:
    if isinstance(values, np.ndarray):
        flat = np.ascontiguousarray(values).reshape(-1)
        return memoryview(flat.view(np.uint8).data).toreadonly()
    plain = values.detach().contiguous().cpu().reshape(-1)
    return memoryview(plain.view(sys.modules["torch"].uint8).numpy()).toreadonly()


def _put(state: MutableMapping[str, Values], spec: TensorSpec, data: bytes, like: Values) -> None:
    """Write a tensor where it lies, or as a new one of the same kind as its former self, or as ``like``."""
    present: Values = state.get(spec.name)
    same = present is not None and tuple(present.shape) == spec.shape and _BY_TORCH.get(_word(present)) == spec.dtype
    if isinstance(like if present is None else present, np.ndarray):
        new = np.frombuffer(data, np.dtype(spec.dtype.torch)).reshape(spec.shape)
        if same:
            present[...] = new
        else:
            state[spec.name] = new.copy()
        return
    torch = sys.modules["torch"]
    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    values = raw.view(getattr(torch, str(spec.dtype.torch))).reshape(spec.shape)
    if same:
        with torch.no_grad():
            present.copy_(values)
    else:
        state[spec.name] = values if present is None else values.to(present.device)


def _word(values: Values) -> str:
    return str(values.dtype).removeprefix("torch.")
