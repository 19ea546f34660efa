"""Choose how to store a tensor: encodings are tried on a sample of it, over each base that it may be a version of.

What was weighed and measured stands in ``docs/design/0003-changes.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from gittheta.api import Encoding, Finding, Predictor, TensorReader
from gittheta.codec.chain import (
    MAX_PAYLOAD_OVERHEAD,
    NOTHING,
    CheckedReader,
    PredictedReader,
    base_specs,
    coder_over,
    guarded,
    open_prediction,
    open_tensor,
    same_kind,
)
from gittheta.codec.damage import doubt
from gittheta.errors import ManifestError, PayloadError, PluginError, ThetaError
from gittheta.model import (
    EMPTY_DIGEST,
    RAW,
    Digest,
    Link,
    ObjectId,
    Place,
    Recipe,
    Tensor,
    TensorSpec,
    flat_spec,
    stored_bytes,
)
from gittheta.runtime import lazy
from gittheta.storage.frames import HEAD_LENGTH, MAX_BLOCK
from gittheta.storage.manifest import format_recipe, parse_recipe

if TYPE_CHECKING:
    from gittheta.codec.tensor_store import TensorStore

#: The most links of a recipe. Longer chains would save little and decode slowly; an older tensor becomes the base then.
MAX_CHAIN = 10
#: A link that takes more than this share of the tensor's bytes is slow to decode, so a recipe has one such link, apart
#: from its last. The price: a fourth fine-tune in a row takes 0.28 to 0.30 of the raw bytes instead of 0.26.
_HEAVY = 1 / 8
#: Bytes that a link takes in the manifest: two hexadecimal hashes, and the names and numbers between them.
_LINK = 160
#: The most choices that are encoded in full, besides `dense`. Encoding is the expensive part, and an estimate that
#: puts the best choice below the third place would have to be far off.
_FULL_TRIALS = 3
#: Windows of the sample, evenly spread. They are encoded side by side as one block, which is faster than one by one.
_WINDOWS = 8
#: If a blockwise encoding leaves less than this share of the tensor, predictors are not asked: they could hardly save
#: more than the time that they take.
_LITTLE = 0.02


@dataclass(frozen=True)
class BaseCandidate:
    """A stored tensor that may serve as the base of a new one."""

    spec: TensorSpec
    digest: Digest
    recipe: Recipe
    #: Tensors that are decoded and checked already: this one, or bases in its chain.
    at_hand: Mapping[Digest, TensorReader] = field(default_factory=lambda: NOTHING, compare=False, repr=False)


@dataclass(frozen=True)
class Derivation:
    """How a tensor is predicted from its base: a predictor by name, and its payload and parameters."""

    predictor: str
    finding: Finding


@dataclass(frozen=True)
class EncodingChoice:
    """How a tensor will be stored: with a blockwise encoding, over nothing, a candidate, or a prediction from one."""

    encoding: Encoding
    candidate: BaseCandidate | None = None
    derivation: Derivation | None = None
    #: What the blocks are encoded against: the candidate's values, or the prediction.
    base: TensorReader | None = None


@dataclass(frozen=True)
class Estimate:
    """A choice, and the number of bytes that it will take, judged by a sample."""

    size: float
    choice: EncodingChoice


class Chooser:
    """Chooses for the tensors of one repository. Safe to use from several threads."""

    def __init__(self, tensors: TensorStore) -> None:
        self._tensors = tensors
        self._registry = tensors.registry
        self._reporter = tensors.reporter

    @lazy
    def plain(self) -> EncodingChoice:
        """The encoding `dense` without a base, which always applies."""
        return EncodingChoice(self._registry.blockwise("dense"))

    @lazy
    def _plugins(self) -> tuple[Encoding | Predictor, ...]:
        """The encodings that the settings name, in that order, and always `dense`, so that everything can be stored."""
        plugins = []
        for name in dict.fromkeys((*self._tensors.encodings, "dense")):
            try:
                plugins.append(self._registry.encoding(name))
            except PluginError as error:  # a broken plugin must not keep `git status` from working
                self._reporter.warn(f"theta.encodings: {error}")
        return tuple(plugins)

    @lazy
    def _alone(self) -> tuple[Encoding, ...]:
        """The blockwise encodings that need no base."""
        blockwise = (plugin for plugin in self._plugins if plugin.kind == "blockwise")
        return tuple(plugin for plugin in blockwise if not plugin.needs_base)

    def _sample(self, new: TensorReader) -> _Sample:
        return _Sample(new, self._tensors.limits.sample_window)

    def has_choice(self, candidates: Sequence[BaseCandidate]) -> bool:
        """Whether there is more than one way to store a tensor with these candidates."""
        return len(self._alone) > 1 or (bool(candidates) and len(self._plugins) > 1)

    def choose(self, new: TensorReader, candidates: Sequence[BaseCandidate]) -> tuple[Estimate, ...]:
        """The choices worth trying, the smallest by estimate first. The last one is `dense`, which always applies."""
        plugins, alone = self._plugins, self._alone
        sample = self._sample(new)
        estimates = [sample.estimate(EncodingChoice(plugin)) for plugin in alone]
        plain = min(map(_size, estimates))
        for candidate in candidates:
            estimates += self._over(sample, candidate, plugins, plain)
        # Of two choices of the same size, the one that the settings name first.
        order = {plugin.name: rank for rank, plugin in enumerate(plugins)}
        estimates.sort(key=lambda estimate: (estimate.size, order[estimate.choice.encoding.name]))
        last = next(estimate for estimate in estimates if estimate.choice.encoding.name == "dense")
        return (*estimates[: estimates.index(last)][:_FULL_TRIALS], last)

    def derived(self, new: TensorReader, candidate: BaseCandidate, derivation: Derivation) -> tuple[Estimate, ...]:
        """The choices for a tensor whose derivation from the candidate is known. Raises PayloadError."""
        plain = self._sample(new).estimate(EncodingChoice(self.plain.encoding)).size
        weight = len(derivation.finding.payload) + stored_bytes(candidate.recipe[:-1])
        if len(candidate.recipe) + 2 > MAX_CHAIN or weight > plain:
            return self.choose(new, [candidate])
        values = self._open(candidate)
        choice = EncodingChoice(
            self._registry.blockwise("sparse"), candidate, derivation, self._predicted(new.spec, derivation, values)
        )
        return Estimate(0, choice), Estimate(new.spec.nbytes, self.plain)

    def _variants(self, candidate: BaseCandidate) -> Iterator[list[BaseCandidate]]:
        """Bases to try, in two steps: the candidate itself, then the older tensors in the second half of its chain.

        The second step is for when the first yields no choice, because the candidate's chain is too long or too heavy.
        """
        recipe = candidate.recipe
        if not recipe:
            return
        if len(recipe) < MAX_CHAIN:
            yield [candidate]
        specs = base_specs(self._registry, candidate.spec, recipe)
        older = []
        for at in range(max(1, len(recipe) - MAX_CHAIN // 2), len(recipe)):
            digest = recipe[at - 1].base
            if digest is not None and self._registry.encoding(recipe[at].encoding).kind == "blockwise":
                older.append(BaseCandidate(specs[at], digest, recipe[at:], candidate.at_hand))
        yield older

    def _over(
        self, sample: _Sample, candidate: BaseCandidate, plugins: Sequence[Encoding | Predictor], plain: float
    ) -> list[Estimate]:
        """The choices over a candidate, or else over older tensors of its chain.

        A base that cannot be read never keeps a tensor from being stored: it then yields no choice.
        """
        estimates: list[Estimate] = []
        try:
            for variants in self._variants(candidate):
                for variant in variants:
                    estimates += self._over_base(sample, variant, plugins, plain - stored_bytes(variant.recipe[:-1]))
                if estimates:
                    break
        except ThetaError as error:
            self._reporter.trace(f"no base for '{sample.new.spec.name}': {error}")
            doubt(self._tensors, candidate.recipe, error)
        return estimates

    def _over_base(
        self, sample: _Sample, candidate: BaseCandidate, plugins: Sequence[Encoding | Predictor], room: float
    ) -> list[Estimate]:
        """The choices over one base that take less than ``room`` bytes, so that a chain stays below the tensor."""
        new = sample.new
        reshaped = candidate.spec.shape != new.spec.shape
        if room <= 0 or candidate.spec.dtype != new.spec.dtype or (reshaped and new.spec.dtype == RAW):
            return []
        values = self._open(candidate)
        blockwise = [plugin for plugin in plugins if plugin.kind == "blockwise" and plugin.needs_base]
        estimates: list[Estimate] = []
        if not reshaped:
            estimates += (sample.estimate(EncodingChoice(plugin, candidate, None, values)) for plugin in blockwise)
        for plugin in plugins if len(candidate.recipe) + 2 <= MAX_CHAIN else ():
            if min(map(_size, estimates), default=inf) < _LITTLE * new.spec.nbytes:
                break
            derivation = self._find(plugin, new, values) if plugin.kind == "predictor" else None
            if derivation is not None:
                predicted = self._predicted(new.spec, derivation, values)
                extra = len(derivation.finding.payload) + HEAD_LENGTH + _LINK
                choices = (EncodingChoice(other, candidate, derivation, predicted) for other in blockwise)
                estimates += [sample.estimate(choice, extra) for choice in choices]
        heavy = new.spec.nbytes * _HEAVY
        if any(stored_bytes((link,)) > heavy for link in candidate.recipe[:-1]):
            room = min(room, heavy)
        return [estimate for estimate in estimates if estimate.size < room]

    def _open(self, candidate: BaseCandidate) -> TensorReader:
        base = candidate.at_hand.get(candidate.digest)
        if base is not None and same_kind(base.spec, candidate.spec):
            return base
        stored = open_tensor(self._tensors, candidate.spec, candidate.recipe, candidate.at_hand)
        return CheckedReader(stored, self._tensors.limits.kept_blocks)

    def _find(self, plugin: Predictor, new: TensorReader, base: TensorReader) -> Derivation | None:
        """A predictor's derivation of ``new`` from ``base``; None if there is none, or if it could not be read back."""
        try:
            finding = guarded(plugin.name, lambda: plugin.find(new, base))
            if finding is None:
                return None
            _check_finding(plugin, finding, new.spec, base.spec)
            derivation = Derivation(plugin.name, finding)
            self._predicted(new.spec, derivation, base)
            return derivation
        except PayloadError as error:
            self._reporter.trace(f"'{new.spec.name}': {error}")
            return None

    def _predicted(self, spec: TensorSpec, derivation: Derivation, base: TensorReader) -> PredictedReader:
        plugin = self._registry.encoding(derivation.predictor)
        if plugin.kind == "predictor":
            payload, parameters = memoryview(derivation.finding.payload), dict(derivation.finding.parameters)
            return PredictedReader(plugin.name, open_prediction(plugin, payload, spec, parameters), spec, base)
        raise ThetaError(f"'{derivation.predictor}' is not a predictor")


