"""BM25 without Java: Lucene's formula and Lucene's terms, computed by bm25s."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.queries import queries_mapping
from dgr_trainer.errors import DGRValueError, MissingPackageError
from dgr_trainer.files.atomic import atomic_folder, restore_folder
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.teachers.english_analyzer import STOP_WORDS, EnglishAnalyzer
from dgr_trainer.teachers.inputs import (
    FIELDS,
    candidate_lists,
    check_depth,
    check_fields,
    passage_text,
    rank_without_identical_ids,
)

_MARKER = "bm25_teacher.json"


@dataclass(eq=False, repr=False)
class BM25Teacher:
    """Ranks passages by BM25 as Lucene does, without Java.

    The index is built at construction and kept in memory. Terms and term weights are Lucene's, the defaults of `k1`
    and `b` Anserini's. Passage lengths are exact, whereas Lucene rounds them to one byte.

    Args:
        corpus (`Corpus`): The passages.
        k1 (`float`, *optional*, defaults to 0.9): How slowly a repeated term saturates.
        b (`float`, *optional*, defaults to 0.4): How strongly long passages are penalised, 0 to 1.
        stemmer (`str`, *optional*, defaults to `"porter"`): `"porter"` as in Lucene, another Snowball algorithm such
            as `"german"`, or `None`.
        stop_words (`Collection[str]`, *optional*, defaults to Lucene's English ones): Words to leave out; `()`
            keeps all.
        fields (`Sequence[str]`, *optional*, defaults to `("title", "text")`): Fields of a passage that are indexed;
            `"pseudo_queries"` is allowed too.
        progress (`bool`, *optional*, defaults to `True`): Whether to show progress bars.

    Raises:
        ImportError: if bm25s or PyStemmer is not installed.
        ValueError: if a setting is out of its range, or no passage contains a term.

    Source: Robertson and Zaragoza (2009), "The Probabilistic Relevance Framework: BM25 and Beyond"; the variant is
    "Lucene (accurate)" of Kamphuis et al. (2020), "Which BM25 Do You Mean?".

    Example:

    ```python
    rankings = BM25Teacher(corpus).rank(queries, k=100)
    ```
    """

    needs_candidates: ClassVar[bool] = False
    shares_work: ClassVar[bool] = False

    corpus: Corpus
    k1: float = field(default=0.9, metadata={"help": "How slowly a repeated term saturates."})
    b: float = field(default=0.4, metadata={"help": "How strongly long passages are penalised, 0 to 1."})
    stemmer: str | None = field(
        default="porter",
        metadata={
            "help": "porter, a Snowball algorithm such as german, or none.",
            "parse": lambda name: None if name == "none" else name,
        },
    )
    stop_words: Collection[str] = STOP_WORDS
    fields: Sequence[str] = field(
        default=("title", "text"), metadata={"help": "Fields of a passage that are indexed.", "choices": FIELDS}
    )
    progress: bool = True

    def __post_init__(self) -> None:
        bm25s = _bm25s()
        check_bm25(self.k1, self.b)
        self.fields = check_fields(self.fields)
        self._analyzer = EnglishAnalyzer(self.stemmer, self.stop_words)
        self._ids = self.corpus.ids
        vocabulary: dict[str, int] = {}
        terms = [
            [
                vocabulary.setdefault(term, len(vocabulary))
                for term in self._analyzer(passage_text(passage, self.fields))
            ]
            for passage in tqdm(self.corpus, desc="Reading passages", unit=" passages", disable=not self.progress)
        ]
        if not vocabulary:
            raise DGRValueError(
                f"None of the {len(self.corpus)} passages contains a term in {' or '.join(self.fields)}: "
                "BM25 cannot match anything. Check the corpus and `fields`."
            )
        self._index = bm25s.BM25(k1=self.k1, b=self.b, method="lucene")
        self._index.index((terms, vocabulary), create_empty_token=False, show_progress=self.progress)

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
            queries (`datasets.Dataset` or `Mapping[str, str]`): Columns `query_id` and `query`, or id -> query.
            candidates (`Rankings`, *optional*): If given, exactly these passages are ranked: one that shares no term
                with the query scores 0. Otherwise the whole corpus is searched, and passages that share no term are
                not returned: a query of stop words only gets an empty rank list.
            k (`int`, *optional*, defaults to 100): Maximum length of a rank list.
            ignore_identical_ids (`bool`, *optional*, defaults to `False`): Whether to leave out the passage that has
                the id of the query.

        Returns:
            `Rankings`: BM25 scores, best first.

        Raises:
            TypeError: if `candidates` is not a `Rankings`.
            ValueError: if `k` is not positive, or no query has candidates.
        """
        if ignore_identical_ids:
            return rank_without_identical_ids(self, queries, candidates, k)
        check_depth(k)
        texts = queries_mapping(queries)
        candidate_ids = None if candidates is None else candidate_lists(texts, candidates, self.corpus)
        lists = {}
        for query_id, text in tqdm(
            texts.items(), desc="Searching with BM25", unit=" queries", disable=not self.progress
        ):
            scores = self._scores(text)
            if candidate_ids is None:
                lists[query_id] = self._best(scores, np.flatnonzero(scores > 0), k)
            else:
                positions = np.array([self.corpus.position(id) for id in candidate_ids[query_id]], dtype=np.int64)
                lists[query_id] = self._best(scores, positions, k)
        return Rankings(lists, name="bm25")

    def _scores(self, query: str) -> np.ndarray:
        # (passages,) float32; a term that the query repeats counts every time.
        vocabulary = self._index.vocab_dict
        terms = [vocabulary[term] for term in self._analyzer(query) if term in vocabulary]
        if not terms:
            return np.zeros(len(self.corpus), dtype=np.float32)
        return np.asarray(self._index.get_scores_from_ids(terms))

    def _best(self, scores: np.ndarray, positions: np.ndarray, k: int) -> list[tuple[str, float]]:
        # Equal scores at the cut are decided by passage id, larger first, as everywhere in Rankings.
        if len(positions) > k:
            least = np.partition(scores[positions], -k)[-k]
            positions = positions[scores[positions] >= least]
        hits = [(self._ids[int(position)], float(scores[position])) for position in positions]
        return sorted(hits, key=lambda hit: (hit[1], hit[0]), reverse=True)[:k]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a folder in one step: an interruption leaves no partial folder.

        Args:
            path (`str` or `os.PathLike`): The folder. One that `save` wrote before is replaced.

        Raises:
            FileExistsError: if the folder contains something else.
        """
        settings = {
            "corpus_fingerprint": self.corpus.fingerprint,
            "fields": list(self.fields),
            "stemmer": self.stemmer,
            "stop_words": sorted(self.stop_words),
        }
        with atomic_folder(path, marker=_MARKER) as folder:
            self._index.save(str(folder), show_progress=False)
            (folder / _MARKER).write_text(json.dumps(settings, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str], corpus: Corpus, progress: bool = True) -> BM25Teacher:
        """Load an index that `save` wrote.

        Args:
            path (`str` or `os.PathLike`): The folder.
            corpus (`Corpus`): The corpus that it was built on.
            progress (`bool`, *optional*, defaults to `True`): Whether to show progress bars.

        Returns:
            `BM25Teacher`: Ranks as the saved one does.

        Raises:
            FileNotFoundError: if the folder contains no index of this class.
            ValueError: if the index was built on another corpus.
        """
        bm25s = _bm25s()
        restore_folder(path)
        marker = Path(path) / _MARKER
        if not marker.is_file():
            raise FileNotFoundError(f"{path} has no {_MARKER}: it is not a folder that BM25Teacher.save wrote.")
        settings: dict[str, Any] = json.loads(marker.read_text(encoding="utf-8"))
        if settings["corpus_fingerprint"] != corpus.fingerprint:
            raise DGRValueError(
                f"The BM25 index in {path} was built on another corpus than this one of {len(corpus)} passages. "
                "Rebuild it with BM25Teacher(corpus).save(path)."
            )
        teacher = cls.__new__(cls)
        teacher.corpus = corpus
        teacher.fields = tuple(settings["fields"])
        teacher.stemmer, teacher.stop_words = settings["stemmer"], frozenset(settings["stop_words"])
        teacher.progress = progress
        teacher._analyzer = EnglishAnalyzer(teacher.stemmer, teacher.stop_words)
        teacher._ids = corpus.ids
        teacher._index = bm25s.BM25.load(str(path), mmap=True, show_progress=False)
        teacher.k1, teacher.b = teacher._index.k1, teacher._index.b
        return teacher


def check_bm25(k1: float, b: float) -> None:
    """Check the two parameters of BM25.

    Args:
        k1 (`float`): At least 0.
        b (`float`): 0 to 1.

    Raises:
        ValueError: if one is out of its range.
    """
    if not 0 <= k1 < float("inf"):
        raise DGRValueError(f"k1 is {k1}, but BM25 needs a finite number of 0 or more (0.9 is Anserini's).")
    if not 0 <= b <= 1:
        raise DGRValueError(f"b is {b}, but BM25 needs a number between 0 and 1 (0.4 is Anserini's).")


def _bm25s() -> Any:
    try:
        import bm25s
    except ImportError as error:
        raise MissingPackageError('BM25Teacher needs bm25s: pip install "dgr-trainer[bm25]".') from error
    return bm25s
