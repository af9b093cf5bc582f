import shutil
from pathlib import Path

import evaluate
import pytest

from dgr_trainer.evaluation import evaluate_run, retrieval_metric
from dgr_trainer.evaluation.retrieval_metric import RetrievalMetric

PREDICTIONS = [
    {"query_id": "q1", "passage_ids": ["p1", "p2"], "scores": [1.0, 2.0]},
    {"query_id": "q2", "passage_ids": [], "scores": []},
]
REFERENCES = [
    {"query_id": "q2", "passage_ids": ["p9"], "relevance": [1]},
    {"query_id": "q1", "passage_ids": ["p1", "p2"], "relevance": [2, 0]},
]
RUN = {"q1": {"p1": 1.0, "p2": 2.0}, "q2": {}}
QRELS = {"q1": {"p1": 2, "p2": 0}, "q2": {"p9": 1}}


@pytest.fixture(params=["imported", "loaded from this package", "loaded from its file", "loaded from a copy"])
def metric(request, tmp_path, monkeypatch):
    if request.param == "imported":
        return RetrievalMetric(cache_dir=str(tmp_path))
    path = Path(retrieval_metric.__file__).parent
    if request.param == "loaded from its file":
        path = path / "retrieval_metric.py"
    if request.param == "loaded from a copy":
        path = shutil.copytree(path, tmp_path / "retrieval_metric")
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    return evaluate.load(str(path), cache_dir=str(tmp_path))


def test_it_computes_the_metrics(metric):
    assert metric.compute(predictions=PREDICTIONS, references=REFERENCES) == evaluate_run(RUN, QRELS)
    names = ["mrr@10", "recall@1", "map"]
    strict = metric.compute(predictions=PREDICTIONS, references=REFERENCES, metrics=names, relevance_level=2)
    assert strict == evaluate_run(RUN, QRELS, names, relevance_level=2)


def test_it_is_filled_batch_by_batch(metric):
    metric.add_batch(predictions=PREDICTIONS[:1], references=REFERENCES[:1])
    metric.add(prediction=PREDICTIONS[1], reference=REFERENCES[1])
    assert metric.compute(metrics=["hits@2"]) == {"hits@2": 0.5}


def test_it_describes_itself(metric):
    assert "relevance_level" in metric.inputs_description
    assert set(metric.features) == {"predictions", "references"}


def test_it_refuses_what_does_not_fit_together(tmp_path):
    metric = RetrievalMetric(cache_dir=str(tmp_path), keep_in_memory=True)
    with pytest.raises(ValueError, match="Query 'q1' has more than one prediction"):
        metric.compute(predictions=PREDICTIONS[:1] * 2, references=REFERENCES)
    with pytest.raises(ValueError, match="Query 'q2' has more than one reference"):
        metric.compute(predictions=PREDICTIONS, references=REFERENCES[:1] * 2)
    with pytest.raises(ValueError, match="Query 'q1': 2 passage_ids, but 1 scores"):
        metric.compute(predictions=[{**PREDICTIONS[0], "scores": [1.0]}], references=REFERENCES[1:])
