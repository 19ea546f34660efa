"""What a plugin for a merge method is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

from gittheta.errors import MergeError
from gittheta.model import (
    Digest,
    TensorSpec,
)

if TYPE_CHECKING:
    import torch


Result = TypeVar("Result")


@dataclass(frozen=True)
class Group:
    """One parameter group to be merged, or a block of it, on the device where the merge runs.

    ``base`` is θ0, or None where the sides have no common ancestor; ``sides`` are the θᵢ. The values arrive in the
    dtype in which one accumulates: float32, or float64 for f32 and f64. What a method returns is rounded once.
    """

    name: str
    base: torch.Tensor | None
    sides: tuple[torch.Tensor, ...]
    #: One for each side.
    weights: tuple[float, ...]
    #: BLAKE3-256 of each whole side: keys for random numbers that do not depend on the order of the sides.
    digests: tuple[Digest, ...] = ()
    #: Dtype and shape of the whole tensor.
    spec: TensorSpec | None = None
    #: Where the block's first element stands in the whole tensor, row-major.
    start: int = 0
    #: What ``measure`` of the method gave; None if it has none.
    measured: Any = None
    #: For each side what its sidecars say about this tensor, by kind (``fisher``, ``gram``, ...).
    statistics: tuple[Mapping[str, torch.Tensor], ...] = ()
    #: What the user calls the sides.
    labels: tuple[str, ...] = ()

    @property
    def deltas(self) -> tuple[torch.Tensor, ...]:
        """The task vectors δᵢ = θᵢ − θ0. Raises MergeError without a base."""
        if self.base is None:
            raise MergeError("there is no merge base, and so no task vector", tensor=self.name, hint=HINT_NO_BASE)
        return tuple(side - self.base for side in self.sides)


#: Where the statistics of ``model.safetensors`` lie unless an option says so: ``model.fisher.safetensors``.
SIDECAR = "{stem}.{kind}{suffix}"


HINT_NO_BASE = "choose a method that needs none, such as linear, or `take`"


class Blocks(Protocol):
    """A tensor to be merged, or all tensors of a model, block by block and as often as needed."""

    @property
    def elements(self) -> int:
        """How many elements one side has in all blocks together."""
        ...

    def map(self, look: Callable[[Group], Result]) -> Iterator[Result]:
        """What ``look`` gives for each block, in their order; it is called for several blocks at once."""
        ...

    def block(self, index: int) -> Group:
        """One block again."""
        ...


class Merge(Protocol):
    """A merge method. Only ``name`` and ``merge`` must be there; the rest has the defaults of :class:`Traits`."""

    name: ClassVar[str]

    def merge(self, group: Group) -> torch.Tensor:
        """The merged values, shaped and typed like the sides in the group. Raises MergeError where it cannot apply.

        Sees a whole tensor, or a block of it if ``unit`` says so.
        """
        ...


@dataclass(frozen=True)
class Traits:
    """What the core wants to know of a merge method: attributes of these names, each of which it may leave out.

    A method may also have ``measure(blocks: Blocks) -> object``. It is called before ``merge`` and sees all blocks, as
    often as it likes; what it returns is ``group.measured``. With a field ``scope`` that says ``"global"`` the blocks
    are those of all tensors that the method merges, by name, and what it returns serves them all.
    """

    #: The least that ``merge`` must see at once. ``tensor``: all of it, in its shape; ``row``: some rows, two
    #: dimensions (a row is all elements with the same first index; a vector is one row); ``element``: any run, flat.
    #: Runs begin at multiples of 65536 elements.
    unit: Literal["tensor", "row", "element"] = "tensor"
    #: Whether θ0 is needed.
    needs_base: bool = False
    #: Whether θ0 is not looked at; it is not read then.
    ignores_base: bool = False
    #: How many sides it takes; None for any number.
    side_count: int | None = None
    #: Whether the order of the sides means something. If not, they arrive in one that does not depend on the user's.
    ordered: bool = False
    #: Whether sides that are all alike give just that.
    idempotent: bool = False
    #: Whether it is only for matrices that are multiplied with. Others (vectors, embeddings) get the mean.
    matrices: bool = False
    #: Kinds of statistics that it reads of each side.
    kinds: tuple[str, ...] = ()
    #: ``tensor`` or ``global``.
    scope: Literal["tensor", "global"] = "tensor"

    @classmethod
    def of(cls, method: Merge | type[Merge]) -> Traits:
        """The traits of a method: of its class, or as its options say."""
        found: dict[str, Any] = {each.name: getattr(method, each.name, each.default) for each in fields(cls)}
        return cls(**found)
