"""All limits in one value: the sizes that writers promise to readers, and the tuning of memory and work.

Tests pass smaller limits; ``theta.memory`` scales those that bound memory (:meth:`Limits.within`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gittheta.model import BLOCK_ELEMENTS, Dtype

MIB = 1 << 20
#: Bytes. With less memory, the buffers could not hold a block for each worker.
LEAST_MEMORY = 64 * MIB
#: Bytes of the largest block that a frame may hold (docs/spec/object.md).
LARGEST_BLOCK = 64 * MIB


@dataclass(frozen=True)
class Limits:
    """All sizes are in bytes unless a name or comment says otherwise."""

    # How tensors are cut. Readers take any cut within the bounds of docs/spec/object.md. Writers must all use the same
    # cut, so that they find each other's tensors by the digest of the first block.
    block_elements: int = BLOCK_ELEMENTS
    #: The size of the pieces into which a file of unknown format is cut.
    piece: int = 64 * MIB
    #: An object is closed when it has grown to this.
    object_size: int = 64 * MIB

    # Memory. With the defaults the filter stays below 200 MiB on two cores.
    #: A tensor that arrives waits in memory up to this size; a larger one waits in a temporary file.
    held: int = 64 * MIB
    #: Raw bytes that wait for the encoder's workers: this number, plus ``per_worker`` for each worker.
    in_flight: int = 64 * MIB
    per_worker: int = 16 * MIB
    #: Decoded bytes that wait until they are taken.
    decoded_ahead: int = 16 * MIB
    #: Decoded blocks that the links of one chain keep together, for the next read of the same block.
    kept_blocks: int = 64 * MIB
    #: Decoded tensors of a merge that stay in memory; what is beyond that goes to temporary files.
    merge_buffers: int = 256 * MIB

    # Work at a time. Handing a job to a worker costs about 50 µs, as much as coding 64 KiB.
    #: A changed tensor up to this size is one job; a larger one is a job for each block.
    whole_tensor: int = 16 * MIB
    #: Small tensors and blocks go to the workers together, in batches of about this size.
    encode_batch: int = MIB
    decode_batch: int = MIB
    #: Smaller tensors are digested by the thread that reads them: that is faster than handing them to a worker.
    digest_inline: int = 128 << 10
    #: Bytes that wait for their digests; few enough to stay in the processor's cache.
    digest_waiting: int = 16 * MIB
    #: Elements of each window of the sample on which encodings are tried.
    sample_window: int = 1 << 11
    #: The most frames that a recipe may have, besides one for each 64 KiB of the tensor.
    spare_frames: int = 1 << 16
    #: The most bytes of bases that are decoded for each byte of a tensor, besides each block of the bases once.
    decoded_times: int = 16
    #: The same, for a tensor of a few bytes.
    spare_decoded: int = 4 * MIB

    def block_bytes(self, dtype: Dtype) -> int:
        """Bytes of one full block of a tensor of this dtype; of large units there are as many as a frame can hold."""
        return min(self.block_elements, (LARGEST_BLOCK * 8) // dtype.bits) * dtype.bits // 8

    def within(self, memory: int) -> Limits:
        """These limits with buffers of about ``memory`` bytes in all (the defaults come to 512 MiB)."""
        share = max(memory, LEAST_MEMORY) / (512 * MIB)
        return replace(
            self,
            in_flight=int(self.in_flight * share),
            decoded_ahead=int(self.decoded_ahead * share),
            kept_blocks=int(self.kept_blocks * share),
            merge_buffers=int(self.merge_buffers * share),
            # With fewer blocks that are kept, rows in another order than the base's are decoded more often.
            decoded_times=max(self.decoded_times, int(self.decoded_times / share)),
        )
