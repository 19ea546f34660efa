"""One tensor, or some blocks, on a worker: encoded in the way that is smallest, decoded again, compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from blake3 import blake3

from gittheta.api import Encoding, Values
from gittheta.codec.chain import decoded, guarded
from gittheta.codec.choose import Choice, Estimate
from gittheta.errors import PayloadError, ThetaError
from gittheta.model import Digest, Tensor, block_bytes, digest_of, flat_spec
from gittheta.storage.frames import MAX_OVERHEAD, frame_head


@dataclass
class EncodedBlock:
    """A block as it will lie in an object, and its digest."""

    head: bytes
    body: bytes
    digest: Digest


@dataclass
class EncodedTensor:
    """A changed tensor, encoded: the choice, the frames, and the digest of what was predicted."""

    choice: Choice
    frames: list[EncodedBlock]
    predicted: Digest
    #: What stood in the way of other choices.
    complaint: str = ""

    @property
    def size(self) -> int:
        """Bytes of all payloads."""
        told = len(self.choice.told.finding.payload) if self.choice.told else 0
        return told + sum(len(frame.head) + len(frame.body) for frame in self.frames)


@dataclass(frozen=True)
class Work:
    """A changed tensor, all of it, and how to choose for it."""

    new: Values
    choose: Callable[[], tuple[Estimate, ...]]
    digests: Sequence[Digest]

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Where its blocks begin and end."""
        size = block_bytes(self.new.spec.dtype)
        for begin in range(0, self.new.spec.nbytes, size):
            yield begin, min(begin + size, self.new.spec.nbytes)

    def encode(self, choice: Choice, begin: int, end: int) -> tuple[EncodedBlock, memoryview | None]:
        """One block, and what was predicted of it."""
        spec = flat_spec(self.new.spec, end - begin)
        data = self.new.read(begin, end).toreadonly()
        base = None if choice.base is None else Tensor(spec, choice.base.read(begin, end).toreadonly())
        digest = self.digests[begin // block_bytes(spec.dtype)] if self.digests else digest_of(data)
        frame = _encode(choice.encoding, Tensor(spec, data), base, digest)
        return frame, base.data if base and choice.told else None

    def store(self) -> EncodedTensor:
        """All of it, at once: in the first way that applies, or in the next if that is smaller after all."""
        *ways, last = self.choose()
        found: EncodedTensor | None = None
        complaints = []
        for way in (*ways, last):
            if found and found.size <= way.size:
                break
            try:
                stored = self._store(way.choice)
                found = stored if found is None or stored.size < found.size else found
            except ThetaError as error:
                if way is last:
                    raise
                complaints.append(error.what)
        if found is None:
            raise PayloadError("no encoding applies", tensor=self.new.spec.name)
        found.complaint = "; ".join(complaints)
        return found

    def _store(self, choice: Choice) -> EncodedTensor:
        hashed = blake3()
        frames = []
        for begin, end in self.ranges():
            frame, predicted = self.encode(choice, begin, end)
            frames.append(frame)
            if predicted is not None:
                hashed.update(predicted)
        return EncodedTensor(choice, frames, Digest(hashed.digest()))


def store_all(works: list[Work]) -> list[EncodedBlock | EncodedTensor]:
    """Small changed tensors, together."""
    return [work.store() for work in works]


def encode_all(choice: Choice, blocks: list[tuple[Tensor, Digest | None]]) -> list[EncodedBlock | EncodedTensor]:
    """Blocks of tensors for which there is nothing to choose."""
    return [_encode(choice.encoding, block, None, digest or digest_of(block.data)) for block, digest in blocks]


def _encode(encoding: Encoding, block: Tensor, base: Tensor | None, digest: Digest) -> EncodedBlock:
    body = guarded(encoding.name, lambda: encoding.encode(block, base))
    if not isinstance(body, bytes) or len(body) > len(block.data) + MAX_OVERHEAD:
        raise PayloadError(f"the encoding '{encoding.name}' does not apply", tensor=block.spec.name)
    # Lossless is a promise: what cannot be read back is never accepted.
    if not _same(decoded(encoding, memoryview(body), block.spec, base), block.data):
        raise PayloadError(
            f"the encoding '{encoding.name}' does not give back what it was given",
            tensor=block.spec.name,
            mend="this is a fault of the encoding; nothing was stored",
        )
    return EncodedBlock(frame_head(body, len(block.data), digest), body, digest)


def _same(one: memoryview, other: memoryview) -> bool:
    """Whether two runs of bytes are equal; several times as fast as to digest one of them."""
    import numpy as np

    return np.array_equal(np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8))
