"""The files of a store, as ``docs/spec/store.md`` lays them out."""

from __future__ import annotations

from pathlib import Path


def object_file(store: Path, name: str) -> Path:
    """Where a store keeps an object."""
    return store / "objects" / name[:2] / name[2:4] / name


def object_files(store: Path) -> list[Path]:
    """All objects of a store, sorted by name."""
    return sorted((store / "objects").glob("??/??/*"))
