"""The house: which room may import which, and that no imports run in circles."""

import ast
from pathlib import Path

import pytest

import dgr_trainer

ROOT = Path(dgr_trainer.__file__).parent
# From the lowest room to the highest: a room imports only rooms that stand before it.
ROOMS = [
    "_version",
    "errors",
    "compilation",
    "files",
    "processes",
    "hub",
    "data",
    "runs",
    "identifiers",
    "identifier_weights",
    "candidates",
    "index",
    "student",
    "query_generation",
    "teachers",
    "semantic_ids",
    "training",
    "retrieval",
    "evaluation",
    "integrations",
    "serving",
    "reporting",
    "rounds",
    "quickstart",
    "cli",
]


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imported_modules(module: str) -> set[str]:
    """Modules of the package that a module imports anywhere: at the top, inside functions, and for type checking."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom):
            package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
            for _ in range(node.level - 1):
                package = package.rpartition(".")[0]
            base = ".".join(filter(None, [package if node.level else "", node.module or ""]))
            for alias in node.names:
                if f"{base}.{alias.name}" in MODULES:
                    found.add(f"{base}.{alias.name}")
                elif base in MODULES:
                    found.add(base)
    return found - {module}


IMPORTS = {module: imported_modules(module) for module in MODULES}


def room(module: str) -> str:
    return module.split(".")[1]


def test_every_room_has_its_place():
    assert {room(module) for module in MODULES if "." in module} == set(ROOMS)


@pytest.mark.parametrize("module", [module for module in MODULES if "." in module])
def test_no_lower_room_imports_a_higher_one(module):
    allowed = ROOMS[: ROOMS.index(room(module)) + 1]
    upwards = {other for other in IMPORTS[module] if "." in other and room(other) not in allowed}
    assert not upwards, f"{module} is in {room(module)}, which may import only {allowed}"


def test_imports_do_not_run_in_circles():
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            pytest.fail(" -> ".join((*path[path.index(module) :], module)))
        if module not in done:
            for other in sorted(IMPORTS[module]):
                visit(other, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())
