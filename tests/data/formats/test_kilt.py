import json

import pytest

from dgr_trainer import Corpus, Passage, read_qrels, read_queries
from dgr_trainer.data.formats import kilt
from dgr_trainer.data.sources import FileSource

PAGES = [
    {
        "_id": "12",
        "wikipedia_id": "12",
        "wikipedia_title": "Anarchism",
        "text": ["Anarchism\n", "It is a movement.\n", "Section::::History.\n", "BULLET::::- Item.\n", "\n"],
        "anchors": [],
        "categories": "Politics",
    },
    {"_id": "25", "wikipedia_id": "25", "wikipedia_title": "Autism", "text": ["Autism\n", "It begins early.\n"]},
]
TASK = [
    {
        "id": "6915606477668963399",
        "input": "what do we call it",
        "output": [
            {
                "answer": "a movement",
                "provenance": [{"wikipedia_id": "12", "start_paragraph_id": 1, "end_paragraph_id": 3}],
            },
            {"answer": "a movement"},
            {"answer": "early", "provenance": [{"wikipedia_id": "25", "start_paragraph_id": 1}]},
            {"provenance": [{"wikipedia_id": "25", "start_paragraph_id": None}]},
        ],
    },
    {"id": "b", "input": "no output", "output": []},
]  # fmt: skip


def _write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_pages_and_paragraphs(tmp_path):
    path = _write(tmp_path / "kilt_knowledgesource.json", PAGES)
    pages = [
        Passage("12", "Anarchism", "It is a movement.\nHistory.\n- Item."),
        Passage("25", "Autism", "It begins early."),
    ]
    assert list(Corpus.read(path)) == list(Corpus.from_kilt(path)) == pages
    assert list(Corpus.from_kilt(path, unit="paragraph")) == [
        Passage("12-1", "Anarchism", "It is a movement."),
        Passage("12-2", "Anarchism", "History."),
        Passage("12-3", "Anarchism", "- Item."),
        Passage("25-1", "Autism", "It begins early."),
    ]


def test_tasks(tmp_path):
    path = _write(tmp_path / "nq-dev-kilt.jsonl", TASK)
    queries = read_queries(path)
    assert list(queries["query_id"]) == ["6915606477668963399", "b"]
    assert list(queries["answers"]) == [["a movement", "early"], []]
    assert read_qrels(path) == {"6915606477668963399": {"12": 1, "25": 1}}
    without = _write(tmp_path / "nq-test_without_answers-kilt.jsonl", [{"id": "7", "input": "what"}])
    assert read_queries(without)[:] == {"query_id": ["7"], "query": ["what"]}
    rows = list(kilt.task_judgements(FileSource(path), "paragraph"))
    assert [row[2] for row in rows] == ["12-1", "12-2", "12-3", "25-1"]


@pytest.mark.parametrize(
    "change, kind, message",
    [
        ({"text": "one text"}, TypeError, "line 2: the text is 'one text', but it has to be a list of paragraphs"),
        ({"wikipedia_id": "1 2"}, ValueError, "line 2: the page id '1 2' holds whitespace"),
    ],
)
def test_errors_of_pages(tmp_path, change, kind, message):
    path = _write(tmp_path / "k.json", [PAGES[0], {**PAGES[1], **change}])
    with pytest.raises(kind, match=f"k.json, {message}"):
        Corpus.read(path)
    with pytest.raises(ValueError, match="unit is 'sentence', but a passage .* is one of page, paragraph"):
        Corpus.from_kilt(path, unit="sentence")
    with pytest.raises(ValueError, match=r"line 1: no field \['wikipedia_id', 'wikipedia_title'\]"):
        Corpus.from_kilt(_write(path, [{"id": "1", "text": "x"}]))


@pytest.mark.parametrize(
    "change, kind, message",
    [
        ({"input": None}, TypeError, r"line 2: the query 'b' is None \(NoneType\), not a string. It is missing"),
        ({"output": {"answer": "x"}}, TypeError, "line 2: output is .*has to be a list of objects"),
        (
            {"output": [{"answer": ["x"]}]},
            TypeError,
            r"line 2: answers is \[\['x'\]\], but it has to be a list",
        ),
    ],
)
def test_errors_of_tasks(tmp_path, change, kind, message):
    path = _write(tmp_path / "t.jsonl", [TASK[0], {**TASK[1], **change}])
    with pytest.raises(kind, match=f"t.jsonl, {message}"):
        read_queries(path)
