"""What the server answers: searches, passages, health, metrics, and refusals."""

import json
import logging
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
from peft import LoraConfig, get_peft_model
from serving.running_server import EVIL, listening
from tiny_models import bpe_tokenizer, make_bart, make_t5, unigram_tokenizer

from dgr_trainer import Rankings
from dgr_trainer.errors import DGRValueError
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.identifiers import Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import GenerativeRetriever, SearchSettings
from dgr_trainer.serving.settings import ServeSettings
from dgr_trainer.serving.systems import RetrieverSystem, RunSystem, TeacherSystem
from dgr_trainer.teachers import BM25Teacher, FunctionTeacher

httpx = pytest.importorskip("httpx", reason="asks the server")
for package in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(package, reason="the extra serve is not installed")

ask = httpx.Client(timeout=60, limits=httpx.Limits(max_connections=50))
QUERIES = ["who discovered penicillin", "how do bees find flowers", "", "the sea"]


def found(answer):
    return [[(hit["passage_id"], hit["score"]) for hit in result["hits"]] for result in answer["results"]]


def expected(retriever, queries, k):
    return [
        [(hit.passage_id, pytest.approx(hit.score, abs=1e-3)) for hit in retriever.search(query, k)[0]]
        for query in queries
    ]


def test_an_answer_is_what_the_retriever_finds(client, retriever, served_corpus):
    reply = client.post("/search", json={"queries": QUERIES, "k": 3, "identifiers": None})
    assert reply.status_code == 200
    answer = reply.json()
    assert answer["system"] == "tiny" and answer["seconds"] > 0
    assert [result["query"] for result in answer["results"]] == QUERIES
    assert found(answer) == expected(retriever, QUERIES, 3)
    assert answer["results"][2]["hits"] == []
    for result, query in zip(answer["results"], QUERIES, strict=True):
        for shown, hit in zip(result["hits"], retriever.search(query, 3)[0], strict=True):
            passage = served_corpus.get(hit.passage_id)
            assert (shown["title"], shown["text"], shown["marked"]) == (passage.title, passage.text, None)
            assert shown["other_identifiers"] == {"count": 0, "score": pytest.approx(0, abs=1e-9)}
            assert sum(one["score"] for one in shown["identifiers"]) == pytest.approx(hit.score, abs=1e-3)
            assert {(one["view"], one["text"], one["count"]) for one in shown["identifiers"]} == {
                (one.view, retriever.identifier_text(one), one.count) for one in hit.identifiers
            }


def test_which_identifiers_are_listed(client):
    def hits(**options):
        answer = client.post("/search", json={"queries": ["who discovered penicillin"], "k": 9, **options}).json()
        return answer["results"][0]["hits"]

    whole = hits(identifiers=None)
    assert max(len(hit["identifiers"]) for hit in whole) > 1
    for hit, complete in zip(hits(identifiers=1), whole, strict=True):
        scores = sorted((one["score"] for one in complete["identifiers"]), reverse=True)
        assert [one["score"] for one in hit["identifiers"]] == pytest.approx(scores[:1])
        assert hit["other_identifiers"] == {
            "count": len(scores) - 1,
            "score": pytest.approx(sum(scores[1:]), abs=1e-6),
        }
    for hit in hits(identifiers=0, texts=False):
        assert hit["identifiers"] == [] and hit["title"] is None and hit["text"] is None
        assert hit["other_identifiers"]["score"] == pytest.approx(hit["score"])
    views = {
        one["view"] for hit in hits(identifiers=None, views=["pseudo_query", "title"]) for one in hit["identifiers"]
    }
    assert views <= {"title", "pseudo_query"}


def test_a_search_among_some_passages(client, retriever):
    query = "how do bees find flowers"

    def ids(**options):
        reply = client.post("/search", json={"queries": [query], "k": 20, **options})
        assert reply.status_code == 200, reply.text
        return [hit["passage_id"] for hit in reply.json()["results"][0]["hits"]]

    def direct(**options):
        return [hit.passage_id for hit in retriever.search(query, 20, **options)[0]]

    some = ["p14", "p01", "p05", EVIL.id]
    assert ids(among=some) == direct(among=some) and set(ids(among=some)) <= set(some)
    assert ids(exclude=["p14"]) == direct(exclude=["p14"]) and "p14" not in ids(exclude=["p14"])
    assert ids(among=some, exclude=["p14", "p01"]) == direct(among=some, exclude=["p14", "p01"])
    assert ids(exclude=[]) == ids() == direct()
    reply = client.post("/search", json={"queries": [query], "among": ["p99"]})
    assert reply.status_code == 422 and "p99" in reply.json()["error"]
    reply = client.post("/search", json={"queries": [query], "among": []})
    assert reply.status_code == 422 and "error" in reply.json()


