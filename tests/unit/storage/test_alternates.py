"""Where a repository that borrows objects finds them."""

from __future__ import annotations

from pathlib import Path

from gittheta.storage.objects import alternate_stores


def test_borrowed_repositories_are_followed_to_their_stores(tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    for folder, lines in (
        (one, f"# comment\n\n{two}/objects\n"),
        (two, "../../three/objects\n"),
        (three, f"{one}/objects"),
    ):
        (folder / "objects" / "info").mkdir(parents=True)
        (folder / "objects" / "info" / "alternates").write_text(lines)
    assert list(alternate_stores(one)) == [two / "theta", three / "theta"]
