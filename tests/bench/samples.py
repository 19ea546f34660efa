"""What was measured: samples by row and by column, and how they are summed up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

Unit = Literal["s", "ms", "ns", "MB", "GB/s", "of file", "of changed", "of elements", "of methods", "of copy", "times"]

#: The column for what needs no tool.
PLAIN = "plain"


@dataclass(frozen=True)
class Row:
    """A line of the table. ``ahead``: gittheta so many times better than the other; ``most``, ``least``: its bounds.

    Peaks are summed up by their maximum, everything else by the median. Values are in seconds, bytes, shares or times.
    """

    key: str
    what: str
    unit: Unit = "s"
    ahead: float | None = None
    most: float | None = None
    least: float | None = None
    #: Said in place of a value of the other tool that there cannot be.
    other: str = "-"

    @property
    def bound(self) -> str:
        """The bound in words."""
        if self.ahead is not None:
            return f">= {self.ahead:g}x"
        if self.least is not None:
            return f">= {shown(self.least, self.unit)}"
        return f"<= {shown(self.most, self.unit)}" if self.most is not None else ""

    def met(self, theta: float | None, other: float | None) -> str:
        """Whether the bound is met; nothing where there is none or nothing to hold it against."""
        if theta is not None and self.most is not None:
            return "met" if theta <= self.most else "NOT MET"
        if theta is not None and self.least is not None:
            return "met" if theta >= self.least else "NOT MET"
        if theta is not None and other is not None and self.ahead is not None:
            return "met" if other >= self.ahead * theta else "NOT MET"
        return "unknown" if self.bound else ""


@dataclass
class Samples:
    """Every value measured: row key -> column -> values in order."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    #: What is worth knowing of a row: how gittheta did it.
    remarks: dict[str, str] = field(default_factory=dict)

    def add(self, column: str, measured: Mapping[str, float]) -> None:
        """Take down what one run measured."""
        for key, value in measured.items():
            self.values[key][column].append(value)

    def summary(self, row: Row, column: str) -> float | None:
        """The one number for a cell; None if nothing was measured."""
        values = self.values.get(row.key, {}).get(column)
        if not values:
            return None
        return max(values) if row.unit == "MB" else median(values)


def shown(value: float, unit: Unit) -> str:
    """A value for people."""
    if unit == "MB":
        return f"{value / 1e6:.0f} MB"
    if unit == "ms":
        return f"{value * 1e3:.1f} ms"
    if unit == "ns":
        return f"{value * 1e9:.1f} ns"
    if unit == "GB/s":
        return f"{value / 1e9:.0f} GB/s"
    if unit == "s":
        return f"{value:.2f} s"
    if unit == "times":
        return f"{value:.2f} times"
    return f"{value:.3f} {unit}" if unit == "of file" else f"{value:.4f} {unit}"
