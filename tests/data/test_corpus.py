import gzip
import hashlib
import json
import pickle

import datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from launched_processes import exit_codes, launch

from dgr_trainer.data import corpus_cache
from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.corpus_folder import verify_corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.files.atomic import temporary_folder

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
IDS = TEXT.filter(lambda value: value.split() == [value])
PASSAGES = st.builds(
    Passage,
    id=IDS,
    title=TEXT,
    text=TEXT,
    pseudo_queries=st.lists(TEXT.filter(str.strip), max_size=3).map(tuple),
    docid=st.none() | TEXT.filter(bool),
)


def _write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def kept_on_disk(monkeypatch):
    """Every table is written to disk, and every file is read once."""
    monkeypatch.setattr(corpus_cache, "MEMORY_BYTES", 0)
    monkeypatch.setattr(corpus_cache, "CACHED_FILE_BYTES", 0)


# What is in a corpus


def test_passages_come_back_by_position_and_by_id(passages, corpus):
    assert len(corpus) == len(passages)
    assert list(corpus) == passages
    assert corpus[3] == passages[3] and corpus[-1] == passages[-1] and corpus[np.int64(3)] == passages[3]
    assert corpus[1:3] == passages[1:3]
    for position, passage in enumerate(passages):
        assert corpus.get(passage.id) == passage
        assert corpus.position(passage.id) == position
        assert passage.id in corpus and passage in corpus
    assert list(corpus.ids) == [passage.id for passage in passages]
    assert "p99" not in corpus and 1 not in corpus and Passage("p01", "Another title") not in corpus
    assert repr(corpus) == f"Corpus({len(passages)} passages)"


def test_what_is_not_there_is_said(corpus):
    with pytest.raises(KeyError, match=r"No passage has the id 'p99': it is not among the 24 ids.*such as 'p01'"):
        corpus.get("p99")
    with pytest.raises(KeyError, match="No passage has the id 1"):
        corpus.position(1)
    with pytest.raises(IndexError, match="no passage 24: the corpus has 24"):
        corpus[24]
    with pytest.raises(TypeError, match=r"found by position.*got 'p01'.*corpus.get"):
        corpus["p01"]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(passages=st.lists(PASSAGES, min_size=1, max_size=8, unique_by=lambda passage: passage.id))
def test_any_text_comes_back_from_every_form(passages, tmp_path):
    wanted = [passage for passage in passages if passage.title.strip() or passage.text.strip()]
    if not wanted:
        return
    corpus = Corpus.from_passages(passages)
    assert list(corpus) == wanted
    records = [{**vars(passage), "pseudo_queries": list(passage.pseudo_queries)} for passage in passages]
    from_file = Corpus.from_jsonl(_write(tmp_path / "corpus.jsonl", *records))
    assert list(from_file) == wanted
    from_dataset = Corpus.from_dataset(datasets.Dataset.from_list(records, features=corpus_cache.corpus_features()))
    assert list(from_dataset) == wanted
    corpus.save_to_disk(tmp_path / "saved")
    loaded = Corpus.load_from_disk(tmp_path / "saved")
    assert list(loaded) == wanted
    assert len({each.fingerprint for each in (corpus, from_file, from_dataset, loaded, Corpus(loaded.dataset))}) == 1


def test_the_fingerprint_is_that_of_lines_of_json():
    passages = [Passage("a", 'é\n"\\', "\u2028😀\x7f\x00", ("b", '"'), "d"), Passage("b", "", "c")]
    values = [[one.id, one.title, one.text, list(one.pseudo_queries), one.docid] for one in passages]
    lines = "".join(json.dumps(of_one, separators=(",", ":")) + "\n" for of_one in values)
    assert Corpus.from_passages(passages).fingerprint == hashlib.sha256(lines.encode()).hexdigest()


def test_the_fingerprint_tells_contents_and_order(passages):
    fingerprint = Corpus.from_passages(passages).fingerprint
    assert len(fingerprint) == 64
    assert Corpus.from_passages(passages[::-1]).fingerprint != fingerprint
    assert (
        Corpus.from_passages([Passage("a", "b", "c")]).fingerprint
        != Corpus.from_passages([Passage("a", "bc")]).fingerprint
    )


def test_a_selection_of_a_corpus_is_a_corpus(corpus, passages):
    part = Corpus(corpus.dataset.select([5, 2]))
    assert list(part) == [passages[5], passages[2]] and list(part.ids) == ["p06", "p03"]
    assert part.position("p03") == 1 and "p01" not in part


