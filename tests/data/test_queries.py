import gzip
import json

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgr_trainer.data.queries import check_qrels, queries_mapping, read_qrels, read_queries, write_qrels

IDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=5).filter(lambda value: value.split() == [value])


def _write(path, *records):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


# Queries


@pytest.mark.parametrize("id_name", ["id", "_id", "query_id", "qid"])
@pytest.mark.parametrize("name", ["text", "query"])
def test_json_lines(tmp_path, id_name, name):
    path = _write(tmp_path / "q.jsonl", {id_name: 1, name: "who", "metadata": {}}, {id_name: "b", name: "what"})
    queries = read_queries(path)
    assert queries.column_names == ["query_id", "query"]
    assert queries[:] == {"query_id": ["1", "b"], "query": ["who", "what"]}


def test_answers_are_kept(tmp_path):
    queries = read_queries(
        _write(tmp_path / "q.jsonl", {"id": "1", "text": "a"}, {"id": "2", "text": "b", "answers": ["x"]})
    )
    assert list(queries["answers"]) == [[], ["x"]]


@pytest.mark.parametrize("header", ["", "qid\tquery\n", "_id\ttext\n"])
def test_tsv(tmp_path, header):
    path = tmp_path / "topics.txt"
    path.write_text(f'{header}156493\tdo goldfish grow\n1110199\twhat is "wifi" vs bluetooth\n')
    assert queries_mapping(read_queries(path)) == {
        "156493": "do goldfish grow",
        "1110199": 'what is "wifi" vs bluetooth',
    }


def test_the_splits_of_a_beir_folder(tmp_path):
    everything = [{"_id": "1", "text": "a"}, {"_id": "2", "text": "b"}, {"_id": "3", "text": "c"}]
    _write(tmp_path / "queries.jsonl", *everything)
    _write(tmp_path / "queries.dev.jsonl", everything[2])
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n2\tp\t1\n")
    assert list(read_queries(tmp_path)["query_id"]) == ["1", "2", "3"]
    assert list(read_queries(tmp_path, "dev")["query_id"]) == ["3"]
    assert list(read_queries(tmp_path, "test")["query_id"]) == ["2"]
    assert read_qrels(tmp_path, "test") == read_qrels(tmp_path / "qrels", "test") == {"2": {"p": 1}}
    with pytest.raises(FileNotFoundError, match="qrels has no train.tsv. It holds: test.tsv"):
        read_queries(tmp_path, "train")
    (tmp_path / "qrels" / "train.tsv").write_text("9\tp\t1\n")
    with pytest.raises(ValueError, match="no query in it is judged in the split 'train'"):
        read_queries(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match="is a folder: name a split. It holds: test.tsv, train.tsv"):
        read_qrels(tmp_path)
    (tmp_path / "queries.jsonl").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no queries.jsonl. It holds: qrels/, queries.dev.jsonl. Name a split"
    ):
        read_queries(tmp_path)
    with pytest.raises(ValueError, match=r"A split \('dev'\) is chosen in a BEIR folder"):
        read_queries(tmp_path / "queries.dev.jsonl", "dev")
    with pytest.raises(ValueError, match=r"A split \('test'\) is chosen in a BEIR folder"):
        read_qrels(tmp_path / "qrels" / "test.tsv", "test")


def test_blank_queries_are_dropped_and_counted(tmp_path, caplog):
    path = _write(tmp_path / "q.jsonl", {"id": "1", "text": " "}, {"id": "2", "text": "b"})
    assert list(read_queries(path)["query_id"]) == ["2"]
    assert "1 of 2 queries are blank" in caplog.text
    with pytest.raises(ValueError, match="no query in it"):
        read_queries(_write(tmp_path / "q.jsonl", {"id": "1", "text": ""}))


