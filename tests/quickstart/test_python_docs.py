"""The corpus of the standard library: what is in it, under which names, and that reading it changes nothing."""

import subprocess
import sys
import threading
import warnings

import pytest

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.quickstart import python_docs
from dgr_trainer.quickstart.python_docs import documented_objects, python_docs_corpus


@pytest.fixture(scope="module")
def docs() -> Corpus:
    return python_docs_corpus()


def test_it_is_the_documentation_of_a_whole_library(docs: Corpus) -> None:
    assert len(docs) > 4000
    assert sum(len(passage.text.split()) for passage in docs) > 100_000


@pytest.mark.parametrize(
    "name",
    """open len str.split dict.get os.getcwd os.path.join os.path.exists pathlib.Path.glob pathlib.PurePath.suffix csv
    csv.reader json.loads collections.OrderedDict collections.Counter.most_common random.choice re.sub functools.wraps
    datetime.datetime.strptime asyncio.run asyncio.TaskGroup concurrent.futures.ThreadPoolExecutor
    unittest.TestCase.setUp typing.Optional bisect.bisect_left heapq.merge property
    subprocess.run socket.socket.connect email.message_from_string""".split(),
)
def test_objects_have_the_name_a_user_writes(docs: Corpus, name: str) -> None:
    assert docs.get(name).title == name
    assert docs.get(name).text


@pytest.mark.parametrize(
    "name",
    """builtins.open posixpath.join ntpath.join posix.getcwd io.open os.error asyncio.runners.run
    json.encoder.JSONEncoder bisect.bisect str.__len__ socket.SocketType tkinter turtle this
    antigravity idlelib test cgi""".split(),
)
def test_aliases_and_what_is_no_use_are_left_out(docs: Corpus, name: str) -> None:
    assert name not in docs


def test_passages_are_well_formed(docs: Corpus) -> None:
    ids = list(docs.ids)
    assert ids == sorted(set(ids))
    texts = [passage.text for passage in docs]
    assert len(set(texts)) == len(texts)
    for passage in docs:
        assert passage.id == passage.title
        assert all(part.isidentifier() and not part.startswith("_") for part in passage.id.split("."))
        assert 3 <= len(passage.text.split()) <= 120
        assert passage.text == " ".join(passage.text.split())
        (summary,) = passage.pseudo_queries
        assert 1 <= len(summary.split()) <= 24


def test_signatures_are_taken_off(docs: Corpus) -> None:
    assert docs.get("range").text.startswith("Return an object that produces a sequence of integers")
    assert docs.get("os.getcwd").pseudo_queries == (
        "Return a unicode string representing the current working directory",
    )
    assert "<instance>" not in docs.get("imaplib.IMAP4.search").text


def test_every_run_gives_the_same(docs: Corpus) -> None:
    python_docs.documented_objects.cache_clear()
    assert python_docs_corpus().fingerprint == docs.fingerprint


def test_reading_leaves_no_trace_in_this_process(capfd: pytest.CaptureFixture[str]) -> None:
    documented_objects.cache_clear()
    modules, threads = set(sys.modules), threading.active_count()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        documented_objects()
    assert set(sys.modules) == modules
    assert threading.active_count() == threads
    assert capfd.readouterr() == ("", "")


def test_an_interpreter_without_executable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    documented_objects.cache_clear()
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(RuntimeError, match="sys.executable is empty"):
        documented_objects()


def test_a_failing_interpreter_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    documented_objects.cache_clear()
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(RuntimeError, match=r"could not be read: /no/such/python -I .*Run this command by itself"):
        documented_objects()


def test_the_complaint_of_the_interpreter_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str], **_: object) -> None:
        raise subprocess.CalledProcessError(1, command, stderr=b"SyntaxError: too old")

    documented_objects.cache_clear()
    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(RuntimeError, match="Its output: SyntaxError: too old"):
        documented_objects()
