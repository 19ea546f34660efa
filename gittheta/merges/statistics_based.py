"""Methods that read statistics of each side: fisher, regmean, mats.

``gittheta.statistics`` collects them: ``fisher``, the mean over examples of the squared gradient of log p, one number
for each parameter; ``gram``, XᵀX of a linear layer's inputs; ``output``, the mean of ggᵀ over the gradients of its
outputs. A weight scales a side's statistics: 2 counts as if they came from twice as many examples. It cannot be
negative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from gittheta.api import SIDECAR, Blocks, Group, MergeError
from gittheta.merges.linear import divided

#: The relative precision of Gram matrices, which are stored as float32.
_STORED = 2.0**-23


def _side(group: Group, side: int) -> str:
    """A side's name for messages."""
    if group.labels:
        return group.labels[side]
    return f"the side b3:{group.digests[side].hex()[:12]}" if group.digests else f"side {side + 1}"


def _statistics(group: Group, kind: str, shape: tuple[int, ...]) -> list[torch.Tensor]:
    """One kind of statistics of all sides. Raises MergeError if any is missing, or has another shape."""
    statistics = []
    for side in range(len(group.sides)):
        values = group.statistics[side].get(kind) if group.statistics else None
        if values is None:
            problem = "are missing"
        elif tuple(values.shape) != shape:
            problem = f"have the shape {list(values.shape)}, not {list(shape)}"
        else:
            statistics.append(values)
            continue
        raise MergeError(
            f"the statistics ({kind}) of {_side(group, side)} {problem}",
            tensor=group.name,
            hint=f"collect them from that side's model: gittheta.statistics.{kind}",
        )
    return statistics


def _check_weights(group: Group, method: str) -> None:
    if min(group.weights) < 0 or not any(group.weights):
        raise MergeError(
            f"the weights of {method} may not be negative, nor all be zero",
            tensor=group.name,
            hint="give others: -X weight=1,1",
        )


def _total(values: list[torch.Tensor]) -> torch.Tensor:
    total = values[0].clone()
    for value in values[1:]:
        total += value
    return total


def _mean(values: list[torch.Tensor], weights: tuple[float, ...]) -> torch.Tensor:
    """Σwᵢxᵢ / Σwᵢ."""
    return divided(_total([value * weight for value, weight in zip(values, weights, strict=True)]), sum(weights))


def _greatest(values: torch.Tensor) -> float:
    return float(values.max()) if values.numel() else 0.0


@dataclass(frozen=True)
class Fisher:
    """ΣFᵢθᵢ / ΣFᵢ: each parameter is weighted by its Fisher information (Matena & Raffel, 2022). Needs no base.

    Where ΣFᵢ = 0, the result is the mean of the sides. There is no absolute limit below which F counts as zero, because
    all of F is tiny in large models; ``floor`` sets a limit as a share of the tensor's largest ΣFᵢ.
    """

    floor: float = 0.0
    #: Where the sidecars lie, from the folder of the checkpoint: ``{stem}``, ``{kind}`` and ``{suffix}`` are filled in.
    stats: str = SIDECAR

    name: ClassVar[str] = "fisher"
    unit: ClassVar[Literal["element"]] = "element"
    idempotent: ClassVar[bool] = True
    kinds: ClassVar[tuple[str, ...]] = ("fisher",)

    def __post_init__(self) -> None:
        """Raise MergeError for a floor out of range."""
        if not 0 <= self.floor < 1:
            raise MergeError(f"floor is {self.floor}", hint="it may be from 0 up to 1: a share of the largest F")

    @property
    def measure(self) -> Callable[[Blocks], float] | None:
        """A function that returns the tensor's largest ΣFᵢ; None without a floor, which alone needs it."""
        return self._largest if self.floor else None

    def _largest(self, blocks: Blocks) -> float:
        return max(blocks.map(lambda group: _greatest(_total(self._weighted(group)))))

    def merge(self, group: Group) -> torch.Tensor:
        """The merged values. Raises MergeError for a negative F, and for weights that are negative or all zero."""
        _check_weights(group, self.name)
        sides = [side.to(torch.float64) for side in group.sides]
        fishers = self._weighted(group)
        total = _total(fishers)
        weighted = _total([each * side for each, side in zip(fishers, sides, strict=True)]) / total
        mean = _mean(sides, group.weights)
        return torch.where(total > self.floor * (group.measured or 0.0), weighted, mean).to(group.sides[0].dtype)

    def _weighted(self, group: Group) -> list[torch.Tensor]:
        """wᵢFᵢ of each side, as float64: products of tiny numbers would become zero in float32. Raises MergeError."""
        fishers = _statistics(group, "fisher", tuple(group.sides[0].shape))
        for side, values in enumerate(fishers):
            if values.numel() and float(values.min()) < 0:
                raise MergeError(
                    f"the statistics (fisher) of {_side(group, side)} have negative values",
                    tensor=group.name,
                    hint="a Fisher information is a mean of squares: collect it again with gittheta.statistics.fisher",
                )
        return [values.to(torch.float64) * weight for values, weight in zip(fishers, group.weights, strict=True)]