def test_marked_pieces_are_the_texts_and_name_identifiers_of_their_view(client, served_corpus):
    body = {"queries": ["how do bees find flowers"], "k": 16, "identifiers": None, "marked": True}
    marked = 0
    for hit in client.post("/search", json=body).json()["results"][0]["hits"]:
        passage = served_corpus.get(hit["passage_id"])
        for name in ("title", "text"):
            assert "".join(piece["text"] for piece in hit["marked"][name]) == getattr(passage, name)
            for piece in hit["marked"][name]:
                marked += bool(piece["identifiers"])
                views = {hit["identifiers"][number]["view"] for number in piece["identifiers"]}
                assert views <= ({"substring", "title"} if name == "title" else {"substring"})
        for query in hit["marked"]["pseudo_queries"]:
            assert "".join(piece["text"] for piece in query) in passage.pseudo_queries
    assert marked > 5


def test_a_passage_by_its_id_even_with_slashes_and_other_signs(client, passages):
    assert client.get("/passages/p03").json() == {
        "id": "p03",
        "title": passages[2].title,
        "text": passages[2].text,
        "pseudo_queries": list(passages[2].pseudo_queries),
        "docid": None,
    }
    reply = client.get("/passages/" + quote(EVIL.id, safe=""))
    assert reply.status_code == 200 and reply.json()["id"] == EVIL.id
    assert client.get("/passages/a/b%3F%C3%BC%23c").json()["id"] == EVIL.id
    assert client.get("/passages/p99").status_code == 404


def test_what_the_server_is(client):
    info = client.get("/info").json()
    assert info["systems"] == [
        {
            "name": "tiny",
            "kind": "retriever",
            "views": ["title", "substring", "pseudo_query"],
            "texts": True,
            "examples": [],
        }
    ]
    assert info["limits"]["max_queries"] == 4 and info["limits"]["max_k"] == 20
    assert client.get("/healthz").json() == {"ready": True, "systems": {"tiny": "ready"}}


def test_metrics_count_what_happens(client):
    from prometheus_client.parser import text_string_to_metric_families

    def values():
        families = text_string_to_metric_families(client.get("/metrics").text)
        return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}

    before = values()
    client.post("/search", json={"queries": ["the sea", "a moon"], "k": 1})
    client.get("/nothing-here")
    after = values()

    def grown(name, **labels):
        key = (name, *sorted(labels.items()))
        return after[key] - before.get(key, 0)

    assert grown("dgr_queries_total", system="tiny") == 2
    assert grown("dgr_batch_queries_sum", system="tiny") == 2
    assert grown("dgr_requests_total", method="POST", route="/search", status="200") == 1
    assert grown("dgr_requests_total", method="GET", route="other", status="404") == 1
    assert grown("dgr_search_seconds_count", system="tiny") == 1
    assert after["dgr_ready", ("system", "tiny")] == 1
    assert after["process_resident_memory_bytes",] > 1e6


# Refusals: a 4xx with a sentence


BAD = [
    ({}, 422, "queries: field required"),
    ({"queries": []}, 422, "queries: list should have at least 1 item"),
    ({"queries": "one"}, 422, "queries: input should be a valid list"),
    ({"queries": ["a"] * 5}, 422, "queries: list should have at most 4 items"),
    ({"queries": ["a" * 101]}, 422, "queries.0: string should have at most 100 characters"),
    ({"queries": [7]}, 422, "queries.0: input should be a valid string"),
    ({"queries": ["a"], "k": 0}, 422, "k: input should be greater than or equal to 1"),
    ({"queries": ["a"], "k": 21}, 422, "k: input should be less than or equal to 20"),
    ({"queries": ["a"], "k": "5"}, 422, "k: input should be a valid integer"),
    ({"queries": ["a"], "kk": 5}, 422, "kk: extra inputs are not permitted"),
    ({"queries": ["a"], "views": ["body"]}, 422, "views.0: input should be 'title', 'substring'"),
    ({"queries": ["a"], "identifiers": -1}, 422, "identifiers: input should be greater than or equal to 0"),
    ({"queries": ["a"], "system": "other"}, 404, "There is no system of this name. There is: tiny."),
    ({"queries": ["a"], "among": [""]}, 422, "among.0: string should have at least 1 character"),
    ([1], 422, "the body: input should be a valid dictionary"),
]


