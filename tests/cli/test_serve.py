"""`dgr serve`: its options, what it refuses, and a server as a process."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from sample_corpus import PASSAGES
from tiny_models import bpe_tokenizer, make_bart

from dgr_trainer import BM25Teacher
from dgr_trainer.data.corpus import Corpus
from dgr_trainer.errors import DGRValueError
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import GenerativeRetriever, SearchSettings
from dgr_trainer.serving.settings import ServeSettings

httpx = pytest.importorskip("httpx", reason="asks the server")
for package in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(package, reason="the extra serve is not installed")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two retrievers as training leaves them, and one without its texts."""
    work = tmp_path_factory.mktemp("served")
    identifiers, corpus = Identifiers(bpe_tokenizer()), Corpus.from_passages(PASSAGES)
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    settings = SearchSettings(beam_size=2, substring_length=4)
    for seed, name in enumerate(("generation", "distilled")):
        retriever = GenerativeRetriever(
            make_bart(bpe_tokenizer(), seed=seed), identifiers, index, corpus=corpus, settings=settings
        )
        retriever.save_pretrained(work / name / "retriever")
    GenerativeRetriever(retriever.model, identifiers, index, settings=settings).save_pretrained(work / "textless")
    return work


@pytest.fixture
def served(monkeypatch):
    """What the command would serve."""
    from dgr_trainer.serving import server

    given = {}
    monkeypatch.setattr(server, "serve", lambda systems, settings: given.update(systems=systems, settings=settings))
    return given


def test_options_are_the_settings_of_the_server(dgr, folders, served, monkeypatch, tmp_path):
    monkeypatch.delenv("DGR_SERVE_TOKEN", raising=False)
    assert dgr("serve", folders / "distilled/retriever").code == 0
    assert served["settings"] == ServeSettings()
    assert list(served["systems"]) == ["distilled"]
    (tmp_path / "token").write_text("s3cret\n")
    done = dgr(
        "serve", folders / "textless", "--port", 0, "--host", "0.0.0.0", "--max_k", 7, "--batch_window", 1.5,
        "--log_queries", "--allowed_hosts", "a.example", "b.example", "--token_file", tmp_path / "token",
        "--corpus", folders / "distilled/retriever", "--beam_size", 3,
    )  # fmt: skip
    assert done.code == 0, done.err
    hosts = ("a.example", "b.example")
    assert served["settings"] == ServeSettings(
        "0.0.0.0", 0, hosts, max_k=7, batch_window=1.5, log_queries=True, token="s3cret"
    )
    system = served["systems"]["textless"]()
    assert system.retriever.settings.beam_size == 3 and len(system.corpus) == 24
    assert served["systems"]["textless"]() is system
    monkeypatch.setenv("DGR_SERVE_TOKEN", "from-outside")
    dgr("serve", folders / "textless")
    assert served["settings"].token == "from-outside" and "from-outside" not in repr(served["settings"])


def test_what_is_shown_beside_and_its_names(dgr, folders, files, served, tmp_path):
    def names(*arguments):
        done = dgr("serve", *arguments)
        assert done.code == 0, done.err
        return list(served["systems"])

    a, b = folders / "generation/retriever", folders / "distilled/retriever"
    assert names(a, b) == ["generation", "distilled"]
    assert names(a, folders / "textless") == ["generation", "textless"]
    assert names(a, b, "--names", "before", "after") == ["before", "after"]
    run = ("--run", files / "best.trec", "--queries", files / "queries.tsv")
    assert names(b, *run) == ["distilled", "best"]
    assert len(served["systems"]["best"]().examples) == 12
    assert names(b, *run, "--names", "student", "teacher") == ["student", "teacher"]
    (tmp_path / "teacher.yaml").write_text("k1: 1.5\n")
    assert names(b, "--teacher", "bm25", "--teacher_config", tmp_path / "teacher.yaml") == ["distilled", "bm25"]
    pytest.importorskip("bm25s")
    from dgr_trainer.serving.systems import Restriction

    teacher = served["systems"]["bm25"]()
    queries = ["who discovered penicillin", " ", "zzz", "the sea"]
    ranked = BM25Teacher(Corpus.from_passages(PASSAGES), k1=1.5).rank({"a": queries[0], "b": queries[3]}, k=2)
    found = [[(hit.passage_id, hit.score) for hit in hits] for hits in teacher.search(queries, 2, Restriction())]
    assert found[1] == [] and len(found[2]) <= 2
    for query_id, hits in (("a", found[0]), ("b", found[3])):
        assert hits == list(zip(ranked[query_id].passage_ids, ranked[query_id].scores, strict=True))
    (hits,) = teacher.search(["who discovered penicillin"], 2, Restriction.of(["p08", "p01"], ["p01"]))
    assert [hit.passage_id for hit in hits] == ["p08"]


