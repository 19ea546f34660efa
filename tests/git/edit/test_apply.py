"""`git theta apply`: fold an adapter into the work-tree file; the add that follows costs what the adapter does."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import Raw, bf16, checkpoint, from_bf16, normal, raw, sha256, tensors_of
from tests.support.world import Repo, World

M = "m.safetensors"
Q, V = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"
Tensor = np.ndarray | Raw


def model(side: int = 64, dtype: str = "bf16") -> dict[str, Tensor]:
    """Two square matrices that adapters aim at, and a vector that they do not."""
    weights = {f"{Q}.weight": normal(1, side, side, scale=0.02), f"{V}.weight": normal(2, side, side, scale=0.02)}
    weights["model.norm.weight"] = normal(3, side)
    return {name: bf16(values) if dtype == "bf16" else values for name, values in weights.items()}


def lora(side: int = 64, rank: int = 4, seed: int = 7, modules: tuple[str, ...] = (Q, V)) -> dict[str, np.ndarray]:
    results = {}
    for at, module in enumerate(modules):
        results[f"base_model.model.{module}.lora_A.weight"] = normal(seed + at, rank, side, scale=0.05)
        results[f"base_model.model.{module}.lora_B.weight"] = normal(seed + 10 + at, side, rank, scale=0.01)
    return results


def save(
    repo: Repo, tensors: Mapping[str, Tensor], name: str = "../adapter", rank: int = 4, **fields: object
) -> tuple[Path, int]:
    """An adapter beside the repository; returns its place, and the bytes of its tensors."""
    folder = repo.path / name
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": ["q_proj"]} | fields
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(checkpoint(tensors))
    return folder, sum(len(raw(tensor)[2]) for tensor in tensors.values())


def names(repo: Repo) -> set[str]:
    return {path.name for path in repo.objects()}


def links(repo: Repo, name: str = M) -> dict[str, list[str]]:
    rows = json.loads(repo.git("theta", "show", "--json", name))["tensors"]
    return {row["name"]: row["stored"] for row in rows}


def cost(repo: Repo, before: set[str], *tensors: str) -> int:
    """Bytes that tensors take in objects that were not there before."""
    total = 0
    for name, lines in re.findall(r"^\[(.*)\]\n((?:[^\[].*\n)*)", repo.manifest(), re.M):
        places = re.findall(r"([0-9a-f]{64}):\d+\+(\d+)", lines)
        total += sum(int(size) for result, size in places if result not in before and name in tensors)
    return total


def values(content: bytes, name: str) -> np.ndarray:
    dtype, shape, data = tensors_of(content)[name]
    return (from_bf16(data) if dtype == "BF16" else np.frombuffer(data, np.float32)).reshape(shape)


def expected(old: np.ndarray, adapter: Mapping[str, np.ndarray], module: str) -> np.ndarray:
    a, b = (adapter[f"base_model.model.{module}.lora_{part}.weight"].astype(np.float64) for part in "AB")
    return old + 2 * b @ a


def add(repo: Repo, message: str = "tuned") -> str:
    repo.git("add", M)
    repo.git("commit", "-q", "-m", message)
    return repo.sha()


def comes_back(repo: Repo, content: bytes) -> None:
    (repo.path / M).unlink()
    repo.git("checkout", "--", M)
    assert repo.read() == content
    repo.healthy()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bf16", "f32"])
def test_apply_then_add_costs_about_the_adapters_bytes(repo: Repo, kind: str) -> None:
    """A base of bf16, and adapters as they are saved after training in either precision."""
    repo.commit(checkpoint(model(1024)))
    before = names(repo)
    factors = lora(1024, 16)
    folder, size = save(
        repo, {name: bf16(values) if kind == "bf16" else values for name, values in factors.items()}, rank=16
    )
    old = repo.read()
    output = repo.git("theta", "apply", str(folder), M)
    assert output == f"{M}: 2 of 3 tensors changed\n"
    add(repo)
    assert cost(repo, before, f"{Q}.weight", f"{V}.weight") <= 1.1 * size
    result = links(repo)
    assert all(result[f"{module}.weight"][1:] == ["lowrank", "dense"] for module in (Q, V))
    assert result["model.norm.weight"] == ["dense"]
    if kind == "f32":
        wanted = expected(values(old, f"{Q}.weight"), factors, Q)
        np.testing.assert_allclose(values(repo.read(), f"{Q}.weight"), wanted, rtol=2**-8, atol=1e-7)


@pytest.mark.slow
def test_a_base_of_f32_and_a_fresh_clone(world: World, repo: Repo) -> None:
    first = repo.commit(checkpoint(model(256, "f32")))
    before = names(repo)
    folder, size = save(repo, lora(256, 8), rank=8)
    repo.git("theta", "apply", str(folder), M)
    second = add(repo)
    assert cost(repo, before, f"{Q}.weight", f"{V}.weight") <= 1.1 * size + 400
    repo.git("remote", "add", "origin", str(world.bare()))
    repo.git("push", "-q", "origin", "main")
    clone = world.clone(world.root / "hub.git")
    assert (clone.sha(), clone.status()) == (second, "")
    clone.git("checkout", "-q", "main~1")
    assert clone.sha() == first
    clone.healthy()


@pytest.mark.slow
@pytest.mark.everywhere
def test_the_file_alone_changes_until_it_is_added(repo: Repo) -> None:
    repo.commit(checkpoint(model()))
    folder, _ = save(repo, lora())
    index = repo.manifest()
    repo.git("theta", "apply", str(folder), M)
    assert repo.status() == f" M {M}\n"
    assert repo.manifest() == index
    repo.git("checkout", "--", M)
    repo.healthy()


@pytest.mark.slow
def test_the_file_is_staged_but_not_committed(repo: Repo) -> None:
    repo.commit(checkpoint(model()))
    staged = checkpoint(model() | {"model.norm.weight": bf16(normal(55, 64))})
    repo.write(M, staged)
    repo.git("add", M)
    folder, _ = save(repo, lora())
    repo.git("theta", "apply", str(folder), M)
    content = repo.read()
    add(repo)
    assert links(repo)[f"{Q}.weight"][-2:] == ["lowrank", "dense"]
    comes_back(repo, content)


@pytest.mark.slow
def test_weights_that_are_stored_nowhere(repo: Repo) -> None:
    """HEAD holds something else, or nothing: the add finds out by itself, or stores all of it."""
    repo.commit(checkpoint(model()))
    other = {name: bf16(normal(90 + at, *raw(tensor)[1])) for at, (name, tensor) in enumerate(model().items())}
    repo.write(M, checkpoint(other))
    folder, _ = save(repo, lora())
    assert "2 of 3" in repo.git("theta", "apply", str(folder), M)
    content = repo.read()
    add(repo)
    assert links(repo)[f"{Q}.weight"] == ["dense"]
    comes_back(repo, content)


@pytest.mark.slow
def test_a_file_that_git_does_not_know_yet(repo: Repo) -> None:
    repo.write(M, checkpoint(model()))
    folder, _ = save(repo, lora())
    assert "2 of 3" in repo.git("theta", "apply", str(folder), M)
    content = repo.read()
    add(repo)
    comes_back(repo, content)


@pytest.mark.slow
def test_a_fine_tuned_file_that_was_never_added(repo: Repo) -> None:
    """The add finds the whole change from HEAD's version."""
    tensors = model(128, "f32")
    repo.commit(checkpoint(tensors))
    alone = sum(path.stat().st_size for path in repo.objects())
    before = names(repo)
    original = tensors[f"{V}.weight"]
    assert isinstance(original, np.ndarray)
    tuned = original.copy()
    tuned[:2] += 1
    repo.write(M, checkpoint(tensors | {f"{V}.weight": tuned}))
    folder, _ = save(repo, lora(128, modules=(Q,)))
    repo.git("theta", "apply", str(folder), M)
    content = repo.read()
    add(repo)
    assert cost(repo, before, *tensors) < alone / 5
    comes_back(repo, content)


