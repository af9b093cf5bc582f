"""All teachers have one interface."""

import inspect

import pytest

import dgr_trainer
from dgr_trainer import teachers
from dgr_trainer.teachers import FunctionTeacher, Teacher

CLASSES = [
    value for name in teachers.__all__ if inspect.isclass(value := getattr(teachers, name)) and hasattr(value, "rank")
]


def test_all_teachers_are_here():
    names = {"BM25", "BiEncoder", "CausalLM", "CrossEncoder", "Function", "Pyserini", "Searcher", "Seq2Seq"}
    assert {one.__name__ for one in CLASSES} == {"Teacher", *(f"{name}Teacher" for name in names)}
    assert dgr_trainer.Teacher is Teacher


@pytest.mark.parametrize("teacher", CLASSES)
def test_rank_has_the_signature_of_the_protocol(teacher):
    assert inspect.signature(teacher.rank, eval_str=True) == inspect.signature(Teacher.rank, eval_str=True)


def test_any_object_with_rank_is_a_teacher(corpus):
    class Own:
        def rank(self, queries, candidates=None, *, k=100):
            return candidates

    assert isinstance(Own(), Teacher) and isinstance(FunctionTeacher(max, corpus), Teacher)
    assert not isinstance(corpus, Teacher)


def test_a_function_needs_candidates(corpus):
    with pytest.raises(ValueError, match="FunctionTeacher is a reranker: .* Give candidates, for example BM25Teacher"):
        FunctionTeacher(max, corpus).rank({"q": "water"})
