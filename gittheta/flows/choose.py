"""Which way of storing a tensor is the smallest: tried on samples, against the bases that it may have come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from gittheta.api import Encoding, Finding, Predictor, Values
from gittheta.errors import ThetaError
from gittheta.flows.chain import Base, Predicted, base_specs, open_prediction, open_tensor
from gittheta.flows.workspace import Workspace
from gittheta.model import RAW, Digest, Recipe, Tensor, TensorSpec, flat_spec
from gittheta.payload import HEAD_LENGTH

#: A recipe has at most so many links; what would make it longer is told from the last of them alone.
MAX_CHAIN = 6
#: A link costs so many bytes in the manifest.
_LINK = 160
#: The sample: so many windows of so many elements.
_WINDOWS = 8
_WINDOW = 1 << 14
#: Where block by block so little is left of a tensor, no predictor can do much better.
_SMALL = 0.02


@dataclass(frozen=True)
class Candidate:
    """A stored tensor that a new one may have come from."""

    spec: TensorSpec
    digest: Digest
    recipe: Recipe


@dataclass(frozen=True)
class Told:
    """How a tensor is told from its base: a predictor, and what it found."""

    predictor: str
    finding: Finding


@dataclass(frozen=True)
class Choice:
    """How a tensor will be stored: with an encoding, block by block, over what ``told`` makes of ``candidate``."""

    encoding: Encoding
    candidate: Candidate | None = None
    told: Told | None = None
    #: What the blocks are encoded against: the candidate's values, or the prediction.
    base: Values | None = None


@dataclass(frozen=True)
class _Estimate:
    size: float
    choice: Choice


class Chooser:
    """Chooses for the tensors of one repository. Safe to use from several threads."""

    def __init__(self, workspace: Workspace) -> None:
        self._registry = workspace.registry
        self._reader = workspace.reader
        self._reporter = workspace.reporter
        self._names = workspace.settings.encodings

    @cached_property
    def plain(self) -> Choice:
        """The choice where there is nothing to choose."""
        dense = self._registry.encoding("dense")
        assert not isinstance(dense, Predictor)  # noqa: S101 - a built-in
        return Choice(dense)

    @cached_property
    def _plugins(self) -> tuple[Encoding | Predictor, ...]:
        """What the settings name, in that order; `dense` in any case, so that everything can be stored."""
        return tuple(map(self._registry.encoding, dict.fromkeys((*self._names, "dense"))))

    @cached_property
    def _alone(self) -> tuple[Encoding, ...]:
        """Those that need no base."""
        blockwise = (plugin for plugin in self._plugins if not isinstance(plugin, Predictor))
        return tuple(plugin for plugin in blockwise if not plugin.needs_base)

    def has_choice(self, candidates: Sequence[Candidate]) -> bool:
        """Whether there is more than one way to store a tensor with these candidates."""
        return len(self._alone) > 1 or (bool(candidates) and len(self._plugins) > 1)

    def choose(self, new: Values, candidates: Sequence[Candidate]) -> Choice:
        """The choice that is smallest by estimate."""
        plugins, alone = self._plugins, self._alone
        sample = _Sample(new)
        best = min((sample.estimate(plugin, Choice(plugin)) for plugin in alone), key=_size)
        plain = best.size
        for candidate in candidates:
            for variant in self._variants(candidate, plain):
                try:
                    found = self._over(sample, variant, plugins)
                except ThetaError as error:
                    # A base that cannot be read must not keep anything from being stored.
                    self._reporter.trace(f"no base for '{new.spec.name}': {error}")
                    continue
                if found and found.size + _weight(variant.recipe[:-1]) < plain:
                    best = min(best, found, key=_size)
                    break
        return best.choice

    def given(self, new: Values, candidate: Candidate, told: Told) -> Choice:
        """The choice for a tensor of which it is known how it came of its base. Raises PayloadError."""
        sparse = self._registry.encoding("sparse")
        assert not isinstance(sparse, Predictor)  # noqa: S101 - a built-in
        values = Base(open_tensor(self._reader, self._registry, candidate.spec, candidate.recipe))
        return Choice(sparse, candidate, told, self._predicted(new.spec, told, values))

    def _variants(self, candidate: Candidate, plain: float) -> Iterator[Candidate]:
        """The candidate itself, unless its chain is too long or too heavy; else what stands at its end."""
        recipe = candidate.recipe
        if not recipe:
            return
        if len(recipe) + 2 <= MAX_CHAIN and _weight(recipe[:-1]) < plain:
            yield candidate
        if len(recipe) > 1:
            digest = recipe[-2].base
            if digest is not None:
                yield Candidate(base_specs(self._registry, candidate.spec, recipe)[-1], digest, recipe[-1:])

    def _over(self, sample: _Sample, candidate: Candidate, plugins: Sequence[Encoding | Predictor]) -> _Estimate | None:
        """The best choice over one base."""
        new = sample.new
        if candidate.spec.dtype != new.spec.dtype or (new.spec.dtype == RAW and candidate.spec.shape != new.spec.shape):
            return None
        values = Base(open_tensor(self._reader, self._registry, candidate.spec, candidate.recipe))
        blockwise = [plugin for plugin in plugins if not isinstance(plugin, Predictor) and plugin.needs_base]
        found: list[_Estimate] = []
        if candidate.spec.shape == new.spec.shape:
            found += (sample.estimate(plugin, Choice(plugin, candidate, None, values)) for plugin in blockwise)
            if found and min(map(_size, found)) < _SMALL * new.spec.nbytes:
                return min(found, key=_size)
        for plugin in plugins:
            finding = plugin.find(new, values) if isinstance(plugin, Predictor) else None
            if finding is None:
                continue
            told = Told(plugin.name, finding)
            predicted = self._predicted(new.spec, told, values)
            extra = len(finding.payload) + HEAD_LENGTH + _LINK
            over = (sample.estimate(other, Choice(other, candidate, told, predicted), extra) for other in blockwise)
            found += over
            if found and min(map(_size, found)) < _SMALL * new.spec.nbytes:
                break
        return min(found, key=_size, default=None)

    def _predicted(self, spec: TensorSpec, told: Told, base: Values) -> Predicted:
        plugin = self._registry.encoding(told.predictor)
        if not isinstance(plugin, Predictor):
            raise ThetaError(f"'{told.predictor}' is no predictor")
        payload, parameters = memoryview(told.finding.payload), dict(told.finding.parameters)
        return Predicted(plugin.name, open_prediction(plugin, payload, spec, parameters), spec, base)


class _Sample:
    """A few windows of a tensor, on which encodings are tried."""

    def __init__(self, new: Values) -> None:
        self.new = new
        self._windows = [(begin, end, new.read(begin, end)) for begin, end in _windows(new.spec)]
        self._factor = new.spec.nbytes / max(1, sum(end - begin for begin, end, _ in self._windows))

    def estimate(self, encoding: Encoding, choice: Choice, extra: float = 0) -> _Estimate:
        """How many bytes a choice will cost."""
        size = 0.0
        for begin, end, data in self._windows:
            spec = flat_spec(self.new.spec, end - begin)
            base = Tensor(spec, choice.base.read(begin, end)) if choice.base else None
            payload = encoding.encode(Tensor(spec, data), base)
            size += float("inf") if payload is None else len(payload)
        return _Estimate(size * self._factor + extra + _LINK, choice)


def _windows(spec: TensorSpec) -> Iterator[tuple[int, int]]:
    """Ranges of bytes, evenly spread, of whole elements, each within a block."""
    count = spec.nbytes * 8 // spec.dtype.bits
    if count <= _WINDOWS * _WINDOW:
        yield 0, spec.nbytes
        return
    for index in range(_WINDOWS):
        begin = index * (count - _WINDOW) // (_WINDOWS - 1) // _WINDOW * _WINDOW
        yield begin * spec.dtype.bits // 8, (begin + _WINDOW) * spec.dtype.bits // 8


def _size(estimate: _Estimate) -> float:
    return estimate.size


def _weight(recipe: Recipe) -> int:
    """Bytes that the links of a recipe take."""
    return sum(place.length for link in recipe for place in link.places)
