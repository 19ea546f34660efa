"""A PEFT adapter, and what it does to each tensor of a checkpoint.

An adapter is a directory with ``adapter_config.json`` and ``adapter_model.safetensors``, as peft saves it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gittheta.adapters.config import MERGE_IT, AdapterConfig
from gittheta.adapters.file import AdapterFile, Saved
from gittheta.adapters.folds import KINDS
from gittheta.adapters.layer import Factors, Fold, Folds, Layer, Replacement, shape_text
from gittheta.adapters.names import find_names
from gittheta.errors import AdapterError
from gittheta.numerics.floats import has_arithmetic

if TYPE_CHECKING:
    from gittheta.api import TensorReader
    from gittheta.model import TensorSpec
    from gittheta.registry import Registry

__all__ = ["Adapter", "Factors", "Fold", "Replacement", "read_adapter"]

_PREFIX = "base_model.model."
#: For each kind of adapter the names of its tensors, after the module's name.
_PARTS = {
    "LORA": (
        "lora_A.weight",
        "lora_B.weight",
        "lora_B.bias",
        "lora_embedding_A",
        "lora_embedding_B",
        "lora_magnitude_vector",
    ),
    "ADALORA": ("lora_A", "lora_B", "lora_E"),
    "LOKR": ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    "LOHA": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    "IA3": ("ia3_l",),
}

#: Bytes that are read and compared at a time.
_COMPARED = 1 << 22


@dataclass(frozen=True)
class Adapter(Mapping[str, Fold]):
    """The fold of each tensor that changes, by the tensor's name.

    Names and shapes have been checked. Looking up a name reads the factors, and raises AdapterError if they are broken.
    """

    folds: Folds

    def __getitem__(self, name: str) -> Fold:
        return self.folds[name]()

    def __contains__(self, name: object) -> bool:
        return name in self.folds  # Mapping's own method would read the factors

    def __iter__(self) -> Iterator[str]:
        return iter(self.folds)

    def __len__(self) -> int:
        return len(self.folds)


def read_adapter(
    folder: Path, tensors: Sequence[TensorSpec], base_of: Callable[[TensorSpec], TensorReader], registry: Registry
) -> Adapter:
    """What the adapter in a directory does to a checkpoint with these tensors, whose values ``base_of`` gives.

    ``registry`` has the formats. Raises AdapterError, naming the file, the field or the tensor.
    """
    reading = _Reading(
        AdapterConfig.read(folder),
        AdapterFile.open(folder, registry),
        {spec.name: spec for spec in tensors},
        base_of,
    )
    return Adapter(reading.run())


@dataclass
class _Reading:
    config: AdapterConfig
    file: AdapterFile
    tensors: Mapping[str, TensorSpec]
    base_of: Callable[[TensorSpec], TensorReader]

    def run(self) -> Folds:
        layers, plain = self._sort()
        targets = {f"{module}.weight": next(iter(parts.values())) for module, parts in layers.items()}
        targets |= {
            f"{module}.bias": parts["lora_B.bias"] for module, parts in layers.items() if "lora_B.bias" in parts
        }
        places = find_names(self.file, targets | plain, self.tensors)
        folds: Folds = {}
        for layer in self._layers(layers, places):
            self._unite(folds, KINDS[self.config.kind](layer), next(iter(layer.parts.values())))
        for target, name in plain.items():
            spec = self.tensors[places[target]]
            saved = self._saved(name, spec)
            if target in targets and target.endswith(".weight"):
                self._check_own_copy(saved, name)
            else:
                self._unite(folds, {spec.name: partial(Fold, Replacement(saved))}, name)
        return folds

    def _sort(self) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
        """The parts of each adapted module by name; and every other tensor by the name of the tensor it replaces."""
        layers: dict[str, dict[str, str]] = defaultdict(dict)
        plain: dict[str, str] = {}
        for name in self.file.segments:
            # For DoRA's magnitudes some versions of peft save the parameter's path, others that of its module.
            path = name.removeprefix(_PREFIX).replace("lora_magnitude_vector.weight", "lora_magnitude_vector")
            for part in _PARTS[self.config.kind]:
                if path.endswith(f".{part}"):
                    layers[path.removesuffix(f".{part}")][part] = name
                    break
            else:
                plain[".".join(step for step in path.split(".") if step != "base_layer")] = name
        return layers, plain

    def _layers(self, modules: Mapping[str, Mapping[str, str]], places: Mapping[str, str]) -> list[Layer]:
        layers = []
        for module, parts in modules.items():
            weight = self.tensors[places[f"{module}.weight"]]
            if len(weight.shape) < 2 or not has_arithmetic(weight.dtype):
                raise AdapterError(
                    f"is {weight.dtype.name} of {len(weight.shape)} dimensions, but adapters change matrices of floats",
                    path=str(self.file.path),
                    tensor=weight.name,
                    hint="apply it to the checkpoint as it was before it was quantised",
                )
            bias = self.tensors.get(weight.name.removesuffix("weight") + "bias")
            layers.append(Layer(module, parts, weight, bias, self.file, self.config, self.base_of))
        hint = self.config.flag("fan_in_fan_out")
        ways = {layer.stands_transposed for layer in layers if len(layer.weight.shape) == 2} - {None}
        return [replace(layer, squares_transposed=hint if ways <= {hint} else None) for layer in layers]

    def _saved(self, name: str, spec: TensorSpec) -> Saved:
        there = self.file.spec(name)
        if there.shape != spec.shape:
            raise self.file.wrong(
                name,
                f"is {shape_text(there.shape)}, but '{spec.name}' is {shape_text(spec.shape)}",
                "apply the adapter to a checkpoint whose tensors have the shapes that it was trained with",
            )
        if there.dtype != spec.dtype and not (has_arithmetic(there.dtype) and has_arithmetic(spec.dtype)):
            raise self.file.wrong(name, f"is {there.dtype.name}, but '{spec.name}' is {spec.dtype.name}")
        return Saved(spec, self.file, name)

    def _check_own_copy(self, saved: Saved, name: str) -> None:
        """Raise AdapterError if a saved copy of the base's weights differs from the checkpoint.

        For adapted embeddings, peft may save the base's weights too, and loads them before it merges.
        """
        base = self.base_of(saved.spec)
        step = _COMPARED
        for begin in range(0, saved.spec.nbytes, step):
            end = min(saved.spec.nbytes, begin + step)
            if saved.read(begin, end) != base.read(begin, end):
                raise self.file.wrong(
                    name,
                    f"is a copy of the base's '{saved.spec.name}' that differs from the one in this checkpoint",
                    "apply the adapter to the checkpoint that it was trained on",
                )

    def _unite(self, folds: Folds, more: Folds, name: str) -> None:
        for target in more:
            if target in folds:
                raise self.file.wrong(
                    name, f"changes '{target}', which another tensor of the adapter changes too", MERGE_IT
                )
        folds.update(more)
