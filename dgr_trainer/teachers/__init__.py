"""Teachers: rankers that turn queries, and candidates if they rerank, into rank lists."""

from dgr_trainer.teachers.bi_encoder import BiEncoderTeacher
from dgr_trainer.teachers.bm25 import BM25Teacher
from dgr_trainer.teachers.causal_lm import CausalLMTeacher
from dgr_trainer.teachers.cross_encoder import SIMLM, CrossEncoderTeacher
from dgr_trainer.teachers.function import FunctionTeacher
from dgr_trainer.teachers.lucene.pyserini import RM3, PyseriniTeacher
from dgr_trainer.teachers.lucene.searcher import SearcherTeacher
from dgr_trainer.teachers.prompts import BGE_RERANKER_GEMMA, MONOT5, QWEN3_RERANKER, Prompt
from dgr_trainer.teachers.seq2seq import Seq2SeqTeacher
from dgr_trainer.teachers.teacher import Teacher

__all__ = [
    "BGE_RERANKER_GEMMA",
    "MONOT5",
    "QWEN3_RERANKER",
    "RM3",
    "SIMLM",
    "BM25Teacher",
    "BiEncoderTeacher",
    "CausalLMTeacher",
    "CrossEncoderTeacher",
    "FunctionTeacher",
    "Prompt",
    "PyseriniTeacher",
    "SearcherTeacher",
    "Seq2SeqTeacher",
    "Teacher",
]
