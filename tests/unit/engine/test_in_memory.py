"""`gittheta.merge` on tensors in memory and on files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import gittheta
from gittheta.errors import ConfigError, FormatError, MergeError, PluginError

FLOATS = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
]
EXACT = [torch.bool, *(getattr(torch, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64))]


def model(seed: int, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    """Three tensors in an order of their own."""
    made = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"z.weight": (5, 7), "a.bias": (7,), "scale": ()}
    return {name: torch.randn(shape, generator=made) for name, shape in shapes.items()} | more


BASE, A, B, C = map(model, range(4))


def refused(said: str, *arguments: Any, error: type[Exception] = MergeError, **options: Any) -> str:
    """What is said instead of merging."""
    with pytest.raises(error) as caught:
        gittheta.merge(*arguments, **options)
    assert said in str(caught.value)
    return str(caught.value)


def test_the_mean_of_two() -> None:
    merged = gittheta.merge(BASE, [A, B])
    assert list(merged) == list(A)
    for name, value in merged.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, ((A[name].double() + B[name].double()) / 2).float())
    again = gittheta.merge(None, [B, A])
    assert all(torch.equal(value, again[name]) for name, value in merged.items())


def test_options_and_weights() -> None:
    merged = gittheta.merge(BASE, [A, B, C], method="task_arithmetic", weight=[0.5, 0.25, 1], lambda_=0.5)
    name = "z.weight"
    deltas = [(side[name].double() - BASE[name].double()) * weight for side, weight in ((A, 0.5), (B, 0.25), (C, 1))]
    assert torch.allclose(merged[name].double(), BASE[name].double() + 0.5 * sum(deltas), rtol=0, atol=1e-6)
    for weight in ([0.5, 0.25, 1.0], (0.5, 0.25, 1), np.array([0.5, 0.25, 1]), torch.tensor([0.5, 0.25, 1.0])):
        again = gittheta.merge(
            BASE, [A, B, C], "task_arithmetic", weight=weight, lambda_=np.float64(0.5), normalize=None
        )
        assert torch.equal(again[name], merged[name])
    assert torch.equal(
        gittheta.merge(BASE, [A, B], "ties", density=0.5, scope="global", sign=True)[name],
        gittheta.merge(BASE, [B, A], "ties", density=0.5, scope="global", threads=1)[name],
    )


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_dtype_with_arithmetic(dtype: torch.dtype) -> None:
    one, other = ({"w": side["z.weight"].to(dtype)} for side in (A, B))
    merged = gittheta.merge(None, [one, other])["w"]
    wide = torch.complex128 if dtype.is_complex else torch.float64
    expected = ((one["w"].to(wide) + other["w"].to(wide)) / 2).to(dtype)
    assert merged.dtype == dtype
    assert torch.equal(merged.view(torch.uint8), expected.view(torch.uint8))


@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_dtypes_without_arithmetic_must_agree(dtype: torch.dtype) -> None:
    value = torch.tensor([[0, 1], [1, 0]]).to(dtype)
    sides = [A | {"n": value}, B | {"n": value.clone()}]
    merged = gittheta.merge(BASE, sides, "task_arithmetic")["n"]
    assert torch.equal(merged, value)
    assert merged.dtype == dtype
    assert merged.data_ptr() not in (value.data_ptr(), sides[1]["n"].data_ptr())
    refused("tensor 'n'", BASE, [sides[0], B | {"n": torch.ones_like(value)}])
    refused("tensor 'n'", BASE, [sides[0], B | {"n": value.reshape(4)}])
    refused("tensor 'n'", BASE, [sides[0], B | {"n": torch.ones(2, 2)}])
    refused("tensor 'n'", BASE, [B | {"n": torch.ones(2, 2)}, sides[0]])


def test_results_are_nobody_else_s() -> None:
    before = {name: value.clone() for name, value in A.items()}
    for merged in (gittheta.merge(None, [A]), gittheta.merge(BASE, [A, A]), gittheta.merge(A, [A, A], "ties")):
        for name, value in merged.items():
            assert torch.equal(value, A[name])
            assert not value.requires_grad
            value.fill_(7)
    assert all(torch.equal(A[name], value) for name, value in before.items())


def test_views_parameters_and_strange_strides() -> None:
    wide = torch.randn(9, 14, generator=torch.Generator().manual_seed(5))
    views: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda whole: whole.t(),
        lambda whole: whole[::2, ::3],
        lambda whole: whole[:, :1].expand(9, 4),
        lambda whole: torch.nn.Parameter(whole).flip(0),
        lambda whole: torch.view_as_complex(whole.reshape(9, 7, 2)).conj(),
    ]
    for view in views:
        merged = gittheta.merge(None, [{"w": view(wide)}, {"w": view(wide * 3)}])["w"]
        assert torch.allclose(merged, view(wide * 2).detach())


def test_files_and_memory_may_be_mixed(tmp_path: Path) -> None:
    extra = {"n": torch.arange(6).reshape(2, 3), "h": torch.ones(3, 2, dtype=torch.bfloat16), "none": torch.empty(0, 4)}
    for name, made in {"base": BASE, "a": A, "b": B}.items():
        save_file(made | extra, tmp_path / f"{name}.safetensors")
    expected = gittheta.merge(BASE | extra, [A | extra, B | extra], "ties")
    paths = [tmp_path / f"{name}.safetensors" for name in ("a", "b")]
    merged = gittheta.merge(str(tmp_path / "base.safetensors"), [paths[0], load_file(paths[1])], "ties")
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], value) for name, value in expected.items())
    (tmp_path / "a.safetensors").chmod(0o400)
    again = gittheta.merge(None, paths)
    again["n"].add_(1)
    assert torch.equal(load_file(paths[0])["n"], extra["n"])


def test_files_that_are_not_checkpoints(tmp_path: Path) -> None:
    cut, other, empty = (tmp_path / name for name in ("cut.safetensors", "other", "empty"))
    save_file(A, cut)
    cut.write_bytes(cut.read_bytes()[:-3])
    other.write_bytes(b"text")
    empty.write_bytes(b"")
    for path in (cut, other, empty):
        refused(path.name, None, [path, A], error=FormatError)
    refused("gone", None, [tmp_path / "gone", A], error=FileNotFoundError)


def test_nothing_to_merge() -> None:
    assert gittheta.merge(None, [{}, {}]) == {}
    assert gittheta.merge({}, [{}, {}], "ties", scope="global") == {}
    empty = {"w": torch.empty(0, 3), "s": torch.tensor(2.0)}
    merged = gittheta.merge(empty, [empty, empty], "ties")
    assert (merged["w"].shape, merged["s"].item()) == ((0, 3), 2.0)


def test_what_is_wrong_with_the_sides() -> None:
    refused("no sides", BASE, [])
    refused("one model", BASE, A)
    refused("one model", BASE, "a.safetensors")
    refused("side 2 is a list", BASE, [A, [B]])
    refused("tensor 'scale': side 2 has no such tensor", BASE, [A, {key: B[key] for key in ("z.weight", "a.bias")}])
    refused("tensor 'more': side 1 has no such tensor", BASE, [A, B | {"more": torch.ones(2)}])
    refused("tensor 'a.bias': side 2 has f32 [1, 7]", BASE, [A, B | {"a.bias": torch.ones(1, 7)}])
    refused("tensor 'a.bias': side 2 has f16", BASE, [A, B | {"a.bias": torch.ones(7).half()}])
    refused("tensor 'a.bias': the base has f64", BASE | {"a.bias": torch.ones(7).double()}, [A, B], method="ties")
    refused("tensor 'x': side 1 has a ndarray", None, [{"x": np.ones(3)}])
    refused("tensor 'x': side 1 has a NoneType", None, [{"x": None}])
    refused("complex128", None, [{"x": torch.ones(3, dtype=torch.complex128)}])
    refused("sparse", None, [{"x": torch.eye(3).to_sparse()}])
    refused("without values", None, [{"x": torch.ones(3, device="meta")}])


def test_a_base_that_is_missing_or_knows_more() -> None:
    refused("ties needs a merge base", None, [A, B], method="ties")
    refused("tensor 'scale'", {key: BASE[key] for key in ("z.weight", "a.bias")}, [A, B], method="ties")
    assert list(gittheta.merge(BASE | {"old": torch.ones(2)}, [A, B], "ties")) == list(A)


def test_options_without_meaning() -> None:
    refused("'nonesuch'", BASE, [A, B], method="nonesuch", error=PluginError)
    for word in ("take", "conflict"):
        refused("computes nothing", BASE, [A, B], method=word)
    refused("no option 'density'", BASE, [A, B], density=0.5)
    refused("density", BASE, [A, B], method="ties", density=1.5)
    refused("not a finite number", BASE, [A, B], method="task_arithmetic", lambda_=float("nan"))
    refused("3 weights for 2 sides", BASE, [A, B], weight=[1, 2, 3])
    refused("2 weights for 1 sides", None, [{}], weight=[1, 2])
    refused("sum to zero", BASE, [A, B], weight=[1, -1])
    for method in ("linear", "multislerp"):  # 0.1 + 0.2 is not 0.3, and what is left is nothing to divide by
        refused("sum to zero", BASE, [A, B, C], method=method, weight=[0.1, 0.2, -0.3])
    refused("nonfinite", BASE, [A, B], nonfinite="ignore")
    refused("takes 2 sides", BASE, [A, B, C], method="slerp")
    refused("not a device", BASE, [A, B], device="toaster", error=ConfigError)
    refused("for 2 sides", BASE, [A, B], method="fisher", statistics=[{"fisher": A}])
    message = refused("side 2 has none", BASE, [A, B], method="fisher", statistics=[{"fisher": A}, {}])
    assert "tensor 'z.weight'" in message
    whole = {name: values.to(torch.int32) for name, values in A.items()}
    message = refused("side 2 are i32", BASE, [A, B], method="fisher", statistics=[{"fisher": A}, {"fisher": whole}])
    assert "tensor 'z.weight'" in message


def test_values_that_are_not_finite() -> None:
    broken = B | {"scale": torch.tensor(float("nan"))}
    refused("tensor 'scale': side 2 has NaN", BASE, [A, broken])
    merged = gittheta.merge(BASE, [A, broken], nonfinite="propagate")
    assert merged["scale"].isnan()
    assert torch.equal(merged["a.bias"], gittheta.merge(BASE, [A, B])["a.bias"])
    refused(
        "cannot hold",
        {"w": torch.ones(2).half()},
        [{"w": torch.full((2,), 6e4).half()}],
        method="task_arithmetic",
        lambda_=9,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_a_device_that_is_not_there_is_replaced_with_a_warning() -> None:
    with pytest.warns(RuntimeWarning, match="cuda:7 is not there"):
        merged = gittheta.merge(BASE, [A, B], device="cuda:7")
    assert torch.equal(merged["a.bias"], gittheta.merge(BASE, [A, B], device="cpu")["a.bias"])


def test_statistics() -> None:
    one, other = ({name: torch.full_like(value, fill) for name, value in A.items()} for fill in (1.0, 3.0))
    merged = gittheta.merge(BASE, [A, B], "fisher", statistics=[{"fisher": one}, {"fisher": other}])
    expected = (A["a.bias"].double() + 3 * B["a.bias"].double()) / 4
    assert torch.allclose(merged["a.bias"].double(), expected, rtol=0, atol=1e-6)
