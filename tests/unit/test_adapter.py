"""What is refused of an adapter, how its targets are found, and how it is applied to a file; without torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gittheta.adapters import fold
from gittheta.adapters.fold import predict
from gittheta.adapters.layer import InMemory
from gittheta.adapters.read import Adapter, Factors, Fold, Replacement, read_adapter
from gittheta.api import DTYPES, TensorSpec
from gittheta.encodings.lowrank.factors import Product, WeightChange
from gittheta.errors import AdapterError, FormatError, ManifestError
from gittheta.flows.edit.apply import Applied, apply
from gittheta.numerics.floats import to_float64
from gittheta.registry import Registry
from tests.unit.building import Repo, safetensors

Arrays = Mapping[str, np.ndarray]

LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
Q = "base_model.model.model.q"
RNG = np.random.default_rng(0)


def values(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def lora(module: str = Q, *, inputs: int = 4, outputs: int = 6, rank: int = 2) -> dict[str, np.ndarray]:
    return {f"{module}.lora_A.weight": values(rank, inputs), f"{module}.lora_B.weight": values(outputs, rank)}


def file_of(tensors: Arrays) -> bytes:
    kinds = {"float32": "F32", "float16": "F16", "float64": "F64", "int8": "I8", "uint16": "BF16"}
    return safetensors([(name, kinds[str(a.dtype)], a.shape, a.tobytes()) for name, a in tensors.items()])


def save(folder: Path, config: object, tensors: Arrays) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(file_of(tensors))
    return folder


def specs(shapes: Mapping[str, Sequence[int]], dtype: str = "f32") -> list[TensorSpec]:
    return [TensorSpec(name, DTYPES[dtype], tuple(shape)) for name, shape in shapes.items()]


def zeros(spec: TensorSpec) -> InMemory:
    return InMemory(spec, memoryview(bytes(spec.nbytes)))


def read(folder: Path, shapes: Mapping[str, Sequence[int]] | None = None, dtype: str = "f32") -> Adapter:
    return read_adapter(folder, specs(shapes or {"model.q.weight": (6, 4)}, dtype), zeros, Registry())


def refused(folder: Path, shapes: Mapping[str, Sequence[int]] | None = None, dtype: str = "f32") -> str:
    with pytest.raises(AdapterError) as caught:
        dict(read(folder, shapes, dtype))
    assert str(folder) in str(caught.value)
    assert caught.value.exit_code == 14
    return str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peft_type", "PROMPT_TUNING"),
        ("peft_type", "VERA"),
        ("peft_type", None),
        ("layer_replication", [[0, 4]]),
        ("alora_invocation_tokens", [1, 2]),
        ("trainable_token_indices", [1]),
        ("target_parameters", ["experts.up"]),
        ("megatron_config", {"a": 1}),
        ("use_qalora", True),
        ("kasa_config", {"beta": 1}),
        ("ensure_weight_tying", True),
        ("a_field_of_the_future", 1),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "loftq"),
        ("init_lora_weights", "lora_ga"),
        ("bias", "some"),
        ("r", None),
        ("r", 0),
        ("r", True),
        ("r", "8"),
        ("lora_alpha", None),
        ("lora_alpha", float("inf")),
        ("use_rslora", "yes"),
        ("use_dora", 3),
        ("fan_in_fan_out", "no"),
        ("rank_pattern", ["q"]),
        ("rank_pattern", {"(": 2}),
        ("rank_pattern", {"q": "2"}),
        ("alpha_pattern", {"q": None}),
    ],
)
def test_a_field_that_cannot_be_heeded_is_named(field: str, value: object, tmp_path: Path) -> None:
    assert f"'{field}'" in refused(save(tmp_path, {**LORA, field: value}, lora()))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("a_field_of_the_future", None),
        ("another", {}),
        ("a_third", False),
        ("init_lora_weights", "eva"),
        ("init_lora_weights", "gaussian"),
        ("init_lora_weights", False),
        ("eva_config", {"rho": 2}),
        ("corda_config", {"corda_method": "ipm"}),
        ("lora_dropout", 0.3),
        ("target_modules", ["q", "k"]),
        ("layers_to_transform", [1]),
        ("rank_pattern", None),
    ],
)
def test_a_field_without_effect_is_passed_over(field: str, value: object, tmp_path: Path) -> None:
    assert list(read(save(tmp_path, {**LORA, field: value}, lora()))) == ["model.q.weight"]


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_configuration_that_is_none(text: bytes, tmp_path: Path) -> None:
    save(tmp_path, LORA, lora())
    (tmp_path / "adapter_config.json").write_bytes(text)
    assert "adapter_config.json" in refused(tmp_path)


def test_files_that_are_missing(tmp_path: Path) -> None:
    assert "adapter_config.json" in refused(tmp_path)
    save(tmp_path, LORA, lora())
    (tmp_path / "adapter_model.safetensors").unlink()
    assert "there is no adapter_model.safetensors" in refused(tmp_path)


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    save(tmp_path, LORA, lora())
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    message = refused(tmp_path)
    assert "adapter_model.bin" in message
    assert "pickle" in message
    assert "save_pretrained" in message


def test_broken_weights(tmp_path: Path) -> None:
    weights = save(tmp_path, LORA, lora()) / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for broken in (b"", whole[:20], whole[:-1], whole + b"\0", b"\xff" * 64):
        weights.write_bytes(broken)
        assert "adapter_model.safetensors" in refused(tmp_path)


def test_a_tensor_that_belongs_to_nothing(tmp_path: Path) -> None:
    for name in (f"{Q}.lora_C.weight", f"{Q}.hada_w1_a", "base_model.model.model.k.weight", f"{Q}.lora_embedding_A"):
        assert name in refused(save(tmp_path, LORA, {**lora(), name: values(2, 2)}))


@pytest.mark.parametrize("part", ["lora_magnitude_vector", "lora_B.bias"])
def test_a_part_that_the_configuration_does_not_speak_of(part: str, tmp_path: Path) -> None:
    shapes = {"model.q.weight": (6, 4), "model.q.bias": (6,)}
    assert part in refused(save(tmp_path, LORA, {**lora(), f"{Q}.{part}": values(6)}), shapes)


def test_a_part_that_is_missing(tmp_path: Path) -> None:
    for part in list(lora()):
        rest = {name: array for name, array in lora().items() if name != part}
        assert part.removeprefix("base_model.model.") in refused(save(tmp_path, LORA, rest))
    assert "lora_magnitude_vector" in refused(save(tmp_path, {**LORA, "use_dora": True}, lora()))
    assert "lora_B.bias" in refused(save(tmp_path, {**LORA, "lora_bias": True}, lora()))


def test_an_adapter_of_nothing(tmp_path: Path) -> None:
    assert "no tensors" in refused(save(tmp_path, LORA, {}))


def test_targets_that_are_not_there_are_counted(tmp_path: Path) -> None:
    tensors = {name: array for module in "qkv" for name, array in lora(f"base_model.model.model.{module}").items()}
    message = refused(save(tmp_path, LORA, tensors))
    assert "'model.k.weight'" in message
    assert "1 more of the adapter's 3 targets" in message
    assert "shard" in message


@pytest.mark.parametrize(
    ("shape", "tensors", "config"),
    [
        ((6, 5), lora(), {}),
        ((5, 4), lora(), {}),
        ((6, 4), lora(rank=3), {}),
        ((6, 4), lora(), {"rank_pattern": {"q": 3}}),
        ((6, 4, 1), lora(), {}),
        ((6,), lora(), {}),
        ((), lora(), {}),
        ((6, 4), {**lora(), f"{Q}.lora_A.weight": values(2)}, {}),
        ((6, 4), {**lora(), f"{Q}.lora_B.weight": values()}, {}),
        ((6, 4), {**lora(), f"{Q}.lora_magnitude_vector": values(4)}, {"use_dora": True}),
    ],
)
def test_a_shape_that_does_not_fit(
    shape: Sequence[int], tensors: Arrays, config: Mapping[str, Any], tmp_path: Path
) -> None:
    assert "model.q" in refused(save(tmp_path, {**LORA, **config}, tensors), {"model.q.weight": shape})


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        ({"peft_type": "LOHA"}, {"hada_w1_a": (6, 2), "hada_w1_b": (2, 4), "hada_w2_a": (6, 2), "hada_w2_b": (2, 5)}),
        ({"peft_type": "LOHA"}, {"hada_w1_a": (6, 3), "hada_w1_b": (3, 4), "hada_w2_a": (6, 3), "hada_w2_b": (3, 4)}),
        ({"peft_type": "LOHA"}, {"hada_w1_a": (6, 2), "hada_w1_b": (2, 4), "hada_w2_a": (6, 2)}),
        ({"peft_type": "LOHA"}, {"hada_w1_a": (6,), "hada_w1_b": (), "hada_w2_a": (6, 2), "hada_w2_b": (2, 4)}),
        ({"peft_type": "LOKR"}, {"lokr_w1": (2, 2), "lokr_w2": (3, 3)}),
        ({"peft_type": "LOKR"}, {"lokr_w1": (2,), "lokr_w2": (3, 2)}),
        ({"peft_type": "LOKR"}, {"lokr_w1": (2, 2), "lokr_w2_a": (3, 2)}),
        ({"peft_type": "LOKR"}, {"lokr_w1": (2, 2), "lokr_w2": (3, 2), "lokr_w2_a": (3, 2)}),
        ({"peft_type": "LOKR"}, {"lokr_w1": (2, 2), "lokr_w2_a": (2, 3), "lokr_w2_b": (2, 2), "lokr_t2": (2,)}),
        ({"peft_type": "ADALORA", "init_r": 3}, {"lora_A": (2, 4), "lora_B": (6, 2), "lora_E": (2, 1)}),
        ({"peft_type": "ADALORA", "init_r": 2}, {"lora_A": (2, 4), "lora_B": (6, 2), "lora_E": (2,)}),
        ({"peft_type": "IA3", "feedforward_modules": []}, {"ia3_l": (1, 6)}),
        ({"peft_type": "IA3", "feedforward_modules": []}, {"ia3_l": (5, 1)}),
        ({"peft_type": "IA3", "feedforward_modules": ["q"]}, {"ia3_l": (6, 1, 1)}),
        ({"peft_type": "IA3", "feedforward_modules": None}, {"ia3_l": (6, 1)}),
    ],
)
def test_factors_of_other_kinds_that_do_not_fit(
    config: Mapping[str, Any], parts: Mapping[str, Sequence[int]], tmp_path: Path
) -> None:
    config = {"r": 2, "alpha": 4, "lora_alpha": 4, **config}
    tensors = {f"{Q}.{part}": values(*shape) for part, shape in parts.items()}
    refused(save(tmp_path, config, tensors))


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    tensors = lora()
    tensors[f"{Q}.lora_B.weight"][3, 1] = np.nan
    assert "lora_B.weight" in refused(save(tmp_path, LORA, tensors))


def test_outputs_without_a_direction(tmp_path: Path) -> None:
    tensors = {**lora(), f"{Q}.lora_magnitude_vector": np.ones(6, np.float32)}
    tensors[f"{Q}.lora_B.weight"][:] = 0
    assert "model.q.weight" in refused(save(tmp_path, {**LORA, "use_dora": True}, tensors))


@pytest.mark.parametrize("dtype", ["i8", "u8", "f8_e8m0", "bool"])
def test_weights_that_are_no_floats(dtype: str, tmp_path: Path) -> None:
    assert "quantised" in refused(save(tmp_path, LORA, lora()), dtype=dtype)


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("model.q.weight", ()),
        ("q.weight", ()),
        ("transformer.model.q.weight", ()),
        ("model.q.weight", ("other.model.q.weight", "q.weight")),
        ("outer.model.q.weight", ("outer.k.weight", "weight")),
    ],
)
def test_targets_are_found_behind_another_prefix(name: str, others: Sequence[str], tmp_path: Path) -> None:
    shapes = dict.fromkeys((name, *others), (6, 4))
    assert list(read(save(tmp_path, LORA, lora()), shapes)) == [name]


def test_a_prefix_is_the_same_for_all_but_what_has_none(tmp_path: Path) -> None:
    tensors = {**lora(), **lora("base_model.model.model.layers.0.k"), "base_model.model.head.weight": values(3, 4)}
    shapes = {"q.weight": (6, 4), "layers.0.k.weight": (6, 4), "head.weight": (3, 4), "layers.1.k.weight": (6, 4)}
    assert set(read(save(tmp_path, LORA, tensors), shapes)) == {"q.weight", "layers.0.k.weight", "head.weight"}


def test_a_target_that_could_be_two_tensors(tmp_path: Path) -> None:
    shapes = {"encoder.model.q.weight": (6, 4), "decoder.model.q.weight": (6, 4)}
    message = refused(save(tmp_path, LORA, lora()), shapes)
    assert "encoder.model.q.weight" in message
    assert "decoder.model.q.weight" in message


def test_two_targets_are_never_one_tensor(tmp_path: Path) -> None:
    tensors = {**lora("base_model.model.a.q"), **lora("base_model.model.b.q")}
    refused(save(tmp_path, LORA, tensors), {"q.weight": (6, 4)})


def test_square_weights_go_the_way_that_is_configured(tmp_path: Path) -> None:
    tensors = lora(outputs=4)
    for flag in (False, True):
        change = read(save(tmp_path, {**LORA, "fan_in_fan_out": flag}, tensors), {"model.q.weight": (4, 4)})
        product = product_of(change["model.q.weight"])
        expected = tensors[f"{Q}.lora_B.weight"] @ tensors[f"{Q}.lora_A.weight"]
        np.testing.assert_allclose(product, expected.T if flag else expected)


def test_square_weights_beside_others_that_contradict_the_configuration(tmp_path: Path) -> None:
    folder = save(tmp_path, LORA, {**lora(), **lora("base_model.model.model.k", outputs=4)})
    message = refused(folder, {"model.q.weight": (4, 6), "model.k.weight": (4, 4)})
    assert "fan_in_fan_out" in message
    assert "model.k" in message


def product_of(folded: Fold) -> np.ndarray:
    assert isinstance(folded.change, WeightChange)
    assert folded.change.first.right is not None
    return folded.change.first.left @ folded.change.first.right


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


CHANGES = {
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


def plainly(change: WeightChange | Factors, data: memoryview) -> np.ndarray:
    old = np.frombuffer(data, np.float32).reshape(6, 10)
    if isinstance(change, Factors):
        return old * (change.values if change.axis else change.values[:, None])
    first, second = (
        part and (part.left if part.right is None else part.left @ part.right) for part in (change.first, change.second)
    )
    if second is not None:
        first = np.kron(first, second) if change.combination == "kronecker" else first * second
    new = old + change.scaling * first
    return new if change.gain is None else new * (change.gain if change.gain_axis else change.gain[:, None])


def checkpoint(repo: Repo) -> Path:
    tensors = {"model.k.weight": values(3, 3), "model.q.weight": values(6, 4), "model.q.bias": values(6)}
    path = repo.top / "m.safetensors"
    path.write_bytes(file_of(tensors))
    path.chmod(0o640)
    return path


def test_apply_changes_what_the_adapter_changes(repo: Repo, tmp_path: Path) -> None:
    path, tensors = checkpoint(repo), lora()
    before = path.read_bytes()
    with repo.open() as workspace:
        done = apply(workspace, save(tmp_path / "adapter", LORA, tensors), path, path.name)
    assert done == Applied(1, 3)
    after = path.read_bytes()
    begin, end = len(before) - 24 * 5, len(before) - 24
    assert (after[:begin], after[end:]) == (before[:begin], before[end:])
    old, new = (np.frombuffer(data[begin:end], np.float32).reshape(6, 4) for data in (before, after))
    expected = old + 2 * tensors[f"{Q}.lora_B.weight"] @ tensors[f"{Q}.lora_A.weight"]
    np.testing.assert_allclose(new, expected, rtol=1e-5)
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(repo.top)) == [".git", "adapter", "m.safetensors"]
    assert repo.temporaries() == []


@pytest.mark.usefixtures("small_blocks")
def test_apply_does_not_depend_on_blocks(repo: Repo, tmp_path: Path) -> None:
    path = checkpoint(repo)
    before, folder = path.read_bytes(), save(tmp_path / "adapter", LORA, lora())
    with repo.open() as workspace:
        apply(workspace, folder, path, path.name)
        adapter = read(folder)
    end = len(before) - 24
    spec = specs({"model.q.weight": (6, 4)})[0]
    base = InMemory(spec, memoryview(before)[end - 96 : end])
    assert path.read_bytes()[end - 96 : end] == predict(adapter["model.q.weight"], spec).read(0, 96, base)


def test_apply_leaves_the_file_alone_when_it_fails(repo: Repo, tmp_path: Path) -> None:
    path, tensors = checkpoint(repo), lora()
    before, stamp = path.read_bytes(), path.stat().st_mtime_ns
    tensors[f"{Q}.lora_B.weight"][0, 0] = np.inf  # found out when the file is being written
    with repo.open() as workspace, pytest.raises(AdapterError):
        apply(workspace, save(tmp_path / "adapter", LORA, tensors), path, path.name)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, stamp)
    assert repo.temporaries() == []
    assert sorted(os.listdir(repo.top)) == [".git", "adapter", "m.safetensors"]


def test_apply_needs_the_checkpoint_itself(repo: Repo, tmp_path: Path) -> None:
    path, folder = checkpoint(repo), save(tmp_path / "adapter", LORA, lora())
    whole = path.read_bytes()
    path.write_bytes(repo.add(whole))
    with repo.open() as workspace, pytest.raises(ManifestError, match="git theta pull"):
        apply(workspace, folder, path, path.name)
    for broken in (b"", b"something else", whole[:-1], whole + b"\0"):
        path.write_bytes(broken)
        with repo.open() as workspace, pytest.raises(FormatError, match=r"m\.safetensors"):
            apply(workspace, folder, path, path.name)
        assert path.read_bytes() == broken