@pytest.mark.parametrize(("body", "status", "sentence"), BAD, ids=[sentence[:40] for *_, sentence in BAD])
def test_a_wrong_request_is_answered_with_a_sentence(client, body, status, sentence):
    reply = client.post("/search", json=body)
    assert reply.status_code == status
    assert set(reply.json()) == {"error"} and sentence in reply.json()["error"]


def test_other_wrong_requests(client):
    sent = {"content-type": "application/json"}
    reply = client.post("/search", content=b"{", headers=sent)
    assert (reply.status_code, reply.json()["error"][:20]) == (400, "The body is not JSON")
    assert client.post("/search", content=b"\xff\xfe", headers=sent).status_code == 400
    # A page of another site can send text without asking the browser's user.
    assert (
        client.post("/search", content=b'{"queries": ["a"]}', headers={"content-type": "text/plain"}).status_code
        == 422
    )
    reply = client.post("/search", content=b'{"queries": ["\\ud800"]}', headers=sent)
    assert reply.status_code in (400, 422) and "error" in reply.json()
    deep = b'{"queries": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    assert client.post("/search", content=deep, headers=sent).status_code in (400, 422)
    assert client.get("/search").json() == {"error": "GET is not possible here. /docs lists what is."}
    assert client.get("/search").status_code == 405
    assert client.get("/nothing").json() == {"error": "There is nothing at this address. /docs lists what there is."}
    reply = client.post("/search", json={"queries": ["</s>"]})  # The end of a sequence is no text.
    assert reply.status_code in (200, 422)


def test_a_request_that_is_too_large_is_refused_before_it_is_read(retriever):
    with (
        listening({"tiny": RetrieverSystem(retriever)}, max_body_bytes=1000) as url,
        httpx.Client(base_url=url) as client,
    ):
        reply = client.post("/search", json={"queries": ["a"], "among": ["x" * 20] * 100})
        assert reply.status_code == 413 and "at most 1,000 bytes" in reply.json()["error"]

        def pieces():  # Without a length in its head.
            for _ in range(100):
                yield b"x" * 100

        assert client.post("/search", content=pieces()).status_code == 413
        assert client.post("/search", json={"queries": ["the sea"]}).status_code == 200


def test_only_the_names_of_this_machine_are_answered_without_a_token(address):
    for host, status in [
        ("127.0.0.1:80", 200),
        ("localhost", 200),
        ("[::1]:8000", 200),
        ("evil.example", 400),
        ("", 400),
    ]:
        reply = ask.get(f"{address}/healthz", headers={"host": host})
        assert reply.status_code == status, host
    assert "--allowed_hosts" in reply.json()["error"]


def test_a_token_is_needed_for_everything_but_the_page(retriever):
    system = {"tiny": RetrieverSystem(retriever)}
    with listening(system, token="s3cret-token") as url, httpx.Client(base_url=url) as client:
        for path in ("/", "/docs", "/openapi.json", "/healthz", "/static/page.js"):
            assert client.get(path).status_code == 200, path
        body = {"queries": ["the sea"], "k": 1}
        wrong = [
            None,
            "Bearer",
            "Bearer wrong",
            "Basic s3cret-token",
            "s3cret-token",
            "Bearer s3cret-token2",
            "Bearer ü",
        ]
        for given in wrong:
            headers = {} if given is None else {b"authorization": given.encode()}
            for reply in (
                client.post("/search", json=body, headers=headers),
                client.get("/passages/p01", headers=headers),
                client.get("/metrics", headers=headers),
                client.get("/info", headers=headers),
            ):
                assert reply.status_code == 401 and reply.headers["www-authenticate"] == "Bearer"
                assert "Authorization: Bearer" in reply.json()["error"]
        right = {"authorization": "Bearer s3cret-token"}
        assert client.post("/search", json=body, headers=right).status_code == 200
        assert client.get("/metrics", headers=right).status_code == 200
        security = client.get("/openapi.json").json()["paths"]["/search"]["post"]["security"]
        assert security == [{"HTTPBearer": []}]


