"""A PyTerrier transformer."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from dgr_trainer.integrations.passages import check_retriever, needed_corpus, needed_package
from dgr_trainer.retrieval.retriever import GenerativeRetriever

if TYPE_CHECKING:
    from dgr_trainer.data.corpus import Corpus


def pyterrier_transformer(
    retriever: GenerativeRetriever, *, k: int = 100, text: bool = False, corpus: Corpus | None = None
) -> Any:
    """Make a PyTerrier transformer, for pipelines (`>>`) and `pt.Experiment`. Java is not needed.

    Args:
        retriever ([`GenerativeRetriever`]): The retriever.
        k (`int`, *optional*, defaults to 100): Passages for a query.
        text (`bool`, *optional*, defaults to `False`): Whether results have columns `title` and `text`, which
            rerankers read.
        corpus ([`Corpus`], *optional*): With `text`, the passages; by default the retriever's corpus.

    Returns:
        `pyterrier.Transformer`: takes a frame of topics (`qid`, `query`) and returns a frame of results: the columns
        of the topics, and `docno`, `score` and `rank` (from 0).

    Raises:
        TypeError, ValueError: if this is no retriever, `k` is below 1, or there is no corpus for the texts.
        MissingPackageError: if pyterrier is not installed.
    """
    check_retriever(retriever, k)
    made = _transformer_class()
    return made(retriever, k, needed_corpus(retriever, corpus, "text=True") if text else None)


@cache
def _transformer_class() -> Any:
    pt = needed_package("pyterrier", "pyterrier", "pyterrier_transformer")
    import pandas as pd

    class DGRTransformer(pt.Transformer):  # type: ignore[misc,name-defined]
        """Finds passages by letting a model generate their identifiers."""

        def __init__(self, retriever: GenerativeRetriever, k: int, passages: Corpus | None) -> None:
            super().__init__()
            self.retriever, self.k, self.passages = retriever, k, passages

        def __repr__(self) -> str:
            return f"pyterrier_transformer(k={self.k})"

        def transform(self, topics: pd.DataFrame) -> pd.DataFrame:
            """Return a frame of results for a frame of topics."""
            pt.validate.query_frame(topics, extra_columns=["query"])
            queries = [str(query) for query in topics["query"]]
            hits = self.retriever.search(queries, k=self.k) if queries else []
            rows = [(number, rank, hit) for number, of in enumerate(hits) for rank, hit in enumerate(of)]
            results = topics.iloc[[number for number, _, _ in rows]].reset_index(drop=True)
            results = results.assign(
                docno=pd.Series([hit.passage_id for _, _, hit in rows], dtype=object),
                score=pd.Series([hit.score for _, _, hit in rows], dtype=float),
                rank=pd.Series([rank for _, rank, _ in rows], dtype=int),
            )
            if self.passages is not None:
                passages = [self.passages.get(hit.passage_id) for _, _, hit in rows]
                results = results.assign(
                    title=pd.Series([passage.title for passage in passages], dtype=object),
                    text=pd.Series([passage.text for passage in passages], dtype=object),
                )
            return results

    return DGRTransformer
