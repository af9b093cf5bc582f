"""Train generative retrievers to rank as a strong teacher does.

Public names are imported on first use, so that `import dgr_trainer` is fast and needs no optional package.
"""

import importlib
from typing import TYPE_CHECKING, Any

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
    "SemanticIdStatistics": "dgr_trainer.semantic_ids",
    "SemanticIds": "dgr_trainer.semantic_ids",
    "SearcherTeacher": "dgr_trainer.teachers.lucene.searcher",
    "Seq2SeqTeacher": "dgr_trainer.teachers.seq2seq",
    "ScoringSettings": "dgr_trainer.identifier_weights",
    "SearchSettings": "dgr_trainer.retrieval.settings",
    "Teacher": "dgr_trainer.teachers.teacher",
    "answer_qrels": "dgr_trainer.evaluation.answers",
    "distil_in_rounds": "dgr_trainer.rounds.distillation",
    "train_generation_in_rounds": "dgr_trainer.rounds.generation",
    "compare_runs": "dgr_trainer.evaluation.comparison",
    "evaluate_run": "dgr_trainer.evaluation.metrics",
    "generation_pairs": "dgr_trainer.training.pairs",
    "pairs_from_candidates": "dgr_trainer.training.pairs",
    "qrels_from_dataset": "dgr_trainer.data.queries",
    "queries_from_dataset": "dgr_trainer.data.queries",
    "rank_list_statistics": "dgr_trainer.runs.statistics",
    "read_run": "dgr_trainer.runs.reading",
    "read_pseudo_queries": "dgr_trainer.data.pseudo_queries",
    "read_qrels": "dgr_trainer.data.queries",
    "read_queries": "dgr_trainer.data.queries",
    "tune_search": "dgr_trainer.evaluation.tuning",
    "split_queries": "dgr_trainer.data.query_splits",
    "distilled_ranknet_loss": "dgr_trainer.training.losses",
    "kl_divergence_loss": "dgr_trainer.training.losses",
    "lambda_loss": "dgr_trainer.training.losses",
    "listmle_loss": "dgr_trainer.training.losses",
    "listnet_loss": "dgr_trainer.training.losses",
    "margin_mse_loss": "dgr_trainer.training.losses",
    "margin_rank_loss": "dgr_trainer.training.losses",
    "ranknet_loss": "dgr_trainer.training.losses",
    "write_report": "dgr_trainer.reporting.report",
}

if TYPE_CHECKING:  # The same names for type checkers and editors; a test compares the two.
    from dgr_trainer.candidates import Candidate as Candidate
    from dgr_trainer.candidates import Candidates as Candidates
    from dgr_trainer.candidates import MatchedIdentifier as MatchedIdentifier
    from dgr_trainer.data.corpus import Corpus as Corpus
    from dgr_trainer.data.passages import Passage as Passage
    from dgr_trainer.data.pseudo_queries import read_pseudo_queries as read_pseudo_queries
    from dgr_trainer.data.queries import qrels_from_dataset as qrels_from_dataset
    from dgr_trainer.data.queries import queries_from_dataset as queries_from_dataset
    from dgr_trainer.data.queries import read_qrels as read_qrels
    from dgr_trainer.data.queries import read_queries as read_queries
    from dgr_trainer.data.query_splits import split_queries as split_queries
    from dgr_trainer.evaluation.answers import answer_qrels as answer_qrels
    from dgr_trainer.evaluation.comparison import compare_runs as compare_runs
    from dgr_trainer.evaluation.evaluator import RetrievalEvaluator as RetrievalEvaluator
    from dgr_trainer.evaluation.metrics import evaluate_run as evaluate_run
    from dgr_trainer.evaluation.tuning import tune_search as tune_search
    from dgr_trainer.identifier_weights import ScoringSettings as ScoringSettings
    from dgr_trainer.identifiers import Identifiers as Identifiers
    from dgr_trainer.identifiers import IdentifierSettings as IdentifierSettings
    from dgr_trainer.index import FMIndex as FMIndex
    from dgr_trainer.query_generation import PseudoQueryGenerator as PseudoQueryGenerator
    from dgr_trainer.reporting.report import write_report as write_report
    from dgr_trainer.retrieval.hits import Hit as Hit
    from dgr_trainer.retrieval.retriever import GenerativeRetriever as GenerativeRetriever
    from dgr_trainer.retrieval.settings import SearchSettings as SearchSettings
    from dgr_trainer.rounds.distillation import distil_in_rounds as distil_in_rounds
    from dgr_trainer.rounds.generation import train_generation_in_rounds as train_generation_in_rounds
    from dgr_trainer.runs.rankings import Rankings as Rankings
    from dgr_trainer.runs.reading import read_run as read_run
    from dgr_trainer.runs.statistics import rank_list_statistics as rank_list_statistics
    from dgr_trainer.semantic_ids import SemanticIds as SemanticIds
    from dgr_trainer.semantic_ids import SemanticIdStatistics as SemanticIdStatistics
    from dgr_trainer.teachers.bi_encoder import BiEncoderTeacher as BiEncoderTeacher
    from dgr_trainer.teachers.bm25 import BM25Teacher as BM25Teacher
    from dgr_trainer.teachers.causal_lm import CausalLMTeacher as CausalLMTeacher
    from dgr_trainer.teachers.cross_encoder import CrossEncoderTeacher as CrossEncoderTeacher
    from dgr_trainer.teachers.function import FunctionTeacher as FunctionTeacher
    from dgr_trainer.teachers.lucene.pyserini import PyseriniTeacher as PyseriniTeacher
    from dgr_trainer.teachers.lucene.searcher import SearcherTeacher as SearcherTeacher
    from dgr_trainer.teachers.seq2seq import Seq2SeqTeacher as Seq2SeqTeacher
    from dgr_trainer.teachers.teacher import Teacher as Teacher
    from dgr_trainer.training.arguments import DistillationTrainingArguments as DistillationTrainingArguments
    from dgr_trainer.training.collator import DistillationCollator as DistillationCollator
    from dgr_trainer.training.losses import RankingLoss as RankingLoss
    from dgr_trainer.training.losses import distilled_ranknet_loss as distilled_ranknet_loss
    from dgr_trainer.training.losses import kl_divergence_loss as kl_divergence_loss
    from dgr_trainer.training.losses import lambda_loss as lambda_loss
    from dgr_trainer.training.losses import listmle_loss as listmle_loss
    from dgr_trainer.training.losses import listnet_loss as listnet_loss
    from dgr_trainer.training.losses import margin_mse_loss as margin_mse_loss
    from dgr_trainer.training.losses import margin_rank_loss as margin_rank_loss
    from dgr_trainer.training.losses import ranknet_loss as ranknet_loss
    from dgr_trainer.training.pairs import generation_pairs as generation_pairs
    from dgr_trainer.training.pairs import pairs_from_candidates as pairs_from_candidates
    from dgr_trainer.training.trainer import (
        DistillationGenerativeRetrievalTrainer as DistillationGenerativeRetrievalTrainer,
    )

__all__ = ["__version__", *sorted(_HOME_OF)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'dgr_trainer' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