def _squares(group: Group, kind: str, length: int) -> list[torch.Tensor]:
    """Statistics of one kind as symmetric matrices: float64, (length, length). Raises MergeError for broken ones."""
    matrices = []
    for side, values in enumerate(_statistics(group, kind, (length, length))):
        matrix = values.to(torch.float64)
        if not bool(torch.isfinite(matrix).all()) or bool((matrix.diagonal() < 0).any()):
            raise MergeError(
                f"the statistics ({kind}) of {_side(group, side)} are not sums of squares",
                tensor=group.name,
                hint=f"collect them again with gittheta.statistics.{kind}",
            )
        matrices.append((matrix + matrix.mT) / 2)
    return matrices


def _matrices(group: Group) -> list[torch.Tensor]:
    """The sides as float64. Raises MergeError if they are not matrices."""
    shape = list(group.sides[0].shape)
    if len(shape) != 2:
        raise MergeError(f"a tensor of shape {shape} is not a matrix", tensor=group.name, hint="try linear")
    return [side.to(torch.float64) for side in group.sides]


@dataclass(frozen=True)
class RegMean:
    """Each layer responds like each side to that side's inputs (Jin et al., 2023): W = (ΣWᵢGᵢ)(ΣGᵢ)⁻¹. Needs no base.

    Gᵢ = XᵢᵀXᵢ of the layer's inputs, with the elements off the diagonal multiplied by ``alpha``. Directions of inputs
    that no side ever saw are undetermined: of all least squares solutions, the result is the one closest to the mean of
    the sides.
    """

    alpha: float = 0.9
    #: Where the sidecars lie, from the folder of the checkpoint: ``{stem}``, ``{kind}`` and ``{suffix}`` are filled in.
    stats: str = SIDECAR

    name: ClassVar[str] = "regmean"
    unit: ClassVar[Literal["tensor"]] = "tensor"
    idempotent: ClassVar[bool] = True
    matrices: ClassVar[bool] = True
    kinds: ClassVar[tuple[str, ...]] = ("gram",)

    def __post_init__(self) -> None:
        """Raise MergeError for an alpha out of range."""
        if not 0 <= self.alpha <= 1:
            raise MergeError(f"alpha is {self.alpha}", hint="it may be from 0 (only the diagonals) to 1 (all of them)")

    def merge(self, group: Group) -> torch.Tensor:
        """The merged matrix.

        Raises MergeError for statistics that are missing or broken, and for weights that are negative or all zero.
        """
        sides = _matrices(group)
        _check_weights(group, self.name)
        weighted = zip(_squares(group, "gram", sides[0].shape[1]), group.weights, strict=True)
        grams = [self._shrunk(gram * weight) for gram, weight in weighted]
        mean = _mean(sides, group.weights)
        if not mean.numel() or not bool(torch.isfinite(mean).all()):
            return mean.to(group.sides[0].dtype)
        missing = _total([(side - mean) @ gram for side, gram in zip(sides, grams, strict=True)])
        return (mean + _divided(missing, _total(grams), certain=self.alpha < 1)).to(group.sides[0].dtype)

    def _shrunk(self, gram: torch.Tensor) -> torch.Tensor:
        shrunk = gram * self.alpha
        shrunk.diagonal().copy_(gram.diagonal())
        return shrunk


def _divided(left: torch.Tensor, matrix: torch.Tensor, *, certain: bool) -> torch.Tensor:
    """``left @ pinv(matrix)`` for a symmetric matrix without negative eigenvalues.

    Eigenvalues that are zero within the precision of float32, after each input has been scaled to size one, count as
    zero. ``certain`` says that there are none, which is quicker.
    """
    diagonal = matrix.diagonal()
    scale = torch.where(diagonal > 0, diagonal, 1.0).sqrt()
    scaled = matrix / scale / scale[:, None]
    scaled.diagonal().fill_(1.0)
    if certain:
        triangle, failed = torch.linalg.cholesky_ex(scaled)
        if not int(failed):
            return torch.cholesky_solve((left / scale).mT, triangle).mT / scale
    values, vectors = torch.linalg.eigh(scaled)
    kept = values > _STORED * len(values) ** 0.5 * values[-1]
    solution = (left / scale @ vectors[:, kept] / values[kept]) @ vectors[:, kept].mT / scale
    # The shortest of all solutions: without its part in the null space of the matrix before scaling.
    unseen = torch.linalg.qr(vectors[:, ~kept] / scale[:, None]).Q
    shortest: torch.Tensor = solution - solution @ unseen @ unseen.mT
    return shortest


