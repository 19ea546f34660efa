"""What is refused of an adapter, and how its targets are found; without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.adapters import LORA, Arrays, Q, lora, product_of, read, refused, save, values


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
def test_text_that_is_not_a_configuration(text: bytes, tmp_path: Path) -> None:
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
def test_weights_that_are_not_floats(dtype: str, tmp_path: Path) -> None:
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
