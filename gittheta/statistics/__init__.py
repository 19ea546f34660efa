"""What a model's parameters do on data, for the merge methods ``fisher``, ``regmean`` and ``mats``.

::

    from gittheta.statistics import fisher, gram

    fisher(model, loader).beside("model.safetensors")  # writes model.fisher.safetensors
    gram(model, loader).beside("model.safetensors")  # writes model.gram.safetensors

then ``git add model.safetensors model.fisher.safetensors`` and commit: each side of a merge brings its own. ``loader``
yields what a ``torch.utils.data.DataLoader`` does: batches of tensors whose first dimension counts examples. They are
moved to the model's device. Everything is measured as in ``model.eval()``, and the model is left as it was found: its
mode, gradients and hooks. How examples are put into batches makes no difference but for rounding.
"""

from __future__ import annotations

from gittheta.errors import needing_torch

with needing_torch("gittheta.statistics"):
    from gittheta.statistics.collect import fisher, gram, output
    from gittheta.statistics.likelihood import Labels, LogProb
    from gittheta.statistics.sidecars import Statistics, sidecar

__all__ = ["Labels", "LogProb", "Statistics", "fisher", "gram", "output", "sidecar"]
