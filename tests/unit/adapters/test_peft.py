"""Adapters folded in by gittheta against the merged weights of the peft library itself.

In 16 bits the two agree to one unit in the last place, and mostly exactly. Where peft computes in float32, its own
rounding is as large as the unit: of the product of the factors, of its sum with the base, and, with DoRA, of norms,
their quotients and the product with those. Where these nearly cancel, the result is as uncertain as what was added, so
there the unit is that of the largest number that went into the sum.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gittheta.adapters.fold import predict
from gittheta.adapters.layer import InMemory
from gittheta.adapters.read import Fold, read_adapter
from gittheta.api import TensorSpec
from gittheta.encodings.lowrank.factors import Product, WeightChange
from gittheta.formats.safetensors import Safetensors
from gittheta.numerics.floats import Doubles, as_words, to_float64, to_ordered
from gittheta.registry import Registry

peft = pytest.importorskip("peft", reason="`make slow` installs it")
Conv1D = pytest.importorskip("transformers.pytorch_utils").Conv1D

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
LINEAR = ["q_proj", "o_proj", "gate"]
CONV1D = ["c_attn", "c_proj"]
CONV = ["conv", "point", "conv1"]


class Tiny(nn.Module):
    """Layers of every kind that an adapter may change, square ones among them."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(40, 32)
        self.model.q_proj = nn.Linear(32, 48)
        self.model.o_proj = nn.Linear(48, 32, bias=False)
        self.model.gate = nn.Linear(32, 32)
        self.model.c_attn = Conv1D(96, 32)
        self.model.c_proj = Conv1D(32, 32)
        self.model.conv = nn.Conv2d(8, 12, (3, 5))
        self.model.point = nn.Conv2d(8, 12, 1)
        self.model.conv1 = nn.Conv1d(8, 12, 3)
        self.model.norm = nn.LayerNorm(32)
        self.lm_head = nn.Linear(32, 40, bias=False)

    def get_input_embeddings(self) -> nn.Module:
        embedding = self.model.embed_tokens
        assert isinstance(embedding, nn.Module)
        return embedding

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head


def tiny(dtype: str) -> Tiny:
    torch.manual_seed(0)
    model = Tiny()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.normal_(std=0.05)
    model.to(DTYPES[dtype])
    return model


def train(model: nn.Module, std: float = 0.02) -> None:
    """Leave an adapter as training might: nothing is zero, or one, any more."""
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "lora_magnitude_vector" in name or "ia3_l" in name:
                tensor.mul_(1 + 0.1 * torch.randn_like(tensor))
            elif any(mark in name for mark in (".lora_", ".lokr_", ".hada_")):
                tensor.normal_(std=std)
            elif tensor.requires_grad and "ranknum" not in name:
                tensor.add_(0.01 * torch.randn_like(tensor))


