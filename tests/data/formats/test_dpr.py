import csv
import gzip
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgr_trainer import Corpus, Passage, read_qrels, read_queries
from dgr_trainer.runs.published_candidates import read_hard_negatives

PASSAGES = '''id\ttext\ttitle
1\t"Aaron ( or ; ""Ahärôn"") is a prophet, high priest, and the brother of Moses."\tAaron
2\t"God at Sinai granted Aaron the priesthood."\tAaron
3\tPlain text, no quotes.\t"""Weird Al"" Yankovic"
'''
QUESTIONS = "who got the first nobel prize in physics\t['Wilhelm Conrad Röntgen']\n" + (
    '"what is ""love"""\t"[""O\'Brien"", \'x\']"\r\n'
)


def example(question, positives, negatives, name="passage_id"):
    def passage(id):
        return {"title": "T", "text": "...", "score": 1000, "title_score": 1, name: id}

    return {
        "dataset": "nq_train_psgs_w100",
        "question": question,
        "answers": ["a", "b"],
        "positive_ctxs": [passage(id) for id in positives],
        "negative_ctxs": [passage("99")],
        "hard_negative_ctxs": [passage(id) for id in negatives],
    }


def test_passages(tmp_path):
    path = tmp_path / "psgs_w100.tsv"
    path.write_text(PASSAGES, encoding="utf-8")
    corpus = Corpus.read(path)
    assert corpus[0].text == 'Aaron ( or ; "Ahärôn") is a prophet, high priest, and the brother of Moses.'
    assert corpus[2] == Passage("3", '"Weird Al" Yankovic', "Plain text, no quotes.")
    # As a program that reads quotes reads them.
    with open(path, encoding="utf-8", newline="") as file:
        wanted = list(csv.reader(file, delimiter="\t"))[1:]
    assert [[passage.id, passage.text, passage.title] for passage in corpus] == wanted
    (tmp_path / "psgs_w100.tsv.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert list(Corpus.read(tmp_path / "psgs_w100.tsv.gz")) == list(corpus)


def test_questions_with_answers(tmp_path):
    path = tmp_path / "nq-test.qa.csv"
    path.write_bytes(QUESTIONS.encode())
    assert read_queries(path)[:] == {
        "query_id": ["0", "1"],
        "query": ["who got the first nobel prize in physics", 'what is "love"'],
        "answers": [["Wilhelm Conrad Röntgen"], ["O'Brien", "x"]],
    }


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), min_size=1).filter(str.strip)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(TEXT, st.lists(TEXT, max_size=3)), min_size=1, max_size=4))
def test_any_question_comes_back_as_a_program_writes_it(rows, tmp_path):
    path = tmp_path / "any.qa.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([question, str(answers)] for question, answers in rows)
    found = read_queries(path)
    assert list(found["query"]) == [question for question, _ in rows]
    if "answers" in found.column_names:
        assert list(found["answers"]) == [answers for _, answers in rows]
    else:
        assert not any(answers for _, answers in rows)


@pytest.mark.parametrize(
    "line, message",
    [
        ("who\t'Paris'", "answers is 'Paris', but it has to be a list of strings"),
        ("who\t['a', 5]", r"answers is \['a', 5\], but it has to be a list of strings"),
        ("who\tParis", "the answers .column 2. are 'Paris', which is no list. They are written as a Python list"),
        ("who\t['a'", r"the answers .column 2. are \"\['a'\", which is no list"),
        ("who\t__import__('os').getcwd()", "the answers .* which is no list"),
        ("who", "1 columns, but two are expected: question and list of answers"),
        ("who\t['a']\tmore", "3 columns, but two are expected"),
    ],
)
def test_errors_of_questions_name_the_line(tmp_path, line, message):
    path = tmp_path / "nq.qa.csv"
    path.write_text(f"fine\t['a']\n{line}\n")
    with pytest.raises(ValueError, match=rf"nq.qa.csv, line 2: {message}"):
        read_queries(path)


@pytest.mark.parametrize("name", ["passage_id", "psg_id"])
def test_training_sets(tmp_path, name):
    path = tmp_path / "biencoder-nq-train.json.gz"
    examples = [
        example("who", ["7", "8"], ["5", "6", "5"], name),
        example("what", [], ["4"], name),
        example("who", ["9"], [], name),
    ]
    path.write_bytes(gzip.compress(json.dumps(examples, indent=4).encode()))
    queries = read_queries(path)
    assert list(queries["query_id"]) == ["0", "1", "2"] and list(queries["query"]) == ["who", "what", "who"]
    assert list(queries["answers"]) == [["a", "b"]] * 3
    assert read_qrels(path) == {"0": {"7": 1, "8": 1}, "2": {"9": 1}}
    negatives = read_hard_negatives(path)
    assert {query_id: ranked.passage_ids for query_id, ranked in negatives.items()} == {
        "0": ("5", "6"), "1": ("4",), "2": (),
    }  # fmt: skip
    assert read_hard_negatives(path, k=1)["0"].passage_ids == ("5",)


@pytest.mark.parametrize(
    "change, kind, message",
    [
        ({"answers": "a"}, TypeError, "answers is 'a', but it has to be a list of strings"),
        ({"question": None}, TypeError, "the query '1' is None .NoneType., not a string"),
        ({"positive_ctxs": "7"}, TypeError, "positive_ctxs is a str, but it has to be a list of passages"),
        (
            {"positive_ctxs": [{"title": "T", "text": "x"}]},
            ValueError,
            r"a passage of positive_ctxs has no id \(passage_id, psg_id, id, docid\). The fields found are \['text', ",
        ),
    ],
)
def test_errors_of_training_sets_name_the_line(tmp_path, change, kind, message):
    path = tmp_path / "b.json"
    path.write_text(json.dumps([example("who", ["1"], []), {**example("what", ["1"], []), **change}], indent=1))
    line = path.read_text().splitlines().index(" {", 2) + 1
    with pytest.raises(kind, match=rf"b.json, line {line}: {message}"):
        read_queries(path)


def test_an_example_without_its_fields_is_refused(tmp_path):
    path = tmp_path / "b.json"
    path.write_text(json.dumps([example("who", ["1"], []), {"question": "what"}]))
    with pytest.raises(ValueError, match=re.escape("line 1: no field ['positive_ctxs']. The fields found are ['que")):
        read_qrels(path)
