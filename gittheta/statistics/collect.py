"""Run a model over data and sum up squared gradients, inputs of layers, or gradients of their outputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from gittheta.errors import ThetaError
from gittheta.statistics.likelihood import Labels, Likelihood, LogProb, length, mapped, moved, part, run
from gittheta.statistics.sidecars import Statistics

Tensors = dict[str, torch.Tensor]


def fisher(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    log_prob: LogProb | None = None,
    labels: Labels = "data",
    seed: int = 0,
    at_once: int = 16,
) -> Statistics:
    """The diagonal of the Fisher information: the mean over examples of the squared gradient of log p(y | x).

    The result has one tensor for each parameter, of the parameter's shape. Without ``log_prob`` the model must be a
    classifier: batches are ``(x, y)``, or mappings with ``labels``, and the model returns logits of shape (examples,
    classes), or an object with an attribute ``logits``. Otherwise ``log_prob(model, batch)`` returns log p of each
    example; it must call the ``model`` that it gets. For a causal language model from Hugging Face::

        def log_prob(model, batch):
            logits = model(**batch).logits[:, :-1].log_softmax(-1)
            return logits.gather(-1, batch["input_ids"][:, 1:, None]).sum((1, 2))

    ``labels="data"`` uses the labels of the batches (the empirical Fisher); ``"sampled"`` draws a label for each
    example from the model's probabilities, with ``seed``; ``"expected"`` averages over all classes, which takes one
    pass for each class. Gradients of ``at_once`` examples are in memory at the same time. Buffers of floats get zeros,
    because they have no gradient.

    Raises ThetaError if there are no examples, or if log p does not depend on the parameters.
    """
    likelihood = Likelihood(log_prob, labels, seed)
    values = _parameters(model)
    sums = {name: torch.zeros_like(each, dtype=torch.float64, device=_exact(each)) for name, each in values.items()}
    gradients = _Gradients(model, likelihood.log_prob, values)
    examples = 0
    with _resting(model):
        for batch in moved(model, batches):
            examples += length(batch)
            for case, shares in likelihood.cases(model, batch):
                for begin in range(0, len(shares), at_once):
                    end = begin + at_once
                    _add_squares(sums, gradients.of(part(case, begin, end)), shares[begin:end])
    means = _means(sums, examples)
    return Statistics("fisher", _by_all_names(model, means) | _buffers(model), examples)


def gram(
    model: nn.Module, batches: Iterable[Any], *, forward: Callable[[nn.Module, Any], Any] | None = None
) -> Statistics:
    """XᵀX of the inputs of each linear layer (``torch.nn.Linear``), by the names of the layers' weights.

    X has one row for each example and one column for each input, so that XᵀX has shape (inputs, inputs). All dimensions
    of an input except the last count as examples. A weight that is used several times, or by several layers, gets the
    sum over all uses; an unused one gets zeros. ``forward(model, batch)`` runs the model. Without it, the model is
    called with the batch if that is a tensor, with its items as named arguments (without ``labels``) if it is a
    mapping, and with its first item otherwise.

    Raises ThetaError if there are no examples.
    """
    layers = _layers(model)
    sums = {name: _square(layer.in_features, layer) for name, layer in _first(layers).items()}

    def look(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _add_products(sums[name], args[0] if args else kwargs["input"])

    hooks = [partial(layer.register_forward_pre_hook, partial(look, name), with_kwargs=True) for name, layer in layers]
    examples = 0
    with _resting(model), _hooked(hooks), torch.no_grad():
        for batch in moved(model, batches):
            examples += length(batch)
            (forward or run)(model, batch)
    _check_any(examples)
    return Statistics("gram", _by_all_names(model, sums), examples)


def output(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    log_prob: LogProb | None = None,
    labels: Labels = "data",
    seed: int = 0,
) -> Statistics:
    """The mean over examples of ggᵀ, where g is the gradient of log p by a linear layer's output.

    For the merge method ``mats`` with K-FAC. The result has shape (outputs, outputs) for each layer, by the names of
    the layers' weights; arguments are those of :func:`fisher`. If an example has several positions (tokens), their ggᵀ
    are added. The model's output for one example must not depend on the other examples. Raises ThetaError if there are
    no examples, or if log p does not depend on the parameters.
    """
    likelihood = Likelihood(log_prob, labels, seed)
    layers = _layers(model)
    sums = {name: _square(layer.out_features, layer) for name, layer in _first(layers).items()}

    def look(name: str, _layer: nn.Module, _arguments: Any, result: torch.Tensor) -> None:
        if result.requires_grad:
            result.register_hook(partial(_add_products, sums[name]))

    hooks = [partial(layer.register_forward_hook, partial(look, name)) for name, layer in layers]
    examples = 0
    with _resting(model):
        for batch in moved(model, batches):
            examples += length(batch)
            for case, shares in likelihood.cases(model, batch):
                values = {name: each.requires_grad_() for name, each in _parameters(model).items()}
                with _hooked(hooks), torch.enable_grad():
                    log_p = likelihood.log_prob(_bound(model, values), case)
                    # g is multiplied by the root of its share, so that ggᵀ counts by the share.
                    torch.autograd.grad((log_p * shares.sqrt().to(log_p)).sum(), [*values.values()], allow_unused=True)
    return Statistics("output", _by_all_names(model, _means(sums, examples)), examples)


class _Gradients:
    """Gradients of log p for each example: computed together where torch can do that with the model, else singly."""

    def __init__(self, model: nn.Module, log_prob: LogProb, values: Tensors) -> None:
        self._model = model
        self._log_prob = log_prob
        self._values = values
        self._together = True

    def of(self, batch: Any) -> Tensors:
        """For each parameter a tensor of shape (examples, *shape of the parameter)."""
        if self._together:
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="There is a performance drop")
                    return dict(vmap(grad(self._one), in_dims=(None, 0))(self._values, batch))
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError):  # control flow that depends on data, or an operation vmap does not know
                self._together = False
        gradients = [self._alone(part(batch, at, at + 1)) for at in range(length(batch))]
        return {name: torch.stack(each) for name, each in zip(self._values, zip(*gradients, strict=True), strict=True)}

    def _alone(self, batch: Any) -> tuple[torch.Tensor, ...]:
        values = {name: each.detach().requires_grad_() for name, each in self._values.items()}
        with torch.enable_grad():
            value = self._checked(self._log_prob(_bound(self._model, values), batch))
            gradients = torch.autograd.grad(value, [*values.values()], allow_unused=True, materialize_grads=True)
        return tuple(gradients)

    def _one(self, values: Tensors, example: Any) -> torch.Tensor:
        batch = mapped(example, lambda each: each[None])
        return self._checked(self._log_prob(_bound(self._model, values), batch))

    def _checked(self, log_p: torch.Tensor) -> torch.Tensor:
        if log_p.numel() != 1:
            raise ThetaError(f"log_prob gives {list(log_p.shape)} for one example", hint="it must give one number each")
        return log_p.reshape(())


def _bound(model: nn.Module, values: Tensors) -> Callable[..., Any]:
    """The model with these values for its parameters; shared parameters stay shared."""
    return lambda *args, **kwargs: functional_call(model, values, args, kwargs)


def _parameters(model: nn.Module) -> Tensors:
    return {name: each.detach() for name, each in model.named_parameters() if each.is_floating_point()}


def _exact(values: torch.Tensor) -> torch.device:
    """The device of the values, or the processor if that device lacks float64."""
    return torch.device("cpu") if values.device.type == "mps" else values.device


def _add_squares(sums: Tensors, gradients: Tensors, shares: torch.Tensor) -> None:
    for name, each in gradients.items():
        squares = each.detach().to(sums[name].device, torch.float64).square_().flatten(1)
        sums[name] += (shares.to(squares.device) @ squares).reshape(sums[name].shape)


def _add_products(total: torch.Tensor, rows: torch.Tensor) -> None:
    flat = rows.detach().reshape(-1, len(total)).to(total.device, torch.float64)
    total += flat.mT @ flat


def _square(size: int, layer: nn.Linear) -> torch.Tensor:
    return torch.zeros(size, size, dtype=torch.float64, device=_exact(layer.weight))


def _names(model: nn.Module) -> dict[int, list[str]]:
    """All names of each parameter, by the identity of the parameter."""
    names: dict[int, list[str]] = {}
    for name, each in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(each), []).append(name)
    return names


def _layers(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    """The linear layers, each with the first name of its weight. Layers that share a weight have the same name."""
    names = _names(model)
    layers = {id(each): (name, each) for name, each in model.named_modules() if isinstance(each, nn.Linear)}
    return [(names.get(id(each.weight), [f"{name}.weight"])[0], each) for name, each in layers.values()]


def _first(layers: list[tuple[str, nn.Linear]]) -> dict[str, nn.Linear]:
    return dict(reversed(layers))


def _by_all_names(model: nn.Module, tensors: Tensors) -> Tensors:
    """The tensors under every name of their parameters, because a checkpoint may use any of the names."""
    others = {names[0]: names for names in _names(model).values()}
    return {name: each for first, each in tensors.items() for name in others.get(first, [first])}


def _buffers(model: nn.Module) -> Tensors:
    stored = model.state_dict().keys()
    named = model.named_buffers(remove_duplicate=False)
    return {name: torch.zeros_like(each) for name, each in named if name in stored and each.is_floating_point()}


def _check_any(examples: int) -> None:
    if not examples:
        raise ThetaError("there are no examples", hint="a loader may have been used up already: make a new one")


def _means(sums: Tensors, examples: int) -> Tensors:
    _check_any(examples)
    if not any(bool(each.any()) for each in sums.values()):
        raise ThetaError(
            "log p does not depend on the parameters", hint="let log_prob call the model that it is given, undetached"
        )
    return {name: each / examples for name, each in sums.items()}


@contextmanager
def _resting(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; afterwards each module is back in its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _hooked(hooks: Iterable[Callable[[], Any]]) -> Iterator[None]:
    """Register hooks, and remove them afterwards."""
    handles = []
    try:
        for register in hooks:
            handles.append(register())  # noqa: PERF401 - if one fails, those before it must go
        yield
    finally:
        for handle in handles:
            handle.remove()
