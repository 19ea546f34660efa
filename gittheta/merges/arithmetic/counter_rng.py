"""Random numbers that depend only on a seed and on what they are for.

The number of an element is a function of seed, digest of the side, name of the tensor, and flat index: a 64-bit key
from BLAKE3 of the first three, and the finaliser of SplitMix64 (Steele, Lea, Flood, 2014) over key and index. So the
numbers do not depend on the device, the size of blocks, the schedule or the order of the sides. They are compared as
integers.
"""

from __future__ import annotations

import torch

from gittheta.api import Digest, digest_of

#: Random numbers are integers from 0 up to, but not including, this one.
ONE = 1 << 53
_GOLDEN = 0x9E3779B97F4A7C15
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def numbers(seed: int, digest: Digest, name: str, start: int, like: torch.Tensor) -> torch.Tensor:
    """A random number for each element of a block that begins at flat index ``start``.

    int64, from 0 up to 2^53, in the shape and on the device of ``like``.
    """
    key = int.from_bytes(digest_of(b"%d\0%b%b" % (seed, digest, name.encode()))[:8], "little")
    state = torch.arange(start + 1, start + 1 + like.numel(), device=like.device)
    state.mul_(_signed(_GOLDEN)).add_(_signed(key))
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        state.bitwise_xor_(_shifted(state, shift)).mul_(_signed(factor))
    state.bitwise_xor_(_shifted(state, 31))
    return _shifted(state, 11).reshape(like.shape)


def below(numbers: torch.Tensor, limit: int | torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """1 where the number is below the limit, else 0: in the shape of ``numbers``, of this dtype."""
    return (numbers - limit).bitwise_right_shift_(63).neg_().to(dtype)


def _shifted(state: torch.Tensor, by: int) -> torch.Tensor:
    """The 64-bit integers shifted right as if they were unsigned."""
    return (state >> by).bitwise_and_((1 << (64 - by)) - 1)


def _signed(number: int) -> int:
    """An unsigned 64-bit integer as the signed one of the same bits."""
    return number - (1 << 64) if number >> 63 else number
