"""Every kind of change through real git costs what it is worth."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from tests.support.changes import (
    SIDE,
    M,
    Tensor,
    costs,
    everywhere,
    few,
    fine_tuned,
    lora,
    names,
    scaled_columns,
    scaled_rows,
    shown,
    some,
    stepped,
    stored,
    values_in,
    weights,
)
from tests.support.checkpoints import bf16, checkpoint, normal, raw
from tests.support.parameters import first_often
from tests.support.world import Repo, World

#: The change, what `git theta show` calls it, and the most that may be stored of each byte of bf16 and of f32.
CHANGES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], tuple[str, ...], float, float]] = {
    "full fine-tune": (fine_tuned, ("delta",), 0.28, 0.65),
    "low rank": (lora, ("sparse|delta|ternary", "lowrank"), 0.08, 0.06),
    "rows scaled": (scaled_rows, ("sparse", "scale"), 0.005, 0.005),
    "columns scaled": (scaled_columns, ("sparse", "scale"), 0.005, 0.005),
    "0.5 % of the elements": (some, ("sparse",), 0.009, 0.008),
    "a step of reinforcement learning": (stepped, ("sparse|delta|ternary",), 0.010, 0),
}


def both(values: np.ndarray) -> dict[str, Tensor]:
    return {"bf16": bf16(values), "f32": values}


@pytest.mark.slow
@pytest.mark.parametrize("change", first_often(1, CHANGES))
def test_a_change_costs_what_it_is_worth(world: World, repo: Repo, change: str) -> None:
    make, encodings, *bounds = CHANGES[change]
    old = {name: values_in(raw(tensor)) for name, tensor in both(weights(1)).items()}
    if make is stepped:
        del old["f32"]
    sizes = {"bf16": 2 * SIDE * SIDE, "f32": 4 * SIDE * SIDE}
    first = repo.commit(checkpoint({name: both(values)[name] for name, values in old.items()}))
    for name, size in costs(repo).items():
        assert size <= sizes[name] * {"bf16": 0.67, "f32": 0.84}[name]
    before = names(repo)
    second = repo.commit(checkpoint({name: both(make(values))[name] for name, values in old.items()}))
    for (name, size), most in zip(costs(repo, before).items(), bounds, strict=False):
        assert size <= sizes[name] * most
    for chain in shown(repo).values():
        assert len(chain) == len(encodings) + 1
        assert all(re.fullmatch(name, link) for name, link in zip((*encodings, "dense"), chain, strict=True)), chain
    everywhere(world, repo, first, second)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", first_often(1, ["appended", "trimmed", "inserted", "permuted", "columns", "duplicated"])
)
def test_rows_and_columns(world: World, repo: Repo, kind: str) -> None:
    old = weights(1)
    fresh = weights(2, 16, SIDE)
    new = {
        "appended": lambda: np.concatenate([old, fresh]),
        "trimmed": lambda: old[:-100],
        "inserted": lambda: np.concatenate([old[:500], fresh, old[500:]]),
        "permuted": lambda: old[np.random.default_rng(3).permutation(SIDE)],
        "columns": lambda: np.concatenate([old, weights(4, SIDE, 16)], 1),
        "duplicated": lambda: np.concatenate([old, old[:200]]),
    }[kind]()
    first = repo.commit(checkpoint(both(old)))
    before = names(repo)
    second = repo.commit(checkpoint(both(new)))
    for name, cost in costs(repo, before).items():
        width, alone = {"bf16": (2, 0.67), "f32": (4, 0.85)}[name]
        added = alone * 16 * SIDE * width if kind in ("appended", "inserted", "columns") else 0
        assert cost <= added + new.size * width * 0.001 + 1200
    assert all(chain[1:] == ["resize", "dense"] for chain in shown(repo).values())
    everywhere(world, repo, first, second)


@pytest.mark.slow
def test_rows_appended_and_some_elements_changed(world: World, repo: Repo) -> None:
    """A recipe may combine: resized, then sparse."""
    old = weights(1)
    new = few(np.concatenate([old, weights(2, 16, SIDE)]), 5)
    first = repo.commit(checkpoint({"w": bf16(old)}))
    before = names(repo)
    second = repo.commit(checkpoint({"w": bf16(new)}))
    assert stored(repo, before) <= (0.67 * 16 * SIDE + 0.01 * SIDE * SIDE) * 2
    assert shown(repo)["w"][-2:] == ["resize", "dense"]
    everywhere(world, repo, first, second)


def test_a_tensor_of_every_kind_of_change_at_once(world: World, repo: Repo) -> None:
    old = {name: weights(seed, 256, 256) for seed, name in enumerate(CHANGES)}
    new = {name: CHANGES[name][0](values) for name, values in old.items()}
    versions = [checkpoint({name: bf16(values) for name, values in tensors.items()}) for tensors in (old, new, old)]
    versions.append(checkpoint({name: bf16(new[name]) for name in reversed(list(new))}, {"order": "reversed"}))
    shas = [repo.commit(version) for version in versions]
    everywhere(world, repo, *shas)


@pytest.mark.slow
@pytest.mark.parametrize("seed", first_often(1, [0, 1, 2]))
def test_sparsified_weights_are_stored_in_little(repo: Repo, seed: int) -> None:
    """Whether HEAD holds the base or the trained version."""
    base = weights(seed, 512, 512)
    trained = base + normal(90 + seed, 512, 512, scale=0.001)
    repo.commit(checkpoint({"w": bf16(base)}))
    alone = stored(repo)
    repo.write(M, checkpoint({"w": bf16(trained)}))
    repo.git("add", M)
    if seed:
        repo.git("commit", "-q", "-m", "trained")
    before = names(repo)
    options = ("--method", "topk") if seed == 2 else ()
    repo.git("theta", "sparsify", M, "--base", "HEAD^" if seed else "HEAD", *options)
    content = repo.read()
    repo.git("add", M)
    repo.git("commit", "-q", "-m", "sparse")
    assert stored(repo, before) < alone / 8
    (repo.path / M).unlink()
    repo.git("checkout", "--", M)
    assert repo.read() == content
    repo.healthy()
