"""Teachers: rankers that turn queries, and the candidates to rank where they need them, into rank lists."""

from dgr_trainer.teachers.bm25 import BM25Teacher
from dgr_trainer.teachers.cross_encoder import CrossEncoderTeacher
from dgr_trainer.teachers.pyserini import RM3, PyseriniTeacher

__all__ = ["RM3", "BM25Teacher", "CrossEncoderTeacher", "PyseriniTeacher"]
