"""The retrieval metrics as a metric of the `evaluate` library."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from dgr_trainer.errors import DGRValueError
from dgr_trainer.evaluation.metrics import DEFAULT_METRICS, evaluate_run
from dgr_trainer.runs.rankings import Rankings

_DESCRIPTION = """
How well passages are ranked for queries: hits@k, recall@k, precision@k, mrr@k, ndcg@k, map, computed by trec_eval.
"""

_CITATION = """
@inproceedings{VanGysel2018pytreceval,
  title={Pytrec\\_eval: An Extremely Fast Python Interface to trec\\_eval},
  author={Van Gysel, Christophe and de Rijke, Maarten},
  booktitle={SIGIR},
  year={2018}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: list of dicts `query_id` (string), `passage_ids` (list of strings) and `scores` (list of floats), one
        for each query. A query without results has empty lists.
    references: list of dicts `query_id` (string), `passage_ids` (list of strings) and `relevance` (list of integers),
        one for each query, in any order: predictions and references are matched by query id.
    metrics: names of metrics, such as "hits@5"; default hits@1, hits@5, hits@20, mrr@10 and ndcg@10.
    relevance_level: the lowest relevance that counts as relevant, default 1.
    ignore_identical_ids: whether to leave the passage that has the id of the query out, default False.
Returns:
    the mean over the queries of each metric, by its name.
Examples:
    >>> metric = RetrievalMetric()
    >>> predictions = [{"query_id": "q1", "passage_ids": ["p1", "p2"], "scores": [2.0, 1.0]}]
    >>> references = [{"query_id": "q1", "passage_ids": ["p2"], "relevance": [1]}]
    >>> metric.compute(predictions=predictions, references=references, metrics=["hits@1", "mrr@10"])
    {'hits@1': 0.0, 'mrr@10': 0.5}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class RetrievalMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types.
    """Retrieval metrics for `evaluate`: `RetrievalMetric()`, or `evaluate.load` with the path of this folder."""

    def _info(self) -> evaluate.MetricInfo:
        lists = {"query_id": datasets.Value("string"), "passage_ids": datasets.List(datasets.Value("string"))}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": {**lists, "scores": datasets.List(datasets.Value("float64"))},
                    "references": {**lists, "relevance": datasets.List(datasets.Value("int64"))},
                }
            ),
        )

    def _compute(
        self,
        predictions: Sequence[dict[str, Any]],
        references: Sequence[dict[str, Any]],
        metrics: Sequence[str] = DEFAULT_METRICS,
        relevance_level: int = 1,
        ignore_identical_ids: bool = False,
    ) -> dict[str, float]:
        lists: dict[str, list[tuple[str, float]]] = {}
        for row in predictions:
            if row["query_id"] in lists:
                raise DGRValueError(
                    f"Query {row['query_id']!r} has more than one prediction. Give one for each query."
                )
            lists[row["query_id"]] = _pairs(row, "scores")
        qrels: dict[str, dict[str, int]] = {}
        for row in references:
            if row["query_id"] in qrels:
                raise DGRValueError(f"Query {row['query_id']!r} has more than one reference. Give one for each query.")
            qrels[row["query_id"]] = dict(_pairs(row, "relevance"))
        return evaluate_run(
            Rankings(lists),
            qrels,
            metrics,
            relevance_level=relevance_level,
            ignore_identical_ids=ignore_identical_ids,
        )


def _pairs(row: dict[str, Any], values: str) -> list[tuple[str, Any]]:
    if len(row["passage_ids"]) != len(row[values]):
        raise DGRValueError(
            f"Query {row['query_id']!r}: {len(row['passage_ids'])} passage_ids, but {len(row[values])} {values}. "
            "Give one for each passage."
        )
    return list(zip(row["passage_ids"], row[values], strict=True))
