"""Retrieval metrics of runs, their confidence intervals, and tests of whether one run is better than another."""

import importlib
from typing import TYPE_CHECKING, Any

_HOME_OF = {
    "ANSWER_METRICS": "answers",
    "Agreement": "agreement",
    "AgreementTable": "agreement",
    "DEFAULT_METRICS": "metrics",
    "GeneratedIdentifierMetrics": "generated",
    "PairedTest": "significance",
    "RetrievalEvaluator": "evaluator",
    "RunComparison": "comparison",
    "RunMetric": "comparison",
    "TunedSearch": "tuning",
    "answer_qrels": "answers",
    "compare_runs": "comparison",
    "confidence_interval": "significance",
    "evaluate_per_query": "metrics",
    "evaluate_run": "metrics",
    "has_answer": "answers",
    "paired_test": "significance",
    "tune_search": "tuning",
}

if TYPE_CHECKING:  # The same names for type checkers and editors; a test compares the two.
    from dgr_trainer.evaluation.agreement import Agreement as Agreement
    from dgr_trainer.evaluation.agreement import AgreementTable as AgreementTable
    from dgr_trainer.evaluation.answers import ANSWER_METRICS as ANSWER_METRICS
    from dgr_trainer.evaluation.answers import answer_qrels as answer_qrels
    from dgr_trainer.evaluation.answers import has_answer as has_answer
    from dgr_trainer.evaluation.comparison import RunComparison as RunComparison
    from dgr_trainer.evaluation.comparison import RunMetric as RunMetric
    from dgr_trainer.evaluation.comparison import compare_runs as compare_runs
    from dgr_trainer.evaluation.evaluator import RetrievalEvaluator as RetrievalEvaluator
    from dgr_trainer.evaluation.generated import GeneratedIdentifierMetrics as GeneratedIdentifierMetrics
    from dgr_trainer.evaluation.metrics import DEFAULT_METRICS as DEFAULT_METRICS
    from dgr_trainer.evaluation.metrics import evaluate_per_query as evaluate_per_query
    from dgr_trainer.evaluation.metrics import evaluate_run as evaluate_run
    from dgr_trainer.evaluation.significance import PairedTest as PairedTest
    from dgr_trainer.evaluation.significance import confidence_interval as confidence_interval
    from dgr_trainer.evaluation.significance import paired_test as paired_test
    from dgr_trainer.evaluation.tuning import TunedSearch as TunedSearch
    from dgr_trainer.evaluation.tuning import tune_search as tune_search

__all__ = sorted(_HOME_OF)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'dgr_trainer.evaluation' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dgr_trainer.evaluation.{_HOME_OF[name]}"), name)
