"""From recipes to bytes: decode chains on the workers a few blocks ahead, and check bytes before handing them out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING

from gittheta.codec.chain import HINT_DAMAGED, NOTHING, StoredReader, open_tensor
from gittheta.errors import PayloadError, ThetaError
from gittheta.model import Digest, Recipe, RunningDigest, TensorSpec
from gittheta.pipeline import Result, in_order

if TYPE_CHECKING:
    from gittheta.api import TensorReader
    from gittheta.codec.tensor_store import TensorStore


@dataclass(frozen=True)
class _Block:
    """One block of a tensor that is being decoded."""

    tensor: StoredReader
    index: int
    #: Whether it is handed out before the digest of the whole tensor is known.
    leaves_first: bool

    @property
    def nbytes(self) -> int:
        return self.tensor.frames[self.index].head.raw

    def decode(self) -> memoryview:
        """The block's bytes; compared with the digest in its frame if the tensor is too large to be held as a whole."""
        return self.check() if self.leaves_first else self._located(self.tensor.block)

    def check(self) -> memoryview:
        """The block's bytes, compared with the digest in its frame."""
        return self._located(self.tensor.checked_block)

    def _located(self, get: Callable[[int], memoryview]) -> memoryview:
        try:
            return get(self.index)
        except PayloadError as error:
            raise error.but(hint=error.hint or HINT_DAMAGED).located(tensor=self.tensor.spec.name) from None
        except ThetaError as error:
            raise error.located(tensor=self.tensor.spec.name) from None


class Decoder:
    """Rebuilds tensors, from their recipes and the objects alone.

    Safe to use from several threads; each iterator that it returns is for one thread.
    """

    def __init__(self, tensors: TensorStore, at_hand: Mapping[Digest, TensorReader] = NOTHING) -> None:
        """``at_hand`` are tensors that are decoded and checked already, by their digests."""
        self._tensors = tensors
        self._at_hand = at_hand
        self._held = tensors.limits.held

    def blocks(self, tensors: Iterable[tuple[TensorSpec, Recipe]]) -> Iterator[memoryview]:
        """The blocks of some tensors in order, decoded ahead on the workers. Raises ThetaError, naming the tensor.

        Each block of a tensor larger than ``Limits.held`` is compared with the digest in its frame.
        """
        return chain.from_iterable(self._in_order(self._jobs(tensors)))

    def _in_order(self, jobs: Iterable[tuple[int, Callable[[], Result]]]) -> Iterator[Result]:
        return in_order(self._tensors.workers, jobs, self._tensors.limits.decoded_ahead)

    def _jobs(
        self, tensors: Iterable[tuple[TensorSpec, Recipe]]
    ) -> Iterator[tuple[int, Callable[[], list[memoryview]]]]:
        """Jobs for the workers, as (bytes that the job yields, function): one block, or a batch of small tensors."""
        batch: list[tuple[TensorSpec, Recipe]] = []
        size, limit = 0, self._tensors.limits.decode_batch
        for spec, recipe in tensors:
            small = spec.nbytes < limit
            if batch and (not small or size >= limit):
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
        """The first ``count`` blocks of a tensor, each compared with the digest in its frame."""
        frames = islice(self._blocks(spec, recipe), count)
        return self._in_order((block.nbytes, block.check) for block in frames)

    def checked(self, tensors: Iterable[tuple[TensorSpec, Digest, Recipe]]) -> Iterator[memoryview]:
        """The bytes of some tensors, one after the other; each tensor's digest is checked. Raises PayloadError.

        A tensor of up to ``Limits.held`` bytes is held until its digest is known. For a larger one, each block is
        checked before it is handed out, and the whole tensor after its last block: if this raises, the caller must
        discard what it got.
        """
        expected = list(tensors)
        blocks = self.blocks((spec, recipe) for spec, _, recipe in expected)
        for spec, digest, _ in expected:
            yield from self._check_tensor(spec, digest, blocks)

    def _check_tensor(self, spec: TensorSpec, digest: Digest, blocks: Iterator[memoryview]) -> Iterator[memoryview]:
        hashed = RunningDigest()
        held: list[memoryview] = []
        left = spec.nbytes
        while left:
            block = next(blocks)
            left -= len(block)
            hashed.update(block)
            if spec.nbytes <= self._held:
                held.append(block)
            else:
                yield block
        if hashed.digest() != digest:
            raise PayloadError(
                "the stored bytes are not those of this tensor",
                tensor=spec.name,
                hint=HINT_DAMAGED,
            )
        yield from held

    def read(self, spec: TensorSpec, digest: Digest, recipe: Recipe) -> bytes:
        """All bytes of one tensor, checked; for tensors that are known to be small. Raises PayloadError."""
        return b"".join(self.checked([(spec, digest, recipe)]))

    def open(self, spec: TensorSpec, recipe: Recipe) -> StoredReader:
        """A tensor that can be read in parts. Raises ThetaError, naming it, unless recipe and objects fit it."""
        return open_tensor(self._tensors, spec, recipe, self._at_hand)

    def _blocks(self, spec: TensorSpec, recipe: Recipe) -> Iterator[_Block]:
        if recipe:
            tensor = self.open(spec, recipe)
            yield from (_Block(tensor, index, spec.nbytes > self._held) for index in range(len(tensor.frames)))
        elif spec.nbytes:
            raise PayloadError("bytes without a recipe", tensor=spec.name)


def _decode_one(block: _Block) -> list[memoryview]:
    return [block.decode()]
