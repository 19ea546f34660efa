"""Groups of dtypes."""

from __future__ import annotations

from gittheta.model import DTYPES

#: Names of the dtypes that are computed with.
ARITHMETIC = {dtype.name for dtype in DTYPES.values() if dtype.arithmetic}
