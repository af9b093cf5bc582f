"""A hook of mkdocs: makes pages of the Markdown files at the root of the repository and adapts their links."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
# The page of the site by the file of the repository. mkdocs would take the name README.md for that of an index page.
PAGES = {
    "README.md": "overview.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "RELEASE.md": "release.md",
    "SECURITY.md": "security.md",
    "examples/README.md": "examples.md",
}
_LINK = re.compile(r"(?<=\]\()(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=with_site_links(text, source, str(config.repo_url))))
    return files


def on_page_markdown(markdown: str, page: object, config: MkDocsConfig, files: Files) -> str:
    """Let the links of a page of the guide that leave docs/ lead to these pages, or to the repository."""
    uri = page.file.src_uri  # type: ignore[attr-defined]
    return markdown if uri in PAGES.values() else with_site_links(markdown, f"docs/{uri}", str(config.repo_url))


def with_site_links(text: str, source: str, repository: str) -> str:
    """Change the relative links of a file of the repository to links between pages of the site.

    Args:
        text (`str`): the file.
        source (`str`): its path in the repository.
        repository (`str`): address of the repository, where files lie that are no pages.

    Returns:
        `str`: the text with its links.
    """
    folder = posixpath.dirname(source)
    here = posixpath.dirname(PAGES.get(source) or source.removeprefix("docs/"))

    def site_link(match: re.Match[str]) -> str:
        target, anchor = match["target"], match["anchor"] or ""
        if re.match(r"[a-z]+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        if path in PAGES:
            return posixpath.relpath(PAGES[path], here or ".") + anchor
        if path.startswith("docs/"):
            return posixpath.relpath(path.removeprefix("docs/"), here or ".") + anchor
        return f"{repository}/blob/main/{path}{anchor}"

    return _LINK.sub(site_link, text)
