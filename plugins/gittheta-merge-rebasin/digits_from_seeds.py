"""Networks that have nothing in common but their shape: averaged as they are, and after their units were aligned.

Each learns to read scikit-learn's handwritten digits from a seed of its own. Where gittheta, this plugin and
scikit-learn are installed,

    python digits_from_seeds.py

prints the table of README.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import gittheta

WIDTHS = (64, 256, 256, 10)
SPEC = "0.weight: P1 -; 0.bias: P1; 2.weight: P2 P1; 2.bias: P2; 4.weight: - P2"
Model = dict[str, Tensor]
#: Images, one a row with values from 0 to 1, and what each shows.
Data = tuple[Tensor, Tensor]


def load_data() -> tuple[Data, Data]:
    """To train with, and to test with."""
    bunch = load_digits()
    parts = train_test_split(bunch.data / 16, bunch.target, test_size=0.3, random_state=0, stratify=bunch.target)
    train_images, test_images, train_labels, test_labels = map(torch.tensor, parts)
    return (train_images.float(), train_labels), (test_images.float(), test_labels)


def network() -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(WIDTHS):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def trained(seed: int, data: Data, epochs: int = 10) -> Model:
    """A network of that seed, trained by Adam on shuffled batches of 64."""
    images, labels = data
    torch.manual_seed(seed)
    built = network()
    optimizer = torch.optim.Adam(built.parameters())
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(built(images[batch]), labels[batch]).backward()
            optimizer.step()
    return {name: values.detach() for name, values in built.state_dict().items()}


@torch.no_grad()
def accuracy(model: Model, data: Data) -> float:
    """The share of images that a network reads correctly."""
    images, labels = data
    built = network()
    built.load_state_dict(model)
    return float((built(images).argmax(1) == labels).float().mean())


@dataclass(frozen=True)
class Row:
    """Accuracies of some networks and of their averages."""

    seeds: Sequence[int]
    best: float
    plain: float
    aligned: float

    def __str__(self) -> str:
        seeds = ", ".join(map(str, self.seeds))
        return f"| {seeds:<10} | {self.best:8.1%} | {self.plain:8.1%} | {self.aligned:9.1%} |"


def compare(groups: Sequence[Sequence[int]]) -> list[Row]:
    """Train a network for each seed, and average those of each group in both ways."""
    training, test = load_data()
    models = {seed: trained(seed, training) for seed in sorted({seed for group in groups for seed in group})}
    rows = []
    for group in groups:
        sides = [models[seed] for seed in group]
        plain = gittheta.merge(None, sides, "linear", device="cpu")
        aligned = gittheta.merge(None, sides, "rebasin", spec=SPEC, device="cpu")
        best = max(accuracy(side, test) for side in sides)
        rows.append(Row(group, best, accuracy(plain, test), accuracy(aligned, test)))
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("| seeds      | best one | `linear` | `rebasin` |")
    print("|------------|---------:|---------:|----------:|")
    for row in compare([(0, 1), (2, 3), (0, 1, 2), (0, 1, 2, 3)]):
        print(row)
