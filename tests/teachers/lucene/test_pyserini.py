import os
import signal
import subprocess
import sys
import time

import pytest

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.teachers.lucene.pyserini import RM3, PyseriniTeacher


@pytest.fixture
def make(machine):
    """Makes a teacher that runs the fake Java."""

    def make_teacher(corpus, index_dir=None, **options):
        if not machine.folder.joinpath("JAVA_HOME").exists():
            machine.java()
        return PyseriniTeacher(corpus, index_dir, jar=machine.jar, progress=False, **options)

    return make_teacher


def programs(machine):
    return [call["arguments"][3].rsplit(".", 1)[1] for call in machine.calls()]


def test_search_gives_rankings_by_query_id(make, corpus, queries, machine):
    rankings = make(corpus).rank(queries, k=3)
    assert list(rankings) == queries["query_id"]
    assert rankings["q11"].passage_ids[0] == "p19"
    assert max(len(rankings[id].passage_ids) for id in rankings) == 3
    assert rankings.name == "lucene-bm25"
    assert programs(machine) == ["IndexCollection", "SearchCollection"]


def test_any_query_id_and_any_text_will_do(make, corpus):
    queries = {"#1": "piano\tItaly\r\nstrings", "0": "\x00", "ü/2": " \x00\n", "q,3": "xylograph", "é": "«chess»"}
    rankings = make(corpus).rank(queries)
    assert rankings["#1"].passage_ids[:2] == ("p20", "p21")
    assert rankings["é"].passage_ids == ("p19",)
    assert [rankings[id].passage_ids for id in ("0", "ü/2", "q,3")] == [(), (), ()]


def test_queries_without_a_word_do_not_start_java(make, corpus, machine):
    teacher = make(corpus)
    assert len(teacher.rank({"q": "\x00"})["q"].passage_ids) == 0
    assert programs(machine) == ["IndexCollection"]


def test_options_reach_anserini(make, corpus, machine):
    teacher = make(
        corpus, k1=1.2, b=0.75, rm3=RM3(terms=5, passages=3, original_query_weight=0.7), threads=2, memory="1g"
    )
    teacher.rank({"q": "piano"}, k=7)
    index, search = (" ".join(call["arguments"]) for call in machine.calls())
    assert "-storeDocvectors" in index and "-threads 2" in index and index.startswith("-Xmx1g")
    for option in ("-bm25.k1 1.2", "-bm25.b 0.75", "-hits 7", "-rm3.fbTerms 5", "-rm3.fbDocs 3", "-threads 2"):
        assert option in search
    assert "-rm3 " in search and "-rm3.originalQueryWeight 0.7" in search


@pytest.mark.parametrize(
    ("options", "given", "absent"),
    [
        ({"similarity": "qld", "mu": 500.0}, "-qld -qld.mu 500.0", "-bm25"),
        (
            {"field_weights": {"title": 2.0, "text": 0.5}},
            "-bm25 -bm25.k1 0.9 -bm25.b 0.4 -fields title=2.0 -fields text=0.5",
            "-qld",
        ),
    ],
)
def test_similarity_and_fields_reach_anserini(make, corpus, machine, options, given, absent):
    rankings = make(corpus, **options).rank({"q": "piano"}, k=7)
    index, search = (" ".join(call["arguments"]) for call in machine.calls())
    assert given in search and absent not in search
    assert ("-fields title text" in index) == ("field_weights" in options)
    assert rankings.name == f"lucene-{options.get('similarity', 'bm25')}"


def test_prebuilt_and_impact_indexes(make, corpus, machine, tmp_path):
    make(corpus, tmp_path / "index").rank({"q": "piano"})
    make(None, tmp_path / "index", similarity="impact").rank({"q": "piano"})
    assert machine.calls()[-1]["arguments"][-2:] == ["-impact", "-pretokenized"]
    make(None, tmp_path / "index", similarity="impact", encoder="UniCoil").rank({"q": "piano"})
    assert machine.calls()[-1]["arguments"][-2:] == ["-encoder", "UniCoil"]
    teacher = make(None, prebuilt="msmarco-v1-passage")
    with pytest.raises(RuntimeError, match="SearchCollection failed"):  # The fake Java downloads nothing.
        teacher.rank({"q": "piano"})
    arguments = machine.calls()[-1]["arguments"]
    assert arguments[arguments.index("-index") + 1] == "msmarco-v1-passage"


