"""Every built-in merge method keeps the contract."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch

from gittheta.api import TensorSpec
from gittheta.merges.directions import Karcher, ModelStock, MultiSlerp, NuSlerp, Slerp
from gittheta.merges.linear import Linear, NearSwap, Pick
from gittheta.merges.matrices import ActMat, Iso, Knots, Tsv
from gittheta.merges.selective import Ram, Sce
from gittheta.merges.statistics_based import Fisher, Mats, RegMean
from gittheta.merges.task_vectors import Breadcrumbs, Dare, Della, TaskArithmetic, Ties
from gittheta.registry import BUILT_IN
from gittheta.testing import MergeConformance


class TestLinear(MergeConformance):
    method = Linear()


class TestPick(MergeConformance):
    method = Pick()
    variants = (Pick(lambda_=-1.0),)

    def test_identical_sides_give_just_that(self) -> None:
        """What both have already is not added again: the plan sees to that, so that the method is never asked."""
        assert self.method.idempotent


class TestNearSwap(MergeConformance):
    method = NearSwap(t=0.1)


class TestTaskArithmetic(MergeConformance):
    method = TaskArithmetic()
    variants = (TaskArithmetic(sign=True), TaskArithmetic(lambda_=0.4, normalize=True, divisor="count"))


class TestTies(MergeConformance):
    method = Ties()
    variants = (Ties(density=1.0), Ties(scope="global", election="unweighted", divisor="count"), Ties(sign=False))


class TestDare(MergeConformance):
    method = Dare()
    variants = (Dare(rescale="l1", seed=7), Dare(sign=True, normalize=True, rescale="none"))


class TestDella(MergeConformance):
    method = Della()
    variants = (Della(density=1.0, epsilon=0.0), Della(sign=False, normalize=False))


class TestBreadcrumbs(MergeConformance):
    method = Breadcrumbs()
    variants = (Breadcrumbs(density=0.3, gamma=0.2, sign=True), Breadcrumbs(normalize=True))


class TestSce(MergeConformance):
    method = Sce()
    variants = (Sce(topk=0.3),)


class TestRam(MergeConformance):
    method = Ram()
    variants = (Ram(epsilon=0.5, plus=True),)


class TestSlerp(MergeConformance):
    method = Slerp()
    variants = (Slerp(t=0.2),)
    weights = (1.0, 1.0)


class TestNuSlerp(MergeConformance):
    method = NuSlerp()
    variants = (NuSlerp(rows=True),)


class TestMultiSlerp(MergeConformance):
    method = MultiSlerp()


class TestKarcher(MergeConformance):
    method = Karcher()
    variants = (Karcher(iterations=1),)


class TestModelStock(MergeConformance):
    method = ModelStock()
    fewest = 2


class TestActMat(MergeConformance):
    method = ActMat()
    variants = (ActMat(lambda_=0.5),)


class TestTsv(MergeConformance):
    method = Tsv()


class TestIso(MergeConformance):
    method = Iso()


class TestKnots(MergeConformance):
    method = Knots()
    variants = (Knots(density=1.0, sign=False),)


@cache
def _fisher(side: int, shape: tuple[int, ...]) -> torch.Tensor:
    """As squares of gradients are: mostly small."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(side)) ** 4


@cache
def _covariance(seed: int, size: int) -> torch.Tensor:
    """Of thirty examples."""
    examples = torch.randn((30, size), generator=torch.Generator().manual_seed(seed))
    return examples.mT @ examples


class TestFisher(MergeConformance):
    method = Fisher()
    variants = (Fisher(floor=0.1),)
    dtypes = ("bf16", "f16", "f32", "f64", "f8_e4m3", "f8_e5m2")

    def statistics(self, side: int, spec: TensorSpec) -> Mapping[str, torch.Tensor]:
        return {"fisher": _fisher(side, spec.shape)}


class _OfMatrices(MergeConformance):
    def statistics(self, side: int, spec: TensorSpec) -> Mapping[str, torch.Tensor]:
        outputs, inputs = spec.shape
        return {"gram": _covariance(2 * side, inputs), "output": _covariance(2 * side + 1, outputs)}


class TestRegMean(_OfMatrices):
    method = RegMean()
    variants = (RegMean(alpha=1.0),)


class TestMats(_OfMatrices):
    method = Mats()
    variants = (Mats(form="kfac", lambda_=0.3, iterations=10),)


def test_no_built_in_is_left_out() -> None:
    suites = [
        suite
        for suite in globals().values()
        if isinstance(suite, type) and issubclass(suite, MergeConformance) and suite.__name__.startswith("Test")
    ]
    assert {suite.method.name for suite in suites} == set(BUILT_IN["merges"])