def test_headers_keep_a_browser_from_loading_or_running_anything_else(client):
    for path in ("/", "/docs", "/static/page.js", "/healthz", "/nothing"):
        headers = client.get(path).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'" and policy["script-src"] == "'self'"
        assert "unsafe" not in headers["content-security-policy"] and "http" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and "server" not in headers
    for path in ("/", "/docs"):
        assert not re.search(r"<script>|style=| on\w+=", client.get(path).text)
    head = client.head("/")
    assert head.status_code == 200 and head.content == b""
    for path in ("/static/page.css", "/static/page.js", "/static/docs.css", "/static/docs.js", "/", "/docs"):
        assert not re.search(r"""["'(]https?://|["'(]//""", client.get(path).text), path


# Waiting and failing


class SlowSystem:
    """Records its batches; a search lasts until it is let go."""

    kind, views, markers, corpus, batch_size, examples = "retriever", (), (), None, 4, ()

    def __init__(self):
        self.batches, self.go, self.fail = [], threading.Event(), None
        self.go.set()

    def search(self, queries, k, restriction):
        self.batches.append((list(queries), k, restriction))
        assert self.go.wait(20)
        if self.fail is not None and (error := self.fail(queries)) is not None:
            raise error
        return [[] for _ in queries]

    def num_candidates(self, k):
        return max(k, 50)

    def probe(self):
        pass

    def identifier_text(self, view, ids):
        raise NotImplementedError


def together(url, bodies):
    """Send requests at the same time."""
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda body: ask.post(f"{url}/search", json=body, timeout=30), bodies))


def busy(system, url):
    """Send a query whose search lasts, and wait until it runs."""
    system.go.clear()
    count = len(system.batches)
    thread = threading.Thread(
        target=ask.post, args=(f"{url}/search",), kwargs={"json": {"queries": ["first"]}, "timeout": 30}
    )
    thread.start()
    while len(system.batches) == count:
        time.sleep(0.005)
    return thread


def test_requests_that_wait_become_one_search_for_each_restriction():
    system = SlowSystem()
    with listening({"slow": system}, batch_window=0, max_batch=16) as url:
        thread = busy(system, url)
        bodies = [{"queries": [f"q{n}", f"r{n}"], "k": n + 1} for n in range(4)]
        bodies += [{"queries": ["s"], "among": ["b", "a"]}, {"queries": ["t"], "among": ["a", "b", "a"]}]
        bodies += [{"queries": ["u"], "exclude": ["a"]}, {"queries": ["v"], "exclude": []}]
        bodies += [{"queries": ["w"], "k": 60}]  # More than the candidates of the others.
        with ThreadPoolExecutor(1) as pool:
            replies = pool.submit(together, url, bodies)
            while ask.get(f"{url}/metrics").text.count('dgr_waiting_queries{system="slow"} 13.0') == 0:
                time.sleep(0.01)
            assert ask.get(f"{url}/healthz").status_code == 200  # The event loop is free.
            system.go.set()
            assert [reply.status_code for reply in replies.result()] == [200] * 9
        thread.join()
    assert len(system.batches) == 5
    assert [(queries, k) for queries, k, _ in system.batches if k == 60] == [(["w"], 60)]
    batches = {
        restriction.among or restriction.exclude: (sorted(q), k) for q, k, restriction in system.batches[1:] if k < 60
    }
    assert batches[None] == (sorted([*(f"q{n}" for n in range(4)), *(f"r{n}" for n in range(4)), "v"]), 10)
    assert batches["a", "b"] == (["s", "t"], 10)
    assert batches["a",] == (["u"], 10)


def test_a_batch_is_bounded_and_a_window_gathers():
    system = SlowSystem()
    with listening({"slow": system}, batch_window=1000) as url:
        began = time.monotonic()
        assert ask.post(f"{url}/search", json={"queries": ["a", "b", "c", "d"]}).status_code == 200
        assert time.monotonic() - began < 0.9  # A full batch does not wait for the end of the window.
        assert {reply.status_code for reply in together(url, [{"queries": ["a"]}] * 3)} == {200}
        assert [len(queries) for queries, *_ in system.batches] == [4, 3]
    with listening({"slow": system}, batch_window=0) as url:
        together(url, [{"queries": ["a", "b", "c", "d", "e", "f"]}])
    assert [len(queries) for queries, *_ in system.batches[2:]] == [4, 2]


