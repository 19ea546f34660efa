"""What each kind of adapter does to the weights of one layer, as peft's ``merge`` defines it.

Every function of ``KINDS`` checks names and shapes at once. It returns, for each tensor of the checkpoint that changes,
a function that reads the factors. A weight is treated as a matrix: its first dimension by the product of all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gittheta.adapters.layer import Factors, Floats, Fold, Folds, InMemory, Layer, Replacement
from gittheta.encodings.lowrank.predictor import Product, WeightChange
from gittheta.errors import AdapterError
from gittheta.model import BLOCK_ELEMENTS
from gittheta.numerics.floats import Doubles, from_float64, to_float64

if TYPE_CHECKING:
    from gittheta.api import TensorReader

#: The most elements of a change that is computed as a whole, because its factors cannot be stored (64 MiB of float64).
_MAX_COMPUTED = 1 << 23


def fold_lora(layer: Layer) -> Folds:
    """LoRA: W + s·BA. DoRA: m·(W + s·BA) / ‖W + s·BA‖, for each output. Raises AdapterError."""
    config, rank = layer.config, layer.config.rank(layer.module)
    embedding = not any(part.startswith(("lora_A", "lora_B")) for part in layer.parts)
    a, b = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A.weight", "lora_B.weight")
    dora = ["lora_magnitude_vector"] if config.flag("use_dora") else []
    bias = ["lora_B.bias"] if config.flag("lora_bias") else []
    layer.needs(a, b, *dora, *bias)
    transposed = embedding or layer.transposed
    outputs, kernel = (layer.columns if transposed else layer.rows), layer.weight.shape[2:]
    layer.expect(a, (rank, layer.rows if transposed else layer.weight.shape[1], *kernel))
    layer.expect(b, (outputs, rank, *(1 for _ in kernel)))
    for part in dora:
        layer.expect(part, (1, outputs, *(1 for _ in kernel)) if kernel else (outputs,))
    scaling = config.scaling(layer.module)

    def fold() -> Fold:
        # peft adds what an adapter changes of an embedding in the dtype of its weights.
        product = _product(layer.array(b), layer.array(a), transposed=transposed)
        change = WeightChange(product, scaling=scaling, rounded=embedding and not dora)
        return Fold(_with_magnitude(layer, change, layer.array(dora[0]), int(transposed)) if dora else change)

    folds: Folds = {layer.weight.name: fold}
    if bias:
        spec = layer.expect_bias("lora_B.bias", outputs)
        folds[spec.name] = lambda: _shifted(layer.base_of(spec), layer.array("lora_B.bias"), scaling)
    return folds


def fold_adalora(layer: Layer) -> Folds:
    """AdaLoRA: W + s·B(E∘A), where s is alpha divided by the rank at the start of training. Raises AdapterError."""
    config, rank = layer.config, layer.config.allocated_rank(layer.module)
    layer.needs("lora_A", "lora_B", "lora_E")
    transposed = layer.transposed
    layer.expect("lora_A", (rank, layer.rows if transposed else layer.columns))
    layer.expect("lora_B", (layer.columns if transposed else layer.rows, rank))
    layer.expect("lora_E", (rank, 1))
    if not rank:
        return {}
    alpha = config.scaling(layer.module)
    # peft stores the initial rank as a float32, and adds 1e-5 so that it never divides by zero.
    scaling = (alpha if alpha > 0 else rank) / float(np.float32(config.rank(layer.module)) + np.float32(1e-5))

    def fold() -> Fold:
        scaled = layer.array("lora_A") * layer.array("lora_E")
        return Fold(WeightChange(_product(layer.array("lora_B"), scaled, transposed=transposed), scaling=scaling))

    return {layer.weight.name: fold}


def fold_loha(layer: Layer) -> Folds:
    """LoHa: W + s·(A₁B₁ ∘ A₂B₂). Raises AdapterError."""
    pairs = [[f"hada_w{n}_a", f"hada_w{n}_b", *([f"hada_t{n}"] if "hada_t1" in layer.parts else [])] for n in (1, 2)]
    layer.needs(*pairs[0], *pairs[1])
    for pair in pairs:
        if _size(layer, pair) != (layer.rows, layer.columns):
            raise layer.misfit(pair[0])
    scaling = layer.config.scaling(layer.module)

    def fold() -> Fold:
        return Fold(WeightChange(_load(layer, pairs[0]), _load(layer, pairs[1]), "hadamard", scaling))

    return {layer.weight.name: fold}


def fold_lokr(layer: Layer) -> Folds:
    """LoKr: W + s·(W₁ ⊗ W₂), where W₁ and W₂ are each a matrix or a product of two. Raises AdapterError."""
    first = ["lokr_w1"] if "lokr_w1" in layer.parts else ["lokr_w1_a", "lokr_w1_b"]
    second = ["lokr_w2"] if "lokr_w2" in layer.parts else ["lokr_w2_a", "lokr_w2_b"]
    if "lokr_t2" in layer.parts:
        second.append("lokr_t2")
    layer.needs(*first, *second)
    left, right = _size(layer, first), _size(layer, second)
    if (left[0] * right[0], left[1] * right[1]) != (layer.rows, layer.columns):
        raise layer.misfit(second[0])
    # The weight of a one-dimensional convolution has three dimensions, for which peft arranges the factors differently.
    computed = len(layer.shape(second[0])) == 3
    if computed and layer.weight.elements > _MAX_COMPUTED:
        raise layer.file.wrong(layer.parts[second[0]], "is of a kind that is folded into small convolutions only")
    scaling = layer.config.scaling(layer.module)

    def fold() -> Fold:
        one = _load(layer, first)
        if computed:
            whole = one.left if one.right is None else one.left @ one.right
            product = np.kron(whole, layer.array(second[0])).reshape(layer.rows, layer.columns)
            return Fold(WeightChange(Product(product), scaling=scaling))
        return Fold(WeightChange(one, _load(layer, second), "kronecker", scaling))

    return {layer.weight.name: fold}


def fold_ia3(layer: Layer) -> Folds:
    """(IA)3: scale the inputs of a layer, or its outputs together with its bias. Raises AdapterError."""
    layer.needs("ia3_l")
    feedforward = layer.config.is_feedforward(layer.module)
    axis = int(feedforward != layer.transposed)
    kernel = layer.weight.shape[2:]
    count = layer.weight.shape[axis]
    ones = tuple(1 for _ in kernel)
    layer.expect("ia3_l", (1, count, *ones) if feedforward or kernel else (count, 1))
    repeats = layer.columns // max(1, count) if axis else 1

    def fold() -> Fold:
        return Fold(Factors(np.repeat(layer.array("ia3_l").astype(np.float32).reshape(-1), repeats), axis))

    def fold_bias() -> Fold:
        return Fold(Factors(layer.array("ia3_l").astype(np.float32).reshape(-1), 0))

    if feedforward or layer.bias is None:
        return {layer.weight.name: fold}
    return {layer.weight.name: fold, layer.expect_bias("ia3_l", count).name: fold_bias}


KINDS: dict[str, Callable[[Layer], Folds]] = {
    "LORA": fold_lora,
    "ADALORA": fold_adalora,
    "LOHA": fold_loha,
    "LOKR": fold_lokr,
    "IA3": fold_ia3,
}


def _shifted(base: TensorReader, change: Floats, scaling: float) -> Fold:
    values = to_float64(base.read(0, base.spec.nbytes), base.spec.dtype)
    values += change.astype(np.float64) * scaling
    return Fold(Replacement(InMemory(base.spec, from_float64(values, base.spec.dtype))))


def _product(left: Floats, right: Floats, *, transposed: bool) -> Product:
    """The product of two factors, each reshaped to a matrix; transposed if ``transposed`` is set."""
    left, right = (factor.reshape(len(factor), factor[0].size) for factor in (left, right))
    return Product(np.ascontiguousarray(right.T), np.ascontiguousarray(left.T)) if transposed else Product(left, right)


def _size(layer: Layer, names: Sequence[str]) -> tuple[int, int]:
    """Rows and columns of what some parts stand for. Raises AdapterError if their shapes do not fit each other.

    One part is a matrix; two are factors; of three, the first two are transposed factors and the third is their core.
    """
    shapes = [layer.shape(name) for name in names]
    if len(shapes) == 1:
        if len(shapes[0]) < 2:
            raise layer.misfit(names[0])
        return shapes[0][0], layer.file.spec(layer.parts[names[0]]).elements // max(1, shapes[0][0])
    rank = layer.config.rank(layer.module)
    if any(len(shape) != 2 for shape in shapes[:2]):
        raise layer.misfit(names[0])
    if len(shapes) == 2:
        layer.expect(names[0], (shapes[0][0], rank))
        layer.expect(names[1], (rank, shapes[1][1]))
        return shapes[0][0], shapes[1][1]
    layer.expect(names[0], (rank, shapes[0][1]))
    layer.expect(names[1], (rank, shapes[1][1]))
    layer.expect(names[2], (rank, rank, *shapes[2][2:]))
    return shapes[0][1], shapes[1][1] * layer.file.spec(layer.parts[names[2]]).elements // rank**2


def _load(layer: Layer, names: Sequence[str]) -> Product:
    arrays = [layer.array(name) for name in names]
    if len(arrays) == 1:
        return Product(arrays[0].reshape(_size(layer, names)))
    if len(arrays) == 2:
        return Product(arrays[0], arrays[1])
    # Σᵢⱼ a[i, p] core[i, j, ...] b[j, q], as the product of the transposed a and everything else.
    rest = np.moveaxis(np.tensordot(arrays[1].astype(np.float64), arrays[2], axes=(0, 1)), 0, 1)
    return Product(np.ascontiguousarray(arrays[0].T), rest.reshape(len(rest), -1).astype(np.float32))


def _with_magnitude(layer: Layer, change: WeightChange, magnitude: Floats, axis: int) -> WeightChange:
    """The change with the gain that gives each output its magnitude (DoRA). Raises AdapterError."""
    norms = _norms(change, layer.base_of(layer.weight), (layer.rows, layer.columns), axis).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        gain = magnitude.astype(np.float32).reshape(-1) / norms
    if not np.isfinite(gain).all():
        raise AdapterError(
            "some outputs cannot be scaled to a magnitude: their weights are zero, or not finite",
            path=str(layer.file.path),
            tensor=layer.weight.name,
        )
    return replace(change, gain=gain, gain_axis=axis)


def _norms(change: WeightChange, base: TensorReader, shape: tuple[int, int], axis: int) -> Doubles:
    """The Euclidean norm of each row (axis 0) or column (axis 1) of base plus change: float64, one-dimensional."""
    rows, columns = shape
    squares = np.zeros(shape[axis])
    step = max(1, BLOCK_ELEMENTS // max(1, columns))
    width = columns * base.spec.dtype.itemsize
    right = None if change.first.right is None else change.first.right.astype(np.float64)
    for begin in range(0, rows, step):
        end = min(rows, begin + step)
        left = change.first.left[begin:end].astype(np.float64)
        block = (left if right is None else left @ right) * change.scaling
        block += to_float64(base.read(begin * width, end * width), base.spec.dtype).reshape(block.shape)
        np.square(block, out=block)
        if axis:
            squares += block.sum(axis=0)
        else:
            squares[begin:end] = block.sum(axis=1)
    norms: Doubles = np.sqrt(squares)
    return norms
