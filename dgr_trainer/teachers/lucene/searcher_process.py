"""The process in which a searcher lives: reads orders and queries as JSON lines, answers with hits. See `searcher`."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from dgr_trainer.errors import DGRTypeError, MissingPackageError


def main() -> None:
    """Serve until nobody asks any more."""
    # What the searcher prints goes where errors go: standard output is for answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    order = json.loads(sys.stdin.readline())
    sys.meta_path.insert(0, _BeforePyserini())
    searcher = _make(order["address"], order["arguments"])
    _answer(answers, "ready")
    for line in sys.stdin:
        question = json.loads(line)
        hits = searcher.search(question["query"], k=question["k"]) if question["query"].strip() else []
        _answer(answers, [(str(hit.docid), float(hit.score)) for hit in hits])


class _BeforePyserini(importlib.abc.MetaPathFinder):
    """Finds no module, but prepares Java when Pyserini is about to be imported, by whatever module that is."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name == "pyserini":
            sys.meta_path.remove(self)
            prepare_java()


def prepare_java() -> None:
    """Start a Java machine that Pyserini can use, before Pyserini starts one that it cannot."""
    from dgr_trainer.teachers.lucene.anserini import find_jar
    from dgr_trainer.teachers.lucene.java import find_java

    jar = find_jar()
    os.environ["JAVA_HOME"] = str(find_java().path.resolve().parent.parent)
    # pyserini.search makes a client of OpenAI when it is imported, which wants a key and does not use it.
    os.environ.setdefault("OPENAI_API_KEY", "none")
    if importlib.util.find_spec("jnius_config") is None:
        raise MissingPackageError('Searchers of Pyserini need pyjnius: pip install "dgr-trainer[pyserini]".')
    import jnius_config

    if not jnius_config.vm_running:
        jnius_config.add_classpath(str(jar))
        jnius_config.add_options("-Xmx4g")
        import jnius  # noqa: F401


def _make(address: str, arguments: Mapping[str, Any]) -> Any:
    module, _, name = address.partition(":")
    made_by: Any = importlib.import_module(module)
    for part in name.split("."):
        made_by = getattr(made_by, part)
    searcher = made_by(**arguments)
    if not hasattr(searcher, "search"):
        raise DGRTypeError(
            f"{address} made a {type(searcher).__name__}, which has no method search(query, k=...). Pyserini gives "
            "None for a prebuilt index that it does not know, or cannot download."
        )
    return searcher


def _answer(answers: Any, value: Any) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