MISTAKES = [
    (["{a}", "{b}", "{a}"], "3 retrievers are given, but two at most are shown"),
    (["{a}", "{a}"], "A retriever is given twice"),
    (["{a}", "{b}", "--teacher", "bm25"], "RETRIEVER2 and --teacher are given, but only one"),
    (["{a}", "--run", "{run}"], "--run and --queries go together"),
    (["{a}", "--queries", "{queries}"], "--run and --queries go together"),
    (["{a}", "--teacher_config", "{run}"], "Say which with --teacher"),
    (["{a}", "--teacher", "cross-encoder"], "--teacher cross-encoder needs --model"),
    (["{a}", "--names", "one", "two"], "--names one two has to be 1 different names"),
    (["{a}", "{b}", "--names", "one", "one"], "has to be 2 different names"),
    (["{a}", "--max_k", "0"], "max_k=0 must be a whole number"),
    (["{a}", "--port", "70000"], "port=70000 is no port"),
    (["{a}", "--token_file", "{empty}"], "is empty. Write a token into it."),
    (["{a}", "--token_file", "{binary}"], "is not UTF-8 (invalid start byte). Write a token of letters and digits"),
    (["{a}", "--split", "test"], "--split test selects from a BEIR folder"),
    (["{run}"], "is a file, but a folder is needed"),
    (["{a}/index"], "is not the folder of a retriever"),
    (["{a}", "--corpus", "{a}/nothing"], "does not exist"),
    (["{a}", "--beam_size", "0"], "beam_size=0 must be"),
    (["{a}", "--device", "nowhere"], "--device nowhere cannot be used"),
    ([], "the following arguments are required: RETRIEVER"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[message[:30] for _, message in MISTAKES])
def test_mistakes_are_told_before_anything_is_served(dgr, folders, files, served, tmp_path, arguments, message):
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(bytes(range(128, 160)))
    places = {
        "a": folders / "generation/retriever",
        "b": folders / "distilled/retriever",
        "run": files / "best.trec",
        "queries": files / "queries.tsv",
        "empty": tmp_path / "empty",
        "binary": tmp_path / "binary",
    }
    done = dgr("serve", *(argument.format(**places) for argument in arguments))
    assert done.code == 2 and message in done.err and not served


def test_a_teacher_needs_texts(dgr, folders, served):
    assert dgr("serve", folders / "textless", "--teacher", "bm25").code == 0
    with pytest.raises(DGRValueError, match="--teacher bm25 needs the texts, which the retriever lacks"):
        served["systems"]["bm25"]()


def test_a_port_that_is_taken_and_a_model_that_cannot_be_loaded(dgr, folders, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = dgr("serve", folders / "textless", "--port", taken.getsockname()[1])
    assert done.code == 2 and "Give another --port" in done.err
    folder = tmp_path / "retriever"
    folder.mkdir()
    for entry in (folders / "textless").iterdir():
        (folder / entry.name).symlink_to(entry)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(b"damaged")
    done = dgr("serve", folder, "--port", 0)
    assert done.code == 2 and "The model at" in done.err and "cannot be loaded" in done.err
    # Everyone can ask, which is worth a warning.
    done = dgr("serve", folder, "--port", 0, "--host", "0.0.0.0")
    assert done.code == 2 and "everyone who reaches 0.0.0.0 can search" in done.err


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client"])
def test_without_the_extra_the_error_names_it(dgr, folders, monkeypatch, package):
    for name in list(sys.modules):
        if name.startswith("dgr_trainer.serving."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # Importing it fails.
    done = dgr("serve", folders / "textless")
    assert done.code == 2 and 'Install it with: pip install "dgr-trainer[serve]"' in done.err
    assert dgr("serve", "--help").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_runs_finish(folders, number):
    process = subprocess.Popen(
        [sys.executable, "-m", "dgr_trainer.cli.main", "serve", str(folders / "distilled/retriever"), "--port", "0"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TQDM_DISABLE": "1"},
    )
    log = []
    reader = threading.Thread(target=lambda: log.extend(iter(process.stderr.readline, "")))
    reader.start()

    def logged(pattern):
        end = time.monotonic() + 120
        while time.monotonic() < end and process.poll() is None:
            if match := re.search(pattern, "".join(log)):
                return match
            time.sleep(0.02)
        pytest.fail("".join(log))

    try:
        url = logged(r"serving distilled at (http://127\.0\.0\.1:\d+)/")[1]
        logged("distilled is ready")
        replies = []
        body = {"queries": ["who discovered penicillin", "bees", "the sea"] * 20, "k": 20, "identifiers": None}
        clients = [
            threading.Thread(target=lambda: replies.append(httpx.post(f"{url}/search", json=body, timeout=60)))
            for _ in range(2)
        ]
        for client in clients:
            client.start()
        while "dgr_batch_queries_count" not in httpx.get(f"{url}/metrics").text:  # The first batch is done.
            time.sleep(0.01)
        process.send_signal(number)
        for client in clients:
            client.join()
        assert [reply.status_code for reply in replies] == [200, 200]
        assert all(len(reply.json()["results"]) == 60 for reply in replies)
        assert process.wait(60) == 0
        reader.join()
        assert "stopped" in log[-1] and "Traceback" not in "".join(log)
        # No path of the disk in any answer, no query in the log.
        assert str(folders) not in json.dumps([reply.json() for reply in replies])
        assert "penicillin" not in "".join(log)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/healthz")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