def test_a_corpus_can_be_sent_to_another_process(corpus):
    assert "p03" in corpus
    copy = pickle.loads(pickle.dumps(corpus))
    assert copy.position("p03") == 2 and copy.fingerprint == corpus.fingerprint


def test_the_constructor_takes_only_checked_datasets():
    with pytest.raises(TypeError, match=r"got \{'id': .*Corpus.from_dataset"):
        Corpus(datasets.Dataset.from_dict({"id": ["a"]}))
    with pytest.raises(TypeError, match="got list"):
        Corpus(["a"])


# Checks that every source has in common


def test_passages_without_title_and_text_are_dropped_and_counted(caplog):
    corpus = Corpus.from_passages([Passage("a", "A"), Passage("b", " ", "\n"), Passage("c", text="C"), Passage("d")])
    assert list(corpus.ids) == ["a", "c"]
    assert "2 of 4 passages have neither a title nor a text" in caplog.text


def test_a_corpus_without_passages_is_refused():
    with pytest.raises(ValueError, match="no passage with a title or a text .*all 2 passages have neither"):
        Corpus.from_passages([Passage("a"), Passage("b")])
    with pytest.raises(ValueError, match="there is no passage in it at all"):
        Corpus.from_passages([])


def test_what_a_killed_reader_has_left_is_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_cache, "CACHED_FILE_BYTES", 0)
    path, cache = _write(tmp_path / "c.jsonl", {"id": "a", "text": "1"}), tmp_path / "cache" / "dgr_trainer"
    with temporary_folder(cache / "corpus") as read_elsewhere:
        left = cache / ".corpus.0123456789ab.tmp"
        left.mkdir()
        (left / "passages.arrow").touch()
        Corpus.from_jsonl(path, cache_dir=tmp_path / "cache")
        assert read_elsewhere.is_dir() and not left.exists()
    with pytest.raises(ValueError, match="more than once"):
        Corpus.from_jsonl(_write(path, *[{"id": "a", "text": "1"}] * 2), cache_dir=tmp_path / "cache")
    (stored,) = cache.iterdir()
    assert stored.name.startswith("file-")


def test_duplicate_ids_are_named_with_their_lines(tmp_path):
    path = _write(tmp_path / "c.jsonl", {"id": "a", "text": "1"}, {"id": "b", "text": "2"}, {"id": "a", "text": "3"})
    with pytest.raises(ValueError, match=r"1 passage ids occur more than once: 'a' \(.*c.jsonl, line 1, .*line 3\)"):
        Corpus.from_jsonl(path)
    many = [Passage(str(number % 10), "title") for number in range(30)]
    with pytest.raises(
        ValueError, match=r"10 passage ids occur more than once: '0' \(passage 0, passage 10, .*; \.\.\."
    ):
        Corpus.from_passages(many)


def test_wrong_values_are_refused():
    with pytest.raises(TypeError, match=r"passage 1 is a str, not a Passage"):
        Corpus.from_passages([Passage("a", "A"), "b"])
    with pytest.raises(TypeError, match=r"passage 0: the text of passage 'a' is 5 \(int\)"):
        Corpus.from_passages([Passage("a", "A", 5)])
    with pytest.raises(TypeError, match="pseudo_queries is a str"):
        Corpus.from_passages([Passage("a", "A", pseudo_queries="who")])
    with pytest.raises(TypeError, match="the pseudo-query of passage 'a' is None"):
        Corpus.from_passages([Passage("a", "A", pseudo_queries=(None,))])
    with pytest.raises(TypeError, match=r"the docid of passage 'a' is 1.5"):
        Corpus.from_passages([Passage("a", "A", docid=1.5)])
    with pytest.raises(ValueError, match=r"passage 0: the passage id 'a b' holds whitespace"):
        Corpus.from_passages([Passage("a b", "A")])
    with pytest.raises(ValueError, match=r"passage 1: the title of passage 'b' is a text that is not Unicode"):
        Corpus.from_passages([Passage("a", "A"), Passage("b", "half \ud83d")])


def test_integers_become_strings_and_blank_pseudo_queries_go():
    corpus = Corpus.from_passages(
        [Passage(7, "A", pseudo_queries=("who", " "), docid=12), Passage("b", "B", docid="")]
    )
    assert list(corpus) == [Passage("7", "A", "", ("who",), "12"), Passage("b", "B")]


# Files


def test_json_lines(tmp_path):
    path = _write(
        tmp_path / "corpus.jsonl",
        {"_id": 1, "title": "T", "text": "x\ty\nz", "metadata": {"url": "u"}},
        {"id": "2", "text": "y", "pseudo_queries": ["q"], "docid": 5},
        {"id": "3", "title": None, "text": "z", "pseudo_queries": None},
    )
    wanted = [Passage("1", "T", "x\ty\nz"), Passage("2", "", "y", ("q",), "5"), Passage("3", "", "z")]
    assert list(Corpus.from_jsonl(path)) == list(Corpus.read(path)) == wanted
    zipped = tmp_path / "corpus.jsonl.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    assert list(Corpus.read(zipped)) == wanted