def test_query_errors_name_file_and_line(tmp_path):
    path = tmp_path / "q.jsonl"
    with pytest.raises(ValueError, match=r"q.jsonl, line 2: the query id '1' was already on line 1"):
        read_queries(_write(path, {"id": "1", "text": "a"}, {"id": 1, "text": "b"}))
    with pytest.raises(ValueError, match=r"q.jsonl, line 1: a query needs query .*found are \['ask', 'id'\]"):
        read_queries(_write(path, {"id": "1", "ask": "a"}))
    with pytest.raises(TypeError, match="q.jsonl, line 1: the query '1' is None"):
        read_queries(_write(path, {"id": "1", "text": None}))
    with pytest.raises(TypeError, match="q.jsonl, line 1: answers is 'x'"):
        read_queries(_write(path, {"id": "1", "text": "a", "answers": "x"}))
    with pytest.raises(ValueError, match=r"q.jsonl, line 1: the query id '1 2' holds whitespace"):
        read_queries(_write(path, {"id": "1 2", "text": "a"}))
    path = tmp_path / "q.tsv"
    path.write_text("1\ta\n2 b\n")
    with pytest.raises(ValueError, match=r"q.tsv, line 2: 1 columns, but two are expected"):
        read_queries(path)
    (tmp_path / "q.xls").write_text("1,a")
    with pytest.raises(ValueError, match="q.xls: the name does not tell the format"):
        read_queries(tmp_path / "q.xls")


def test_queries_by_id_from_a_dataset_or_a_mapping(queries):
    assert queries_mapping(queries) == dict(zip(queries["query_id"], queries["query"], strict=True))
    assert queries_mapping({"a": "b", 2: "c"}) == {"a": "b", "2": "c"}
    repeated = datasets.Dataset.from_dict(
        {"query_id": [1, 1, 2], "query": ["a", "a", "b"], "passage_id": ["x", "y", "z"]}
    )
    assert queries_mapping(repeated.with_format("torch")) == {"1": "a", "2": "b"}


def test_queries_that_are_wrong_are_refused(queries):
    with pytest.raises(
        ValueError, match=r"no column 'query_id' and no column 'query'; their columns are \['id', 'text'\]"
    ):
        queries_mapping(datasets.Dataset.from_dict({"id": ["1"], "text": ["a"]}))
    with pytest.raises(ValueError, match="Two queries have the id '1': 'a' and 'b'"):
        queries_mapping(datasets.Dataset.from_dict({"query_id": ["1", "1"], "query": ["a", "b"]}))
    with pytest.raises(TypeError, match=r"the query '1' is 5 \(int\), not a string"):
        queries_mapping({"1": 5})
    with pytest.raises(ValueError, match="the query '1' is blank"):
        queries_mapping({"1": " "})
    with pytest.raises(ValueError, match="There are no queries"):
        queries_mapping({})
    with pytest.raises(TypeError, match="queries is a list"):
        queries_mapping(["who"])
    with pytest.raises(TypeError, match=r"splits \['train'\]: choose one"):
        queries_mapping(datasets.DatasetDict(train=queries))


# Qrels


@pytest.mark.parametrize(
    "content",
    [
        "query-id\tcorpus-id\tscore\n1\ta\t2\n1\tb\t0\n2\ta\t-1\n",
        "1 0 a 2\n1 0 b 0\n2 Q0 a -1\n",
        "1\ta\t2\n1\tb\t0\n\n2\ta\t-1\n2\ta\t-1\n",
    ],
)
def test_qrels_of_both_kinds(tmp_path, content):
    path = tmp_path / "qrels.txt"
    path.write_text(content)
    assert read_qrels(path) == {"1": {"a": 2, "b": 0}, "2": {"a": -1}}


@given(st.dictionaries(IDS, st.dictionaries(IDS, st.integers(-2, 4), min_size=1, max_size=4), min_size=1, max_size=4))
def test_qrels_come_back(tmp_path_factory, qrels):
    folder = tmp_path_factory.mktemp("qrels")
    for name in ("qrels.txt", "qrels.tsv"):
        write_qrels(qrels, folder / name)
        assert read_qrels(folder / name) == qrels
    assert (folder / "qrels.tsv").read_text(encoding="utf-8").startswith("query-id\tcorpus-id\tscore\n")


