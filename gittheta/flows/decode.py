"""From recipes to bytes: read frames, decode chains on the workers a few blocks ahead, check before anything leaves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import TypeVar

from blake3 import blake3

from gittheta.api import Encoding
from gittheta.errors import PayloadError, ThetaError
from gittheta.flows.workspace import Workspace
from gittheta.model import Digest, Link, ObjectId, Recipe, Tensor, TensorSpec, digest_of, flat_spec
from gittheta.payload import HEAD_LENGTH, FrameHead, parse_head
from gittheta.store import Reader

#: Decoded bytes that may wait ahead of the one who takes them.
AHEAD = 16 << 20
#: Tensors up to this size are held whole, so that their digest is known before their first byte leaves.
HOLD = 64 << 20
#: Smaller tensors are decoded in batches of about so many bytes.
BATCH = 1 << 20

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame's head and where its body lies."""

    head: FrameHead
    object: ObjectId
    body_offset: int


@dataclass(frozen=True)
class _Block:
    """One block of a tensor: the frame of each link, newest first."""

    spec: TensorSpec
    frames: tuple[Frame, ...]

    @property
    def nbytes(self) -> int:
        return self.frames[0].head.raw


def frames_of(reader: Reader, link: Link) -> Iterator[Frame]:
    """The frames of a link's payload, in order. Raises PayloadError where they do not fit their places."""
    for place in link.places:
        at, end = place.offset, place.offset + place.length
        while at < end:
            head = parse_head(reader.read(place.object, at, min(HEAD_LENGTH, end - at)))
            at += HEAD_LENGTH
            yield Frame(head, place.object, at)
            at += head.body
        if at != end:
            raise PayloadError("a frame reaches beyond its place")


class Decoder:
    """Rebuilds tensors. Decoding never needs anything but the recipe and the objects."""

    def __init__(self, workspace: Workspace) -> None:
        self._reader = workspace.reader
        self._registry = workspace.registry
        self._pool = workspace.pool

    def blocks(self, tensors: Iterable[tuple[TensorSpec, Recipe]]) -> Iterator[memoryview]:
        """The blocks of some tensors in order, decoded ahead on the workers.

        Of tensors larger than HOLD, each block is checked against its frame.
        """
        return chain.from_iterable(ahead(self._pool.submit, self._jobs(tensors)))

    def _jobs(
        self, tensors: Iterable[tuple[TensorSpec, Recipe]]
    ) -> Iterator[tuple[int, Callable[[], list[memoryview]]]]:
        """Work for the workers and the bytes that come of it: a block each, or a batch of small tensors."""
        batch: list[tuple[TensorSpec, Recipe]] = []
        size = 0
        for spec, recipe in tensors:
            small = spec.nbytes < BATCH
            if batch and (not small or size >= BATCH):
                yield size, partial(self._decode_all, batch)
                batch, size = [], 0
            if small:
                batch.append((spec, recipe))
                size += spec.nbytes
                continue
            for block in self._blocks(spec, recipe):
                yield block.nbytes, partial(self._decode_one, block, recipe)
        if batch:
            yield size, partial(self._decode_all, batch)

    def _decode_all(self, tensors: list[tuple[TensorSpec, Recipe]]) -> list[memoryview]:
        return [self._decode(block, recipe) for spec, recipe in tensors for block in self._blocks(spec, recipe)]

    def _decode_one(self, block: _Block, recipe: Recipe) -> list[memoryview]:
        return [self._decode(block, recipe)]

    def first_blocks(self, spec: TensorSpec, recipe: Recipe, count: int) -> Iterator[memoryview]:
        """The first blocks of a tensor, each checked against its frame."""
        frames = islice(self._blocks(spec, recipe), count)
        return ahead(self._pool.submit, ((block.nbytes, partial(self._check_block, block, recipe)) for block in frames))

    def checked(self, tensors: Iterable[tuple[TensorSpec, Digest, Recipe]]) -> Iterator[memoryview]:
        """The bytes of some tensors, one after the other; each tensor's digest is checked.

        Up to HOLD bytes a tensor is held until its digest is known. Of a larger one each block is checked before it
        leaves, and the whole after the last: whoever takes the bytes keeps none of them if this raises.
        """
        wanted = list(tensors)
        blocks = self.blocks((spec, recipe) for spec, _, recipe in wanted)
        for spec, digest, _ in wanted:
            yield from _check_tensor(spec, digest, blocks)

    def read(self, spec: TensorSpec, digest: Digest, recipe: Recipe) -> bytes:
        """All bytes of one tensor, for tensors known to be small."""
        return b"".join(self.checked([(spec, digest, recipe)]))

    def _blocks(self, spec: TensorSpec, recipe: Recipe) -> Iterator[_Block]:
        left = spec.nbytes
        try:
            if left and not recipe:
                raise PayloadError("bytes without a recipe")
            chains = [frames_of(self._reader, link) for link in recipe]
            while left:
                block = _Block(spec, tuple(next(frames, _END) for frames in chains))
                if any(frame.head.raw != block.nbytes for frame in block.frames) or not 0 < block.nbytes <= left:
                    raise PayloadError("the payload's blocks do not add up to the tensor")
                left -= block.nbytes
                yield block
            if any(next(frames, None) for frames in chains):
                raise PayloadError("the payload holds more than the tensor's shape allows")
        except ThetaError as error:
            raise error.located(tensor=spec.name) from None

    def _decode(self, block: _Block, recipe: Recipe) -> memoryview:
        spec = flat_spec(block.spec, block.nbytes)
        found: Tensor | None = None
        data = memoryview(b"")
        try:
            for link, frame in zip(reversed(recipe), reversed(block.frames), strict=True):
                encoding = self._registry.encoding(link.encoding)
                body = memoryview(self._reader.read(frame.object, frame.body_offset, frame.head.body))
                found = _guarded(encoding, body, spec, found)
                data = found.data
                if len(data) != block.nbytes:
                    raise PayloadError(f"'{link.encoding}' gave {len(data)} bytes, not {block.nbytes}")
        except ThetaError as error:
            raise error.located(tensor=block.spec.name) from None
        if block.spec.nbytes > HOLD:
            _compare(block, data)
        return data

    def _check_block(self, block: _Block, recipe: Recipe) -> memoryview:
        data = self._decode(block, recipe)
        _compare(block, data)
        return data


