import os
import signal
import sys
import threading
import time

import pytest
from teachers.lucene.searchers import WordSearcher, nothing

from dgr_trainer import SearcherTeacher
from dgr_trainer.runs.rankings import Rankings

TEXTS = {"a": "piano keys", "b": "piano strings music", "c": "river water"}


def make(**arguments):
    options = {name: arguments.pop(name) for name in ("hits",) if name in arguments}
    return SearcherTeacher(WordSearcher, {"texts": TEXTS, **arguments}, progress=False, **options)


def test_a_searcher_ranks_in_a_process_of_its_own(tmp_path):
    teacher = make(prints="what it prints is not an answer", pid_file=str(tmp_path / "pid"))
    found = teacher.rank({"q1": "piano strings", "q2": "xylograph", "q3": "wa\nter"})
    assert found.to_run() == {"q1": {"b": 1.5, "a": 0.5}, "q2": {}, "q3": {}}
    assert found.name == "WordSearcher" and teacher.address == "teachers.lucene.searchers:WordSearcher"
    pid = int((tmp_path / "pid").read_text())
    assert pid != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert make().rank({"q1": "piano strings"}, k=1)["q1"].passage_ids == ("b",)


def test_a_name_is_enough():
    teacher = SearcherTeacher(
        "teachers.lucene.searchers:WordSearcher.of_one", {"id": "x"}, name="mine", progress=False
    )
    assert teacher.rank({"q": "keys"}).to_run() == {"q": {"x": 0.5}}
    assert teacher.name == "mine"


def test_candidates_are_all_ranked(caplog):
    candidates = Rankings({"q": {"c": 1.0, "b": 2.0}, "r": {"a": 1.0}})
    found = make().rank({"q": "piano", "r": "water"}, candidates)
    assert found.to_run() == {"q": {"b": 0.5, "c": -0.5}, "r": {"a": -0.5}}
    make(hits=1).rank({"q": "piano"}, candidates, k=1)
    assert "not among the first 1 passages of the search" in caplog.text


def test_a_crash_is_reported_and_harms_nothing():
    teacher = make(crash_on="boom", prints="the last words")
    with pytest.raises(
        RuntimeError, match=r"teachers.lucene.searchers:WordSearcher failed \(exit status -9\)(.|\n)*the last words"
    ):
        teacher.rank({"q1": "piano", "q2": "boom", "q3": "keys"})
    with pytest.raises(RuntimeError, match="no such field"):
        make().rank({"q": "raise"})
    with pytest.raises(RuntimeError, match=r"returned a NoneType, which has no method search\(query, k=...\)"):
        SearcherTeacher(nothing, progress=False).rank({"q": "x"})
    with pytest.raises(RuntimeError, match="No module named 'no_such_module'"):
        SearcherTeacher("no_such_module:Searcher", progress=False).rank({"q": "x"})
    assert len(make().rank({"q": "piano"})["q"].scores) == 2


def test_java_is_prepared_before_any_module_imports_pyserini(tmp_path, monkeypatch):
    (tmp_path / "own_searchers.py").write_text("def make():\n    import pyserini\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pyserini").mkdir()
    (tmp_path / "pyserini" / "__init__.py").write_text("raise SystemExit('Java is not prepared')")
    with pytest.raises(RuntimeError, match=r"has no anserini-\*-fatjar.jar"):
        SearcherTeacher("own_searchers:make", progress=False).rank({"q": "x"})


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT between processes")
def test_ctrl_c_ends_the_process(tmp_path):
    teacher = make(pid_file=str(tmp_path / "pid"))

    def interrupt():
        while not (tmp_path / "pid").exists():
            time.sleep(0.05)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        teacher.rank({"q": "wait"})
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"make_searcher": lambda: None}, "cannot be imported by another process"),
        ({"make_searcher": "LuceneSearcher"}, "a name has the form 'module:name'"),
        ({"make_searcher": nothing, "arguments": {"encoder": object()}}, "are not all of JSON types"),
        ({"make_searcher": nothing, "hits": 0}, "hits is 0"),
    ],
)
def test_what_another_process_cannot_make_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SearcherTeacher(**options)
