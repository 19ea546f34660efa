"""Statistics of small models against what one can work out by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from gittheta.errors import ThetaError
from gittheta.statistics import fisher, gram, output
from tests.support.examples import BATCHES, Deep, X, Y, classes, close, linear, random


class TestFisherOfALogisticModel:
    """Its gradients are known: (one-hot(y) − p)xᵀ for the weight."""

    model = linear(4, 3, seed=3)
    p = model(X).softmax(-1).detach()

    @pytest.mark.parametrize("at_once", [1, 16, 100])
    def test_of_the_labels(self, at_once: int) -> None:
        error = nn.functional.one_hot(Y, 3) - self.p
        result = fisher(self.model, BATCHES, at_once=at_once)
        assert (result.kind, result.examples) == ("fisher", 37)
        assert close(result.tensors["weight"], torch.einsum("bi,bj->ij", error**2, X**2) / 37)
        assert close(result.tensors["bias"], (error**2).mean(0))

    def test_expected(self) -> None:
        variance = self.p * (1 - self.p)  # Σ_c p_c·(1[c = i] − p_i)²
        result = fisher(self.model, BATCHES, labels="expected")
        assert close(result.tensors["weight"], torch.einsum("bi,bj->ij", variance, X**2) / 37)
        assert close(result.tensors["bias"], variance.mean(0))

    def test_sampled(self) -> None:
        many = [(X[:4].repeat(500, 1), torch.zeros(2000, dtype=torch.long))]
        result = fisher(self.model, many, labels="sampled", seed=5, at_once=2000).tensors["bias"]
        variance = self.p[:4] * (1 - self.p[:4])
        assert torch.allclose(result.float(), variance.mean(0), rtol=0.15)
        again = [fisher(self.model, many, labels="sampled", seed=seed, at_once=500).tensors["bias"] for seed in (5, 6)]
        assert torch.allclose(again[0], result, rtol=1e-6)
        assert not torch.allclose(again[1], result, rtol=1e-6)

    def test_batches_make_no_difference(self) -> None:
        whole = fisher(self.model, [(X, Y)]).tensors
        for size in (1, 7):
            parts = fisher(self.model, zip(torch.split(X, size), torch.split(Y, size), strict=True)).tensors
            assert all(torch.allclose(parts[name], whole[name], rtol=1e-6) for name in whole)

    def test_mappings_and_objects_with_logits(self) -> None:
        class Wrapped(nn.Module):
            def __init__(self, inner: nn.Module) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, pixels: torch.Tensor) -> Any:
                return type("Result", (), {"logits": self.inner(pixels)})

        batches = [{"pixels": x, "labels": y} for x, y in BATCHES]
        for labels in ("data", "expected"):
            result = fisher(Wrapped(self.model), batches, labels=labels).tensors["inner.weight"]
            assert close(result, fisher(self.model, BATCHES, labels=labels).tensors["weight"])

    def test_other_likelihoods(self) -> None:
        """A regression with unit variance: the gradient by the bias is the residual."""
        target = random(37, 3, seed=9)

        def log_prob(model: Any, batch: Any) -> torch.Tensor:
            log: torch.Tensor = -(model(batch[0]) - batch[1]).square().sum(-1) / 2
            return log

        residual = target - self.model(X).detach()
        assert close(fisher(self.model, [(X, target)], log_prob=log_prob).tensors["bias"], residual.square().mean(0))


class Awkward(nn.Module):
    """Does what torch cannot do for several examples at once."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = linear(4, 3, seed=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(x) if x.sum().item() > -1e9 else x
        return result


def products(inputs: list[torch.Tensor]) -> torch.Tensor:
    """The sum of what each of them gives with itself."""
    return torch.stack([each.double().mT @ each.double() for each in inputs]).sum(0)


def state(model: nn.Module) -> list[Any]:
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()]
    flags = [(each.requires_grad, each.grad is None or each.grad.sum().item()) for each in model.parameters()]
    return [[module.training for module in model.modules()], hooks, flags, [each.clone() for each in model.buffers()]]