_END = Frame(FrameHead(0, 0, Digest(b"")), ObjectId(""), 0)


def _compare(block: _Block, data: memoryview) -> None:
    if digest_of(data) != block.frames[0].head.digest:
        raise PayloadError(
            "a block does not have its digest: the object is damaged or the wrong one",
            tensor=block.spec.name,
            mend=_MEND,
        )


_MEND = "run `git theta fsck` to find the damaged object; delete it, then `git theta fetch --all` or add the file again"


def _guarded(encoding: Encoding, body: memoryview, spec: TensorSpec, base: Tensor | None) -> Tensor:
    if encoding.needs_base and base is None:
        raise PayloadError(f"'{encoding.name}' needs a base and has none")
    try:
        return encoding.decode(body, spec, base)
    except (ThetaError, MemoryError):
        raise
    except Exception as error:  # a decoder that trips over hostile bytes must not take git down with a traceback
        raise PayloadError(f"'{encoding.name}' cannot decode its payload: {error!r}") from error


def _check_tensor(spec: TensorSpec, digest: Digest, blocks: Iterator[memoryview]) -> Iterator[memoryview]:
    hashed = blake3()
    held: list[memoryview] = []
    left = spec.nbytes
    while left:
        block = next(blocks)
        left -= len(block)
        hashed.update(block)
        if spec.nbytes <= HOLD:
            held.append(block)
        else:
            yield block
    if hashed.digest() != digest:
        raise PayloadError(
            "the stored bytes are not those of this tensor",
            tensor=spec.name,
            mend=_MEND,
        )
    yield from held


def ahead(
    submit: Callable[[Callable[[], Result]], Future[Result]], jobs: Iterable[tuple[int, Callable[[], Result]]]
) -> Iterator[Result]:
    """Results of jobs in order; jobs run on workers as far ahead as AHEAD bytes of results allow."""
    queue: deque[tuple[int, Future[Result]]] = deque()
    waiting = 0
    try:
        for size, job in jobs:
            queue.append((size, submit(job)))
            waiting += size
            while waiting > AHEAD:
                size, future = queue.popleft()
                waiting -= size
                yield future.result()
        while queue:
            yield queue.popleft()[1].result()
    finally:
        for _, future in queue:
            future.cancel()
