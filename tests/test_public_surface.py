"""What users rely on changes by decision only, and the guide uses nothing else."""

import ast
import difflib
import re
from pathlib import Path

import pytest
from public_surface import API_PAGES, COMMITTED, GENERATED, api_references, public_names, public_surface

ROOT = Path(__file__).parents[1]
GUIDE = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").glob("*.py"))]


def test_the_public_surface_is_the_committed_one() -> None:
    committed = COMMITTED.read_text(encoding="utf-8").splitlines()
    changes = [
        line
        for line in difflib.unified_diff(committed, public_surface().splitlines(), lineterm="", n=0)
        if not line.startswith(("---", "+++", "@@"))
    ]
    if changes:
        pytest.fail(
            "The public surface is not the committed one (- committed, + now):\n\n"
            + "\n".join(changes)
            + "\n\nIf users are meant to see this change, run `python tests/public_surface.py`, commit "
            f"{COMMITTED.relative_to(ROOT)} and add a line to CHANGELOG.md (RELEASE.md says how long an old name has "
            "to keep working). Otherwise undo the change.",
            pytrace=False,
        )


@pytest.mark.parametrize("page", sorted(api_references()))
def test_the_api_reference_lists_the_public_names(page: str) -> None:
    _, _, references = (API_PAGES / f"{page}.md").read_text(encoding="utf-8").partition(GENERATED)
    assert references == api_references()[page], "run python tests/public_surface.py"


def _imported_names(code: str) -> list[tuple[str, str]]:
    return [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "dgr_trainer"
        for alias in node.names
    ]


@pytest.mark.parametrize("path", GUIDE, ids=lambda path: path.name)
def test_guide_and_examples_use_public_names_only(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    blocks = [text] if path.suffix == ".py" else re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    used = {name for code in blocks for name in _imported_names(code)}
    assert used - set(public_names()) == set()