class TestFisherOfOtherModels:
    def by_hand(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
        model.eval()
        for each in model.parameters():
            each.requires_grad_()
        sums = {name: torch.zeros_like(each) for name, each in model.named_parameters()}
        for x, y in zip(*batch, strict=True):
            model.zero_grad()
            model(x[None]).log_softmax(-1)[0, y].backward()
            for name, each in model.named_parameters():
                sums[name] += 0 if each.grad is None else each.grad**2
        return {name: each / len(batch[0]) for name, each in sums.items()}

    def test_layers_of_many_kinds(self) -> None:
        torch.manual_seed(0)
        model = Deep()
        result = fisher(model, BATCHES).tensors
        assert result.keys() == {name for name, each in model.state_dict().items() if each.is_floating_point()}
        assert not result["norm.running_var"].any()
        assert not result["spare.weight"].any()
        assert torch.equal(result["tied.weight"], result["head.weight"])
        for name, each in self.by_hand(model, (X, Y)).items():
            assert close(result[name], each), name

    def test_a_transformer(self) -> None:
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        model = nn.Sequential(nn.Embedding(10, 8), layer, nn.Flatten(), nn.Linear(8 * 5, 3))
        tokens, labels = classes(60, 10, seed=3).reshape(12, 5), classes(12, 3, seed=4)
        result = fisher(model, [(tokens, labels)]).tensors
        for name, each in self.by_hand(model, (tokens, labels)).items():
            assert close(result[name], each), name
        known = gram(model, [(tokens, labels)])
        assert {"1.linear1.weight", "1.linear2.weight", "3.weight"} <= known.tensors.keys()
        assert all(known.tensors[name].any() for name in ("1.linear1.weight", "1.linear2.weight", "3.weight"))

    def test_where_examples_must_be_taken_one_by_one(self) -> None:
        result = fisher(Awkward(), BATCHES).tensors
        assert close(result["layer.weight"], fisher(linear(4, 3, seed=3), BATCHES).tensors["weight"])

    def test_bf16(self) -> None:
        result = fisher(linear(4, 3, seed=3).bfloat16(), [(X.bfloat16(), Y)]).tensors["weight"]
        assert result.dtype == torch.float64
        assert torch.allclose(
            result.float(), fisher(linear(4, 3, seed=3), [(X, Y)]).tensors["weight"].float(), rtol=0.1
        )


class TestGram:
    def test_is_the_product_of_the_inputs(self) -> None:
        model = nn.Sequential(linear(4, 6, seed=3), nn.Tanh(), linear(6, 3, seed=5))
        result = gram(model, BATCHES)
        hidden = model[:2](X).detach()
        assert (result.kind, result.examples) == ("gram", 37)
        assert result.tensors.keys() == {"0.weight", "2.weight"}
        assert close(result.tensors["0.weight"], X.double().mT @ X.double())
        assert close(result.tensors["2.weight"], hidden.double().mT @ hidden.double())

    def test_inputs_of_any_shape_and_batches_of_any_kind(self) -> None:
        model, inputs = linear(4, 3, seed=3), random(2, 5, 7, 4, seed=1)
        flat = inputs.double().reshape(-1, 4)
        by_name = gram(model, [{"input": inputs, "labels": torch.zeros(2)}]).tensors["weight"]
        for result in (gram(model, [inputs]).tensors["weight"], gram(model, [[inputs]]).tensors["weight"], by_name):
            assert close(result, flat.mT @ flat)
        called = gram(model, [(torch.zeros(2), inputs)], forward=lambda model, batch: model(batch[1]))
        assert close(called.tensors["weight"], flat.mT @ flat)

    def test_shared_and_tied_layers_have_the_sum(self) -> None:
        torch.manual_seed(0)
        model, inputs = Deep(), dict[str, list[torch.Tensor]]()
        result = gram(model, BATCHES).tensors
        model.eval()
        for name, layer in model.named_modules():
            layer.register_forward_pre_hook(lambda _, args, name=name: inputs.setdefault(name, []).append(args[0]))
        model(X)
        shared, tied = inputs["shared"], inputs["head"] + inputs["tied"]
        assert len(shared) == 2
        assert close(result["shared.weight"], products(shared).detach())
        assert close(result["head.weight"], products(tied).detach())
        assert torch.equal(result["tied.weight"], result["head.weight"])
        assert result["spare.weight"].shape == (5, 5)
        assert not result["spare.weight"].any()


class TestOutput:
    def test_of_a_logistic_model(self) -> None:
        model = linear(4, 3, seed=3)
        p = model(X).softmax(-1).detach().double()
        error = nn.functional.one_hot(Y, 3) - p
        assert close(output(model, BATCHES).tensors["weight"], error.mT @ error / 37)
        expected = torch.diag(p.mean(0)) - p.mT @ p / 37
        assert close(output(model, BATCHES, labels="expected").tensors["weight"], expected)

    def test_shared_layers(self) -> None:
        torch.manual_seed(0)
        result = output(Deep(), BATCHES).tensors
        assert result.keys() == {"shared.weight", "head.weight", "tied.weight", "spare.weight"}
        assert result["shared.weight"].shape == (12, 12)
        assert result["tied.weight"].any()
        assert not result["spare.weight"].any()

    def test_with_gram_it_is_fisher_where_one_example_is_all(self) -> None:
        """ggᵀ ⊗ xxᵀ of a single example is its Fisher information; here its diagonal."""
        model, batch = linear(4, 3, seed=3), [(X[:1], Y[:1])]
        g, o = gram(model, batch).tensors["weight"], output(model, batch).tensors["weight"]
        assert close(o.diagonal()[:, None] * g.diagonal(), fisher(model, batch).tensors["weight"])


COLLECTORS = [fisher, gram, output]


@pytest.mark.parametrize("collect", COLLECTORS)
class TestAll:
    def test_the_model_is_left_as_it_was(self, collect: Any) -> None:
        torch.manual_seed(0)
        model = Deep()
        model.conv.weight.grad = torch.ones_like(model.conv.weight)
        before, repeated = state(model), collect(model, BATCHES).tensors
        assert repr(state(model)) == repr(before)
        assert all(torch.equal(each, repeated[name]) for name, each in collect(model, BATCHES).tensors.items())

        def broken() -> Iterator[Any]:
            yield BATCHES[0]
            yield torch.zeros(3, 77), torch.zeros(3, dtype=torch.long)

        with pytest.raises(RuntimeError):
            collect(model, broken())
        assert repr(state(model)) == repr(before)
        with torch.no_grad():
            assert torch.equal(collect(model, BATCHES).tensors["shared.weight"], repeated["shared.weight"])

    def test_without_examples(self, collect: Any) -> None:
        with pytest.raises(ThetaError, match="no examples"):
            collect(linear(4, 3, seed=1), [])

    def test_values_that_are_not_finite(self, collect: Any) -> None:
        with pytest.raises(ThetaError, match=r"tensor '\w+'.*not finite"):
            collect(linear(4, 3, seed=1), [(X * torch.inf, Y)])

    def test_batches_that_cannot_be_any(self, collect: Any) -> None:
        for batch in ((X, Y[:3]), "text", ()):
            with pytest.raises(ThetaError, match=r"examples|without tensors"):
                collect(linear(4, 3, seed=1), [batch])


@pytest.mark.parametrize("collect", [fisher, output])
class TestLikelihood:
    @pytest.mark.parametrize(
        ("batch", "message"),
        [
            ((X, Y.float()), "not a class for each"),
            ((X, Y[:, None]), "not a class for each"),
            ((X[:, None], Y), r"not logits of \(examples, classes\)"),
            (X, "neither"),
            ((X, Y, Y), "neither"),
        ],
    )
    def test_that_cannot_be_found_out(self, collect: Any, batch: Any, message: str) -> None:
        with pytest.raises(ThetaError, match=f"(?s){message}.*log_prob="):
            collect(linear(4, 3, seed=1), [batch])

    def test_that_is_not_the_model_s(self, collect: Any) -> None:
        model = linear(4, 3, seed=1)
        with pytest.raises(ThetaError, match="does not depend"):
            collect(model, BATCHES, log_prob=lambda _, batch: model(batch[0]).sum(-1))

    def test_options_that_make_no_sense(self, collect: Any) -> None:
        with pytest.raises(ThetaError, match="labels is 'true'"):
            collect(linear(4, 3, seed=1), BATCHES, labels="true")
        with pytest.raises(ThetaError, match="only known for classifiers"):
            collect(linear(4, 3, seed=1), BATCHES, labels="sampled", log_prob=lambda model, batch: model(batch[0]))


def test_log_prob_must_give_one_number_an_example() -> None:
    with pytest.raises(ThetaError, match=r"\[1, 3\] for one example"):
        fisher(linear(4, 3, seed=1), BATCHES, log_prob=lambda model, batch: model(batch[0]))
