"""The process of a searcher: reads its specification and queries as JSON lines and writes hits. See `searcher`."""

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
    """Answer queries until the input ends."""
    # The output of the searcher goes to standard error; standard output is for answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    specification = json.loads(sys.stdin.readline())
    sys.meta_path.insert(0, _BeforePyserini())
    searcher = _make(specification["address"], specification["arguments"])
    _answer(answers, "ready")
    for line in sys.stdin:
        request = json.loads(line)
        hits = searcher.search(request["query"], k=request["k"]) if request["query"].strip() else []
        _answer(answers, [(str(hit.docid), float(hit.score)) for hit in hits])


class _BeforePyserini(importlib.abc.MetaPathFinder):
    """Finds no module, but prepares Java when any module is about to import Pyserini."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name == "pyserini":
            sys.meta_path.remove(self)
            prepare_java()


def prepare_java() -> None:
    """Start a Java machine that is new enough for Pyserini before Pyserini starts one that may not be."""
    from dgr_trainer.teachers.lucene.anserini import find_jar
    from dgr_trainer.teachers.lucene.java import find_java

    jar = find_jar()
    os.environ["JAVA_HOME"] = str(find_java().path.resolve().parent.parent)
    # pyserini.search creates an OpenAI client when it is imported, which requires a key that is not used.
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
    make_searcher: Any = importlib.import_module(module)
    for part in name.split("."):
        make_searcher = getattr(make_searcher, part)
    searcher = make_searcher(**arguments)
    if not hasattr(searcher, "search"):
        raise DGRTypeError(
            f"{address} returned a {type(searcher).__name__}, which has no method search(query, k=...). Pyserini "
            "returns None for a prebuilt index that it does not know or cannot download."
        )
    return searcher


def _answer(answers: Any, value: Any) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
