"""The first line of every manifest."""

from __future__ import annotations

FIRST = (
    "gittheta manifest 1: this is not the model itself; "
    "to get it: pip install gittheta, git theta install, git theta pull\n"
)