@pytest.mark.slow
def test_twice(repo: Repo) -> None:
    repo.commit(checkpoint(model()))
    folder, _ = save(repo, lora())
    repo.git("theta", "apply", str(folder), M)
    once = repo.read()
    other, _ = save(repo, lora(seed=70), "../other")
    repo.git("theta", "apply", str(other), M)
    twice = repo.read()
    assert once != twice
    add(repo)
    comes_back(repo, twice)
    repo.write(M, once)
    add(repo, "back to one")
    comes_back(repo, once)


@pytest.mark.slow
def test_once_after_the_other_each_committed(repo: Repo) -> None:
    shas = [repo.commit(checkpoint(model(256)))]
    for at in range(2):
        before = names(repo)
        folder, size = save(repo, lora(256, seed=100 * at), f"../adapter-{at}")
        repo.git("theta", "apply", str(folder), M)
        shas.append(add(repo))
        assert cost(repo, before, f"{Q}.weight", f"{V}.weight") <= 1.1 * size + 400
    for back, sha in enumerate(reversed(shas)):
        repo.git("checkout", "-q", f"main~{back}")
        assert repo.sha() == sha


@pytest.mark.slow
def test_what_only_apply_stored_is_not_a_base_of_what_is_added_without_it(repo: Repo) -> None:
    """The applied version was never committed; its objects may go."""
    repo.commit(checkpoint(model()))
    kept = names(repo)
    folder, _ = save(repo, lora())
    repo.git("theta", "apply", str(folder), M)
    gone = names(repo) - kept
    repo.git("checkout", "--", M)
    for path in repo.objects():
        if path.name in gone:
            path.unlink()
    repo.git("theta", "apply", str(folder), M)
    content = repo.read()
    add(repo)
    comes_back(repo, content)


