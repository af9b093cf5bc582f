"""Every reader, every way in, hostile contents: what was written comes back, as strings, from whatever form."""

import bz2
import csv
import gzip
import io
import json
import lzma

import datasets
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from dgr_trainer import Corpus, Passage, Rankings, read_qrels, read_queries
from dgr_trainer.data.queries import queries_mapping, write_qrels
from dgr_trainer.errors import DGRError
from dgr_trainer.runs import read_run, write_run

IDS = ["007", "NA", "null", "1984", "1e5", "2024-01-01", "true", "1.0", "0x1F", "é"]
TEXTS = ["2024-01-01", 'a lone " quote', "NA", "null", "1984", "1.50", "None", "'nan", "a, comma", "中文 \u2028 é"]
NAMES = {
    "passages": ("id", "title", "text"),
    "queries": ("query_id", "query"),
    "qrels": ("query_id", "passage_id", "relevance"),
    "run": ("query_id", "passage_id", "score"),
}
ROWS = {
    "passages": [(id, TEXTS[-at], text) for at, (id, text) in enumerate(zip(IDS, TEXTS, strict=True))],
    "queries": list(zip(IDS, TEXTS, strict=True)),
    "qrels": [(id, other, at % 3) for at, (id, other) in enumerate(zip(IDS, reversed(IDS), strict=True))],
    "run": [(id, other, at + 0.5) for at, (id, other) in enumerate(zip(IDS, reversed(IDS), strict=True))],
}


def wanted(of):
    if of in ("passages", "queries"):
        return ROWS[of]
    return {query: {passage: value} for query, passage, value in ROWS[of]}


def read(of, path):
    if of == "passages":
        return [(passage.id, passage.title, passage.text) for passage in Corpus.read(path)]
    if of == "queries":
        return list(queries_mapping(read_queries(path)).items())
    return read_qrels(path) if of == "qrels" else read_run(path).to_run()


def _lines(names, rows):
    return "".join(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)


def _array(names, rows):
    return json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=1)


def _csv(names, rows):
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([names, *rows])
    return file.getvalue()


def _tsv(names, rows):
    return "".join("\t".join(map(str, row)) + "\n" for row in [names, *rows])


def _bare(names, rows):
    return _tsv(names, rows).partition("\n")[2]


TEXT_FORMS = {
    "lines.jsonl": _lines,
    "array.json": _array,
    "array.jsonl": _array,
    "a.csv": _csv,
    "a.tsv": _tsv,
    "bare.tsv": _bare,
}
COMPRESSIONS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: bytes(pa.compress(data, "zstd", asbytes=True)),
}
ENCODINGS = {
    "plain": lambda text: text.encode(),
    "bom": lambda text: text.encode("utf-8-sig"),
    "crlf": lambda text: text.replace("\n", "\r\n").encode(),
    "utf-16": lambda text: text.encode("utf-16"),
}
FOLDERS = ["plain", "sp ace", "[a]", "*?", "a,b", "a=b,c=d", "#1%20", "ünï", "a::b"]


@pytest.mark.parametrize("prefix", ["", "hf:"])
@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("form", TEXT_FORMS)
@pytest.mark.parametrize("of", NAMES)
def test_text_files(tmp_path, of, form, suffix, prefix):
    path = tmp_path / (form + suffix)
    path.write_bytes(COMPRESSIONS[suffix](TEXT_FORMS[form](NAMES[of], ROWS[of]).encode()))
    assert read(of, f"{prefix}{path}") == wanted(of)


