"""A stored tensor, read by ranges: each link of its recipe is decoded over the tensor that the links below it yield.

A link of a blockwise encoding is read by a :class:`StoredReader`, a predictor's link by a :class:`PredictedReader`.
Links need not cut the tensor into the same blocks: a link reads any range of its base.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from threading import Condition
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from gittheta.codec.budget import Budget
from gittheta.errors import PayloadError, ThetaError
from gittheta.model import BLOCK_ELEMENTS, Digest, Link, Recipe, Tensor, TensorSpec, digest_of, flat_spec
from gittheta.storage.frames import Frame, frames_of

if TYPE_CHECKING:
    from gittheta.api import BlockCoder, Encoding, Prediction, Predictor, TensorReader
    from gittheta.codec.tensor_store import TensorStore
    from gittheta.registry import Registry
    from gittheta.storage.objects import ObjectReader

#: A recipe may have one frame for each of this many bytes, and ``Limits.spare_frames`` more. One with more frames was
#: made to waste memory.
_BYTES_PER_FRAME = 1 << 16

#: The most elements in a block of a link that has a base: to decode one takes some ten numbers for each element.
#: Writers put half as many in a block.
MAX_CHANGED = 2 * BLOCK_ELEMENTS

Result = TypeVar("Result")
#: The default of ``at_hand``: no tensors.
NOTHING: Mapping[Digest, TensorReader] = MappingProxyType({})

HINT_DAMAGED = (
    "run `git theta fsck` to find the damaged object; delete it, then `git theta fetch --all` or add the file again"
)


class StoredReader:
    """The tensor that a link of a blockwise encoding yields. Safe to use from several threads."""

    def __init__(
        self,
        reader: ObjectReader,
        link: Link,
        encoding: Encoding,
        spec: TensorSpec,
        base: TensorReader | None,
        shared: Shared,
        *,
        outermost: bool = True,
    ) -> None:
        """``outermost``: it is the tensor that a stanza names, and no base of it."""
        self.spec = spec
        self.frames = shared.bounded(frames_of(reader, link), spec, over_base=base is not None)
        self._ends = list(accumulate(frame.head.raw for frame in self.frames))
        self._reader = reader
        self._encoding = encoding
        self._base = base
        self._kept = shared.kept
        self._budget = shared.budget
        self._outermost = outermost
        if not outermost:
            self._budget.add_base(self.frames)
        if (self._ends[-1] if self._ends else 0) != spec.nbytes:
            raise PayloadError("the payload's blocks do not add up to the tensor")

    def block(self, index: int) -> memoryview:
        """One block, decoded but not compared with its digest. Raises PayloadError."""
        frame = self.frames[index]
        (self._budget.hand_out if self._outermost else self._budget.decode)(frame.head.raw)
        end = self._ends[index]
        spec = flat_spec(self.spec, frame.head.raw)
        base = None if self._base is None else Tensor(spec, self._base.read(end - frame.head.raw, end).toreadonly())
        body = memoryview(self._reader.read(frame.object, frame.body_offset, frame.head.body))
        return decoded(self._encoding.name, coder_over(self._encoding, base), body, spec)

    def checked_block(self, index: int) -> memoryview:
        """One block. Raises PayloadError unless it has the digest in its frame."""
        data = self.block(index)
        if digest_of(data) != self.frames[index].head.digest:
            raise PayloadError(
                f"a block does not have its digest: object {self.frames[index].object} is damaged or the wrong one",
                tensor=self.spec.name,
                hint=HINT_DAMAGED,
            )
        return data

    def read(self, begin: int, end: int) -> memoryview:
        """The raw bytes from offset ``begin`` to ``end``. Blocks that are read in part are kept for a while."""
        index = bisect_right(self._ends, begin)
        if index < len(self._ends) and self._ends[index] == end and end - begin == self.frames[index].head.raw:
            return self.block(index)
        return self.gather(begin, end, self._kept, self.block)

    def gather(self, begin: int, end: int, kept: Kept, make: Callable[[int], memoryview]) -> memoryview:
        """The raw bytes from offset ``begin`` to ``end``, joined from blocks that ``make`` decodes or ``kept`` has.

        Raises PayloadError if the range lies outside the tensor.
        """
        if not 0 <= begin <= end <= self.spec.nbytes:
            raise PayloadError("a range beyond the end of the tensor")
        parts = []
        at = begin
        while at < end:
            index = bisect_right(self._ends, at)
            first = self._ends[index] - self.frames[index].head.raw
            block = kept.get((id(self), index), partial(make, index))
            parts.append(block[at - first : end - first])
            at += len(parts[-1])
        return parts[0].toreadonly() if len(parts) == 1 else memoryview(b"".join(parts))


class CheckedReader:
    """A stored tensor that serves as a base: each block is checked, and kept for the next read.

    Safe to use from several threads.
    """

    def __init__(self, stored: StoredReader, kept_bytes: int) -> None:
        self.spec = stored.spec
        self._stored = stored
        self._kept = Kept(kept_bytes)

    def read(self, begin: int, end: int) -> memoryview:
        """The raw bytes from offset ``begin`` to ``end``. Raises PayloadError if a block lacks its digest."""
        return self._stored.gather(begin, end, self._kept, self._stored.checked_block)


class PredictedReader:
    """The tensor that a predictor's link yields. Safe to use from several threads."""

    def __init__(self, name: str, prediction: Prediction, spec: TensorSpec, base: TensorReader) -> None:
        self.spec = spec
        self._name = name
        self._prediction = prediction
        self._base = base

    def read(self, begin: int, end: int) -> memoryview:
        """The raw bytes from offset ``begin`` to ``end`` (whole elements). Raises PayloadError."""
        data = guarded(self._name, lambda: self._prediction.read(begin, end, self._base))
        if not isinstance(data, memoryview) or data.nbytes != end - begin or not data.c_contiguous:
            raise PayloadError(f"'{self._name}' did not return {end - begin} bytes")
        return data if data.format == "B" and data.ndim == 1 else data.cast("B")


