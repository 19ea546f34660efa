"""What to do when a stored tensor cannot be read: name the object that is to blame, and rely on it no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gittheta.codec.chain import HINT_DAMAGED
from gittheta.errors import StoreError, ThetaError

if TYPE_CHECKING:
    from gittheta.codec.tensor_store import TensorStore
    from gittheta.model import ObjectId, Recipe


def is_damage(error: ThetaError) -> bool:
    """Whether an error says that stored bytes are missing, changed or unreadable."""
    return isinstance(error, StoreError) or error.hint == HINT_DAMAGED


def doubt(tensors: TensorStore, recipe: Recipe, error: ThetaError) -> None:
    """After an error in reading a tensor: warn of each damaged object of its recipe, once a process.

    From then on nothing new relies on these objects in this process (:meth:`ObjectStore.reusable`).
    """
    objects = dict.fromkeys(place.object for link in recipe for place in link.places)
    if not is_damage(error) or tensors.store.distrusts(objects):
        return
    for object_id in objects:
        try:
            tensors.store.check(object_id)
        except StoreError as damage:
            _warn(tensors, object_id, damage)


def _warn(tensors: TensorStore, object_id: ObjectId, damage: StoreError) -> None:
    if tensors.store.distrust(object_id):
        tensors.reporter.warn(
            f"{damage.what}\n  what is new does not rely on it; versions that do cannot be checked out: "
            "run `git theta fsck` to find them"
        )
