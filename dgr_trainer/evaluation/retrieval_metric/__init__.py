"""The retrieval metrics as a metric of the `evaluate` library: pass this folder to `evaluate.load`."""

from dgr_trainer.evaluation.retrieval_metric.retrieval_metric import RetrievalMetric

__all__ = ["RetrievalMetric"]