@dataclass(frozen=True)
class Mats:
    """Solves ΣFᵢ(W) = ΣFᵢ(Wᵢ) by conjugate gradients (MaTS, "matching in task subspaces"; Tam et al., 2023).

    Fᵢ(W) is W·Gᵢ with ``form`` forward, which converges to RegMean with alpha = 1, and Oᵢ·W·Gᵢ with ``kfac``, where Oᵢ
    is the covariance of the gradients of the layer's outputs. Starts at θ0 + λ·Σδᵢ, and stays there in directions of
    which no side has statistics. Ends after ``iterations`` steps, or when the residual is below ``tolerance`` times the
    first residual. (Published with λ = 0.3 for eight sides.)
    """

    lambda_: float = 1.0
    iterations: int = 100
    tolerance: float = 1e-8
    form: Literal["forward", "kfac"] = "forward"
    #: Where the sidecars lie, from the folder of the checkpoint: ``{stem}``, ``{kind}`` and ``{suffix}`` are filled in.
    stats: str = SIDECAR

    name: ClassVar[str] = "mats"
    unit: ClassVar[Literal["tensor"]] = "tensor"
    needs_base: ClassVar[bool] = True
    matrices: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raise MergeError for options out of range."""
        if self.iterations < 0:
            raise MergeError(f"iterations is {self.iterations}", hint="10 to 100 are usual")
        if not 0 <= self.tolerance < 1:
            raise MergeError(f"tolerance is {self.tolerance}", hint="it may be from 0 up to 1")
        if self.form not in ("forward", "kfac"):
            raise MergeError(f"form is '{self.form}'", hint="it may be forward or kfac")

    @property
    def kinds(self) -> tuple[str, ...]:
        """``gram``, and for K-FAC ``output`` too."""
        return ("gram",) if self.form == "forward" else ("gram", "output")

    def merge(self, group: Group) -> torch.Tensor:
        """The merged matrix.

        Raises MergeError for statistics that are missing or broken, and for weights that are negative or all zero.
        """
        sides = _matrices(group)
        _check_weights(group, self.name)
        weighted = zip(_squares(group, "gram", sides[0].shape[1]), group.weights, strict=True)
        grams = [gram * weight for gram, weight in weighted]
        start = self._start(group, sides)
        if not start.numel() or not bool(torch.isfinite(start).all()):
            return start.to(group.sides[0].dtype)
        rest = [side - start for side in sides]
        if self.form == "forward":
            return (start + self._forward(rest, grams)).to(group.sides[0].dtype)
        outputs = _squares(group, "output", len(start))
        return (start + self._kfac(rest, grams, outputs)).to(group.sides[0].dtype)

    def _start(self, group: Group, sides: list[torch.Tensor]) -> torch.Tensor:
        if group.base is None:
            raise MergeError("mats needs a merge base, and there is none", tensor=group.name, hint="try regmean")
        base = group.base.to(torch.float64)
        used = [side - base for side, weight in zip(sides, group.weights, strict=True) if weight]
        return base + _total(used) * self.lambda_

    def _forward(self, rest: list[torch.Tensor], grams: list[torch.Tensor]) -> torch.Tensor:
        """Descend in the basis of ΣGᵢ's eigenvectors, where a step is elementwise; the change from the start."""
        missing = [each @ gram for each, gram in zip(rest, grams, strict=True)]
        values, vectors = torch.linalg.eigh(_total(grams))
        values = torch.where(values > len(values) * 2.0**-52 * values[-1], values, 0.0)
        turned = [each @ vectors * (values > 0) for each in missing]
        change: torch.Tensor = self._descend(lambda direction: direction * values, turned) @ vectors.mT
        return change

    def _kfac(self, rest: list[torch.Tensor], grams: list[torch.Tensor], outputs: list[torch.Tensor]) -> torch.Tensor:
        def apply(direction: torch.Tensor) -> torch.Tensor:
            return _total([out @ direction @ gram for out, gram in zip(outputs, grams, strict=True)])

        missing = [out @ each @ gram for out, each, gram in zip(outputs, rest, grams, strict=True)]
        return self._descend(apply, missing)

    def _descend(self, apply: Callable[[torch.Tensor], torch.Tensor], missing: list[torch.Tensor]) -> torch.Tensor:
        """The solution of ``apply(solution) = Σ missing`` by conjugate gradients from zero.

        Ends when the residual is below the tolerance, or below what rounding allows.
        """
        residual = _total(missing)
        solution, direction = torch.zeros_like(residual), residual
        square = float((residual * residual).sum())
        rounding = sum(residual.shape) * 2.0**-52 * sum(float(torch.linalg.matrix_norm(each)) for each in missing)
        limit = max(self.tolerance**2 * square, rounding**2)
        for _ in range(self.iterations):
            image = apply(direction)
            curvature = float((direction * image).sum())
            if square <= limit or curvature <= 0:
                break
            solution += direction * (square / curvature)
            residual = residual - image * (square / curvature)
            before, square = square, float((residual * residual).sum())
            direction = residual + direction * (square / before)
        return solution
