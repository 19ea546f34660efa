"""Trailers are put where Git keeps them, whatever begins a comment."""

from __future__ import annotations

import pytest

from gittheta.git.messages import with_trailers

LINES = ("Theta-Merge: m linear", "Theta-Sides: HEAD b")
ADDED = b"Theta-Merge: m linear\nTheta-Sides: HEAD b\n"


@pytest.mark.parametrize(
    ("message", "mark", "expected"),
    [
        (b"merged\n", b"#", b"merged\n\n" + ADDED),
        (b"merged", b"#", b"merged\n\n" + ADDED),
        (b"", b"#", b"\n" + ADDED),
        (b"a: b\n", b"#", b"a: b\n\n" + ADDED),
        (b"merged\n\nSigned-off-by: A <a@b>\n", b"#", b"merged\n\nSigned-off-by: A <a@b>\n" + ADDED),
        (b"merged\n\nfirst\nSigned-off-by: A\n", b"#", b"merged\n\nfirst\nSigned-off-by: A\n\n" + ADDED),
        (b"merged\n\n# Conflicts:\n#\tm\n", b"#", b"merged\n\n" + ADDED + b"\n# Conflicts:\n#\tm\n"),
        (b"merged\n\n; Conflicts:\n;\tm\n", b";", b"merged\n\n" + ADDED + b"\n; Conflicts:\n;\tm\n"),
        (b"merged\n; one\n; two\n", None, b"merged\n\n" + ADDED + b"; one\n; two\n"),
        (b"merged\n\n#12 is mended\n", None, b"merged\n\n#12 is mended\n\n" + ADDED),
        (
            b"merged\n; ------------------------ >8 ------------------------\ndiff\n",
            b";",
            b"merged\n\n" + ADDED + b"; ------------------------ >8 ------------------------\ndiff\n",
        ),
        (b"merged\n\n" + ADDED, b"#", b"merged\n\n" + ADDED),
    ],
)
def test_where_trailers_go(message: bytes, mark: bytes | None, expected: bytes) -> None:
    assert with_trailers(message, LINES, mark) == expected
