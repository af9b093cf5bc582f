"""A model for the retrieval tasks of mteb: it indexes the corpus of a task, and searches it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.errors import DGRRuntimeError, DGRValueError
from dgr_trainer.index import FMIndex
from dgr_trainer.integrations.passages import check_retriever, needed_package
from dgr_trainer.retrieval.retriever import GenerativeRetriever


def mteb_model(retriever: GenerativeRetriever, *, name: str = "dgr-trainer/retriever", revision: str = "local") -> Any:
    """Make a model for `mteb.evaluate`, with the methods `index` and `search` of its `SearchProtocol`.

    Model, identifiers and settings are those of the retriever. The corpus of each task is indexed anew, since the
    index of the retriever is of another corpus: a student finds in it what it can generate identifiers of. Tasks of
    reranking are scored by the same search, restricted to the given passages.

    Args:
        retriever ([`GenerativeRetriever`]): The retriever.
        name (`str`, *optional*, defaults to `"dgr-trainer/retriever"`): Name of the model in results of mteb:
            `user/name`.
        revision (`str`, *optional*, defaults to `"local"`): Its revision. Mteb looks up results by name and revision.

    Returns:
        `mteb.models.SearchProtocol`: the model.

    Raises:
        TypeError: if this is no retriever.
        ValueError: if the name has no slash.
        MissingPackageError: if mteb is not installed.
    """
    check_retriever(retriever, 1)
    if name.count("/") != 1 or not all(name.split("/")):
        raise DGRValueError(f"name is {name!r}, but mteb names models user/name. Give one with a slash.")
    return _model_class()(retriever, name, revision)


@cache
def _model_class() -> Any:
    models = needed_package("mteb.models", "mteb", "mteb_model")

    class DGRModel:
        """Finds passages by letting a model generate their identifiers."""

        def __init__(self, retriever: GenerativeRetriever, name: str, revision: str) -> None:
            self.retriever = retriever
            self.mteb_model_meta = models.ModelMeta.create_empty({"name": name, "revision": revision})
            self._of_task: GenerativeRetriever | None = None

        def index(self, corpus: Any, **_: Any) -> None:
            """Index the corpus of a task: rows with `id`, `text`, and `title` if they have one."""
            given = self.retriever
            index = FMIndex.from_corpus(Corpus.from_passages(_passages(corpus)), given.identifiers)
            self._of_task = GenerativeRetriever(
                given.model, given.identifiers, index, settings=given.settings, scoring=given.scoring
            )

        def search(self, queries: Any, *, top_k: int, top_ranked: Any = None, **_: Any) -> dict[str, dict[str, float]]:
            """Search the corpus of the task for queries: rows with `id` and `text`."""
            if self._of_task is None:
                raise DGRRuntimeError("The corpus of the task was not indexed. Call index before search.")
            ids, texts = [str(id) for id in queries["id"]], [str(text) for text in queries["text"]]
            if top_ranked is None:
                found = self._of_task.search(texts, k=top_k)
                return {id: {hit.passage_id: hit.score for hit in hits} for id, hits in zip(ids, found, strict=True)}
            known = self._of_task.index.passage_ids  # Empty passages are in no index.
            include = [[one for one in dict.fromkeys(map(str, top_ranked[id])) if one in known] for id in ids]
            found = self._of_task.search(texts, k=1, include=include)
            results = {}
            for id, wanted, hits in zip(ids, include, found, strict=True):
                among = set(wanted)
                kept = [hit for hit in hits if hit.passage_id in among][:top_k]
                results[id] = {hit.passage_id: hit.score for hit in kept}
            return results

    return DGRModel


def _passages(corpus: Any) -> Iterator[Passage]:
    for row in corpus:
        text = row["text"] if "text" in row else row["body"]
        yield Passage(str(row["id"]), row.get("title") or "", text or "")
