"""Every relative link of the documentation leads to a file, and to a heading of it if it names one."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "examples" / "README.md",
    ROOT / "dgr_trainer" / "quickstart" / "checkpoint" / "README.md",
]
_FENCED = re.compile(r"^( *)(`{3,}|~{3,}).*?^\1\2$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?(?: \"[^\"]*\")?\)")


def _prose(page: Path) -> str:
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors that GitHub gives to the headings of a page."""
    slugs: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", _prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        number = slugs[slug] = slugs.get(slug, -1) + 1
        names.add(f"{slug}-{number}" if number else slug)
    return frozenset(names)


def broken_links(page: Path) -> list[str]:
    """Links of a page to files or headings that there are not."""
    broken = []
    for match in _LINK.finditer(re.sub(r"`[^`\n]*`", "", _prose(page))):
        path, anchor = match["path"], match["anchor"]
        if re.match(r"[a-z]+:", path):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor is not None and anchor not in anchors(target)):
            broken.append(match[0])
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    assert broken_links(page) == []


def test_broken_links_are_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One `code` & two\n\n## Same\n\n## Same\n", encoding="utf-8")
    assert anchors(page) == {"one-code--two", "same", "same-1"}
    links = tmp_path / "links.md"
    text = "[a](page.md#same-1) [b](page.md#other) [c](none.md) [d](#none) `[e](code.md)`\n```\n[f](code.md)\n```\n"
    links.write_text(text + "![g](none.svg) [h](https://example.org/x#y) [i](page.md)\n", encoding="utf-8")
    assert broken_links(links) == ["](page.md#other)", "](none.md)", "](#none)", "](none.svg)"]
