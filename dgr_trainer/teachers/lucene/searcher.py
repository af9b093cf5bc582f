"""Any searcher as teacher, in a separate process: Pyserini's impact and dense searchers, or your own.

What the searcher loads (a Java machine, native libraries, threads) stays out of the process that trains.
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
from dgr_trainer.teachers.inputs import candidate_lists, check_depth, keep_candidates, rank_without_identical_ids

_TAIL = 4000  # number of characters of the output of a process that an error shows


class SearcherTeacher:
    """Ranks passages by a searcher that runs in a separate process.

    A searcher has the method `search(query, k=...)`, whose hits have a `docid` and a `score`, as all searchers of
    Pyserini do. The process creates it, searches one query after the other, and ends when `rank` returns or is
    interrupted; if it crashes, its output is reported. For searchers of Pyserini, it finds Java and sets it up.

    Args:
        make_searcher (`Callable` or `str`): Class or function that creates the searcher and can be imported, or its
            name, such as `"pyserini.search.lucene:LuceneImpactSearcher.from_prebuilt_index"`. With a name, this
            process does not import it.
        arguments (`Mapping[str, Any]`, *optional*): Its keyword arguments, in JSON types.
        corpus (`Corpus`, *optional*): The passages; candidates that it does not contain are dropped.
        name (`str`, *optional*, defaults to that of `make_searcher`): Name of the rankings.
        hits (`int`, *optional*, defaults to 1000): Depth of the search for given candidates.
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar.

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
            self._specification = json.dumps({"address": self.address, "arguments": dict(arguments or {})})
        except TypeError as error:
            raise DGRValueError(
                f"The arguments of {self.address} are not all of JSON types ({error}), so they cannot be sent to its "
                "process. Write a function that creates the searcher and needs only JSON types."
            ) from error
        self.corpus = corpus
        self.name = name or self.address.rpartition(":")[2]
        self.hits = hits
        self.progress = progress

    def rank(
        self,
        queries: Dataset | Mapping[str, str],
        candidates: Rankings | None = None,
        *,
        k: int = 100,
        ignore_identical_ids: bool = False,
    ) -> Rankings:
        """Rank the passages that the searcher finds, or given candidates, for every query.

        Args:
            queries (`datasets.Dataset` or `Mapping[str, str]`): Columns `query_id` and `query`, or id -> query.
            candidates (`Rankings`, *optional*): If given, the search is `hits` deep (or `k`, if that is more).
                Candidates that are found keep their score; the others score 1 less than the lowest.
            k (`int`, *optional*, defaults to 100): Maximum length of a rank list.
            ignore_identical_ids (`bool`, *optional*, defaults to `False`): Whether to leave out the passage that has
                the id of the query.

        Returns:
            `Rankings`: The searcher's scores, best first.

        Raises:
            RuntimeError: if the process failed; shows the end of its output.
            TypeError: if `candidates` is not a `Rankings`.
            ValueError: if `k` is not positive, or no query has candidates.
        """
        if ignore_identical_ids:
            return rank_without_identical_ids(self, queries, candidates, k)
        check_depth(k)
        texts = queries_mapping(queries)
        candidate_ids = None if candidates is None else candidate_lists(texts, candidates, self.corpus)
        depth = k if candidate_ids is None else max(k, self.hits)
        with self._process() as search:
            bar = tqdm(texts.items(), desc=f"Searching with {self.name}", unit=" queries", disable=not self.progress)
            results = {query_id: search({"query": text, "k": depth}) for query_id, text in bar}
        if candidate_ids is not None:
            results = keep_candidates(results, candidate_ids, depth, positive=False)
        return Rankings(results, name=self.name).top(k)

    @contextmanager
    def _process(self) -> Iterator[Callable[[Mapping[str, Any]], dict[str, float]]]:
        """Start the process of the searcher and yield a function that searches; the process ends with the block."""
        with tempfile.TemporaryFile() as printed:
            process = subprocess.Popen(
                [sys.executable, "-m", "dgr_trainer.teachers.lucene.searcher_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=printed,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                start_new_session=True,  # Ctrl-C reaches this process only, which then ends the other.
            )
            try:
                self._send(process, self._specification, printed)
                self._receive(process, printed)
                yield lambda request: self._search(process, json.dumps(request), printed)
            finally:
                process.kill()
                process.communicate()

    def _search(self, process: subprocess.Popen[bytes], request: str, printed: IO[bytes]) -> dict[str, float]:
        self._send(process, request, printed)
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
            f"The process of {self.address} failed (exit status {status}). Its output:{os.linesep}{text[-_TAIL:]}"
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
    address = f"{getattr(make_searcher, '__module__', None)}:{getattr(make_searcher, '__qualname__', None)}"
    if "None" in address.split(":") or "<" in address or address.startswith("__main__:"):
        raise DGRValueError(
            f"{address} ({_definition(make_searcher)}) cannot be imported by another process. Move it to a module, or "
            "give its name as 'module:name'."
        )
    return address


def _definition(make_searcher: Any) -> str:
    try:
        return f"in {Path(inspect.getfile(make_searcher)).name}"
    except TypeError:
        return f"a {type(make_searcher).__name__}"
