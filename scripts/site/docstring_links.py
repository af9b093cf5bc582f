"""An extension of griffe: docstrings in the style of transformers, made readable and linked by mkdocstrings.

`` [`Corpus`] `` becomes a link if docs/api has the object, and code otherwise; the type of an argument loses the marks
that are meant for other tools.
"""

import re
from pathlib import Path
from typing import Any

import griffe

_API = Path(__file__).parents[2] / "docs" / "api"
_DIRECTIVE = re.compile(r"^::: (?P<path>[\w.]+)$", re.MULTILINE)
_REFERENCE = re.compile(r"\[`(?P<short>~)?(?P<path>[\w.]+)`\](?![\[(])")
_ARGUMENT = re.compile(r"^(?P<name>\s+[*\w]+ )\((?P<type>.*)\):(?=\s|$)", re.MULTILINE)


class DocstringLinks(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def __init__(self) -> None:
        super().__init__()
        paths = [path for page in sorted(_API.glob("*.md")) for path in _DIRECTIVE.findall(page.read_text("utf-8"))]
        self.path_of = {path.rpartition(".")[2]: path for path in paths}

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring is not None:
            text = _ARGUMENT.sub(self._argument, obj.docstring.value)
            obj.docstring.value = _REFERENCE.sub(self._reference, text)

    def _reference(self, match: re.Match[str]) -> str:
        path = match["path"]
        name = path.rpartition(".")[2]
        shown = name if match["short"] else path
        if path.partition(".")[0] not in ("dgr_trainer", "evaluation") and "." in path:
            return f"`{shown}`"
        return f"[`{shown}`][{self.path_of[name]}]" if name in self.path_of else f"`{shown}`"

    @staticmethod
    def _argument(match: re.Match[str]) -> str:
        # The signature already shows whether an argument is optional, and a default that is a value.
        plain = re.sub(r", \*optional\*|, defaults to (`[^`]*`|[-\w.]*\w)", "", match["type"])
        plain = re.sub(r"\[`~?([\w.]+)`\]", r"\1", plain).replace("`", "").replace("*", "")
        return f"{match['name']}({plain}):"