def test_json_lines_errors_name_file_and_line(tmp_path):
    path = tmp_path / "c.jsonl"
    with pytest.raises(ValueError, match=r"c.jsonl, line 2: a passage needs id .* The fields found are \['key'"):
        Corpus.from_jsonl(_write(path, {"id": "a", "text": "A"}, {"key": "b", "text": "B"}))
    with pytest.raises(ValueError, match=r"c.jsonl, line 1: a passage needs a title or a text.*'id', 'words'"):
        Corpus.from_jsonl(_write(path, {"id": "a", "words": "A"}))
    with pytest.raises(TypeError, match=r"c.jsonl, line 1: the title of passage 'a' is \['A'\]"):
        Corpus.from_jsonl(_write(path, {"id": "a", "title": ["A"]}))
    path.write_text('{"id": "a", "text": "A"}\n{"id": "b", "te\n')
    with pytest.raises(ValueError, match=r"c.jsonl, line 2: not JSON"):
        Corpus.from_jsonl(path)


@pytest.mark.parametrize(
    "content, wanted",
    [
        ('1\tsaid "no"\n2\ty\n', [Passage("1", "", 'said "no"'), Passage("2", "", "y")]),
        ("1\tT\tx\n", [Passage("1", "T", "x")]),
        ("id\ttext\ttitle\n1\tx\tT\n", [Passage("1", "T", "x")]),
        ("Title\t_ID\tdocid\nT\t1\t7-2\n", [Passage("1", "T", "", (), "7-2")]),
        ("id\ttext\turl\n1\tx\thttp\n", [Passage("1", "", "x")]),
    ],
)
def test_tsv(tmp_path, content, wanted):
    path = tmp_path / "collection.tsv"
    path.write_text(content)
    assert list(Corpus.from_tsv(path)) == list(Corpus.read(path)) == wanted


def test_quoted_tsv(tmp_path):
    path = tmp_path / "psgs.tsv"
    path.write_text('id\ttext\ttitle\n1\t"Aaron ""the"" prophet"\tAaron\n2\t"\t""\n')
    wanted = [Passage("1", "Aaron", 'Aaron "the" prophet'), Passage("2", "", '"')]
    assert list(Corpus.from_tsv(path, quoted=True)) == list(Corpus.from_tsv(path)) == wanted
    assert Corpus.from_tsv(path, quoted=False)[0].text == '"Aaron ""the"" prophet"'
    path.write_text('id\ttitle\ttext\n1\tAaron\t"Aaron ""the"" prophet"\n')
    assert Corpus.from_tsv(path)[0].text == '"Aaron ""the"" prophet"', "not DPR's header"


def test_tsv_errors_name_file_and_line(tmp_path):
    path = tmp_path / "c.tsv"
    path.write_text("1\tx\n2\ty\tz\n")
    with pytest.raises(ValueError, match=r"c.tsv, line 2: 3 columns, but 2 are expected \(id, text\)"):
        Corpus.from_tsv(path)
    path.write_text("1,x\n")
    with pytest.raises(ValueError, match=r"c.tsv, line 1: 1 columns. Without a header"):
        Corpus.from_tsv(path)
    path.write_text("id\ttext\tpseudo_queries\n")
    with pytest.raises(ValueError, match=r"c.tsv, line 1: a list of pseudo_queries does not fit a cell"):
        Corpus.from_tsv(path)


def test_beir_folder(tmp_path):
    _write(tmp_path / "corpus.jsonl", {"_id": "a", "title": "A", "text": "x", "metadata": {}})
    assert list(Corpus.from_beir(tmp_path)) == list(Corpus.read(tmp_path)) == [Passage("a", "A", "x")]
    (tmp_path / "corpus.jsonl").rename(tmp_path / "docs.jsonl")
    with pytest.raises(FileNotFoundError, match=r"is no BEIR folder: it has no corpus.jsonl. Found: docs.jsonl"):
        Corpus.read(tmp_path)


def test_read_refuses_what_it_cannot_tell(tmp_path):
    (tmp_path / "corpus.xlsx").write_text("1,x\n")
    with pytest.raises(ValueError, match="corpus.xlsx: the name does not tell the format. Name it .jsonl, .tsv, .csv"):
        Corpus.read(tmp_path / "corpus.xlsx")
    with pytest.raises(FileNotFoundError, match="corpus.tsv is not there. Its folder holds: corpus.xlsx"):
        Corpus.read(tmp_path / "corpus.tsv")