@pytest.mark.parametrize("prefix", ["", "hf:"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("form", TEXT_FORMS)
@pytest.mark.parametrize("of", NAMES)
def test_encodings(tmp_path, of, form, encoding, prefix):
    (tmp_path / form).write_bytes(ENCODINGS[encoding](TEXT_FORMS[form](NAMES[of], ROWS[of])))
    assert read(of, f"{prefix}{tmp_path / form}") == wanted(of)


@pytest.mark.parametrize("form", ["a.parquet", "a.arrow", "saved"])
@pytest.mark.parametrize("prefix", ["", "hf:"])
@pytest.mark.parametrize("of", NAMES)
def test_tables(tmp_path, of, prefix, form):
    columns = dict(zip(NAMES[of], map(list, zip(*ROWS[of], strict=True)), strict=True))
    if form == "saved":
        datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / form)
    elif form == "a.parquet":
        pa.parquet.write_table(pa.table(columns), tmp_path / form)
    else:
        pa.feather.write_feather(pa.table(columns), str(tmp_path / form))
    assert read(of, f"{prefix}{tmp_path / form}") == wanted(of)


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("form", ["lines.jsonl", "a.csv", "a.tsv", "a.parquet"])
def test_columns_are_named_whatever_the_path(tmp_path, folder, form, monkeypatch):
    """The file is named with its columns, then its folder, whose split `datasets` finds."""
    (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / folder)
    renamed = {"passages": ("N", "t i", "body text"), "queries": ("n", "Ask"), "qrels": ("q", "d", "g"), "run": "qds"}
    for of, names in renamed.items():
        file = tmp_path / folder / of / f"test-{form}"
        file.parent.mkdir()
        if form == "a.parquet":
            columns = dict(zip(names, map(list, zip(*ROWS[of], strict=True)), strict=True))
            pa.parquet.write_table(pa.table(columns), file)
        else:
            file.write_text(TEXT_FORMS[form](names, ROWS[of]), encoding="utf-8")
        columns = ",".join(f"{field}={name}" for field, name in zip(NAMES[of], names, strict=True))
        assert read(of, f"hf:{file},{columns}") == wanted(of)
        assert read(of, f"hf:{file.parent},split=test,{columns}") == wanted(of)
        assert read(of, f"hf:{of}/test-{form},{columns}") == read(of, f"hf:./{of},{columns}") == wanted(of)
        with pytest.raises(ValueError, match=r"has no column \['nowhere'\]; its columns are"):
            read(of, f"hf:{file},{columns.rpartition('=')[0]}=nowhere")


@pytest.mark.parametrize("form", ["lines.jsonl", "a.csv", "a.tsv"])
def test_the_files_of_a_split_are_joined(tmp_path, form):
    for of in NAMES:
        folder = tmp_path / of
        folder.mkdir()
        for part, rows in enumerate((ROWS[of][:4], ROWS[of][4:])):
            name = f"train-0000{part}-of-00002.{form.partition('.')[2]}"
            (folder / name).write_text(TEXT_FORMS[form](NAMES[of], rows), encoding="utf-8")
        (folder / f"dev.{form.partition('.')[2]}").write_text(TEXT_FORMS[form](NAMES[of], ROWS[of][:1]), "utf-8")
        assert read(of, f"hf:{folder},split=train") == wanted(of)
        with pytest.raises(ValueError, match=r"several splits; its splits are train, validation. Name one"):
            read(of, f"hf:{folder}")
    assert read_run(f"hf:{tmp_path / 'run'},split=train").name == "run"


def test_the_current_folder(tmp_path, monkeypatch):
    corpus = Corpus.from_passages([Passage("a", "Herring"), Passage("b", "Cod")])
    for name in ("saved", "beir/qrels"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "saved")
    corpus.save_to_disk(".")
    assert list(Corpus.load_from_disk(".")) == list(Corpus.read(".")) == list(corpus)
    monkeypatch.chdir(tmp_path / "beir")
    (tmp_path / "beir" / "corpus.jsonl").write_text('{"_id": "a", "title": "Herring", "text": ""}\n')
    (tmp_path / "beir" / "queries.jsonl").write_text('{"_id": "q", "text": "a fish"}\n')
    (tmp_path / "beir" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t1\n")
    assert queries_mapping(read_queries(".", "test")) == {"q": "a fish"}
    assert read_qrels(".", "test") == {"q": {"a": 1}} and list(Corpus.read(".").ids) == ["a"]


def test_queries_of_several_files_are_numbered(tmp_path):
    for part, text in enumerate(["a", "b"]):
        (tmp_path / f"train-{part}.jsonl").write_text(json.dumps({"ask": text}) + "\n")
    assert queries_mapping(read_queries(f"hf:{tmp_path},query=ask")) == {"0": "a", "1": "b"}
    (tmp_path / "train-1.jsonl").write_text('{"ask": "b"}\n{"ask": 5}\n')
    with pytest.raises(TypeError, match=r"train-1.jsonl, line 2: the query '2' is 5 \(int\), not a string"):
        read_queries(f"hf:{tmp_path},query=ask")


def test_the_name_may_hold_commas_and_what_is_missing_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b.tsv").write_text("1\twho\n")
    assert queries_mapping(read_queries("hf:a,b.tsv")) == {"1": "who"}
    (tmp_path / "a,query=b.tsv").write_text("2\twhat\n")
    assert queries_mapping(read_queries("hf:a,query=b.tsv")) == {"2": "what"}
    with pytest.raises(FileNotFoundError, match=r"hf:c.tsv,query=b: c.tsv is not there. Its folder holds: a,b.tsv"):
        read_queries("hf:c.tsv,query=b")
    for option in ("config", "revision"):
        with pytest.raises(ValueError, match=f"hf:a,b.tsv,{option}=x: a file has no {option}"):
            read_queries(f"hf:a,b.tsv,{option}=x")
    with pytest.raises(ValueError, match="a file has no split 'test'. Leave split out"):
        read_queries("hf:a,b.tsv,split=test")


def test_where_hub_names_need_no_ids_and_no_relevance(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question": "who"}\n{"question": "what"}\n')
    assert queries_mapping(read_queries(f"hf:{tmp_path}/q.jsonl")) == {"0": "who", "1": "what"}
    with pytest.raises(ValueError, match=r"q.jsonl, line 1: a query needs query_id \(query_id, query-id, qid"):
        read_queries(tmp_path / "q.jsonl")
    (tmp_path / "r.csv").write_text("qid,docno\n1,a\n")
    assert read_qrels(f"hf:{tmp_path}/r.csv") == {"1": {"a": 1}}
    with pytest.raises(ValueError, match="r.csv, line 2: a judgement needs relevance"):
        read_qrels(tmp_path / "r.csv")


def test_a_folder_that_datasets_reads_otherwise(tmp_path):
    """Options in the folder's card are those of `datasets`, which is then asked for strings."""
    card = "---\nconfigs:\n- config_name: default\n  data_files: q.csv\n  sep: ';'\n---\n"
    (tmp_path / "README.md").write_text(card)
    (tmp_path / "q.csv").write_text("query_id;query\n007;NA\nnull;1984\n")
    assert queries_mapping(read_queries(f"hf:{tmp_path}")) == {"007": "NA", "null": "1984"}
    (tmp_path / "q.csv").write_text('query_id;query\n007;"NA\nnull;1984;3\n')
    with pytest.raises(ValueError, match=r"the dataset cannot be loaded from .*/q.csv. ParserError: .* row 1"):
        read_queries(f"hf:{tmp_path}")


# What is wrong is told with its line and its id


@pytest.mark.parametrize("value", [None, 5, 1.5, float("nan"), True, ["who"], {"a": 1}])
@pytest.mark.parametrize("form", ["q.jsonl", "q.json", "q.parquet", "saved", "dataset", "mapping"])
def test_a_query_that_is_no_text(tmp_path, form, value):
    rows = {"query_id": ["a", "7"], "query": ["who", value]}
    path, place = tmp_path / form, "row 1"
    if form in ("q.jsonl", "q.json"):
        records = [{"query_id": id, "query": query} for id, query in zip(*rows.values(), strict=True)]
        path.write_text("\n".join(map(json.dumps, records)) if form == "q.jsonl" else json.dumps(records, indent=0))
        place = "line 2" if form == "q.jsonl" else "line 6"
    if form in ("q.parquet", "saved", "dataset"):
        if value is not None:
            rows = {"query_id": ["7"], "query": [value]}
        dataset = datasets.Dataset.from_dict(rows)
        place = f"row {len(rows['query']) - (form != 'q.parquet')}"
        if form == "q.parquet":
            dataset.to_parquet(path)
        elif form == "saved":
            dataset.save_to_disk(path)
        else:
            path = dataset
    if form == "mapping":
        path, place = dict(zip(*rows.values(), strict=True)), ""
    read = read_queries if form not in ("dataset", "mapping") else queries_mapping
    with pytest.raises(TypeError, match=rf"(?i){place}.*the query '7' is .*, not a string") as caught:
        read(path)
    missing = value is None or value != value
    assert ("It is missing" in str(caught.value)) == missing


@pytest.mark.parametrize("of", ["passages", "queries"])
def test_half_a_surrogate_pair(tmp_path, of):
    path = tmp_path / "a.jsonl"
    for number, name in enumerate(NAMES[of]):
        row = dict(zip(NAMES[of], ("b", "title", "text"), strict=False))
        row[name] = "x\ud83d"
        path.write_text(json.dumps(dict(zip(NAMES[of], "abc", strict=False))) + "\n" + json.dumps(row) + "\n")
        owner = "" if number == 0 else r" .*'b'"
        with pytest.raises(ValueError, match=rf"a.jsonl, line 2: the .*{owner}.* not Unicode.*surrogate pair"):
            read(of, path)
        with pytest.raises(ValueError, match=r"a.jsonl, line 2: the .* not Unicode"):
            read(of, f"hf:{path}")
        path.write_text(json.dumps([row]))
        with pytest.raises(ValueError, match=r"a.jsonl, line 1: the .* not Unicode"):
            read(of, path)
    with pytest.raises(ValueError, match="the query 'q' is a text that is not Unicode"):
        queries_mapping({"q": "\udcff"})


# Names of columns


@pytest.mark.parametrize(
    ("of", "header"),
    [
        ("queries", "id\tquestion"),
        ("queries", "QID\tText"),
        ("queries", "query-id\tquery"),
        ("passages", "docno\ttitle\tcontents"),
        ("passages", "pid\ttitle\tpassage"),
        ("passages", "docid\tTITLE\tbody"),
        ("qrels", "qid\tpid\tlabel"),
        ("qrels", "topic\tdocno\trel"),
        ("run", "qid\tdocno\tscore"),
        ("run", "query-id\tcorpus-id\tscore"),
    ],
)
def test_headers_with_other_names(tmp_path, of, header, caplog):
    rows = [header.split("\t"), *ROWS[of]]
    for order in (1, -1):
        (tmp_path / "a.tsv").write_text("".join("\t".join(map(str, row[::order])) + "\n" for row in rows), "utf-8")
        assert read(of, tmp_path / "a.tsv") == wanted(of)
    assert not caplog.records


@pytest.mark.parametrize("of", ["queries", "passages"])
def test_a_header_of_unknown_names_is_warned_of(tmp_path, of, caplog):
    path = tmp_path / "a.tsv"
    path.write_text("key\tutterance\n17\twhat is that\n18\tand this\n")
    assert len(read(of, path)) == 3
    assert "a.tsv, line 2: the line before it, ['key', 'utterance'], looks like names of columns" in caplog.text
    assert "hf:PATH," in caplog.text
    caplog.clear()
    setting = "query_id=key,query=utterance" if of == "queries" else "id=key,text=utterance"
    assert len(read(of, f"hf:{path},{setting}")) == 2
    path.write_text("17\tutterance\n18\tand this\n")
    assert len(read(of, path)) == 2
    assert not caplog.records
    (tmp_path / "q.txt").write_text("q d r\n1 a 1\n")
    with pytest.raises(
        ValueError, match=r"q.txt, line 1: the relevance .*is 'r', not an integer. If the line names the"
    ):
        read_qrels(tmp_path / "q.txt")


def test_a_docid_is_the_id_where_there_is_no_other(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"docid": "d", "text": "x"}\n')
    (tmp_path / "b.jsonl").write_text('{"docid": "7-2", "text": "x", "id": "d"}\n')
    assert [(p.id, p.docid) for p in Corpus.read(tmp_path / "a.jsonl")] == [("d", None)]
    assert [(p.id, p.docid) for p in Corpus.read(tmp_path / "b.jsonl")] == [("d", "7-2")]


def test_a_csv_cell_may_be_long_and_an_answer(tmp_path):
    (tmp_path / "c.csv").write_text("id,text\n1," + "x" * 200_000 + "\n")
    assert len(Corpus.read(tmp_path / "c.csv")[0].text) == 200_000
    (tmp_path / "q.csv").write_text("id,question,answer\n1,who,Amundsen\n2,what,\n")
    assert read_queries(tmp_path / "q.csv")["answers"][:] == [["Amundsen"], []]
    (tmp_path / "q.tsv").write_text("id\tquestion\tanswer\n1\twho\tAmundsen\n2\twhat\t\n")
    assert read_queries(tmp_path / "q.tsv")[:] == read_queries(tmp_path / "q.csv")[:]


@pytest.mark.parametrize(
    ("read", "name", "content", "message"),
    [
        (
            read_queries,
            "a.csv",
            "1,who\n2,what\n",
            "line 2: a query needs query_id .*The first line has to name the columns",
        ),
        (read_qrels, "a.csv", "1,a,1\n", "line 1: two columns have the name '1'. The first line has to name each"),
        (read_run, "a.csv", "1,a,2.5\n", "a.csv: the run is empty. It has a line that names the columns at most"),
        (read_queries, "a.jsonl", '{\n "query_id": "1"\n}\n', "line 1: not JSON .*written over several lines"),
        (read_queries, "a.jsonl", '{"query_id": ' + "1" * 5000 + "}\n", "line 1: not JSON .Exceeds the limit"),
        (read_queries, "a.jsonl", '{"a": ' + "[" * 10**5 + "]" * 10**5 + "}\n", "line 1: not JSON .maximum recursion"),
        (
            read_queries,
            "a.json",
            '[{"a": ' + "[" * 10**5 + "]" * 10**5 + "}]\n",
            "line 1: an object that cannot be read",
        ),
        (
            read_queries,
            "a.json",
            '[{"query_id": ' + "1" * 5000 + "}]\n",
            "line 1: an object that cannot be read .Exceeds",
        ),
        (read_queries, "a.jsonl", '["1", "who"]\n', "line 1: the array holds '1', not an object"),
        (read_queries, "a.csv", 'id,query\n1,x\n2,"y\n3,z\n', "line 4: .*the row begins on line 3"),
    ],
)
def test_files_of_another_form(tmp_path, read, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / name)


def test_columns_between_spaces_in_a_file_named_csv(tmp_path):
    """What `write_qrels` and `write_run` write to such a name, as to any other."""
    path = tmp_path / "a.csv"
    write_qrels({"q": {"p": 2}}, path)
    assert read_qrels(path) == {"q": {"p": 2}}
    write_run(Rankings({"q": {"p": 2.5, "r": 1.0}}), path)
    assert read_run(path).to_run() == {"q": {"p": 2.5, "r": 1.0}}
    path.write_text("q\tp\t1\nq\tr\t2\n")
    assert read_run(path).to_run() == {"q": {"p": 2.0, "r": 1.0}} and read_qrels(path) == {"q": {"p": 1, "r": 2}}


@pytest.mark.parametrize("prefix", ["", "hf:"])
@pytest.mark.parametrize("form", ["lines.jsonl", "array.json", "array.jsonl", "a.csv", "a.parquet", "a.arrow"])
@pytest.mark.parametrize("of", NAMES)
def test_a_file_that_is_cut_off(tmp_path, of, form, prefix):
    path = tmp_path / form
    if form in TEXT_FORMS:
        rows = [("1", '"a"', '"b"'), ("2", '"c"', '"d')] if of == "passages" else ROWS[of]
        data, cut = TEXT_FORMS[form](NAMES[of], rows).encode(), -3
        if form == "a.csv" and of != "passages":
            return  # Nothing shows that a line of plain cells was longer.
    else:
        table = pa.table(dict(zip(NAMES[of], map(list, zip(*ROWS[of], strict=True)), strict=True)))
        if form == "a.parquet":
            pa.parquet.write_table(table, path)
        else:
            pa.feather.write_feather(table, str(path))
        data, cut = path.read_bytes(), -20
    path.write_bytes(data[:cut])
    with pytest.raises(ValueError, match=form) as caught:
        read(of, f"{prefix}{path}")
    assert isinstance(caught.value, DGRError)


def test_a_card_with_other_options(tmp_path):
    """Lines to skip are an option of `datasets`, which then reads the file."""
    card = "---\nconfigs:\n- config_name: default\n  data_files: q.csv\n  skiprows: 1\n---\n"
    (tmp_path / "README.md").write_text(card)
    (tmp_path / "q.csv").write_text("written by hand\nquery_id,query\n007,NA\n")
    assert queries_mapping(read_queries(f"hf:{tmp_path}")) == {"007": "NA"}


def test_a_text_that_datasets_reads_as_a_date(tmp_path):
    card = "---\nconfigs:\n- config_name: default\n  data_files: q.jsonl\n  chunksize: 999\n---\n"
    (tmp_path / "README.md").write_text(card)
    (tmp_path / "q.jsonl").write_text('{"query_id": "007", "query": "2024-01-01"}\n')
    with pytest.raises(TypeError, match="row 0 of .*the query '007' is datetime.*looks like a date was read as one"):
        read_queries(f"hf:{tmp_path}")