def _check_finding(plugin: Predictor, finding: Finding, spec: TensorSpec, base: TensorSpec) -> None:
    """Raise PayloadError unless the finding can be stored, and decoded over a base of this spec."""
    if not isinstance(finding, Finding) or not isinstance(finding.payload, bytes):
        raise PayloadError(f"'{plugin.name}' did not return a finding with bytes")
    if not 0 < len(finding.payload) <= min(MAX_BLOCK, spec.nbytes + MAX_PAYLOAD_OVERHEAD):
        raise PayloadError(f"'{plugin.name}' returned {len(finding.payload)} bytes, which a frame cannot hold")
    place = Place(ObjectId("0" * 64), 0, 1)
    recipe = (Link(plugin.name, (place,), finding.parameters, EMPTY_DIGEST), Link("dense", (place,)))
    try:
        written = parse_recipe(format_recipe(recipe))
    except ManifestError as error:
        raise PayloadError(f"'{plugin.name}' has parameters that a manifest cannot hold: {error}") from None
    base_spec = guarded(plugin.name, lambda: plugin.base_spec(spec, dict(finding.parameters)))
    if written != recipe or (base_spec.dtype, base_spec.shape) != (base.dtype, base.shape):
        raise PayloadError(f"'{plugin.name}' has parameters from which it could not decode the tensor again")


