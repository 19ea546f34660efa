"""Git for machine-learning models."""

TYPE_CHECKING = False  # the name that type checkers know: nothing is imported before the command line has begun
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"

__all__ = ["__version__", "apply_patch", "merge", "patch"]


def __getattr__(name: str) -> "Any":
    """Load what there is on first use: ``merge`` needs torch, which is slow to import."""
    if name in ("patch", "apply_patch"):
        from gittheta.flows.patch import states

        return getattr(states, name)
    if name == "merge":
        from gittheta.errors import needing_torch

        with needing_torch("gittheta.merge"):
            from gittheta.engine.in_memory import merge

        return merge
    raise AttributeError(f"module 'gittheta' has no attribute '{name}'")