def test_by_query_likelihood_the_others_score_below_what_was_found(make, corpus):
    candidates = Rankings({"q": {"p20": 1.0, "p21": 2.0, "p01": 3.0}})
    rankings = make(corpus, similarity="qld").rank({"q": "piano strings"}, candidates)
    found = dict(zip(*rankings["q"], strict=True))
    assert found == {"p20": 2.0, "p21": 1.0, "p01": 0.0}


def test_queries_go_in_parts(make, corpus, queries, machine):
    whole = make(corpus).rank(queries)
    before = len(machine.calls())
    assert make(corpus, queries_per_run=5).rank(queries).to_run() == whole.to_run()
    assert programs(machine)[before:] == ["IndexCollection"] + 3 * ["SearchCollection"]


def test_a_query_of_too_many_terms_is_cut(make, corpus, caplog):
    text = " ".join(f"word{number}" for number in range(1024)) + " piano"
    rankings = make(corpus).rank({"q1": text, "q2": "piano " + text})
    assert rankings["q1"].passage_ids == ()
    assert rankings["q2"].passage_ids == ("p20",)
    assert "2 queries have more than 1024 terms" in caplog.text


def test_candidates_are_all_ranked(make, corpus):
    candidates = Rankings({"q": {"p24": 9.0, "p20": 1.0, "p21": 2.0}, "q2": {"p01": 1.0}})
    rankings = make(corpus).rank({"q": "piano strings", "q2": "the"}, candidates)
    assert list(zip(*rankings["q"], strict=True)) == [("p20", 2.0), ("p21", 1.0), ("p24", 0.0)]
    assert rankings["q2"].passage_ids == ("p01",)
    assert make(corpus).rank({"q": "piano strings"}, candidates, k=1)["q"].passage_ids == ("p20",)


def test_candidates_beyond_the_depth_of_the_search_are_counted(make, corpus, caplog):
    candidates = Rankings({"q": {"p20": 1.0, "p21": 2.0}})
    rankings = make(corpus, hits=1).rank({"q": "piano strings"}, candidates, k=1)
    assert rankings["q"].passage_ids == ("p20",)
    assert "1 candidates are not among the first 1 passages of the search" in caplog.text


def test_an_index_is_kept_until_the_corpus_or_the_fields_change(make, corpus, passages, machine, tmp_path, caplog):
    folder = tmp_path / "index"
    make(corpus, folder)
    make(corpus, folder)
    assert programs(machine) == ["IndexCollection"]
    assert sorted(path.name for path in folder.iterdir()) == ["dgr_trainer.json", "segments_1"]
    make(Corpus.from_passages(passages[:5]), folder)
    assert "has another corpus_fingerprint; it is rebuilt" in caplog.text
    make(Corpus.from_passages(passages[:5]), folder, fields="title")
    make(Corpus.from_passages(passages[:5]), folder, fields="title", rm3=RM3())
    assert len(programs(machine)) == 4
    make(Corpus.from_passages(passages[:5]), folder, fields="title")
    assert len(programs(machine)) == 4  # one with document vectors serves without RM3 as well
    assert [path.name for path in tmp_path.iterdir() if path.name != "machine"] == ["index"]


def test_any_lucene_index_can_be_searched(make, corpus, tmp_path):
    make(corpus, tmp_path / "index")
    (tmp_path / "index" / "dgr_trainer.json").unlink()
    teacher = make(None, tmp_path / "index")
    assert teacher.rank({"q": "chess"})["q"].passage_ids == ("p19",)
    assert teacher.rank({"q": "chess"}, Rankings({"q": {"any id": 1.0}}))["q"].passage_ids == ("any id",)


