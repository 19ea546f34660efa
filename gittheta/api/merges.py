"""What a plugin for a merge method is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

from gittheta.errors import MergeError

if TYPE_CHECKING:
    import torch

    from gittheta.model import (
        Digest,
        TensorSpec,
    )


Result = TypeVar("Result")


@dataclass(frozen=True)
class Group:
    """One tensor to merge, or a block of it, on the device where the merge runs.

    ``base`` is θ0, or None where the sides have no common ancestor; ``sides`` are the θᵢ, each with the shape of the
    base. Values have the dtype for accumulation: float32, or float64 for tensors of f32 and f64. The core rounds what a
    method returns once, to the tensor's own dtype.
    """

    name: str
    base: torch.Tensor | None
    sides: tuple[torch.Tensor, ...]
    #: One weight for each side.
    weights: tuple[float, ...]
    #: BLAKE3-256 of each whole side: keys for random numbers that do not depend on the order of the sides.
    digests: tuple[Digest, ...] = ()
    #: Dtype and shape of the whole tensor.
    spec: TensorSpec | None = None
    #: Index of the block's first element in the whole tensor, row-major.
    start: int = 0
    #: What the method's ``measure`` returned; None if it has no ``measure``.
    measured: Any = None
    #: For each side the statistics of this tensor from its sidecars, by kind (``fisher``, ``gram``, ...).
    statistics: tuple[Mapping[str, torch.Tensor], ...] = ()
    #: The user's names of the sides.
    labels: tuple[str, ...] = ()

    @property
    def theta0(self) -> torch.Tensor:
        """The base θ0. Raises MergeError without a base."""
        if self.base is None:
            raise MergeError("there is no merge base, and so no task vector", tensor=self.name, hint=HINT_NO_BASE)
        return self.base

    @property
    def deltas(self) -> tuple[torch.Tensor, ...]:
        """The task vectors δᵢ = θᵢ − θ0. Raises MergeError without a base."""
        base = self.theta0
        return tuple(side - base for side in self.sides)


#: Where the statistics of a checkpoint lie by default: ``model.fisher.safetensors`` beside ``model.safetensors``.
SIDECAR = "{stem}.{kind}{suffix}"


HINT_NO_BASE = "choose a method that needs none, such as linear, or `take`"


class Blocks(Protocol):
    """The blocks of one tensor to merge, or of all tensors of a model; each can be read as often as needed."""

    @property
    def elements(self) -> int:
        """How many elements one side has in all blocks together."""
        ...

    def map(self, look: Callable[[Group], Result]) -> Iterator[Result]:
        """What ``look`` returns for each block, in the order of the blocks; it is called from several threads."""
        ...

    def block(self, index: int) -> Group:
        """The block of this index, counted from 0."""
        ...


class Merge(Protocol):
    """A merge method. Only ``name`` and ``merge`` are required; :class:`Traits` has the defaults of all else."""

    name: ClassVar[str]

    def merge(self, group: Group) -> torch.Tensor:
        """The merged values, with the shape and dtype of the group's sides. Raises MergeError where it cannot apply.

        The group is a whole tensor, or a block of one if the method's ``unit`` allows that.
        """
        ...


@dataclass(frozen=True)
class Traits:
    """What the core needs to know about a merge method: attributes of these names, all of them optional.

    A method may also have ``measure(blocks: Blocks) -> object``. It is called before ``merge`` and sees all blocks, as
    often as it likes; ``merge`` gets its result as ``group.measured``. If the method's ``scope`` is ``"global"``, the
    blocks are those of all tensors that the method merges, sorted by name, and all of them get the same result.
    """

    #: The least that ``merge`` must see at once. ``tensor``: all of it, in its shape; ``row``: some rows, two
    #: dimensions (a row is all elements with the same first index; a vector is one row); ``element``: any run, flat.
    #: Runs begin at multiples of 65536 elements.
    unit: Literal["tensor", "row", "element"] = "tensor"
    #: Whether θ0 is needed.
    needs_base: bool = False
    #: Whether the method never looks at θ0, which then is not read.
    ignores_base: bool = False
    #: How many sides it takes; None for any number.
    side_count: int | None = None
    #: Whether the order of the sides matters. If not, they come in an order that does not depend on the user's.
    ordered: bool = False
    #: Whether merging equal sides gives exactly that side.
    idempotent: bool = False
    #: Whether the method is only for matrices that multiply vectors. Other tensors (vectors, embeddings) get the mean.
    matrices: bool = False
    #: Kinds of statistics that it reads of each side.
    kinds: tuple[str, ...] = ()
    #: What ``measure`` sees at once: the blocks of one tensor, or those of the whole model.
    scope: Literal["tensor", "global"] = "tensor"

    @classmethod
    def of(cls, method: Merge | type[Merge]) -> Traits:
        """The traits of a method: those of its class, or, for an instance, those that its options choose."""
        traits: dict[str, Any] = {each.name: getattr(method, each.name, each.default) for each in fields(cls)}
        return cls(**traits)
