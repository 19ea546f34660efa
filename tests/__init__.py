"""Tests; importing this comes before NumPy."""

import os

# As the command line does: a library for linear algebra that starts threads of its own makes tests slow side by side.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
