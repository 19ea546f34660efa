import torch
from gittheta_merge_minimal import MagMax

from gittheta.api import Group
from gittheta.testing import MergeConformance


class TestMagMax(MergeConformance):
    method = MagMax()
    variants = (MagMax(lambda_=0.5),)


def test_the_largest_change_wins() -> None:
    sides = (torch.tensor([14.0, 9.0, 11.0]), torch.tensor([8.0, 5.0, 9.0]))
    group = Group("w", torch.full((3,), 10.0), sides, weights=(1.0, 1.0))
    assert MagMax().merge(group).tolist() == [14, 5, 11]