def test_a_full_queue_refuses_with_retry_after():
    system = SlowSystem()
    with listening({"slow": system}, queue_size=3, max_queries=3, batch_window=0) as url:
        first = busy(system, url)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(together, url, [{"queries": ["a", "b", "c"]}])
            while 'dgr_waiting_queries{system="slow"} 3.0' not in ask.get(f"{url}/metrics").text:
                time.sleep(0.01)
            refused = ask.post(f"{url}/search", json={"queries": ["d"]})
            assert refused.status_code == 503 and 1 <= int(refused.headers["retry-after"]) <= 60
            assert "Too many queries are waiting" in refused.json()["error"]
            system.go.set()
            assert waiting.result()[0].status_code == 200
        first.join()
        assert ask.post(f"{url}/search", json={"queries": ["d"]}).status_code == 200


def test_a_query_that_cannot_be_searched_does_not_fail_the_others():
    system = SlowSystem()
    system.fail = lambda queries: DGRValueError("The query is no good.") if "bad" in queries else None
    with listening({"slow": system}, batch_window=200, max_batch=3) as url:
        replies = together(url, [{"queries": ["good"]}, {"queries": ["bad"]}, {"queries": ["fine"]}])
        assert [reply.status_code for reply in replies] == [200, 422, 200]
        assert replies[1].json() == {"error": "The query is no good."}
        assert ask.get(f"{url}/healthz").status_code == 200
        system.fail = lambda queries: MemoryError() if len(queries) > 1 else None
        assert [r.status_code for r in together(url, [{"queries": ["a", "b"]}])] == [200]
        system.fail = lambda queries: MemoryError()
        (reply,) = together(url, [{"queries": ["a"]}])
        assert reply.status_code == 503 and "too little memory" in reply.json()["error"]


def test_a_bug_is_a_500_without_details_and_not_ready_until_a_search_succeeds(caplog):
    system = SlowSystem()
    system.fail = lambda queries: RuntimeError("/secret/path of " + queries[0])
    with listening({"slow": system}) as url, caplog.at_level(logging.DEBUG, "dgr_trainer"):
        reply = ask.post(f"{url}/search", json={"queries": ["private words"]})
        assert reply.status_code == 500 and reply.json() == {"error": "The server failed; its log says where."}
        assert ask.get(f"{url}/healthz").json()["systems"] == {"slow": "failing"}
        system.fail = None
        end = time.monotonic() + 10
        while ask.get(f"{url}/healthz").status_code != 200 and time.monotonic() < end:
            time.sleep(0.02)  # The check asked for a search.
        assert ask.get(f"{url}/healthz").status_code == 200
    log = "\n".join([caplog.text, *(str(record.args) for record in caplog.records)])
    assert "RuntimeError" in log and "private" not in log and "secret" not in log


@pytest.mark.parametrize("logged", [False, True])
def test_queries_are_logged_only_if_asked(logged, caplog):
    with listening({"slow": SlowSystem()}, log_queries=logged) as url, caplog.at_level(logging.DEBUG):
        ask.post(f"{url}/search", json={"queries": ["private words"]})
        ask.post(f"{url}/search", json={"queries": ["private words"], "k": -1})
    assert ("private words" in caplog.text) == logged


def test_a_search_that_takes_too_long_is_given_up_and_the_server_not_ready():
    system = SlowSystem()
    with listening({"slow": system}, timeout=0.3) as url:
        system.go.clear()
        reply = ask.post(f"{url}/search", json={"queries": ["a"]})
        assert reply.status_code == 503 and "more than 0.3 seconds" in reply.json()["error"]
        time.sleep(0.1)  # The search began after the request.
        assert ask.get(f"{url}/healthz").json()["systems"] == {"slow": "stuck"}
        assert 'dgr_ready{system="slow"} 0.0' in ask.get(f"{url}/metrics").text
        system.go.set()
        assert ask.post(f"{url}/search", json={"queries": ["a"]}).status_code == 200