class _Sample:
    """A few windows of a tensor, joined to one block, on which encodings are tried. For one thread."""

    def __init__(self, new: TensorReader, window: int) -> None:
        self.new = new
        self._windows = list(_windows(new.spec, window))
        data = self._read(new).toreadonly()
        self._sample = Tensor(flat_spec(new.spec, len(data)), data)
        self._factor = new.spec.nbytes / max(1, len(data))
        self._last: tuple[TensorReader, Tensor] | None = None

    def estimate(self, choice: EncodingChoice, extra: float = 0) -> Estimate:
        """The bytes that a choice will take for the whole tensor: its size on the sample, scaled, and ``extra``."""
        size = _encoded_size(choice.encoding, self._sample, self._base(choice.base))
        return Estimate(size * self._factor + extra + _LINK, choice)

    def _base(self, values: TensorReader | None) -> Tensor | None:
        if values is None:
            return None
        if self._last is None or self._last[0] is not values:
            self._last = values, Tensor(self._sample.spec, self._read(values).toreadonly())
        return self._last[1]

    def _read(self, values: TensorReader) -> memoryview:
        parts = [values.read(begin, end) for begin, end in self._windows]
        return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


def _encoded_size(encoding: Encoding, new: Tensor, base: Tensor | None) -> float:
    try:
        coder = coder_over(encoding, base)
        payload = guarded(encoding.name, lambda: coder.encode(new))
    except PayloadError:
        return inf
    return len(payload) if isinstance(payload, bytes) else inf


def _windows(spec: TensorSpec, window: int) -> Iterator[tuple[int, int]]:
    """Evenly spread ranges of bytes, as pairs (begin, end), of whole elements, each within a block."""
    count = spec.nbytes * 8 // spec.dtype.bits
    if count <= _WINDOWS * window:
        yield 0, spec.nbytes
        return
    for index in range(_WINDOWS):
        middle = (2 * index + 1) * count // (2 * _WINDOWS)
        begin = min(middle, count - window) // window * window
        yield begin * spec.dtype.bits // 8, (begin + window) * spec.dtype.bits // 8


def _size(estimate: Estimate) -> float:
    return estimate.size