class File:
    """A checkpoint on the disk."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            self.specs = {segment.spec: segment.offset for segment in Safetensors().split(file).segments}
        self.bytes = path.read_bytes()

    def values(self, spec: TensorSpec) -> InMemory:
        return InMemory(spec, memoryview(self.bytes)[self.specs[spec] : self.specs[spec] + spec.nbytes])


def save(model: nn.Module, path: Path) -> None:
    save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, path)


@dataclass
class Comparison:
    """One tensor, as gittheta and as peft make it."""

    spec: TensorSpec
    ours: memoryview
    theirs: memoryview
    #: The largest number that went into each element.
    largest: Doubles

    @property
    def ulps(self) -> np.ndarray:
        """How many floats of the dtype lie between the two, and one."""
        ordered = [to_ordered(as_words(data, self.spec.dtype.itemsize)) for data in (self.ours, self.theirs)]
        return np.abs(ordered[0].astype(np.int64) - ordered[1].astype(np.int64))

    @property
    def units(self) -> np.ndarray:
        """The difference, in units in the last place of the largest number that went into it."""
        ours, theirs = (to_float64(data, self.spec.dtype) for data in (self.ours, self.theirs))
        unit = np.exp2(np.floor(np.log2(np.maximum(self.largest, 1e-30))) - self.spec.dtype.mantissa_bits)
        units: np.ndarray = np.abs(ours - theirs) / unit
        return units


def largest_summand(fold: Fold, base: Doubles) -> Doubles:
    """The sum of the absolute values of everything that is added up for an element."""

    def dense(product: Product) -> Doubles:
        left = np.abs(product.left.astype(np.float64))
        return left if product.right is None else left @ np.abs(product.right.astype(np.float64))

    change = fold.change
    if not isinstance(change, WeightChange):
        return np.abs(base)
    size: npt.NDArray[Any] = dense(change.first) * abs(change.scaling)
    if change.second is not None:
        size = np.kron(size, dense(change.second)) if change.combination == "kronecker" else size * dense(change.second)
    size += np.abs(base).reshape(size.shape)
    if change.gain is not None:
        size *= np.abs(change.gain[:, None] if change.gain_axis == 0 else change.gain)
    return size.ravel()


def compare(folder: Path, merged: nn.Module) -> dict[str, Comparison]:
    """Fold the adapter that was saved into what was saved of the model, and hold that against what peft merged.

    What the adapter leaves alone, peft must have left alone too.
    """
    save(merged, folder / "merged.safetensors")
    old, new = File(folder / "old.safetensors"), File(folder / "merged.safetensors")
    adapter = read_adapter(folder / "adapter", list(old.specs), old.values, Registry())
    results = {}
    for spec in old.specs:
        base, theirs = old.values(spec), new.values(spec).data
        if spec.name not in adapter:
            assert theirs == base.data, spec.name
            continue
        fold = adapter[spec.name]
        ours = predict(fold, spec).read(0, spec.nbytes, base)
        size = largest_summand(fold, to_float64(base.data, spec.dtype))
        results[spec.name.removeprefix("model.")] = Comparison(spec, ours, theirs, size)
    return results


def fold_and_merge(config: Any, dtype: str, folder: Path) -> dict[str, Comparison]:
    model = tiny(dtype)
    save(model, folder / "old.safetensors")
    adapted = peft.get_peft_model(model, copy.deepcopy(config))
    train(adapted)
    adapted.save_pretrained(folder / "adapter")
    return compare(folder, adapted.merge_and_unload())


def names(*modules: str) -> set[str]:
    return {f"{module}.weight" for module in modules}


Lora = peft.LoraConfig
#: What to train, and which tensors it changes.
CASES: dict[str, tuple[Any, set[str]]] = {
    "lora": (Lora(r=4, lora_alpha=6, target_modules=LINEAR), names(*LINEAR)),
    "rslora, ranks and alphas by pattern": (
        Lora(
            r=4,
            lora_alpha=6,
            use_rslora=True,
            rank_pattern={"q_proj": 7, "o_pro.": 2, "proj": 3},
            alpha_pattern={"^model.gate": 3, r"model\.q_proj": 5, "roj": 9},
            target_modules=LINEAR,
        ),
        names(*LINEAR),
    ),
    "lora of weights that stand the other way round": (
        Lora(r=4, target_modules=CONV1D, fan_in_fan_out=True),
        names(*CONV1D),
    ),
    "lora of convolutions": (Lora(r=4, target_modules=CONV), names(*CONV)),
    "lora with biases of its own": (
        Lora(r=4, target_modules=["q_proj", "conv"], lora_bias=True),
        names("q_proj", "conv") | {"q_proj.bias", "conv.bias"},
    ),
    "lora, all biases trained": (
        Lora(r=4, target_modules=["q_proj"], bias="all"),
        names("q_proj")
        | {f"{module}.bias" for module in ("q_proj", "gate", "c_attn", "c_proj", "conv", "point", "conv1", "norm")},
    ),
    "lora, biases and modules trained": (
        Lora(r=4, target_modules=["q_proj", "o_proj"], bias="lora_only", modules_to_save=["lm_head", "norm"]),
        names("q_proj", "o_proj", "lm_head", "norm") | {"q_proj.bias", "norm.bias"},
    ),
    "lora that began orthogonal": (Lora(r=4, target_modules=LINEAR, init_lora_weights="orthogonal"), names(*LINEAR)),
    "dora": (Lora(r=4, target_modules=LINEAR, use_dora=True), names(*LINEAR)),
    "dora of weights that stand the other way round": (
        Lora(r=4, target_modules=CONV1D, use_dora=True, fan_in_fan_out=True),
        names(*CONV1D),
    ),
    "dora of embeddings": (Lora(r=4, target_modules=["embed_tokens"], use_dora=True), names("embed_tokens")),
    "dora of convolutions": (Lora(r=4, target_modules=CONV, use_dora=True), names(*CONV)),
    "adalora": (
        peft.AdaLoraConfig(init_r=6, lora_alpha=7, total_step=10, target_modules=[*LINEAR, "conv"]),
        names(*LINEAR, "conv"),
    ),
    "adalora of weights that stand the other way round": (
        peft.AdaLoraConfig(init_r=6, lora_alpha=0, total_step=10, target_modules=CONV1D, fan_in_fan_out=True),
        names(*CONV1D),
    ),
    "lokr": (peft.LoKrConfig(r=4, alpha=3, target_modules=LINEAR), names(*LINEAR)),
    "lokr, both factors products": (
        peft.LoKrConfig(
            r=2, alpha=3, rank_pattern={"gate": 1}, target_modules=LINEAR, decompose_both=True, decompose_factor=8
        ),
        names(*LINEAR),
    ),
    "lokr of convolutions": (peft.LoKrConfig(r=1, alpha=3, target_modules=CONV), names(*CONV)),
    "lokr of convolutions, factors whole": (peft.LoKrConfig(r=8, alpha=3, target_modules=CONV), names(*CONV)),
    "lokr of convolutions, with a core": (
        peft.LoKrConfig(r=2, alpha=3, target_modules=CONV, use_effective_conv2d=True, decompose_factor=2),
        names(*CONV),
    ),
    "loha": (peft.LoHaConfig(r=4, alpha=99, target_modules=[*LINEAR, *CONV]), names(*LINEAR, *CONV)),
    "loha of convolutions, with cores": (
        peft.LoHaConfig(r=4, alpha=9999, target_modules=CONV, use_effective_conv2d=True),
        names(*CONV),
    ),
    "ia3": (
        peft.IA3Config(target_modules=LINEAR, feedforward_modules=["o_proj", "gate"]),
        names(*LINEAR) | {"q_proj.bias"},
    ),
    "ia3, layers by pattern": (
        peft.IA3Config(target_modules=LINEAR, feedforward_modules=r".*\.q_.*"),
        names(*LINEAR) | {"gate.bias"},
    ),
    "ia3, inputs that stand the other way round": (
        peft.IA3Config(target_modules=CONV1D, feedforward_modules=["c_proj"], fan_in_fan_out=True),
        names(*CONV1D) | {"c_attn.bias"},
    ),
    "ia3, outputs that stand the other way round": (
        peft.IA3Config(target_modules=CONV1D, feedforward_modules=["c_attn"], fan_in_fan_out=True),
        names(*CONV1D) | {"c_proj.bias"},
    ),
    "ia3 of convolutions": (
        peft.IA3Config(target_modules=["conv", "point"], feedforward_modules=["conv"]),
        names("conv", "point") | {"point.bias"},
    ),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_folds_as_peft_merges(case: str, dtype: str, tmp_path: Path) -> None:
    config, changed = CASES[case]
    result = fold_and_merge(config, dtype, tmp_path)
    assert set(result) == changed
    for name, one in result.items():
        if dtype == "f32":
            limit = 4 if getattr(config, "use_dora", False) else 2
            assert one.units.max() <= limit, name
        else:
            assert one.ulps.max() <= 1, name
            assert (one.ulps == 0).mean() >= 0.98, name


@pytest.mark.parametrize("dtype", DTYPES)
def test_embeddings_whose_change_peft_rounds_before_it_adds_it(dtype: str, tmp_path: Path) -> None:
    result = fold_and_merge(Lora(r=4, target_modules=["embed_tokens"]), dtype, tmp_path)
    assert set(result) == {"embed_tokens.weight"}
    one = result["embed_tokens.weight"]
    if dtype == "f32":
        assert one.units.max() <= 1
        assert (one.ulps == 0).mean() >= 0.9
    else:
        assert one.ulps.max() <= 1
        assert (one.ulps == 0).mean() >= 0.98


def test_tensors_trained_as_a_whole_and_factors_alone_are_exact(tmp_path: Path) -> None:
    for case in ("lora, biases and modules trained", "ia3", "ia3 of convolutions"):
        for dtype in DTYPES:
            (tmp_path / case / dtype).mkdir(parents=True)
            for name, one in fold_and_merge(CASES[case][0], dtype, tmp_path / case / dtype).items():
                assert not one.ulps.max() or name in names("q_proj", "o_proj"), name


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize("use_dora", [False, True])
def test_adapters_saved_in_16_bits(dtype: str, use_dora: bool, tmp_path: Path) -> None:
    def narrow(path: Path) -> None:
        save_file({name: tensor.to(DTYPES[dtype]) for name, tensor in load_file(path).items()}, path)

    result = save_and_load(Lora(r=4, target_modules=LINEAR, use_dora=use_dora), dtype, tmp_path, narrow)
    assert set(result) == names(*LINEAR)
    for one in result.values():
        assert one.ulps.max() <= 1
        assert (one.ulps == 0).mean() >= 0.98


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_adalora_that_kept_some_ranks(dtype: str, tmp_path: Path) -> None:
    kept = {"q_proj": [True, False, True, True, False, False], "o_proj": [False] * 6}

    def prune(adapted: Any) -> None:
        adapted.peft_config["default"].rank_pattern = {
            f"model.{module}.lora_E.default": ranks for module, ranks in kept.items()
        }

    config = peft.AdaLoraConfig(init_r=6, lora_alpha=7, total_step=10, target_modules=LINEAR)
    result = save_and_load(config, dtype, tmp_path, before=prune)
    assert set(result) == names("q_proj", "gate")
    assert all(one.units.max() <= 1 for one in result.values())


def save_and_load(
    config: Any,
    dtype: str,
    folder: Path,
    after: Callable[[Path], None] = lambda path: None,
    before: Callable[[Any], None] = lambda adapted: None,
) -> dict[str, Comparison]:
    """The same as :func:`fold_and_merge`, but what peft merges, it has loaded."""
    save(tiny(dtype), folder / "old.safetensors")
    adapted = peft.get_peft_model(tiny(dtype), copy.deepcopy(config))
    train(adapted)
    before(adapted)
    adapted.save_pretrained(folder / "adapter")
    after(folder / "adapter" / "adapter_model.safetensors")
    loaded = peft.PeftModel.from_pretrained(tiny(dtype), folder / "adapter")
    return compare(folder, loaded.merge_and_unload())
