"""The questions are well formed, answered by this interpreter's documentation, and split without overlap."""

import logging
import re
from collections import Counter
from importlib.resources import files

import pytest

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.quickstart.python_docs import python_docs_corpus
from dgr_trainer.quickstart.questions import ANSWER, Question, all_questions, held_out_by, load_questions, topic


@pytest.fixture(scope="module")
def docs() -> Corpus:
    return python_docs_corpus()


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return list(all_questions())


def test_there_are_enough(questions: list[Question]) -> None:
    splits = Counter(question.split for question in questions)
    assert set(splits) == {"train", "test"}
    assert splits["train"] >= 700 and splits["test"] >= 700
    assert 0.4 < splits["test"] / len(questions) < 0.6


def test_the_test_questions_are_held_out_by_topic_or_by_passage(questions: list[Question]) -> None:
    held_out = held_out_by()
    assert list(held_out) == [question.query_id for question in questions if question.split == "test"]
    kinds = Counter(held_out.values())
    assert kinds["topic"] >= 300 and kinds["passage"] >= 300
    kind_of = {question.query: held_out.get(question.query_id) for question in questions}
    assert kind_of["hide the cursor on the terminal screen"] == "topic"
    assert kind_of["check whether a text starts with http"] == "passage"  # Others ask about strings.
    assert kind_of["how do I split a string at commas"] is None
    # Nobody asks about these in training, not even for a passage that only helps.
    trained = {
        topic(passage_id) for question in questions if question.split == "train" for passage_id in question.relevant
    }
    assert not trained & {"curses", "ftplib", "imaplib", "mailbox", "pdb", "queue", "xmlrpc", "zlib"}


def test_topics() -> None:
    names = ["str.split", "open", "ValueError", "json", "os.path.join", "collections.abc.Mapping"]
    assert [topic(name) for name in names] == ["builtins", "builtins", "builtins", "json", "os", "collections"]


def test_the_data_card_has_the_numbers(questions: list[Question]) -> None:
    card = " ".join(files("dgr_trainer.quickstart").joinpath("questions.md").read_text(encoding="utf-8").split())
    splits = Counter(question.split for question in questions)
    kinds = Counter(held_out_by().values())
    assert f"has {len(questions):,} questions" in card and f"`py439` to `{questions[-1].query_id}`" in card
    assert f"{splits['train']} to train on, {splits['test']} held out" in card
    assert f"by **topic** ({kinds['topic']} questions)" in card
    assert f"by **passage** ({kinds['passage']} questions)" in card


def test_they_are_well_formed(questions: list[Question]) -> None:
    assert [question.query_id for question in questions] == [f"py{n:03d}" for n in range(1, len(questions) + 1)]
    for question in questions:
        assert question.query == question.query.strip() and 1 <= len(question.query.split()) <= 20
        assert question.relevant and set(question.relevant.values()) <= {1, ANSWER}
        assert ANSWER in question.relevant.values()


def test_no_question_is_asked_twice(questions: list[Question]) -> None:
    words = {question.query: frozenset(re.findall(r"\w+", question.query.lower())) for question in questions}
    assert len(set(words.values())) == len(questions)
    # A test question in almost the words of a training question would be no test.
    train = [words[question.query] for question in questions if question.split == "train"]
    test = [words[question.query] for question in questions if question.split == "test"]
    alike = {(ours, theirs) for ours in test for theirs in train if len(ours & theirs) > 0.7 * len(ours | theirs)}
    assert not alike


def test_they_cover_the_library(questions: list[Question]) -> None:
    assert len({topic(passage_id) for question in questions for passage_id in question.relevant}) > 160


def test_this_interpreter_documents_every_answer(docs: Corpus, questions: list[Question]) -> None:
    built = {topic(passage_id) for passage_id in docs.ids}  # A build may lack a whole module (sqlite3, lzma, curses).
    missing = {
        (question.query, passage_id)
        for question in questions
        for passage_id in question.relevant
        if passage_id not in docs and topic(passage_id) in built
    }
    # Another version has other words or other names for a few.
    assert len(missing) <= 20, missing


def test_no_passage_is_relevant_in_both_splits() -> None:
    relevant: dict[str, set[str]] = {"train": set(), "test": set()}
    for question in all_questions():
        relevant[question.split].update(question.relevant)
    assert not relevant["train"] & relevant["test"]


def test_no_question_repeats_the_first_sentence_of_its_answer(docs: Corpus) -> None:
    def words(text: str) -> list[str]:
        return [word for word in re.findall(r"\w+", text.lower()) if word not in {"a", "an", "the", "of", "return"}]

    repeated = {
        question.query
        for question in all_questions()
        for passage_id in question.relevant
        if passage_id in docs and words(question.query) == words(docs.get(passage_id).pseudo_queries[0])
    }
    # Three of the first questions do, but for an article; they are left as they were asked in earlier versions.
    assert repeated <= {
        "wait until a thread terminates",
        "size of an object in bytes",
        "skip a test if a condition is true",
    }


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
