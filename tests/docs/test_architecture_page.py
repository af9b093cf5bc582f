"""The page on the architecture has the rooms of the package, in their order."""

import re
from pathlib import Path

from test_architecture import ROOMS

DOCS = Path(__file__).parents[2] / "docs"


def test_the_table_lists_the_rooms_in_their_order() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    table = page[page.index("| room |") : page.index("## From a query")]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [room for room in ROOMS if room != "_version"]


def test_the_picture_shows_every_room() -> None:
    picture = (DOCS / "architecture.svg").read_text(encoding="utf-8")
    shown = re.findall(r'font-weight="bold"[^>]*>(\w+)<', picture)
    assert sorted(shown) == sorted(room for room in ROOMS if room != "_version")
