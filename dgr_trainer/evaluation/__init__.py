"""Retrieval metrics of runs, their confidence intervals, and tests of whether one run is better than another."""

import importlib
from typing import Any

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
    "answer_qrels": "answers",
    "compare_runs": "comparison",
    "confidence_interval": "significance",
    "evaluate_per_query": "metrics",
    "evaluate_run": "metrics",
    "has_answer": "answers",
    "paired_test": "significance",
}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'dgr_trainer.evaluation' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dgr_trainer.evaluation.{_HOME_OF[name]}"), name)