def test_a_folder_of_the_users_is_not_overwritten(make, corpus, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "draft.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="holds other files"):
        make(corpus, tmp_path / "letters")
    assert (tmp_path / "letters" / "draft.txt").read_text() == "dear"


@pytest.mark.parametrize(
    ("mode", "message"), [("fail", "the disk is full"), ("errors", "could not index 1 of 24 passages")]
)
def test_a_failed_build_leaves_nothing(make, machine, corpus, tmp_path, mode, message):
    machine.java(mode=mode)
    with pytest.raises(RuntimeError, match=message):
        make(corpus, tmp_path / "index")
    assert [path.name for path in tmp_path.iterdir()] == ["machine"]


def test_a_missing_run_file_is_reported(make, machine, corpus):
    machine.java(mode="silent")
    with pytest.raises(RuntimeError, match="Anserini wrote no run file"):
        make(corpus).rank({"q": "chess"})


def test_empty_passages_are_refused(make):
    with pytest.raises(ValueError, match="None of the 1 passages has text in text: there is nothing to index"):
        make(Corpus.from_passages([Passage(id="p", title="only a title")]), fields=("text",))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT between processes")
def test_ctrl_c_ends_java_and_leaves_nothing(machine, tmp_path):
    machine.java(mode="sleep")
    script = (
        "from dgr_trainer import Corpus, Passage\n"
        "from dgr_trainer.teachers.lucene.pyserini import PyseriniTeacher\n"
        "corpus = Corpus.from_passages([Passage(id='p', text='words')])\n"
        f"PyseriniTeacher(corpus, {str(tmp_path / 'index')!r}, jar={str(machine.jar)!r}, progress=False)\n"
    )
    python = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    started = machine.log.with_suffix(".started")
    deadline = time.monotonic() + 60
    while not started.exists() and python.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert any(path.name.startswith(".index.") for path in tmp_path.iterdir())
    python.send_signal(signal.SIGINT)
    _, errors = python.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    with pytest.raises(ProcessLookupError):
        os.kill(machine.calls()[-1]["pid"], 0)
    assert [path.name for path in tmp_path.iterdir()] == ["machine"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k1": -1}, "k1 is -1"),
        ({"b": 2}, "b is 2"),
        ({"hits": 0}, "hits is 0, but it has to be at least 1"),
        ({"threads": 0}, "threads is 0"),
        ({"queries_per_run": 0}, "queries_per_run is 0"),
        ({"memory": "lots"}, "memory is 'lots', but Java needs a number and a unit"),
        ({"fields": ("body",)}, "it must name at least one of"),
    ],
)
def test_settings_out_of_range_are_refused(make, corpus, options, message):
    with pytest.raises(ValueError, match=message):
        make(corpus, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"terms": 0}, "expanded by 1 to 500 terms"),
        ({"passages": 0}, "at least 1 passage"),
        ({"original_query_weight": 1.5}, "it has to be between 0 and 1"),
    ],
)
def test_rm3_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RM3(**options)


def test_nothing_to_search_is_refused(make, corpus, tmp_path):
    with pytest.raises(ValueError, match="needs passages, but got no corpus, index_dir or prebuilt index"):
        make(None)
    with pytest.raises(FileNotFoundError, match="contains no Lucene index. Give a folder that does, or a corpus"):
        make(None, tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no Anserini jar at .*missing.jar"):
        PyseriniTeacher(corpus, jar=tmp_path / "missing.jar")


def test_java_is_looked_for_before_anything_is_written(machine, corpus, tmp_path):
    with pytest.raises(RuntimeError, match="Lucene needs Java 21 or newer"):
        PyseriniTeacher(corpus, tmp_path / "index", jar=machine.jar)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similarity": "tfidf"}, "no similarity 'tfidf'. There are bm25, qld, impact"),
        ({"mu": 0}, "mu is 0, but Dirichlet"),
        ({"similarity": "impact"}, "made from the output of a learned model, not from a corpus"),
        ({"encoder": "UniCoil"}, "makes queries for similarity='impact', not for 'bm25'"),
        ({"field_weights": {"body": 1.0}}, r"names 'body', but the indexed fields are \['title', 'text'\]"),
        ({"field_weights": {"title": -1.0}}, "The weight of field 'title' is -1.0"),
        ({"prebuilt": "msmarco-v1-passage"}, "names an index: leave out corpus and index_dir"),
    ],
)
def test_similarities_and_fields_that_cannot_be_are_refused(make, corpus, options, message):
    with pytest.raises(ValueError, match=message):
        make(corpus, **options)
