"""What an adapter's parts become when they are folded in, whole or in parts; without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gittheta.adapters import fold
from gittheta.adapters.fold import predict
from gittheta.adapters.layer import InMemory
from gittheta.adapters.read import Factors, Fold, Replacement
from gittheta.api import DTYPES, TensorSpec
from gittheta.encodings.lowrank.factors import Product, WeightChange
from gittheta.numerics.floats import to_float64
from tests.support.adapters import LORA, Q, lora, read, refused, save, values


def scaling(folder: Path) -> float:
    change = read(folder)["model.q.weight"].change
    assert isinstance(change, WeightChange)
    return change.scaling


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 2),
        ({"use_rslora": True}, 4 / np.sqrt(2)),
        ({"alpha_pattern": {"q": 7}}, 3.5),
        ({"alpha_pattern": {"model.q": 7, "q": 9}}, 3.5),
        ({"alpha_pattern": {"q": 9, "model.q": 7}}, 4.5),
        ({"alpha_pattern": {"^q": 7}}, 2),
        ({"alpha_pattern": {"^model.q": 7}}, 3.5),
        ({"alpha_pattern": {"odel.q": 7}}, 2),
        ({"alpha_pattern": {"k|q": 7}}, 3.5),
        ({"r": 5, "rank_pattern": {"model..": 2}}, 2),
        ({"r": 5, "rank_pattern": {"q": 2}, "alpha_pattern": {"q": -1}}, -0.5),
    ],
)
def test_the_scaling_of_a_module(fields: Mapping[str, Any], expected: float, tmp_path: Path) -> None:
    assert scaling(save(tmp_path, {**LORA, **fields}, lora())) == pytest.approx(expected)


@pytest.mark.parametrize(("dtype", "kind"), [("f32", np.float32), ("f16", np.float16), ("f64", np.float64)])
def test_tensors_saved_whole_come_in_the_dtype_of_the_checkpoint(dtype: str, kind: type, tmp_path: Path) -> None:
    new = values(3, 5)
    adapter = read(save(tmp_path, LORA, {"base_model.model.head.weight": new}), {"head.weight": (3, 5)}, dtype)
    change = adapter["head.weight"].change
    assert isinstance(change, Replacement)
    size = np.dtype(kind).itemsize
    assert bytes(change.values.read(size, 4 * size)) == new.astype(kind).tobytes()[size : 4 * size]


def test_tensors_saved_whole_of_another_shape_or_kind(tmp_path: Path) -> None:
    save(tmp_path, LORA, {"base_model.model.head.weight": values(3, 5)})
    assert "4x5" in refused(tmp_path, {"head.weight": (4, 5)})
    assert "i32" in refused(tmp_path, {"head.weight": (3, 5)}, "i32")


def test_a_copy_of_the_base_must_be_that_of_the_checkpoint(tmp_path: Path) -> None:
    shapes = {"model.q.weight": (6, 4)}
    same = {**lora(), f"{Q}.base_layer.weight": np.zeros((6, 4), np.float32)}
    assert list(read(save(tmp_path, LORA, same), shapes)) == ["model.q.weight"]
    other = {**lora(), f"{Q}.base_layer.weight": np.ones((6, 4), np.float32)}
    assert "base_layer" in refused(save(tmp_path, LORA, other), shapes)


def test_two_changes_to_one_tensor(tmp_path: Path) -> None:
    tensors = {**lora(), f"{Q}.lora_B.bias": values(6), f"{Q}.base_layer.bias": values(6)}
    folder = save(tmp_path, {**LORA, "lora_bias": True}, tensors)
    assert "model.q.bias" in refused(folder, {"model.q.weight": (6, 4), "model.q.bias": (6,)})


def test_factors_of_inputs_and_outputs(tmp_path: Path) -> None:
    config = {"peft_type": "IA3", "feedforward_modules": ["k"]}
    tensors = {f"{Q}.ia3_l": values(6, 1), "base_model.model.model.k.ia3_l": values(1, 4)}
    shapes = {"model.q.weight": (6, 4), "model.q.bias": (6,), "model.k.weight": (6, 4), "model.k.bias": (6,)}
    adapter = read(save(tmp_path, config, tensors), shapes)
    axes = {name: adapter[name].change.axis for name in adapter}  # type: ignore[union-attr]
    assert axes == {"model.q.weight": 0, "model.q.bias": 0, "model.k.weight": 1}


CHANGES: dict[str, WeightChange | Factors] = {
    "product": WeightChange(Product(values(6, 2), values(2, 10)), scaling=0.5),
    "matrix": WeightChange(Product(values(6, 10)), scaling=0.5),
    "rows gained": WeightChange(Product(values(6, 2), values(2, 10)), gain=values(6)),
    "columns gained": WeightChange(Product(values(6, 2), values(2, 10)), gain=values(10), gain_axis=1),
    "hadamard": WeightChange(
        Product(values(6, 2), values(2, 10)), Product(values(6, 2), values(2, 10)), "hadamard", 3.0
    ),
    "kronecker": WeightChange(Product(values(2, 5)), Product(values(3, 1), values(1, 2)), "kronecker", 3.0),
    "rows": Factors(values(6), 0),
    "columns": Factors(values(10), 1),
}


@pytest.mark.parametrize("too_large", [False, True])
@pytest.mark.parametrize("case", CHANGES)
def test_a_fold_is_the_same_in_parts(case: str, too_large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the factors are too large to be stored, and the change is computed in floats."""
    if too_large:
        monkeypatch.setattr(fold, "describe", never)
    change = CHANGES[case]
    spec = TensorSpec("w", DTYPES["f32"], (6, 2, 5))
    base = InMemory(spec, memoryview(values(60).tobytes()))
    new = predict(Fold(change), spec)
    whole = bytes(new.read(0, 240, base))
    for step in (4, 12, 28, 40, 96):
        assert b"".join(bytes(new.read(at, min(240, at + step), base)) for at in range(0, 240, step)) == whole
    np.testing.assert_allclose(
        to_float64(memoryview(whole), spec.dtype), plainly(change, base.data).ravel(), rtol=1e-5, atol=1e-5
    )


def never(*arguments: object) -> None:
    from gittheta.errors import PayloadError

    raise PayloadError("too large")


def product_values(product: Product) -> np.ndarray:
    return product.left if product.right is None else product.left @ product.right


def plainly(change: WeightChange | Factors, data: memoryview) -> np.ndarray:
    old = np.frombuffer(data, np.float32).reshape(6, 10)
    if isinstance(change, Factors):
        return old * (change.values if change.axis else change.values[:, None])
    first = product_values(change.first)
    if change.second is not None:
        second = product_values(change.second)
        first = np.kron(first, second) if change.combination == "kronecker" else first * second
    new: np.ndarray = old + change.scaling * first
    return new if change.gain is None else new * (change.gain if change.gain_axis else change.gain[:, None])
