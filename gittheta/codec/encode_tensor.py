"""One tensor, or some of its blocks, on a worker: encoded in the way that is smallest, decoded again, compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gittheta.api import Encoding, TensorReader
from gittheta.codec.chain import coder_over, decoded, guarded
from gittheta.codec.choose import EncodingChoice, Estimate
from gittheta.errors import PayloadError, ThetaError
from gittheta.model import Digest, RunningDigest, Tensor, digest_of, flat_spec
from gittheta.storage.frames import MAX_OVERHEAD, frame_head


@dataclass(frozen=True)
class EncodedBlock:
    """A block as it will lie in an object: the frame's head and body; and what a predictor said it would be."""

    head: bytes
    body: bytes
    predicted: memoryview | None = None


@dataclass(frozen=True)
class EncodedTensor:
    """A tensor, encoded: the choice, the frames, and the digest of what was predicted (of nothing, if nothing was)."""

    choice: EncodingChoice
    frames: tuple[EncodedBlock, ...]
    predicted: Digest
    #: Why other choices did not apply.
    complaint: str = ""

    @property
    def size(self) -> int:
        """Bytes of all payloads."""
        derived = len(self.choice.derivation.finding.payload) if self.choice.derivation else 0
        return derived + sum(len(frame.head) + len(frame.body) for frame in self.frames)


@dataclass(frozen=True)
class Work:
    """A tensor that is to be encoded, and the digests of its blocks, as far as they are known."""

    new: TensorReader
    digests: Sequence[Digest]
    #: Bytes of a block.
    step: int

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Where its blocks begin and end."""
        for begin in range(0, self.new.spec.nbytes, self.step):
            yield begin, min(begin + self.step, self.new.spec.nbytes)

    def encode_block(self, choice: EncodingChoice, begin: int, end: int) -> EncodedBlock:
        """One block. Raises PayloadError if the encoding does not apply or is not lossless."""
        spec = flat_spec(self.new.spec, end - begin)
        data = self.new.read(begin, end).toreadonly()
        base = None if choice.base is None else Tensor(spec, choice.base.read(begin, end).toreadonly())
        digest = self.digests[begin // self.step] if self.digests else digest_of(data)
        predicted = base.data if base and choice.derivation else None
        return _encoded(choice.encoding, Tensor(spec, data), base, digest, predicted)

    def encode(self, choice: EncodingChoice) -> EncodedTensor:
        """All of it, in one way."""
        predicted = RunningDigest()
        frames = []
        for begin, end in self.ranges():
            frame = self.encode_block(choice, begin, end)
            frames.append(EncodedBlock(frame.head, frame.body))
            if frame.predicted is not None:
                predicted.update(frame.predicted)
        return EncodedTensor(choice, tuple(frames), predicted.digest())

    def encode_smallest(self, choose: Callable[[], tuple[Estimate, ...]]) -> EncodedTensor:
        """All of it: in the first way that applies, or in the next if that is smaller after all."""
        ways = choose()
        found: EncodedTensor | None = None
        complaints = []
        for way in ways:
            if found and found.size <= way.size:
                break
            try:
                encoded = self.encode(way.choice)
                found = encoded if found is None or encoded.size < found.size else found
            except ThetaError as error:
                if way is ways[-1]:
                    raise
                complaints.append(error.what)
        if found is None:
            raise PayloadError("no encoding applies", tensor=self.new.spec.name)
        return EncodedTensor(found.choice, found.frames, found.predicted, "; ".join(complaints))


def _encoded(
    encoding: Encoding, block: Tensor, base: Tensor | None, digest: Digest, predicted: memoryview | None
) -> EncodedBlock:
    coder = coder_over(encoding, base)
    body = guarded(encoding.name, lambda: coder.encode(block))
    if not isinstance(body, bytes) or len(body) > len(block.data) + MAX_OVERHEAD:
        raise PayloadError(f"the encoding '{encoding.name}' does not apply", tensor=block.spec.name)
    # Lossless is a promise: what cannot be read back is never accepted.
    if not _same(decoded(encoding.name, coder, memoryview(body), block.spec), block.data):
        raise PayloadError(
            f"the encoding '{encoding.name}' does not give back what it was given",
            tensor=block.spec.name,
            hint="this is a fault of the encoding; nothing was stored",
        )
    return EncodedBlock(frame_head(body, len(block.data), digest), body, predicted)


def _same(one: memoryview, other: memoryview) -> bool:
    """Whether two runs of bytes are equal; several times as fast as to digest one of them."""
    import numpy as np

    return np.array_equal(np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8))
