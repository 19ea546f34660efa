"""Statistics of a model's parameters over data, for the merge methods ``fisher``, ``regmean`` and ``mats``.

::

    from gittheta.statistics import fisher, gram

    fisher(model, loader).beside("model.safetensors")  # writes model.fisher.safetensors
    gram(model, loader).beside("model.safetensors")  # writes model.gram.safetensors

Then ``git add model.safetensors model.fisher.safetensors`` and commit: each side of a merge has its own statistics.
``loader`` yields what a ``torch.utils.data.DataLoader`` yields: batches of tensors whose first dimension counts
examples. They are moved to the model's device. The model runs in evaluation mode; its mode, gradients and hooks are
restored afterwards. The size of the batches changes the results by rounding errors only.
"""

from __future__ import annotations

from gittheta.errors import needing_torch

with needing_torch("gittheta.statistics"):
    from gittheta.statistics.collect import fisher, gram, output
    from gittheta.statistics.likelihood import Labels, LogProb
    from gittheta.statistics.sidecars import Statistics, sidecar

__all__ = ["Labels", "LogProb", "Statistics", "fisher", "gram", "output", "sidecar"]
