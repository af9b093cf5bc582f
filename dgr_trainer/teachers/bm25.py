"""BM25 without Java: Lucene's formula and Lucene's terms, on bm25s."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.queries import queries_mapping
from dgr_trainer.errors import DGRValueError, MissingPackageError
from dgr_trainer.files.atomic import atomic_folder, restore_folder
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.teachers.english_analyzer import STOP_WORDS, EnglishAnalyzer
from dgr_trainer.teachers.inputs import candidate_lists, check_depth, check_fields, passage_text

_MARKER = "bm25_teacher.json"


class BM25Teacher:
    """Ranks passages by BM25, as Lucene would, with no Java.

    The index is built at construction and held in memory. Terms, term weights and the defaults of `k1` and `b` are
    Lucene's and Anserini's; what differs is that passage lengths are exact, where Lucene rounds them to one byte.

    Args:
        corpus (`Corpus`): the passages.
        k1 (`float`, *optional*, defaults to 0.9): how slowly a repeated term saturates.
        b (`float`, *optional*, defaults to 0.4): how much long passages are held back, 0 to 1.
        stemmer (`str`, *optional*, defaults to `"porter"`): `"porter"` as in Lucene, another Snowball algorithm such
            as `"german"`, or `None`.
        stop_words (`Collection[str]`, *optional*, defaults to Lucene's English ones): words to leave out; `()` keeps
            all.
        fields (`Sequence[str]`, *optional*, defaults to `("title", "text")`): what is indexed of a passage; may name
            `"pseudo_queries"` too.
        progress (`bool`, *optional*, defaults to `True`): whether to show progress bars.

    Raises:
        ImportError: if bm25s or PyStemmer is not installed.
        ValueError: if a setting is out of its range, or no passage holds a term.

    Source: Robertson and Zaragoza (2009), "The Probabilistic Relevance Framework: BM25 and Beyond"; the variant is
    "Lucene (accurate)" of Kamphuis et al. (2020), "Which BM25 Do You Mean?".

    Example:

    ```python
    rankings = BM25Teacher(corpus).rank(queries, k=100)
    ```
    """

    def __init__(
        self,
        corpus: Corpus,
        k1: float = 0.9,
        b: float = 0.4,
        stemmer: str | None = "porter",
        stop_words: Collection[str] = STOP_WORDS,
        fields: Sequence[str] = ("title", "text"),
        progress: bool = True,
    ):
        bm25s = _bm25s()
        check_bm25(k1, b)
        self.corpus = corpus
        self.fields = check_fields(fields)
        self.progress = progress
        self._analyzer = EnglishAnalyzer(stemmer, stop_words)
        self._ids = corpus.ids
        vocabulary: dict[str, int] = {}
        terms = [
            [
                vocabulary.setdefault(term, len(vocabulary))
                for term in self._analyzer(passage_text(passage, self.fields))
            ]
            for passage in tqdm(corpus, desc="Reading passages", disable=not progress)
        ]
        if not vocabulary:
            raise DGRValueError(
                f"None of the {len(corpus)} passages holds a term in {' or '.join(self.fields)}: "
                "there is nothing that BM25 could match. Check the corpus and `fields`."
            )
        self._index = bm25s.BM25(k1=k1, b=b, method="lucene")
        self._index.index((terms, vocabulary), create_empty_token=False, show_progress=progress)

    @property
    def k1(self) -> float:
        """`float`: how slowly a repeated term saturates."""
        return self._index.k1

    @property
    def b(self) -> float:
        """`float`: how much long passages are held back."""
        return self._index.b

    def rank(self, queries: Dataset | Mapping[str, str], candidates: Rankings | None = None, k: int = 100) -> Rankings:
        """Rank the corpus, or given candidates, for every query.

        Args:
            queries (`datasets.Dataset` or `Mapping[str, str]`): columns `query_id` and `query`, or id -> query.
            candidates (`Rankings`, *optional*): where given, just these passages are scored, and all of them are
                ranked: one that shares no term with the query scores 0. Otherwise the whole corpus is searched, and
                what shares no term is not returned: a query of stop words only gets an empty rank list.
            k (`int`, *optional*, defaults to 100): length of a rank list at most.

        Returns:
            `Rankings`: BM25 scores, best first.

        Raises:
            TypeError: if `candidates` is not a `Rankings`.
            ValueError: if `k` is not positive, or no query has candidates.
        """
        check_depth(k)
        texts = queries_mapping(queries)
        wanted = None if candidates is None else candidate_lists(texts, candidates, self.corpus)
        lists = {}
        for query_id, text in tqdm(texts.items(), desc="BM25", unit="query", disable=not self.progress):
            scores = self._scores(text)
            if wanted is None:
                lists[query_id] = self._best(scores, np.flatnonzero(scores > 0), k)
            else:
                positions = np.array([self.corpus.position(id) for id in wanted[query_id]], dtype=np.int64)
                lists[query_id] = self._best(scores, positions, k)
        return Rankings(lists, name="bm25")

    def _scores(self, query: str) -> np.ndarray:
        # (passages,) float32; a term that the query repeats counts as often as it is there.
        vocabulary = self._index.vocab_dict
        terms = [vocabulary[term] for term in self._analyzer(query) if term in vocabulary]
        if not terms:
            return np.zeros(len(self.corpus), dtype=np.float32)
        return self._index.get_scores_from_ids(terms)

    def _best(self, scores: np.ndarray, positions: np.ndarray, k: int) -> list[tuple[str, float]]:
        # Equal scores at the cut are decided by passage id, larger first, as everywhere in Rankings.
        if len(positions) > k:
            least = np.partition(scores[positions], -k)[-k]
            positions = positions[scores[positions] >= least]
        found = [(self._ids[int(position)], float(scores[position])) for position in positions]
        return sorted(found, key=lambda hit: (hit[1], hit[0]), reverse=True)[:k]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a folder. The folder appears whole or not at all.

        Args:
            path (`str` or `os.PathLike`): the folder. One that `save` wrote before is replaced.

        Raises:
            FileExistsError: if the folder holds something else.
        """
        settings = {
            "corpus_fingerprint": self.corpus.fingerprint,
            "fields": list(self.fields),
            "stemmer": self._analyzer.stemmer,
            "stop_words": sorted(self._analyzer.stop_words),
        }
        with atomic_folder(path, marker=_MARKER) as folder:
            self._index.save(str(folder), show_progress=False)
            (folder / _MARKER).write_text(json.dumps(settings, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str], corpus: Corpus, progress: bool = True) -> BM25Teacher:
        """Read an index that `save` wrote.

        Args:
            path (`str` or `os.PathLike`): the folder.
            corpus (`Corpus`): the corpus it was built on.
            progress (`bool`, *optional*, defaults to `True`): whether to show progress bars.

        Returns:
            `BM25Teacher`: ranks as the one that was saved.

        Raises:
            FileNotFoundError: if the folder holds no index of this class.
            ValueError: if the index was built on another corpus.
        """
        bm25s = _bm25s()
        restore_folder(path)
        marker = Path(path) / _MARKER
        if not marker.is_file():
            raise FileNotFoundError(f"{path} holds no {_MARKER}: it is not a folder that BM25Teacher.save wrote.")
        settings: dict[str, Any] = json.loads(marker.read_text(encoding="utf-8"))
        if settings["corpus_fingerprint"] != corpus.fingerprint:
            raise DGRValueError(
                f"The BM25 index in {path} was built on another corpus than this one of {len(corpus)} passages. "
                "Build it anew: BM25Teacher(corpus).save(path)."
            )
        teacher = cls.__new__(cls)
        teacher.corpus = corpus
        teacher.fields = tuple(settings["fields"])
        teacher.progress = progress
        teacher._analyzer = EnglishAnalyzer(settings["stemmer"], settings["stop_words"])
        teacher._ids = corpus.ids
        teacher._index = bm25s.BM25.load(str(path), mmap=True, show_progress=False)
        return teacher


def check_bm25(k1: float, b: float) -> None:
    """Check the two parameters of BM25.

    Args:
        k1 (`float`): 0 or more.
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
