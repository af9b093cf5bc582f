"""Results of DPR's retriever and of Pyserini's conversion: a run, questions with answers, and judgements by answer."""

import gzip
import json

import pytest

from dgr_trainer import evaluate_run, read_qrels, read_queries
from dgr_trainer.runs.reading import read_run

# As dense_retriever.py writes them: scores are strings, questions have no ids.
RESULTS = [
    {
        "question": "who got the first nobel prize in physics",
        "answers": ["Wilhelm Conrad Röntgen"],
        "ctxs": [
            {"id": "wiki:628713", "title": "Nobel", "text": "a list", "score": "80.5", "has_answer": False},
            {"id": "wiki:284495", "title": "X-ray", "text": "Röntgen", "score": "79.25", "has_answer": True},
        ],
    },
    {
        "question": "who else",
        "answers": ["Curie"],
        "ctxs": [{"id": 7, "title": "", "text": "", "score": 3.5, "has_answer": False}],
    },
]
RUN = {"0": {"wiki:628713": 80.5, "wiki:284495": 79.25}, "1": {"7": 3.5}}


@pytest.mark.parametrize("name", ["results.json", "results.json.gz", "results.jsonl"])
def test_results_of_dpr(tmp_path, name):
    lines = "".join(json.dumps(one) + "\n" for one in RESULTS)
    text = lines if name.endswith("l") else json.dumps(RESULTS, indent=4, ensure_ascii=False)
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    run = read_run(tmp_path / name)
    assert run.to_run() == RUN and run.name == "results"
    assert read_queries(tmp_path / name)[:] == {
        "query_id": ["0", "1"],
        "query": [one["question"] for one in RESULTS],
        "answers": [one["answers"] for one in RESULTS],
    }
    qrels = read_qrels(tmp_path / name)
    assert qrels == {"0": {"wiki:628713": 0, "wiki:284495": 1}, "1": {"7": 0}}
    assert evaluate_run(run, qrels, ["hits@1", "hits@20"]) == {"hits@1": 0.0, "hits@20": 0.5}


def test_ids_and_order_where_the_file_says_so(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"id": "x", "question": "q", "ctxs": [{"id": "b"}, {"id": "a"}]}]))
    assert read_run(tmp_path / "a.json").to_run() == {"x": {"b": 2.0, "a": 1.0}}


def test_results_of_pyserini(tmp_path):
    contexts = {
        "contexts": [
            {"docid": one["id"], "score": one["score"], "has_answer": one["has_answer"]} for one in RESULTS[0]["ctxs"]
        ]
    }
    (tmp_path / "run.json").write_text(json.dumps({"5": {"question": "who", "answers": ["x"], **contexts}}, indent=4))
    assert read_run(tmp_path / "run.json").to_run() == {"5": RUN["0"]}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"ctxs": {"id": 1}}, TypeError, "line 1: ctxs is a dict, but it has to be a list of passages"),
        ({"ctxs": ["p"]}, TypeError, "line 1: ctxs holds 'p', not an object"),
        ({"ctxs": [{"title": "x", "score": 1}]}, ValueError, "line 1: a passage of ctxs has no id"),
        ({"ctxs": [{"id": 1, "score": "high"}]}, ValueError, "line 1: the score of a passage is 'high', not a number"),
        ({"ctxs": [{"id": 1, "score": 1}, {"id": 2}]}, ValueError, "line 1: the score of a passage is None"),
        ({"ctxs": [{"id": 1, "score": "nan"}]}, ValueError, "line 1: The score of passage '1' for query '0' is nan"),
        ({"ctxs": [{"id": 1, "score": 1}] * 2}, ValueError, "line 1: Passage '1' occurs more than once"),
        (
            {"ctxs": [{"id": 1, "score": 1, "has_answer": "yes"}]},
            TypeError,
            "has_answer of passage '1' is 'yes', not true",
        ),
        ({"question": ["q"]}, TypeError, r"line 1: the query '0' is \['q'\] \(list\), not a string"),
        ({"answers": "Curie"}, TypeError, "line 1: answers is 'Curie', but it has to be a list of strings"),
    ],
)
def test_errors_name_the_line(tmp_path, change, error, message):
    (tmp_path / "a.json").write_text(json.dumps([{**RESULTS[1], **change}]))
    with pytest.raises(error, match=message):
        read_run(tmp_path / "a.json")


def test_a_second_list_and_a_missing_field(tmp_path):
    record = {"id": "x", "question": "q", "ctxs": []}
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(ValueError, match="a.jsonl, line 2: query 'x' has a second list"):
        read_run(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + '\n{"question": "r"}\n')
    with pytest.raises(ValueError, match=r"a.jsonl, line 2: no field \['ctxs'\]"):
        read_run(tmp_path / "a.jsonl")
