"""With mteb itself, on tasks of the sample corpus."""

import pytest

pytest.importorskip("mteb", reason="needs mteb")

import datasets
import mteb
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models import SearchProtocol
from sample_corpus import PASSAGES, QUERIES

from dgr_trainer import Corpus, FMIndex, GenerativeRetriever, evaluate_run
from dgr_trainer.integrations import mteb_model

ROWS = [{"id": passage.id, "title": passage.title, "text": passage.text} for passage in PASSAGES]
ROWS.append({"id": "empty", "title": "", "text": ""})


def make_task(judged, top_ranked=None):
    kind = "Retrieval" if top_ranked is None else "Reranking"

    class Task(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=f"Sample{kind}",
            description="The sample corpus.",
            dataset={"path": "none/none", "revision": "1"},
            type=kind,
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, num_proc=None, **kwargs):
            queries = [{"id": query, "text": QUERIES[query]} for query in judged]
            data = {
                "corpus": datasets.Dataset.from_list(ROWS),
                "queries": datasets.Dataset.from_list(queries),
                "relevant_docs": judged,
                "top_ranked": top_ranked,
            }
            self.dataset, self.data_loaded = {"default": {"test": data}}, True

    return Task()


@pytest.fixture(scope="module")
def of_task(retriever):
    """What searches the corpus of the task: no pseudo-queries, which mteb does not have."""
    corpus = Corpus.from_passages([passage.__class__(passage.id, passage.title, passage.text) for passage in PASSAGES])
    index = FMIndex.from_corpus(corpus, retriever.identifiers)
    return GenerativeRetriever(retriever.model, retriever.identifiers, index, settings=retriever.settings)


def scores(model, task):
    result = mteb.evaluate(model, task, cache=None, show_progress_bar=False)
    (found,) = result.task_results[0].scores["test"]
    return found


def test_a_task_measures_what_this_library_measures(bare, of_task, judged):
    model = mteb_model(bare, name="me/my-retriever")
    assert isinstance(model, SearchProtocol) and model.mteb_model_meta.name == "me/my-retriever"
    found = scores(model, make_task(judged))
    rankings = of_task.rank({query: QUERIES[query] for query in judged}, k=24)
    expected = evaluate_run(rankings, judged, ["ndcg@10", "recall@5", "mrr@10"])
    assert found["ndcg_at_10"] == pytest.approx(expected["ndcg@10"], abs=1e-4)
    assert found["recall_at_5"] == pytest.approx(expected["recall@5"], abs=1e-4)
    assert found["mrr_at_10"] == pytest.approx(expected["mrr@10"], abs=1e-4)


def test_a_task_of_reranking_ranks_the_given_passages(bare, of_task, judged):
    given = {query: [*of, *[passage.id for passage in PASSAGES[:5] if passage.id not in of]] for query, of in
             judged.items()}  # fmt: skip
    with_empty = {query: [*of, "empty"] for query, of in given.items()}
    found = scores(mteb_model(bare), make_task(judged, with_empty))
    include = [given[query] for query in judged]
    hits = of_task.search([QUERIES[query] for query in judged], k=1, include=include)
    rankings = {
        query: {hit.passage_id: hit.score for hit in of if hit.passage_id in given[query]}
        for query, of in zip(judged, hits, strict=True)
    }
    assert all(set(of) == set(given[query]) for query, of in rankings.items())
    expected = evaluate_run(rankings, judged, ["ndcg@10"])
    assert found["ndcg_at_10"] == pytest.approx(expected["ndcg@10"], abs=1e-4)


def test_what_mteb_would_not_take(bare):
    with pytest.raises(ValueError, match="mteb names models user/name"):
        mteb_model(bare, name="retriever")
    with pytest.raises(RuntimeError, match="The corpus of the task was not indexed"):
        mteb_model(bare).search({"id": ["q"], "text": ["sea"]}, top_k=3)