def test_nobody_searches_for_a_client_that_has_gone():
    system = SlowSystem()
    with listening({"slow": system}, batch_window=0) as url:
        first = busy(system, url)
        with pytest.raises(httpx.ReadTimeout):
            ask.post(f"{url}/search", json={"queries": ["gone"]}, timeout=0.2)
        time.sleep(0.2)
        system.go.set()
        first.join()
        assert ask.post(f"{url}/search", json={"queries": ["last"]}).status_code == 200
    assert [queries for queries, *_ in system.batches] == [["first"], ["last"]]


def test_it_is_ready_only_when_the_model_answers():
    loaded, probed, system = threading.Event(), threading.Event(), SlowSystem()

    def load():
        assert loaded.wait(20)
        return system

    system.probe = lambda: probed.wait(20)
    with listening({"slow": load, "quick": SlowSystem()}, until_loaded=False) as url:
        for event in (loaded, probed):
            while ask.get(f"{url}/healthz").json()["systems"]["quick"] != "ready":
                time.sleep(0.01)
            reply = ask.get(f"{url}/healthz")
            assert reply.status_code == 503 and "retry-after" in reply.headers
            assert reply.json() == {"ready": False, "systems": {"slow": "loading", "quick": "ready"}}
            refused = ask.post(f"{url}/search", json={"queries": ["a"]})
            assert refused.status_code == 503 and "The model is being loaded." in refused.json()["error"]
            assert ask.get(f"{url}/passages/p01").status_code == 503
            assert ask.get(f"{url}/").status_code == 200
            event.set()
        end = time.monotonic() + 10
        while ask.get(f"{url}/healthz").status_code != 200 and time.monotonic() < end:
            time.sleep(0.01)
        assert ask.get(f"{url}/healthz").json()["ready"]


# Beside the retriever


def test_a_run_and_a_teacher_beside_a_retriever(retriever, served_corpus):
    run = Rankings({"q1": [("p07", 3.0), ("p08", 2.0), ("p01", 1.0)]}, name="bm25")
    systems = {
        "student": RetrieverSystem(retriever),
        "run": RunSystem(run, {"q1": "Who discovered  penicillin"}),
        "teacher": TeacherSystem(
            FunctionTeacher(lambda query, passages: [float(len(one.text)) for one in passages], served_corpus),
            retriever,
            5,
        ),
        "searcher": TeacherSystem(BM25Teacher(served_corpus)),
    }
    with listening(systems) as url:

        def search(system, query="who discovered PENICILLIN ", **options):
            body = {"queries": [query], "system": system, "marked": True, **options}
            return ask.post(f"{url}/search", json=body).json()["results"][0]

        assert [hit["passage_id"] for hit in search("run", k=2)["hits"]] == ["p07", "p08"]
        assert [hit["passage_id"] for hit in search("run", exclude=["p07"])["hits"]] == ["p08", "p01"]
        assert [hit["passage_id"] for hit in search("run", among=["p01", "p02"])["hits"]] == ["p01"]
        assert search("run")["hits"][0]["title"] == "Penicillin"  # The texts are those of the retriever.
        unknown = search("run", "another")
        assert unknown["hits"] == [] and "no rank list for this query" in unknown["note"]
        ranked = search("teacher", k=3)["hits"]
        candidates = {hit["passage_id"] for hit in search("student", k=5)["hits"]}
        lengths = {passage_id: len(served_corpus.get(passage_id).text) for passage_id in candidates}
        assert [hit["score"] for hit in ranked] == sorted(lengths.values(), reverse=True)[:3]
        assert all(lengths[hit["passage_id"]] == hit["score"] for hit in ranked)
        assert search("teacher", " ")["hits"] == []
        for name, body in (
            ("teacher", {"among": ["none"]}),
            ("searcher", {"among": ["none"]}),
            ("teacher", {"among": []}),
        ):
            refused = ask.post(f"{url}/search", json={"queries": ["penicillin"], "system": name, **body})
            assert refused.status_code == 422, refused.text
        assert ask.get(f"{url}/healthz").json()["ready"]
        info = ask.get(f"{url}/info").json()["systems"]
        assert [one["kind"] for one in info] == ["retriever", "run", "teacher", "teacher"]
        assert info[1]["examples"] == ["Who discovered  penicillin"]
    with pytest.raises(DGRValueError, match="none of them is among the 1 queries"):
        RunSystem(run, {"q2": "x"})


