"""From recipes to bytes: read frames, decode chains on the workers a few blocks ahead, check before anything leaves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import TypeVar

from blake3 import blake3

from gittheta.api import Values
from gittheta.codec.chain import MEND, NOTHING, Framed, open_tensor
from gittheta.errors import PayloadError, ThetaError
from gittheta.flows.workspace import Workspace
from gittheta.model import Digest, Recipe, TensorSpec

#: Decoded bytes that may wait ahead of the one who takes them.
AHEAD = 16 << 20
#: Tensors up to this size are held whole, so that their digest is known before their first byte leaves.
HOLD = 64 << 20
#: Smaller tensors are decoded in batches of about so many bytes.
BATCH = 1 << 20

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Block:
    """One block of a tensor that is being decoded."""

    tensor: Framed
    index: int

    @property
    def nbytes(self) -> int:
        return self.tensor.frames[self.index].head.raw

    def decode(self) -> memoryview:
        """The block's bytes; compared with its frame if the tensor is too large to be held until its end."""
        return self.check() if self.tensor.spec.nbytes > HOLD else self._located(self.tensor.block)

    def check(self) -> memoryview:
        """The block's bytes, compared with its frame."""
        return self._located(self.tensor.checked_block)

    def _located(self, get: Callable[[int], memoryview]) -> memoryview:
        try:
            return get(self.index)
        except PayloadError as error:
            error.mend = error.mend or MEND
            raise error.located(tensor=self.tensor.spec.name) from None
        except ThetaError as error:
            raise error.located(tensor=self.tensor.spec.name) from None


class Decoder:
    """Rebuilds tensors. Decoding never needs anything but the recipe and the objects."""

    def __init__(self, workspace: Workspace, at_hand: Mapping[Digest, Values] = NOTHING) -> None:
        """``at_hand`` are tensors that were decoded and checked already, and need not be again."""
        self._at_hand = at_hand
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
                yield block.nbytes, partial(_decode_one, block)
        if batch:
            yield size, partial(self._decode_all, batch)

    def _decode_all(self, tensors: list[tuple[TensorSpec, Recipe]]) -> list[memoryview]:
        return [block.decode() for spec, recipe in tensors for block in self._blocks(spec, recipe)]

    def first_blocks(self, spec: TensorSpec, recipe: Recipe, count: int) -> Iterator[memoryview]:
        """The first blocks of a tensor, each checked against its frame."""
        frames = islice(self._blocks(spec, recipe), count)
        return ahead(self._pool.submit, ((block.nbytes, block.check) for block in frames))

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

    def open(self, spec: TensorSpec, recipe: Recipe) -> Framed:
        """A tensor that can be read in parts. Raises ThetaError, naming it, unless recipe and objects fit it."""
        return open_tensor(self._reader, self._registry, spec, recipe, self._at_hand)

    def _blocks(self, spec: TensorSpec, recipe: Recipe) -> Iterator[_Block]:
        if recipe:
            tensor = self.open(spec, recipe)
            yield from (_Block(tensor, index) for index in range(len(tensor.frames)))
        elif spec.nbytes:
            raise PayloadError("bytes without a recipe", tensor=spec.name)


def _decode_one(block: _Block) -> list[memoryview]:
    return [block.decode()]


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
            mend=MEND,
        )
    yield from held


def ahead(
    submit: Callable[[Callable[[], Result]], Future[Result]], jobs: Iterable[tuple[int, Callable[[], Result]]]
) -> Iterator[Result]:
    """Results of jobs in order; jobs run on workers as far ahead as AHEAD bytes of results allow.

    A job that is alone is done here: for small tensors, which come by the thousand, a worker takes longer to wake up.
    """
    jobs = iter(jobs)
    first = list(islice(jobs, 2))
    if len(first) == 1:
        yield first[0][1]()
        return
    queue: deque[tuple[int, Future[Result]]] = deque()
    waiting = 0
    try:
        for size, job in chain(first, jobs):
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
