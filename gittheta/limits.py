"""Sizes as values: what writers promise to readers, and how much memory and work goes into one step.

A test passes smaller ones; ``theta.memory`` scales those that bound memory (:meth:`Limits.within`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gittheta.model import BLOCK_ELEMENTS, Dtype

MIB = 1 << 20
#: Below this, buffers would hold less than a block for each worker.
LEAST_MEMORY = 64 * MIB


@dataclass(frozen=True)
class Limits:
    """All sizes are bytes unless their name says otherwise."""

    # How tensors are cut. Readers take any cut within the bounds of docs/spec/object.md; that all writers cut alike
    # is what lets them find each other's tensors by the digest of a first block.
    block_elements: int = BLOCK_ELEMENTS
    #: Pieces of a file of unknown format.
    piece: int = 64 * MIB
    #: An object is closed when it has grown to this.
    object_size: int = 64 * MIB

    # Memory. With the defaults the filter stays below 200 MiB on two cores.
    #: A larger tensor lies in a temporary file while it is on its way.
    held: int = 64 * MIB
    #: Raw bytes that wait for the encoder's workers, and as much again for each worker.
    in_flight: int = 64 * MIB
    per_worker: int = 16 * MIB
    #: Decoded bytes that wait for whoever takes them.
    decoded_ahead: int = 16 * MIB
    #: Decoded blocks that each link of a chain keeps for the next question about them.
    kept_blocks: int = 64 * MIB
    #: Decoded tensors of a merge; beyond that they lie in temporary files.
    merge_buffers: int = 256 * MIB

    # Work at a time. To hand a job to a worker costs about 50 µs, as much as coding 64 KiB.
    #: A changed tensor up to this size is one job; of larger ones each block is.
    whole_tensor: int = 16 * MIB
    #: Small tensors and blocks go to the workers together, in batches of about this size.
    encode_batch: int = MIB
    decode_batch: int = MIB
    #: Smaller tensors are digested at once: it takes less time than to ask a worker.
    digest_inline: int = 128 << 10
    #: Bytes that wait for their digests; few enough to stay in the processor's cache.
    digest_waiting: int = 16 * MIB
    #: Elements of each of the windows on which encodings are tried.
    sample_window: int = 1 << 11
    #: A recipe may have this many frames, and one more for each 64 KiB of the tensor.
    spare_frames: int = 1 << 16

    def block_bytes(self, dtype: Dtype) -> int:
        """Bytes of one full block of a tensor of this dtype."""
        return self.block_elements * dtype.bits // 8

    def within(self, memory: int) -> Limits:
        """The same with buffers of about ``memory`` bytes in all (the defaults come to 512 MiB)."""
        share = max(memory, LEAST_MEMORY) / (512 * MIB)
        return replace(
            self,
            in_flight=int(self.in_flight * share),
            decoded_ahead=int(self.decoded_ahead * share),
            kept_blocks=int(self.kept_blocks * share),
            merge_buffers=int(self.merge_buffers * share),
        )
