"""The questions are well formed, answered by this interpreter's documentation, and split without overlap."""

import logging

import pytest

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.quickstart.python_docs import python_docs_corpus
from dgr_trainer.quickstart.questions import ANSWER, all_questions, load_questions


@pytest.fixture(scope="module")
def docs() -> Corpus:
    return python_docs_corpus()


def test_there_are_enough() -> None:
    splits = [question.split for question in all_questions()]
    assert set(splits) == {"train", "test"}
    assert len(splits) >= 400
    assert splits.count("test") >= 150
    assert 0.3 < splits.count("test") / len(splits) < 0.45


def test_they_are_well_formed() -> None:
    questions = list(all_questions())
    assert len({question.query_id for question in questions}) == len(questions)
    assert len({question.query.lower() for question in questions}) == len(questions)
    for question in questions:
        assert question.query == question.query.strip() and 1 <= len(question.query.split()) <= 20
        assert question.relevant and set(question.relevant.values()) <= {1, ANSWER}
        assert ANSWER in question.relevant.values()


def test_they_cover_the_library() -> None:
    modules = {passage_id.split(".")[0] for question in all_questions() for passage_id in question.relevant}
    assert len(modules) > 120


def test_this_interpreter_documents_every_answer(docs: Corpus) -> None:
    missing = {
        (question.query, passage_id)
        for question in all_questions()
        for passage_id in question.relevant
        if passage_id not in docs
    }
    # A build may lack a module (sqlite3, lzma, ...), and another version has other words: a few, not many.
    assert len(missing) <= 20, missing


def test_no_passage_is_relevant_in_both_splits() -> None:
    relevant: dict[str, set[str]] = {"train": set(), "test": set()}
    for question in all_questions():
        relevant[question.split].update(question.relevant)
    assert not relevant["train"] & relevant["test"]


def test_no_question_repeats_the_first_sentence_of_its_answer(docs: Corpus) -> None:
    for question in all_questions():
        for passage_id in question.relevant:
            if passage_id in docs:
                summary = docs.get(passage_id).pseudo_queries[0].lower()
                assert question.query.lower() != summary


@pytest.mark.parametrize("split", ["train", "test"])
def test_load_questions(docs: Corpus, split: str) -> None:
    queries, qrels = load_questions(split, docs)
    assert queries.column_names == ["query_id", "query"]
    assert list(queries["query_id"]) == list(qrels)
    expected = [question.query_id for question in all_questions() if question.split == split]
    assert set(qrels) <= set(expected) and len(qrels) >= len(expected) - 10
    assert all(passage_id in docs for relevant in qrels.values() for passage_id in relevant)


def test_questions_without_an_answer_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    question = next(question for question in all_questions() if question.split == "train")
    total = sum(question.split == "train" for question in all_questions())
    only = {passage_id for passage_id, grade in question.relevant.items() if grade == ANSWER}
    with caplog.at_level(logging.WARNING):
        queries, qrels = load_questions("train", only)
    assert question.query_id in qrels and set(qrels[question.query_id]) == only
    assert len(queries) == len(qrels)
    assert f"{total - len(qrels)} of {total} train questions are left out" in caplog.text


def test_a_passage_that_only_helps_keeps_no_question() -> None:
    question = next(
        question for question in all_questions() if question.split == "train" and 1 in question.relevant.values()
    )
    answer = next(other for other in all_questions() if other.split == "train" and other is not question)
    helps = {passage_id for passage_id, grade in question.relevant.items() if grade == 1}
    _, qrels = load_questions("train", helps | set(answer.relevant))
    assert question.query_id not in qrels


def test_another_corpus_is_refused(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match=r"answers none of the \d+ test questions.*python_docs_corpus"):
        load_questions("test", corpus)


def test_an_unknown_split_is_refused(docs: Corpus) -> None:
    with pytest.raises(ValueError, match="'dev'.*train, test"):
        load_questions("dev", docs)  # type: ignore[arg-type]
