"""Retrieval metrics of a model while it trains."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from datasets import Dataset

from dgr_trainer.data.grades import as_qrels
from dgr_trainer.data.queries import queries_mapping
from dgr_trainer.errors import DGRValueError
from dgr_trainer.evaluation.metrics import DEFAULT_METRICS, Metric, evaluate_run
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.processes import ResultsOn, from_main, is_main_process
from dgr_trainer.processes.jobs import in_every_process
from dgr_trainer.retrieval.retriever import GenerativeRetriever
from dgr_trainer.retrieval.settings import SearchSettings
from dgr_trainer.runs.rankings import Rankings

if TYPE_CHECKING:
    from accelerate import Accelerator


class RetrievalEvaluator:
    """Searches with a model and computes retrieval metrics; made once and called with the model at each evaluation.

    Args:
        index ([`FMIndex`]): Index of the corpus.
        identifiers ([`Identifiers`]): Tokenizer, views, markers and prompts.
        queries (`datasets.Dataset` with columns `query_id` and `query`, or `Mapping[str, str]`):
            Queries; those that the qrels do not judge are left out.
        qrels (`Mapping[str, Mapping[str, int]]`): Judgements.
        metrics (`Sequence[str]`, *optional*): As in [`evaluate_run`].
        k (`int`, defaults to 100): Passages to search for a query.
        settings ([`SearchSettings`], *optional*): How exhaustively to search. A small beam is enough to compare
            checkpoints.
        scoring ([`ScoringSettings`], *optional*): How identifiers are weighted.
        max_queries (`int`, *optional*): Evaluate on a sample of this many queries, the same at each call.
        seed (`int`, defaults to 0): Seed of the sample.
        ignore_identical_ids (`bool`, defaults to `False`): Whether to leave out the passage with the id of the query.
        leave_out_own_text (`bool`, defaults to `False`):
            Whether to leave out pseudo-queries that are the query, as `GenerativeRetriever.candidates` does: so that
            the metrics of training queries can be compared with those of others.

    Raises:
        ValueError: if no query has a relevant passage in the index, a metric is unknown or has a cut above `k`, or
            `max_queries` is below 1.

    Example:

    ```python
    evaluator = RetrievalEvaluator(index, identifiers, queries, qrels, metrics=["hits@1", "mrr@10"], max_queries=200)
    evaluator(model)  # {"hits@1": 0.43, "mrr@10": 0.52}
    ```
    """

    def __init__(
        self,
        index: FMIndex,
        identifiers: Identifiers,
        queries: Dataset | Mapping[str, str],
        qrels: Mapping[str, Mapping[str, int]],
        *,
        metrics: Sequence[str] = DEFAULT_METRICS,
        k: int = 100,
        settings: SearchSettings | None = None,
        scoring: ScoringSettings | None = None,
        max_queries: int | None = None,
        seed: int = 0,
        ignore_identical_ids: bool = False,
        leave_out_own_text: bool = False,
    ) -> None:
        if not isinstance(k, int) or k < 1:
            raise DGRValueError(f"k is {k!r}, but it has to be an integer of 1 or more.")
        if max_queries is not None and max_queries < 1:
            raise DGRValueError(
                f"max_queries is {max_queries}. Evaluate on at least 1 query, or leave it out to use all."
            )
        if not metrics:
            raise DGRValueError("No metric was given. Name at least one, such as 'hits@10'.")
        too_far = [name for name in metrics if (Metric.parse(name).k or 0) > k]
        if too_far:
            raise DGRValueError(f"k is {k}, which is too few passages for {', '.join(too_far)}. Raise k.")
        texts, qrels = queries_mapping(queries), as_qrels(qrels)
        judged = {query: relevant for query, relevant in qrels.items() if query in texts and _relevant(relevant)}
        known = index.passage_ids.positions(sorted({id for relevant in judged.values() for id in _relevant(relevant)}))
        if not (known >= 0).any():
            raise DGRValueError(
                f"None of the {len(texts)} queries has a relevant passage in the index ({len(qrels)} queries have "
                "qrels). Check that queries, qrels and corpus use the same query ids and passage ids."
            )
        ids = sorted(judged)
        if max_queries is not None and max_queries < len(ids):
            ids = sorted(random.Random(seed).sample(ids, max_queries))
        self.queries = {query: texts[query] for query in ids}
        self.qrels = {query: dict(judged[query]) for query in ids}
        self.index = index
        self.identifiers = identifiers
        self.metrics = tuple(metrics)
        self.k = k
        self.settings = settings
        self.scoring = scoring
        self.ignore_identical_ids = ignore_identical_ids
        self.leave_out_own_text = leave_out_own_text

    def __call__(self, model: torch.nn.Module, accelerator: Accelerator | None = None) -> dict[str, float]:
        """Evaluate a model. Its mode, training or evaluation, is restored afterwards.

        Args:
            model (`nn.Module`): The student, wrapped for distributed training or not.
            accelerator ([`~accelerate.Accelerator`], *optional*):
                With several processes, all of which call this with the same model, each searches for a part of the
                queries.

        Returns:
            `dict[str, float]`: mean of each metric, the same on all processes.
        """
        rankings = self.rank(model, accelerator, results_on="main")
        is_main = is_main_process(accelerator)
        means = in_every_process(
            lambda: evaluate_run(rankings, self.qrels, self.metrics) if is_main else {}, accelerator
        )
        return from_main(means, accelerator)

    def rank(
        self,
        model: torch.nn.Module,
        accelerator: Accelerator | None = None,
        queries: Dataset | Mapping[str, str] | None = None,
        *,
        results_on: ResultsOn = "all",
    ) -> Rankings:
        """Return the rank lists that the metrics are computed from, or those of other queries.

        Args:
            model (`nn.Module`): See a call.
            accelerator ([`~accelerate.Accelerator`], *optional*): See a call.
            queries (`datasets.Dataset` or `Mapping[str, str]`, *optional*): Other queries.
            results_on (`str`, *optional*, defaults to `"all"`): Which of several processes get the rank lists:
                `"all"`, or only the `"main"` one; the others then get none.

        Returns:
            [`Rankings`]: `k` passages of each query.
        """
        return self._retriever(model).rank(
            self.queries if queries is None else queries,
            self.k,
            accelerator,
            results_on=results_on,
            ignore_identical_ids=self.ignore_identical_ids,
            leave_out_own_text=self.leave_out_own_text,
        )

    def add_index(self, model: torch.nn.Module, folder: Path) -> None:
        """Make the folder of a saved model that of a retriever, which `GenerativeRetriever.from_pretrained` loads.

        The trainer calls this before it uploads a model to the Hub.

        Args:
            model (`nn.Module`): The student.
            folder (`pathlib.Path`): The folder, with the model and the tokenizer.

        Raises:
            ValueError: if the model has several adapters.
        """
        self._retriever(model).add_index(model, folder)

    def _retriever(self, model: torch.nn.Module) -> GenerativeRetriever:
        return GenerativeRetriever(model, self.identifiers, self.index, settings=self.settings, scoring=self.scoring)


def _relevant(judgements: Mapping[str, int]) -> list[str]:
    return [id for id, grade in judgements.items() if grade > 0]
