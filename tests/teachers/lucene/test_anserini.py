import importlib
import sys

import pytest

from dgr_trainer.teachers.lucene.anserini import find_jar, run_anserini


@pytest.fixture
def pyserini(tmp_path, monkeypatch):
    """An installed Pyserini that cannot be imported."""
    package = tmp_path / "site" / "pyserini"
    (package / "resources" / "jars").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(package.parent)
    importlib.invalidate_caches()
    return package


def test_the_newest_jar_is_found_without_importing_pyserini(pyserini):
    for name in ("anserini-1.7.1-fatjar.jar", "anserini-1.10.0-fatjar.jar", "other.jar"):
        (pyserini / "resources" / "jars" / name).touch()
    assert find_jar() == pyserini / "resources" / "jars" / "anserini-1.10.0-fatjar.jar"
    assert "pyserini" not in sys.modules


def test_a_pyserini_without_jar_is_refused(pyserini):
    with pytest.raises(FileNotFoundError, match="has no anserini-.*-fatjar.jar in .*jars, so Lucene cannot run"):
        find_jar()


def test_missing_pyserini_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "dgr-trainer\[pyserini\]"'):
        find_jar()


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("fail", r"SearchCollection failed \(exit status 3\)(.|\n)*the disk is full"),
        ("trace", r"failed \(exit status 0\)(.|\n)*TooManyClauses(.|\n)*at org.apache.lucene"),
        ("memory", r"It ran out of memory. Give more than memory='2g'"),
        ("offline", r"Go online, or install \"pyserini>=1.6,<2\", which works offline"),
    ],
)
def test_a_failure_shows_what_was_printed(machine, mode, message):
    java = machine.java(mode=mode)
    arguments = ["-index", "-topics", "-output"]
    if mode == "trace":
        (machine.folder / "segments_1").touch()
        (machine.folder / "topics").touch()
        arguments = ["-index", str(machine.folder), "-topics", str(machine.folder / "topics"), "-hits", "1"]
        arguments += ["-output", str(machine.folder / "run")]
    with pytest.raises(RuntimeError, match=message):
        run_anserini(java, machine.jar, "io.anserini.search.SearchCollection", arguments, "2g")
