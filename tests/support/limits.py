"""Limits so small that little data meets them."""

from __future__ import annotations

from gittheta.limits import Limits

#: Blocks of 64 elements; tensors above 1 KiB are too large to be held, and the other bounds are small in proportion.
SMALL = Limits(
    block_elements=64,
    piece=1024,
    object_size=8192,
    held=1024,
    in_flight=2048,
    per_worker=256,
    decoded_ahead=2048,
    kept_blocks=1024,
    whole_tensor=700,
    encode_batch=600,
    decode_batch=600,
    digest_inline=300,
    digest_waiting=2048,
    sample_window=32,
)
