"""``adapter_config.json``: each field is understood, ignored because it does not affect the weights, or refused.

The names and meanings are those of Hugging Face peft: https://github.com/huggingface/peft
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gittheta.adapters.patterns import matches
from gittheta.errors import AdapterError
from gittheta.storage.files import reading

CONFIG = "adapter_config.json"
MERGE_IT = "let peft itself merge it (`merge_and_unload`), and save the model over the checkpoint"
#: Bytes. A longer file is not read.
_MAX_CONFIG = 4 << 20

#: Where an adapter came from, how it was trained, and how it chose its targets, which its tensors name.
_HARMLESS = frozenset(
    [
        "auto_mapping",
        "base_model_name_or_path",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
    ]
)
_LORA = frozenset(
    [
        "corda_config",
        "eva_config",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "qalora_group_size",
        "bias",
        "fan_in_fan_out",
        "lora_alpha",
        "lora_bias",
        "r",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
    ]
)
_LYCORIS = frozenset(
    [
        "alpha",
        "alpha_pattern",
        "init_weights",
        "module_dropout",
        "r",
        "rank_dropout",
        "rank_pattern",
        "use_effective_conv2d",
    ]
)
#: Fields of each kind of adapter that may have any value, checked where they are used.
_KNOWN = {
    "LORA": _HARMLESS | _LORA | {"init_lora_weights", "use_dora"},
    "ADALORA": _HARMLESS
    | _LORA
    | frozenset(
        [
            "beta1",
            "beta2",
            "deltaT",
            "init_lora_weights",
            "init_r",
            "orth_reg_weight",
            "target_r",
            "tfinal",
            "tinit",
            "total_step",
        ]
    ),
    "LOKR": _HARMLESS | _LYCORIS | {"decompose_both", "decompose_factor", "rank_dropout_scale"},
    "LOHA": _HARMLESS | _LYCORIS,
    "IA3": _HARMLESS | {"fan_in_fan_out", "feedforward_modules", "init_ia3_weights"},
}
#: Initialisations that leave the base's weights alone. Others change them, each time that the adapter is loaded.
_INITIALISATIONS = (True, False, "gaussian", "eva", "mica", "orthogonal")


@dataclass(frozen=True)
class AdapterConfig:
    """A configuration of a known kind. Every field that affects the weights is one that gittheta understands."""

    path: Path
    kind: str
    fields: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> AdapterConfig:
        """Read the configuration in an adapter's directory. Raises AdapterError, naming the field."""
        path = folder / CONFIG
        fields = _load(path)
        kind = str(fields.get("peft_type")).rpartition(".")[2].upper()
        if kind not in _KNOWN:
            raise AdapterError(
                f"field 'peft_type' is {fields.get('peft_type')!r}; known kinds are {', '.join(_KNOWN)}",
                path=str(path),
                hint=MERGE_IT,
            )
        config = cls(path, kind, fields)
        config._check()
        return config

    def _check(self) -> None:
        for field, value in self.fields.items():
            if field not in _KNOWN[self.kind] and value not in (None, False, "", [], {}):
                raise self.wrong(field, "asks for something that gittheta cannot fold in", MERGE_IT)
        initialisation = self.fields.get("init_lora_weights", True)
        if self.kind == "LORA" and initialisation not in (*_INITIALISATIONS, None):
            raise self.wrong(
                "init_lora_weights",
                f"is {initialisation!r}, which changes the base's weights too, each time that peft loads the adapter",
                "save it as a plain LoRA (`save_pretrained` with `path_initial_model_for_weight_conversion`)",
            )
        if self.fields.get("bias", "none") not in ("none", "all", "lora_only"):
            raise self.wrong("bias", "is not 'none', 'all' or 'lora_only'")
        for field in ("rank_pattern", "alpha_pattern"):
            if not isinstance(self.fields.get(field) or {}, dict):
                raise self.wrong(field, "is not a JSON object")

    def wrong(self, field: str, what: str, hint: str | None = None) -> AdapterError:
        """The error for a wrong field, with the path of the file."""
        return AdapterError(f"field '{field}' {what}", path=str(self.path), hint=hint)

    def flag(self, field: str) -> bool:
        """The value of a field that is true or false; false if it is absent. Raises AdapterError."""
        value = self.fields.get(field)
        if value not in (True, False, None):
            raise self.wrong(field, "is neither true nor false")
        return bool(value)

    def rank(self, module: str) -> int:
        """The rank of a module's factors, from ``rank_pattern`` or else the general one. Raises AdapterError."""
        if self.kind == "ADALORA":
            return self._whole("init_r", self.fields.get("init_r"))
        return self._whole(*self._pattern("rank_pattern", "r", module))

    def scaling(self, module: str) -> float:
        """The number by which a module's product of factors is multiplied, computed from ``alpha`` and the rank.

        Raises AdapterError.
        """
        if self.kind == "ADALORA":
            return self._number("lora_alpha", self.fields.get("lora_alpha"))
        alpha = self._number(*self._pattern("alpha_pattern", "lora_alpha" if self.kind == "LORA" else "alpha", module))
        rank = self.rank(module)
        return alpha / math.sqrt(rank) if self.kind == "LORA" and self.flag("use_rslora") else alpha / rank

    def allocated_rank(self, module: str) -> int:
        """AdaLoRA: the number of a module's initial ranks that training kept. Raises AdapterError."""
        table = self.fields.get("rank_pattern") or {}
        for key, kept in table.items():
            if key.rpartition(".")[0] == module:
                if not isinstance(kept, list) or not all(isinstance(item, bool) for item in kept):
                    raise self.wrong("rank_pattern", f"does not say for '{key}' which ranks are kept")
                return sum(kept)
        return self.rank(module)

    def is_feedforward(self, module: str) -> bool:
        """(IA)3: whether a module's input is scaled, and not its output. Raises AdapterError."""
        patterns = self.fields.get("feedforward_modules")
        if isinstance(patterns, str):
            return self._matches("feedforward_modules", patterns, module)
        if not isinstance(patterns, list) or not all(isinstance(item, str) for item in patterns):
            raise self.wrong("feedforward_modules", "is missing, or not a list of names")
        return module.endswith(tuple(patterns))

    def _pattern(self, field: str, default: str, module: str) -> tuple[str, object]:
        """The field that decides for a module, and its value.

        That is the first pattern of ``field`` that matches the end of the module's name, or else the field ``default``.
        """
        table = self.fields.get(field) or {}
        for pattern, value in table.items():
            if self._matches(field, rf"(.*\.)?({pattern})$", module):
                return field, value
        return default, self.fields.get(default)

    def _matches(self, field: str, pattern: str, module: str) -> bool:
        try:
            return matches(pattern, module)
        except ValueError as error:
            raise self.wrong(field, f"has a pattern that cannot be used: {error}") from None

    def _whole(self, field: str, value: object) -> int:
        if type(value) is not int or value <= 0:
            raise self.wrong(field, "is not a positive whole number")
        return value

    def _number(self, field: str, value: object) -> float:
        if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
            raise self.wrong(field, "is not a finite number")
        return float(value)  # type: ignore[arg-type]


def _load(path: Path) -> dict[str, Any]:
    try:
        with reading(path) as file:
            text = file.read(_MAX_CONFIG + 1)
        if len(text) > _MAX_CONFIG:
            raise ValueError(f"longer than {_MAX_CONFIG} bytes")
        fields = json.loads(text.decode())
    except OSError as error:
        raise AdapterError(
            f"cannot be read: {error.strerror}",
            path=str(path),
            hint=f"name the directory in which peft saved the adapter; it holds a file {CONFIG}",
        ) from None
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"is not JSON: {error}", path=str(path)) from None
    if not isinstance(fields, dict):
        raise AdapterError("is not a JSON object", path=str(path))
    return fields
