"""merge: reads what several sides changed before anybody asks for it, while torch, which takes seconds, is imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING

from gittheta.codec.decode import Decoder
from gittheta.codec.spool import Spool
from gittheta.errors import ThetaError
from gittheta.flows.merge.plan import Versions, by_name, equal

if TYPE_CHECKING:
    from gittheta.api import TensorReader
    from gittheta.codec.tensor_store import TensorStore
    from gittheta.model import Digest, Stanza

#: Tensors that are merged at the same time: while one is computed, another is decoded.
LANES = 2
#: Seconds after which a thread that has nothing to wait for lets another one go on: importing never waits.
_TURN = 0.0005


def read_stored(
    tensors: TensorStore, stanza: Stanza, sides: int, at_hand: Mapping[Digest, TensorReader]
) -> TensorReader:
    """A stored tensor, decoded and checked, to be read more than once. ``sides`` of them are held at the same time."""
    held = max(tensors.limits.whole_tensor, tensors.limits.merge_buffers // (LANES * (sides + 2)))
    spool = Spool(tensors, stanza.spec, held)
    for block in Decoder(tensors, at_hand).checked([(stanza.spec, stanza.digest, stanza.recipe)]):
        spool.append(block)
    return spool


def torch_is_loaded() -> bool:
    """Whether there is nothing to wait for."""
    return "torch" in sys.modules


class Prefetch:
    """Tensors that several sides changed, the first ones of the file, as many as there is memory for.

    One thread enters and leaves it. In between it is safe to use from several threads.
    """

    def __init__(self, tensors: TensorStore, versions: Versions) -> None:
        self._tensors = tensors
        self._versions = versions
        self._pool = ThreadPoolExecutor(1, "gittheta-prefetch")
        self._reading: dict[str, Future[dict[Digest, TensorReader]]] = {}
        self._turn = sys.getswitchinterval()

    def __enter__(self) -> Prefetch:
        if not torch_is_loaded():
            sys.setswitchinterval(_TURN)
            left = self._tensors.limits.merge_buffers
            for stanzas in _contested(self._versions):
                left -= sum(stanza.spec.nbytes for stanza in stanzas)
                if left < 0:
                    break
                self._reading[stanzas[-1].spec.name] = self._pool.submit(self._read, stanzas)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.setswitchinterval(self._turn)
        self._pool.shutdown(cancel_futures=True)
        self._reading.clear()

    def taken(self, name: str) -> dict[Digest, TensorReader]:
        """What was read of a tensor, by digest; nothing if nobody began to. It is not kept here any longer."""
        reading = self._reading.pop(name, None)
        if reading is None or reading.cancel():
            return {}
        try:
            return reading.result()
        except (ThetaError, OSError):
            return {}  # whoever needs it reads it once more, and can say for what

    def _read(self, stanzas: list[Stanza]) -> dict[Digest, TensorReader]:
        found: dict[Digest, TensorReader] = {}
        for stanza in stanzas:
            if stanza.digest not in found:
                found[stanza.digest] = read_stored(self._tensors, stanza, len(stanzas) - 1, found)
        return found


def _contested(versions: Versions) -> Iterator[list[Stanza]]:
    """The versions of each tensor that several sides changed, each in its own way, the base first if they need it."""
    bases = by_name(versions.base)
    tables = [by_name(side.manifest) for side in versions.sides]
    for name in tables[0] if tables else ():
        base = bases.get(name)
        changed = [side for table in tables if (side := table.get(name)) and not equal(side, base)]
        if len({stanza.digest for stanza in changed}) > 1 and len({stanza.spec for stanza in changed}) == 1:
            below = {link.base for stanza in changed for link in stanza.recipe}
            yield [base, *changed] if base and base.spec == changed[0].spec and base.digest in below else changed