@pytest.mark.slow
def test_scales_of_ia3(repo: Repo) -> None:
    repo.commit(checkpoint(model(256)))
    before = names(repo)
    tensors = {
        f"base_model.model.{Q}.ia3_l": 1 + normal(5, 256, 1, scale=0.1),
        f"base_model.model.{V}.ia3_l": 1 + normal(6, 1, 256, scale=0.1),
    }
    folder, _ = save(repo, tensors, peft_type="IA3", feedforward_modules=["down_proj"], fan_in_fan_out=False)
    config = json.loads((folder / "adapter_config.json").read_text())
    del config["r"], config["lora_alpha"]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    old = repo.read()
    repo.git("theta", "apply", str(folder), M)
    content = repo.read()
    scaled = values(old, f"{Q}.weight") * tensors[f"base_model.model.{Q}.ia3_l"]
    np.testing.assert_allclose(values(content, f"{Q}.weight"), scaled, rtol=2**-8)
    add(repo)
    assert cost(repo, before, f"{Q}.weight", f"{V}.weight") <= 0.02 * 2 * 256 * 256 * 2
    assert all(links(repo)[f"{module}.weight"][1:] == ["scale", "dense"] for module in (Q, V))
    comes_back(repo, content)


@pytest.mark.slow
def test_from_a_subdirectory(repo: Repo) -> None:
    repo.commit(checkpoint(model()), "sub/m.safetensors")
    repo.commit(checkpoint({"w": normal(1, 3)}), M)
    save(repo, lora(), "sub/er/adapter")
    below = Repo(repo.path / "sub" / "er", repo.env)
    output = below.git("theta", "apply", "adapter", "../m.safetensors")
    assert output == "../m.safetensors: 2 of 3 tensors changed\n"
    assert repo.git("status", "--porcelain", "-uno") == " M sub/m.safetensors\n"
    content = repo.read("sub/m.safetensors")
    below.git("add", "../m.safetensors")
    assert links(repo, "sub/m.safetensors")[f"{Q}.weight"][1:] == ["lowrank", "dense"]
    below.git("commit", "-q", "-m", "tuned")
    (repo.path / "sub/m.safetensors").unlink()
    below.git("checkout", "--", "../m.safetensors")
    assert repo.read("sub/m.safetensors") == content