@pytest.mark.parametrize("kind", ["log_likelihood", "log_odds"])
def test_an_adapter_with_docids_is_served_as_it_searches(kind, served_corpus):
    if kind == "log_likelihood":
        tokenizer, views = unigram_tokenizer(), ("docid",)
        model, modules = make_t5(tokenizer), ["q"]
    else:
        tokenizer, views = bpe_tokenizer(), ("docid", "substring")
        model, modules = make_bart(tokenizer), ["q_proj"]
    model = get_peft_model(model, LoraConfig(r=2, target_modules=modules, init_lora_weights=False))
    identifiers = Identifiers(tokenizer, IdentifierSettings(views=views))
    retriever = GenerativeRetriever(
        model,
        identifiers,
        FMIndex.from_corpus(served_corpus, identifiers, progress=False),
        corpus=served_corpus,
        settings=SearchSettings(beam_size=3, substring_length=3),
        scoring=ScoringSettings(kind=kind),
    )
    queries = ["who discovered penicillin", "the sea"]
    with listening({"lora": RetrieverSystem(retriever)}) as url:
        answer = ask.post(
            f"{url}/search", json={"queries": queries, "k": 3, "identifiers": None, "marked": True}
        ).json()
    assert found(answer) == expected(retriever, queries, 3) and all(found(answer))
    for hit in answer["results"][0]["hits"]:
        assert sum(one["score"] for one in hit["identifiers"]) == pytest.approx(hit["score"], abs=1e-3)
        docids = [one["text"] for one in hit["identifiers"] if one["view"] == "docid"]
        if kind == "log_likelihood":
            assert docids == [hit["passage_id"]]
        # A docid is no part of the texts.
        marked = {number for piece in hit["marked"]["text"] for number in piece["identifiers"]}
        assert {hit["identifiers"][number]["view"] for number in marked} <= {"substring"}


def test_without_texts(retriever):
    plain = type(retriever)(retriever.model, retriever.identifiers, retriever.index, settings=retriever.settings)
    with listening({"tiny": RetrieverSystem(plain)}) as url:
        reply = ask.get(f"{url}/passages/p01")
        assert reply.status_code == 404 and "no corpus is saved with the retriever" in reply.json()["error"]
        hit = ask.post(f"{url}/search", json={"queries": ["the sea"], "marked": True}).json()["results"][0]["hits"][0]
        assert hit["title"] is None and hit["marked"] is None and hit["identifiers"]


def test_a_corpus_given_beside_the_retriever_has_to_be_that_of_the_index(retriever, served_corpus, corpus):
    plain = type(retriever)(retriever.model, retriever.identifiers, retriever.index, settings=retriever.settings)
    assert RetrieverSystem(plain, served_corpus).corpus is served_corpus
    with pytest.raises(DGRValueError, match="The corpus has 24 passages, but the index holds 16"):
        RetrieverSystem(plain, corpus)
    with pytest.raises(DGRValueError, match="The corpus has no passage 'p01', which the index holds"):
        RetrieverSystem(plain, type(corpus).from_passages([*corpus[8:24]]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_k": 0}, "max_k=0 must be a whole number of at least 1"),
        ({"max_batch": 0}, "max_batch=0 must be a whole number"),
        ({"port": 70000}, "port=70000 is no port"),
        ({"batch_window": -1}, "batch_window=-1 must be 0 to 1000 milliseconds"),
        ({"timeout": 0}, "timeout=0 must be a number of seconds above 0"),
        ({"queue_size": 5}, "queue_size=5 is below max_queries=64"),
        ({"token": " "}, "The token has to be visible ASCII"),
        ({"token": "ü"}, "The token has to be visible ASCII"),
        ({"token": "a b"}, "The token holds a space"),
    ],
)
def test_settings_that_cannot_be_used(settings, message):
    with pytest.raises(DGRValueError, match=re.escape(message)):
        ServeSettings(**settings)


def test_the_description_of_the_api_tells_its_limits(client):
    description = client.get("/openapi.json").json()
    request = description["components"]["schemas"]["SearchRequest"]["properties"]
    assert request["k"]["maximum"] == 20 and request["queries"]["maxItems"] == 4
    assert request["queries"]["items"]["maxLength"] == 100
    assert set(description["paths"]) == {"/search", "/passages/{passage_id}", "/healthz", "/info", "/metrics"}
    json.dumps(description)
