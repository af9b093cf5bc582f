"""Train generative retrievers to rank as a strong teacher does.

Public names are imported on first use, so that `import dgr_trainer` is fast and needs no optional package.
"""

import importlib
from typing import Any

from dgr_trainer._version import __version__

_HOME_OF = {
    "BM25Teacher": "dgr_trainer.teachers.bm25",
    "BiEncoderTeacher": "dgr_trainer.teachers.bi_encoder",
    "CausalLMTeacher": "dgr_trainer.teachers.causal_lm",
    "Candidate": "dgr_trainer.candidates",
    "Candidates": "dgr_trainer.candidates",
    "Corpus": "dgr_trainer.data.corpus",
    "CrossEncoderTeacher": "dgr_trainer.teachers.cross_encoder",
    "DistillationCollator": "dgr_trainer.training.collator",
    "DistillationGenerativeRetrievalTrainer": "dgr_trainer.training.trainer",
    "DistillationTrainingArguments": "dgr_trainer.training.arguments",
    "FMIndex": "dgr_trainer.index",
    "FunctionTeacher": "dgr_trainer.teachers.function",
    "GenerativeRetriever": "dgr_trainer.retrieval.retriever",
    "Hit": "dgr_trainer.retrieval.hits",
    "IdentifierSettings": "dgr_trainer.identifiers",
    "Identifiers": "dgr_trainer.identifiers",
    "MatchedIdentifier": "dgr_trainer.candidates",
    "Passage": "dgr_trainer.data.passages",
    "PseudoQueryGenerator": "dgr_trainer.query_generation",
    "PyseriniTeacher": "dgr_trainer.teachers.lucene.pyserini",
    "RankingLoss": "dgr_trainer.training.losses",
    "Rankings": "dgr_trainer.runs.rankings",
    "RetrievalEvaluator": "dgr_trainer.evaluation.evaluator",
    "SearcherTeacher": "dgr_trainer.teachers.lucene.searcher",
    "Seq2SeqTeacher": "dgr_trainer.teachers.seq2seq",
    "ScoringSettings": "dgr_trainer.identifier_weights",
    "SearchSettings": "dgr_trainer.retrieval.settings",
    "Teacher": "dgr_trainer.teachers.teacher",
    "answer_qrels": "dgr_trainer.evaluation.answers",
    "compare_runs": "dgr_trainer.evaluation.comparison",
    "evaluate_run": "dgr_trainer.evaluation.metrics",
    "generation_pairs": "dgr_trainer.training.pairs",
    "qrels_from_dataset": "dgr_trainer.data.queries",
    "queries_from_dataset": "dgr_trainer.data.queries",
    "rank_list_statistics": "dgr_trainer.runs.statistics",
    "read_run": "dgr_trainer.runs.reading",
    "read_pseudo_queries": "dgr_trainer.data.pseudo_queries",
    "read_qrels": "dgr_trainer.data.queries",
    "read_queries": "dgr_trainer.data.queries",
    "distilled_ranknet_loss": "dgr_trainer.training.losses",
    "kl_divergence_loss": "dgr_trainer.training.losses",
    "lambda_loss": "dgr_trainer.training.losses",
    "listmle_loss": "dgr_trainer.training.losses",
    "listnet_loss": "dgr_trainer.training.losses",
    "margin_mse_loss": "dgr_trainer.training.losses",
    "margin_rank_loss": "dgr_trainer.training.losses",
    "ranknet_loss": "dgr_trainer.training.losses",
}

__all__ = ["__version__", *sorted(_HOME_OF)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'dgr_trainer' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
