"""The pictures of the gallery are there, small, and used."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_pictures_are_used_and_small() -> None:
    pages = "\n".join((DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ("gallery", "report", "tracking"))
    pictures = sorted((DOCS / "gallery").iterdir())
    assert {f"gallery/{picture.name}" for picture in pictures} == set(re.findall(r"\((gallery/[^)]+)\)", pages))
    assert sum(picture.stat().st_size for picture in pictures) < 400_000
    assert all(len(text) > 40 for text in re.findall(r"!\[([^\]]*)\]", pages))
