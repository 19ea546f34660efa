"""What a worker does: encode a tensor or a block in the smallest way, decode it again, and compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gittheta.codec.chain import coder_over, decoded, guarded
from gittheta.errors import PayloadError, ThetaError
from gittheta.model import Digest, RunningDigest, Tensor, digest_of, flat_spec
from gittheta.storage.frames import MAX_OVERHEAD, frame_head

if TYPE_CHECKING:
    from gittheta.api import Encoding, TensorReader
    from gittheta.codec.choose import EncodingChoice, Estimate


@dataclass(frozen=True)
class EncodedBlock:
    """A block as it will lie in an object (the frame's head and body), and the bytes that a predictor predicted."""

    head: bytes
    body: bytes
    predicted: memoryview | None = None


@dataclass(frozen=True)
class EncodedTensor:
    """An encoded tensor: the choice, the frames, and the digest of the prediction (of no bytes without a predictor)."""

    choice: EncodingChoice
    frames: tuple[EncodedBlock, ...]
    predicted: Digest
    #: Other choices that did not apply, and why.
    complaints: tuple[tuple[EncodingChoice, ThetaError], ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all payloads."""
        derived = len(self.choice.derivation.finding.payload) if self.choice.derivation else 0
        return derived + sum(len(frame.head) + len(frame.body) for frame in self.frames)


@dataclass(frozen=True)
class Work:
    """A tensor to encode, and the digests of its blocks, if known."""

    new: TensorReader
    digests: Sequence[Digest]
    #: Bytes of a block.
    step: int

    def ranges(self) -> Iterator[tuple[int, int]]:
        """The offsets at which each block begins and ends."""
        for begin in range(0, self.new.spec.nbytes, self.step):
            yield begin, min(begin + self.step, self.new.spec.nbytes)

    def encode_block(self, choice: EncodingChoice, begin: int, end: int) -> EncodedBlock:
        """Encode one block. Raises PayloadError if the encoding does not apply or is not lossless."""
        spec = flat_spec(self.new.spec, end - begin)
        data = self.new.read(begin, end).toreadonly()
        base = None if choice.base is None else Tensor(spec, choice.base.read(begin, end).toreadonly())
        digest = self.digests[begin // self.step] if self.digests else digest_of(data)
        predicted = base.data if base and choice.derivation else None
        return _encoded(choice.encoding, Tensor(spec, data), base, digest, predicted)

    def encode(self, choice: EncodingChoice) -> EncodedTensor:
        """Encode the whole tensor as chosen. Raises PayloadError if the encoding does not apply or is not lossless."""
        predicted = RunningDigest()
        frames = []
        for begin, end in self.ranges():
            frame = self.encode_block(choice, begin, end)
            frames.append(EncodedBlock(frame.head, frame.body))
            if frame.predicted is not None:
                predicted.update(frame.predicted)
        return EncodedTensor(choice, tuple(frames), predicted.digest())

    def encode_smallest(self, choose: Callable[[], tuple[Estimate, ...]]) -> EncodedTensor:
        """Encode the whole tensor with the first choice that applies, or a later one if it turns out smaller.

        Raises ThetaError if the last choice does not apply.
        """
        ways = choose()
        smallest: EncodedTensor | None = None
        complaints: list[tuple[EncodingChoice, ThetaError]] = []
        for way in ways:
            if smallest and smallest.size <= way.size:
                break
            try:
                encoded = self.encode(way.choice)
                smallest = encoded if smallest is None or encoded.size < smallest.size else smallest
            except ThetaError as error:
                if way is ways[-1]:
                    raise
                complaints.append((way.choice, error))
        if smallest is None:
            raise PayloadError("no encoding applies", tensor=self.new.spec.name)
        return EncodedTensor(smallest.choice, smallest.frames, smallest.predicted, tuple(complaints))


def _encoded(
    encoding: Encoding, block: Tensor, base: Tensor | None, digest: Digest, predicted: memoryview | None
) -> EncodedBlock:
    coder = coder_over(encoding, base)
    body = guarded(encoding.name, lambda: coder.encode(block))
    if not isinstance(body, bytes) or len(body) > len(block.data) + MAX_OVERHEAD:
        raise PayloadError(f"the encoding '{encoding.name}' does not apply", tensor=block.spec.name)
    # Every block is decoded again: one that differs is never stored.
    if not _same(decoded(encoding.name, coder, memoryview(body), block.spec), block.data):
        raise PayloadError(
            f"the encoding '{encoding.name}' does not decode to the block that it encoded",
            tensor=block.spec.name,
            hint="this is an error in the encoding; nothing was stored",
        )
    return EncodedBlock(frame_head(body, len(block.data), digest), body, predicted)


def _same(one: memoryview, other: memoryview) -> bool:
    """Whether two runs of bytes are equal; several times as fast as computing a digest."""
    import numpy as np

    return np.array_equal(np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8))
