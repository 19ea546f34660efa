"""Git for machine-learning models."""

from typing import Any

from gittheta.errors import needing_torch

__version__ = "0.1.0"

__all__ = ["__version__", "merge"]


def __getattr__(name: str) -> Any:
    """``gittheta.merge`` is loaded when it is asked for: it needs torch, which takes its time."""
    if name == "merge":
        with needing_torch("gittheta.merge"):
            from gittheta.engine.in_memory import merge

        return merge
    raise AttributeError(f"module 'gittheta' has no attribute '{name}'")