# Datasets


def test_dataset_columns_can_be_named(tmp_path):
    dataset = datasets.Dataset.from_dict({"docno": [1, 2], "contents": ["x", "y"], "title": ["T", None], "n": [0, 0]})
    corpus = Corpus.from_dataset(dataset.shuffle(seed=1), {"id": "docno", "text": "contents"})
    assert sorted(corpus, key=lambda passage: passage.id) == [Passage("1", "T", "x"), Passage("2", "", "y")]
    dataset.rename_columns({"docno": "_id", "contents": "text"}).save_to_disk(tmp_path / "saved")
    assert Corpus.read(tmp_path / "saved").get("1") == Passage("1", "T", "x")


def test_dataset_errors(tmp_path):
    dataset = datasets.Dataset.from_dict({"key": ["1"], "title": ["x"]})
    with pytest.raises(ValueError, match=r"has no column 'id'; its columns are \['key', 'title'\]"):
        Corpus.from_dataset(dataset)
    with pytest.raises(ValueError, match=r"has no column \['body'\]"):
        Corpus.from_dataset(dataset, {"id": "key", "text": "body"})
    with pytest.raises(ValueError, match="has no column 'title' or 'text'"):
        Corpus.from_dataset(dataset.remove_columns("title"), {"id": "key"})
    with pytest.raises(ValueError, match=r"columns names the fields \['body'\]"):
        Corpus.from_dataset(dataset, {"id": "key", "body": "title"})
    with pytest.raises(TypeError, match="Got a list"):
        Corpus.from_dataset([])
    with pytest.raises(TypeError, match=r"splits \['train'\]. Choose one"):
        Corpus.from_dataset(datasets.DatasetDict(train=dataset))
    with pytest.raises(ValueError, match=r"'1' \(row 0, row 1\)"):
        Corpus.from_dataset(datasets.concatenate_datasets([dataset, dataset]), {"id": "key"})


# Large corpora


def test_a_large_corpus_lies_on_disk(kept_on_disk, passages, tmp_path):
    corpus = Corpus.from_passages(iter(passages), cache_dir=tmp_path)
    files = [entry["filename"] for entry in corpus.dataset.cache_files]
    assert len(files) == 1 and files[0].startswith(str(tmp_path))
    assert list(corpus) == passages
    again = Corpus.from_passages(iter(passages), cache_dir=tmp_path)
    assert again.dataset.cache_files == corpus.dataset.cache_files
    assert len(list((tmp_path / "dgr_trainer").iterdir())) == 1  # the same contents are kept once, and no leftovers


def test_batches_are_joined(kept_on_disk, monkeypatch, tmp_path):
    monkeypatch.setattr(corpus_cache, "BATCH", 7)
    monkeypatch.setattr(corpus_cache, "MEMORY_BYTES", 600)
    passages = [Passage(f"p{number}", "" if number % 5 else f"Title {number}") for number in range(100)]
    corpus = Corpus.from_passages(passages, cache_dir=tmp_path)
    assert corpus.dataset.cache_files
    assert list(corpus.ids) == [f"p{number}" for number in range(0, 100, 5)]


def test_a_large_file_is_read_once_and_never_stale(kept_on_disk, monkeypatch, tmp_path, caplog):
    path = _write(tmp_path / "c.jsonl", {"id": "a", "text": "A"}, {"id": "b"})
    read = []
    rows = corpus_cache._tables
    monkeypatch.setattr(corpus_cache, "_tables", lambda source: read.append(source.name) or rows(source))
    first = Corpus.from_jsonl(path, cache_dir=tmp_path)
    caplog.clear()
    second = Corpus.from_jsonl(path, cache_dir=tmp_path)
    assert len(read) == 1
    assert list(first) == list(second) == [Passage("a", "", "A")] and first.fingerprint == second.fingerprint
    assert "1 of 2 passages have neither" in caplog.text  # said again, although the file was not read again
    _write(path, {"id": "a", "text": "B"}, {"id": "b"})
    assert list(Corpus.from_jsonl(path, cache_dir=tmp_path)) == [Passage("a", "", "B")]
    assert len(read) == 2
    assert list(first) == [Passage("a", "", "A")]


def test_how_a_file_is_read_tells_tables_apart(kept_on_disk, tmp_path):
    path = tmp_path / "c.tsv"
    path.write_text('1\t"x"\n')
    assert Corpus.from_tsv(path, cache_dir=tmp_path)[0].text == '"x"'
    assert Corpus.from_tsv(path, cache_dir=tmp_path, quoted=True)[0].text == "x"


