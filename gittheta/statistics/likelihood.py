"""log p(y | x) of the examples in a batch, and where the labels y come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import nn

from gittheta.errors import ThetaError

#: Takes the model (or a callable like it) and a batch, and returns log p of each example, one-dimensional.
LogProb = Callable[[Callable[..., Any], Any], torch.Tensor]
#: Where labels come from: the data, a draw from the model's probabilities, or all labels weighted by these.
Labels = Literal["data", "sampled", "expected"]

_GIVE_LOG_PROB = "pass log_prob=, a function of (model, batch) that gives log p of each example"


class Likelihood:
    """How log p is computed (by a function of the user's, or as for a classifier), and over which labels."""

    def __init__(self, log_prob: LogProb | None, labels: Labels, seed: int) -> None:
        if labels not in ("data", "sampled", "expected"):
            raise ThetaError(f"labels is '{labels}'", hint="it may be data, sampled or expected")
        if log_prob and labels != "data":
            raise ThetaError(
                f"labels='{labels}' is only known for classifiers, and log_prob is given",
                hint="put the labels that you want into the batches, and leave labels='data'",
            )
        self.log_prob = log_prob or classified
        self._labels = labels
        self._random = torch.Generator().manual_seed(seed)

    def cases(self, model: nn.Module, batch: Any) -> Iterator[tuple[Any, torch.Tensor]]:
        """The batch with each choice of labels, and the weight of that choice for each example: float64 (examples,)."""
        if self._labels == "data":
            yield batch, torch.ones(length(batch), dtype=torch.float64)
            return
        with torch.no_grad():
            shares = logits_of(run(model, batch)).to("cpu", torch.float64).softmax(-1)
        if self._labels == "sampled":
            drawn = torch.multinomial(shares, 1, generator=self._random).squeeze(1)
            yield _relabelled(batch, drawn), torch.ones(len(shares), dtype=torch.float64)
            return
        for label in range(shares.shape[1]):
            yield _relabelled(batch, torch.full((len(shares),), label)), shares[:, label]


def classified(model: Callable[..., Any], batch: Any) -> torch.Tensor:
    """log p of a classifier's examples, one-dimensional. Raises ThetaError if the labels are not classes."""
    logits, labels = logits_of(run(model, batch)), _labels(batch)
    if labels.shape != logits.shape[:1] or labels.is_floating_point():
        raise ThetaError(
            f"the labels are {labels.dtype} {list(labels.shape)}, not a class for each of {logits.shape[0]} examples",
            hint=_GIVE_LOG_PROB,
        )
    return logits.log_softmax(-1).gather(-1, labels.long()[:, None]).squeeze(-1)


def run(model: Callable[..., Any], batch: Any) -> Any:
    """Call the model on a batch: with a tensor, a mapping's items by name (without labels), or a sequence's first."""
    if isinstance(batch, Mapping):
        return model(**{key: value for key, value in batch.items() if key != "labels"})
    return model(batch[0] if isinstance(batch, (tuple, list)) else batch)


def logits_of(result: Any) -> torch.Tensor:
    """The logits in a classifier's result, (examples, classes). Raises ThetaError if there are none."""
    logits = getattr(result, "logits", result)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        what = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ThetaError(f"the model gives {what}, not logits of (examples, classes)", hint=_GIVE_LOG_PROB)
    return logits


def _labels(batch: Any) -> torch.Tensor:
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        labels = batch[1]
    if not isinstance(labels, torch.Tensor):
        raise ThetaError("the batches are neither (x, y) nor mappings with 'labels'", hint=_GIVE_LOG_PROB)
    return labels


def _relabelled(batch: Any, labels: torch.Tensor) -> Any:
    if isinstance(batch, Mapping):
        return {**batch, "labels": labels.to(next(iter(tensors(batch))).device)}
    first = batch[0] if isinstance(batch, (tuple, list)) else batch
    return first, labels.to(next(iter(tensors(first))).device)


def tensors(batch: Any) -> Iterator[torch.Tensor]:
    """All tensors in a batch, however it nests mappings and sequences."""
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, (Mapping, tuple, list)):
        for each in batch.values() if isinstance(batch, Mapping) else batch:
            yield from tensors(each)


def mapped(batch: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A batch with each of its tensors replaced; mappings become dictionaries, sequences tuples."""
    if isinstance(batch, torch.Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return {key: mapped(value, function) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return tuple(mapped(value, function) for value in batch)
    return batch


def part(batch: Any, begin: int, end: int) -> Any:
    """The examples from index ``begin`` to ``end`` of a batch."""
    return mapped(batch, lambda each: each[begin:end])


def length(batch: Any) -> int:
    """The number of examples in a batch. Raises ThetaError if its tensors do not agree."""
    lengths = {len(each) if each.ndim else 0 for each in tensors(batch)}
    if len(lengths) != 1:
        raise ThetaError(
            f"the tensors of a batch have {sorted(lengths)} examples" if lengths else "a batch without tensors",
            hint="the first dimension of each tensor must count examples",
        )
    return lengths.pop()


def moved(model: nn.Module, batches: Iterable[Any]) -> Iterator[Any]:
    """The batches on the device of the model's first parameter."""
    first = next(model.parameters(), None)
    for batch in batches:
        yield mapped(batch, lambda each: each if first is None else each.to(first.device))