@dataclass
class Kept:
    """The blocks decoded last, up to ``limit`` bytes. Safe to use from several threads."""

    limit: int
    _blocks: OrderedDict[tuple[int, int], memoryview] = field(default_factory=OrderedDict)
    _size: int = 0
    _making: set[tuple[int, int]] = field(default_factory=set)
    _changed: Condition = field(default_factory=Condition)

    def get(self, key: tuple[int, int], make: Callable[[], memoryview]) -> memoryview:
        """The block of this key (a link, a block's index); ``make`` decodes it if it is not kept.

        Of several threads that need the same block one decodes it, and the others wait.
        """
        with self._changed:
            while key in self._making and key not in self._blocks:
                self._changed.wait()
            if key in self._blocks:
                self._blocks.move_to_end(key)
                return self._blocks[key]
            self._making.add(key)
        try:
            block = make()
            self._keep(key, block)
        finally:
            with self._changed:
                self._making.discard(key)
                self._changed.notify_all()
        return block

    def _keep(self, key: tuple[int, int], block: memoryview) -> None:
        with self._changed:
            self._blocks[key] = block
            self._size += len(block)
            while self._size > self.limit and len(self._blocks) > 1:
                self._size -= len(self._blocks.popitem(last=False)[1])


@dataclass
class Shared:
    """The kept blocks, the count of frames, and the budget that all links of one chain share.

    So long chains take no more memory than short ones.
    """

    kept: Kept
    spare_frames: int
    budget: Budget
    _frames: int = 0

    def bounded(self, frames: Iterator[Frame], spec: TensorSpec, *, over_base: bool) -> tuple[Frame, ...]:
        """The frames of one link.

        Raises PayloadError if they hold too many bytes, if there are too many frames, or if one of a link ``over_base``
        holds too many elements.
        """
        kept: list[Frame] = []
        left = spec.nbytes
        largest = MAX_CHANGED * spec.dtype.bits // 8 if over_base else left
        for frame in frames:
            if frame.head.raw > largest:
                raise PayloadError(f"a block of {frame.head.raw} bytes over a base, which is more than {largest}")
            left -= frame.head.raw
            if left < 0:
                raise PayloadError("the payload holds more than the tensor's shape allows")
            kept.append(frame)
            self._frames += 1
            if self._frames > self.spare_frames + spec.nbytes // _BYTES_PER_FRAME:
                raise PayloadError("the payload is cut into too many small blocks")
        return tuple(kept)


def open_tensor(
    tensors: TensorStore, spec: TensorSpec, recipe: Recipe, at_hand: Mapping[Digest, TensorReader] = NOTHING
) -> StoredReader:
    """A tensor in the store. Raises ThetaError, naming the tensor, unless recipe and objects fit it.

    ``at_hand`` are tensors that are decoded and checked already: a chain over one of them is not decoded any further.
    """
    try:
        shared = Shared(Kept(tensors.limits.kept_blocks), tensors.limits.spare_frames, Budget.of(spec, tensors.limits))
        specs = base_specs(tensors.registry, spec, recipe)
        recipe, values = _shortened(recipe, specs, at_hand)
        specs = specs[: len(recipe)]
        for link, its_spec in zip(reversed(recipe), reversed(specs), strict=True):
            values = _open_link(tensors, link, its_spec, values, shared, outermost=link is recipe[0])
        if not isinstance(values, StoredReader):
            raise PayloadError("a recipe must begin with a link that is written block by block")
        return values
    except ThetaError as error:
        raise error.located(tensor=spec.name) from None