def test_nothing_is_left_behind_when_reading_fails(kept_on_disk, tmp_path):
    path = _write(tmp_path / "c.jsonl", {"id": "a", "text": "A"}, {"id": "a", "text": "A"})
    with pytest.raises(ValueError, match="occur more than once"):
        Corpus.from_jsonl(path, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache" / "dgr_trainer").iterdir()) == []


def test_a_table_that_another_process_kept_first_is_used(kept_on_disk, monkeypatch, tmp_path):
    path = _write(tmp_path / "c.jsonl", {"id": "a", "text": "A"})
    Corpus.from_jsonl(path, cache_dir=tmp_path)
    monkeypatch.setattr("dgr_trainer.data.corpus.stored_under", lambda *args, **kwargs: None)  # as if it came just now
    assert list(Corpus.from_jsonl(path, cache_dir=tmp_path)) == [Passage("a", "", "A")]
    assert len(list((tmp_path / "dgr_trainer").iterdir())) == 1


# Pseudo-queries and saving


def test_pseudo_queries_are_replaced_for_those_named(corpus, passages):
    changed = corpus.with_pseudo_queries({"p01": ["which peak is highest"], "p24": ("striped horse",), "p02": []})
    assert changed.get("p01").pseudo_queries == ("which peak is highest",)
    assert changed.get("p24").pseudo_queries == ("striped horse",)
    assert changed.get("p02").pseudo_queries == ()
    assert changed[2:23] == passages[2:23]
    assert changed.get("p01").text == passages[0].text
    assert changed.fingerprint != corpus.fingerprint
    assert corpus.get("p01") == passages[0]
    numbered = Corpus.from_passages([Passage(7, "A")])
    assert numbered.with_pseudo_queries({7: ["q"]})[0].pseudo_queries == ("q",)


def test_pseudo_queries_of_another_corpus_are_refused(corpus):
    with pytest.raises(ValueError, match=r"1 of 2 passage ids with pseudo-queries are not in the corpus.*\['x'\]"):
        corpus.with_pseudo_queries({"x": ["q"], "p01": ["q"]})
    with pytest.raises(TypeError, match="passage 'p01': pseudo_queries is a str"):
        corpus.with_pseudo_queries({"p01": "q"})


def test_a_saved_corpus_is_loaded_and_replaced(corpus, passages, tmp_path):
    corpus.save_to_disk(tmp_path / "saved")
    loaded = Corpus.read(tmp_path / "saved")
    assert list(loaded) == passages and loaded.fingerprint == corpus.fingerprint
    assert loaded.dataset.cache_files
    Corpus.from_passages(passages[:2]).save_to_disk(tmp_path / "saved")
    assert len(Corpus.load_from_disk(tmp_path / "saved")) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_loading_refuses_what_was_not_saved(corpus, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no saved corpus: it has no corpus.json. Found: nothing there"):
        Corpus.load_from_disk(tmp_path / "nowhere")
    corpus.save_to_disk(tmp_path / "saved")
    facts = json.loads((tmp_path / "saved" / "corpus.json").read_text())
    (tmp_path / "saved" / "corpus.json").write_text(json.dumps({**facts, "passages": 23}))
    with pytest.raises(ValueError, match="holds 24 passages, but 23 were saved"):
        Corpus.load_from_disk(tmp_path / "saved")
    (tmp_path / "saved" / "corpus.json").write_text(json.dumps({**facts, "layout": 99}))
    with pytest.raises(ValueError, match="was saved in layout 99"):
        Corpus.load_from_disk(tmp_path / "saved")


def saving(processes, corpus, path):
    for _ in range(10):
        corpus.save_to_disk(path)


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_jobs_that_save_to_one_folder_leave_the_corpus_of_one(tmp_path):
    corpora = [Corpus.from_passages([Passage(f"{name}{n}", "title", name) for n in range(50)]) for name in "abc"]
    jobs = [launch(1, saving, corpus, tmp_path / "corpus") for corpus in corpora]
    while any(process.is_alive() for job in jobs for process in job):
        if (tmp_path / "corpus").exists():
            assert list(Corpus.load_from_disk(tmp_path / "corpus")) in [list(corpus) for corpus in corpora]
    assert [exit_codes(job) for job in jobs] == [[0]] * 3
    verify_corpus(tmp_path / "corpus")
    assert list(Corpus.load_from_disk(tmp_path / "corpus")) in [list(corpus) for corpus in corpora]
    assert [file.name for file in tmp_path.iterdir()] == ["corpus"]