def broken(repo: Repo, case: str) -> Path:
    """An adapter that does not fit."""
    factors = lora()
    folder, _ = save(repo, factors)
    config = folder / "adapter_config.json"
    weights = folder / "adapter_model.safetensors"
    if case == "no configuration":
        config.unlink()
    elif case == "no weights":
        weights.unlink()
    elif case == "configuration cut short":
        config.write_text(config.read_text()[:-9])
    elif case == "weights cut short":
        weights.write_bytes(weights.read_bytes()[:-9])
    elif case == "unknown kind":
        save(repo, factors, peft_type="TELEPATHY")
    elif case == "unknown field":
        save(repo, factors, use_telepathy=True)
    elif case == "missing target":
        save(repo, factors | {name.replace("layers.0", "layers.9"): each for name, each in factors.items()})
    elif case == "wrong shape":
        save(repo, lora(32))
    elif case == "wrong rank":
        save(repo, factors, rank=5)
    elif case == "no numbers":
        save(repo, {name: each * np.float32(np.nan) for name, each in factors.items()})
    return folder


CASES = ["no configuration", "no weights", "configuration cut short", "weights cut short", "unknown kind"]
CASES += ["unknown field", "missing target", "wrong shape", "wrong rank", "no numbers"]


@pytest.mark.slow
def test_an_adapter_that_does_not_fit_leaves_file_and_index_alone(repo: Repo) -> None:
    sha = repo.commit(checkpoint(model()))
    before, index = names(repo), (repo.git_dir / "index").read_bytes()
    for case in CASES:
        message = repo.fails("theta", "apply", str(broken(repo, case)), M, status=14)
        assert message.startswith("gittheta: "), (case, message)
        assert M in message or "adapter" in message, (case, message)
        assert repo.sha() == sha, case
        assert names(repo) == before, case
        assert not list((repo.store / "tmp").iterdir()), case
        assert sorted(path.name for path in repo.path.iterdir()) == [".git", ".gitattributes", M], case
    assert (repo.git_dir / "index").read_bytes() == index
    repo.healthy()


@pytest.mark.slow
def test_a_target_that_is_not_a_checkpoint(repo: Repo) -> None:
    repo.commit(checkpoint(model()))
    folder, _ = save(repo, lora())
    repo.write("text.safetensors", b"text")
    repo.write("empty.safetensors", b"")
    repo.write("cut.safetensors", checkpoint(model())[:-1])
    repo.write("manifest.safetensors", repo.manifest().encode())
    (repo.path / "link.safetensors").symlink_to(M)
    sha = repo.sha()
    for name, status in (("text", 11), ("empty", 11), ("cut", 11), ("manifest", 12), ("link", 20), ("nowhere", 2)):
        message = repo.fails("theta", "apply", str(folder), f"{name}.safetensors", status=status)
        assert f"{name}.safetensors" in message
    assert "git theta pull" in repo.fails("theta", "apply", str(folder), "manifest.safetensors")
    repo.fails("theta", "apply", "../nowhere", M, status=2)
    repo.fails("theta", "apply", str(folder / "adapter_config.json"), M, status=2)
    assert repo.sha() == sha


def test_a_target_outside_of_the_repository(world: World, repo: Repo) -> None:
    folder, _ = save(repo, lora())
    outside = world.root / "outside.safetensors"
    outside.write_bytes(checkpoint(model()))
    done = repo.attempt("git", "theta", "apply", str(folder), str(outside))
    assert "Traceback" not in done.stderr
    assert (done.returncode == 0) == (sha256(outside.read_bytes()) != sha256(checkpoint(model())))


@pytest.mark.slow
def test_encodings_that_are_not_allowed_are_not_needed(repo: Repo) -> None:
    repo.commit(checkpoint(model()))
    repo.git("config", "theta.encodings", "dense")
    folder, _ = save(repo, lora())
    repo.git("theta", "apply", str(folder), M)
    content = repo.read()
    add(repo)
    comes_back(repo, content)
