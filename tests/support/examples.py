"""Small models, and examples for them."""

from __future__ import annotations

import torch
from torch import nn


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def classes(count: int, of: int, seed: int) -> torch.Tensor:
    return torch.randint(of, (count,), generator=torch.Generator().manual_seed(seed))


def linear(inputs: int, outputs: int, seed: int, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        for at, each in enumerate(layer.parameters()):
            each.copy_(random(*each.shape, seed=seed + at) / 2)
    return layer


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-9))


X, Y = random(37, 4, seed=1), classes(37, 3, seed=2)
BATCHES = [(X[:20], Y[:20]), (X[20:], Y[20:])]


class Deep(nn.Module):
    """Convolution, normalisation, dropout, a shared layer, a frozen one, one without use, buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)
        self.shared = nn.Linear(12, 12)
        self.head = nn.Linear(12, 3, bias=False)
        self.spare = nn.Linear(5, 2)
        self.tied = nn.Linear(12, 3, bias=False)
        self.tied.weight = self.head.weight
        self.register_buffer("scratch", torch.ones(2), persistent=False)
        self.head.weight.requires_grad_(False)
        self.norm.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.norm(self.conv(x[:, None]))).flatten(1)
        x = self.shared(self.shared(x).tanh())
        result: torch.Tensor = self.head(x) + self.tied(x.tanh())
        return result
