"""The retrieval metrics as a metric of the `evaluate` library: a folder that `evaluate.load` takes."""

from dgr_trainer.evaluation.retrieval_metric.retrieval_metric import RetrievalMetric

__all__ = ["RetrievalMetric"]