def test_qrels_errors_name_file_and_line(tmp_path):
    path = tmp_path / "qrels.txt"
    path.write_text("1 0 a 1\n1 a 1\n")
    with pytest.raises(ValueError, match=r"qrels.txt, line 2: 3 columns, but qrels have 4 on every line"):
        read_qrels(path)
    path.write_text("1 Q0 a 1 2.5 tag\n")
    with pytest.raises(ValueError, match=r"line 1: 6 columns, but qrels have four .*read_run reads it"):
        read_qrels(path)
    path.write_text("1 0 a 1.5\n")
    with pytest.raises(ValueError, match=r"line 1: the relevance \(last column\) is '1.5', not an integer"):
        read_qrels(path)
    path.write_text("1 0 a 1\n1 0 b 1\n1 0 a 0\n")
    with pytest.raises(
        ValueError, match=r"line 3: passage 'a' has relevance 0 for query '1', but 1 on an earlier line"
    ):
        read_qrels(path)
    path.write_text("query-id\tcorpus-id\tscore\n")
    with pytest.raises(ValueError, match="no judgement in it"):
        read_qrels(path)


def test_qrels_that_no_file_can_hold_are_refused(tmp_path):
    with pytest.raises(ValueError, match="the relevance of 'a' is 1.5, not an integer"):
        write_qrels({"1": {"a": 1.5}}, tmp_path / "qrels.txt")
    with pytest.raises(ValueError, match="qrels of query '1': the passage id 'a b' holds whitespace"):
        write_qrels({"1": {"a b": 1}}, tmp_path / "qrels.txt")
    assert not list(tmp_path.iterdir())


def test_what_is_unknown_is_dropped_and_counted(corpus, queries, qrels, caplog):
    assert check_qrels(qrels, corpus, queries) == qrels
    assert not caplog.records
    extra = {**qrels, "q01": {**qrels["q01"], "x1": 1}, "q98": {"x2": 1}, "q99": {"p01": 1}}
    assert check_qrels(extra, corpus, queries) == qrels
    assert len(caplog.records) == 1
    assert f"2 of {len(extra)} queries of the qrels are unknown (such as ['q98', 'q99'])" in caplog.text
    assert "1 of" in caplog.text and "not in the corpus (such as ['x1'])" in caplog.text
    caplog.clear()
    assert check_qrels(extra, corpus) == {**qrels, "q99": {"p01": 1}}
    assert "with which 1 more queries have no judgement left" in caplog.text


def test_qrels_of_another_collection_are_refused(corpus, queries):
    with pytest.raises(ValueError, match=r"Nothing is left of the qrels: 0 of 1 .* 1 of 1 judged passages are not in"):
        check_qrels({"q01": {"x": 1}}, corpus, queries)
    with pytest.raises(ValueError, match=r"Nothing is left of the qrels: 1 of 1 queries"):
        check_qrels({"x": {"p01": 1}}, corpus, queries)


def test_tables_of_queries_and_judgements(tmp_path):
    datasets.Dataset.from_dict({"_id": ["1", "2"], "text": ["who", "what"]}).to_parquet(tmp_path / "q.parquet")
    assert list(read_queries(tmp_path / "q.parquet")["query"]) == ["who", "what"]
    names = {"query-id": [1, 1], "corpus-id": ["a", "b"], "score": [2, 0]}
    datasets.Dataset.from_dict(names).to_parquet(tmp_path / "qrels.parquet")
    assert read_qrels(tmp_path / "qrels.parquet") == {"1": {"a": 2, "b": 0}}
    rows = [
        {"query_id": "1", "passage_id": "a", "relevance": 1},
        {"query_id": "1", "passage_id": "b", "relevance": 1.5},
    ]
    with pytest.raises(
        ValueError, match="qrels.jsonl, line 2: the relevance of 'b' for query '1' is 1.5, not an integer"
    ):
        read_qrels(_write(tmp_path / "qrels.jsonl", *rows))
    with pytest.raises(
        ValueError, match=r"qrels.jsonl, line 1: a judgement needs passage_id .*fields found are \['query'\]"
    ):
        read_qrels(_write(tmp_path / "qrels.jsonl", {"query": "1"}))


def test_beir_folders_may_be_compressed(tmp_path):
    (tmp_path / "queries.jsonl.gz").write_bytes(gzip.compress(b'{"_id": "1", "text": "who"}\n'))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv.gz").write_bytes(gzip.compress(b"query-id\tcorpus-id\tscore\n1\tp\t1\n"))
    assert list(read_queries(tmp_path, "test")["query_id"]) == ["1"]
    assert read_qrels(tmp_path, "test") == {"1": {"p": 1}}