def _shortened(
    recipe: Recipe, specs: list[TensorSpec], at_hand: Mapping[Digest, TensorReader]
) -> tuple[Recipe, TensorReader | None]:
    for index, link in enumerate(recipe[:-1]):
        base = at_hand.get(link.base) if link.base else None
        if base is not None and same_kind(base.spec, specs[index + 1]):
            return recipe[: index + 1], base
    return recipe, None


def same_kind(one: TensorSpec, other: TensorSpec) -> bool:
    """Whether two tensors have the same dtype and shape, whatever their names."""
    return one.dtype == other.dtype and one.shape == other.shape


def base_specs(registry: Registry, spec: TensorSpec, recipe: Recipe) -> list[TensorSpec]:
    """Dtype and shape of the tensor that each link of a recipe yields, newest first. Raises PayloadError."""
    specs = [spec]
    for link in recipe[:-1]:
        plugin = registry.encoding(link.encoding)
        specs.append(_base_spec(plugin, specs[-1], link))
    return specs


def _base_spec(plugin: Encoding | Predictor, spec: TensorSpec, link: Link) -> TensorSpec:
    if plugin.kind == "predictor":
        return guarded(plugin.name, lambda: plugin.base_spec(spec, dict(link.parameters)))
    return spec


def _open_link(
    tensors: TensorStore, link: Link, spec: TensorSpec, base: TensorReader | None, shared: Shared, *, outermost: bool
) -> StoredReader | PredictedReader:
    plugin = tensors.registry.encoding(link.encoding)
    if plugin.kind == "predictor":
        if base is None:
            raise PayloadError(f"'{plugin.name}' needs a base and has none")
        prediction = open_prediction(plugin, read_payload(tensors.reader, link, spec), spec, dict(link.parameters))
        return PredictedReader(plugin.name, prediction, spec, base)
    if plugin.needs_base != (base is not None):
        raise PayloadError(f"'{plugin.name}' {'needs a base and has none' if plugin.needs_base else 'takes no base'}")
    if link.parameters:
        raise PayloadError(f"'{plugin.name}' takes no parameters")
    return StoredReader(tensors.reader, link, plugin, spec, base, shared, outermost=outermost)


def open_prediction(
    plugin: Predictor, payload: memoryview, spec: TensorSpec, parameters: Mapping[str, str]
) -> Prediction:
    """Read a predictor's payload. Any error of the plugin becomes a PayloadError."""
    return guarded(plugin.name, lambda: plugin.open(payload, spec, parameters))


def read_payload(reader: ObjectReader, link: Link, spec: TensorSpec) -> memoryview:
    """A predictor's payload, which is the body of its only frame. Raises PayloadError."""
    frames = frames_of(reader, link)
    frame = next(frames)
    if next(frames, None) or frame.head.raw != frame.head.body or frame.head.body > spec.nbytes + MAX_PAYLOAD_OVERHEAD:
        raise PayloadError(f"the payload of '{link.encoding}' is not one frame, or too long")
    body = memoryview(reader.read(frame.object, frame.body_offset, frame.head.body))
    if digest_of(body) != frame.head.digest:
        raise PayloadError(f"the payload of '{link.encoding}' does not have its digest", hint=HINT_DAMAGED)
    return body


#: Bytes by which a predictor's payload may be longer than its tensor; only tiny tensors need this.
MAX_PAYLOAD_OVERHEAD = 1 << 16


def coder_over(encoding: Encoding, base: Tensor | None) -> BlockCoder:
    """An encoding's coder over a base. Any error of the encoding becomes a PayloadError."""
    return guarded(encoding.name, lambda: encoding.over(base))


def decoded(name: str, coder: BlockCoder, body: memoryview, spec: TensorSpec) -> memoryview:
    """One decoded block of ``spec.nbytes`` bytes. Any error of the encoding ``name`` becomes a PayloadError."""
    tensor = guarded(name, lambda: coder.decode(body, spec))
    data = getattr(tensor, "data", None)
    if not isinstance(data, memoryview) or data.nbytes != spec.nbytes or not data.c_contiguous:
        raise PayloadError(f"'{name}' did not return {spec.nbytes} bytes")
    return data if data.format == "B" and data.ndim == 1 else data.cast("B")


def guarded(name: str, call: Callable[[], Result]) -> Result:
    """The result of a call into the plugin ``name``. Any error of the plugin becomes a PayloadError."""
    try:
        return call()
    except (ThetaError, MemoryError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a decoder that trips over hostile bytes, or exits, must not take git down
        raise PayloadError(f"'{name}' fails on these bytes: {error!r}") from error
