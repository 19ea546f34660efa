"""Which methods are measured, and which must give the same bits on every device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """A method by what is measured of it: so many sides, and options."""

    method: str
    sides: int = 4
    options: Mapping[str, object] = field(default_factory=dict)
    #: Whether the base is read at all.
    needs_base: bool = True

    @property
    def key(self) -> str:
        """The method and its options in words."""
        return " ".join([self.method, *(f"{name}={value}" for name, value in self.options.items())])


TIES = Case("ties", options={"density": 0.2})
#: In memory on the processor.
IN_MEMORY = (
    TIES,
    Case("linear"),
    Case("task_arithmetic"),
    Case("dare"),
    Case("breadcrumbs"),
    Case("della"),
    Case("slerp", 2),
    Case("karcher"),
    Case("sce"),
    Case("ram"),
)
#: Methods that only add and multiply, element by element.
ELEMENTWISE = (Case("linear", needs_base=False), Case("task_arithmetic"))
ON_DEVICE = (*ELEMENTWISE, TIES)
#: Classes S1 to S3: their bits do not depend on the device.
SAME_BITS = (
    *IN_MEMORY,
    Case("pick", 2),
    Case("nearswap", 2, {"t": 0.001}),
    Case("task_arithmetic", 3, {"normalize": True, "lambda_": 0.7}),
    Case("ties", 3, {"density": 0.3, "scope": "global"}),
    Case("ties", 3, {"election": "unweighted", "divisor": "count"}),
    Case("dare", 2, {"sign": True}),
    Case("dare", 2, {"rescale": "l1"}),
    Case("breadcrumbs", 2, {"sign": True, "gamma": 0.05}),
    Case("sce", 3, {"topk": 0.5}),
    Case("ram", 3, {"plus": True}),
    Case("nuslerp", 2),
    Case("multislerp", 3),
    Case("model_stock", 3),
)
