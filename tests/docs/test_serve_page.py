"""The page on serving: its servers start, and its requests are answered."""

import re
import shlex
import shutil
import subprocess
import sys

import pytest
from docs.test_guide import _BLOCK, ROOT, prepare, run
from serving.running_server import listening
from tiny_models import make_bart

from dgr_trainer import Corpus, FMIndex, GenerativeRetriever, Identifiers, SearchSettings
from dgr_trainer.cli.main import main

for package in ("fastapi", "uvicorn", "prometheus_client", "bm25s"):
    pytest.importorskip(package, reason="the extras serve and bm25 are needed")
PAGE = ROOT / "docs" / "serve.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, bpe_tokenizer):
    folder = tmp_path_factory.mktemp("page")
    prepare(folder, bpe_tokenizer)
    identifiers, corpus = Identifiers(bpe_tokenizer), Corpus.read(folder / "data")
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    settings = SearchSettings(beam_size=2)
    for name in ("generation", "distilled"):
        retriever = GenerativeRetriever(make_bart(bpe_tokenizer), identifiers, index, corpus=corpus, settings=settings)
        retriever.save_pretrained(folder / name / "retriever")
    return folder


def blocks(kind):
    """Blocks that start servers, or those that ask one."""
    for match in _BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        is_server = match["note"] == "server"
        skipped = (match["note"] or "").startswith("run by hand") or match["code"].startswith("pip install")
        if match["language"] in ("bash", "python") and not skipped and is_server == (kind == "server"):
            yield match["language"], match["code"]


@pytest.mark.slow
def test_the_requests_of_the_page_are_answered_by_the_servers_of_the_page(folder, monkeypatch):
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    from dgr_trainer.serving import server

    served = []
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DGR_SERVE_TOKEN", raising=False)
    monkeypatch.setattr(server, "serve", lambda *given: served.append(given))
    for _, code in blocks("server"):
        for line in code.splitlines():
            if line.startswith("dgr "):
                assert main(shlex.split(line)[1:]) == 0, line
            else:
                subprocess.run(["bash", "-c", line.replace("python ", f"{sys.executable} ")], check=True)
    names = [list(systems) for systems, _ in served]
    assert names == [["distilled"], ["before", "after"], ["distilled", "bm25"], ["distilled", "bm25"], ["distilled"]]
    for systems, _ in served[1:4]:
        for load in systems.values():
            load().probe()
    requests = list(blocks("request"))
    assert [language for language, _ in requests] == ["bash", "python", "bash"]
    for (systems, settings), asked in ((served[0], requests[:2]), (served[-1], requests[2:])):
        with listening(dict(systems), token=settings.token) as url:
            code = [
                (language, text.replace("http://127.0.0.1:8000", url).replace("curl -s", "curl -sf"))
                for language, text in asked
            ]
            output = run(code, folder)
            assert ("Mount Everest" in output) if settings.token is None else ("dgr_requests_total" in output)


def test_the_page_has_the_routes_the_fields_and_the_defaults_of_the_code():
    from dgr_trainer.serving.api import create_app
    from dgr_trainer.serving.batching import SearchQueue
    from dgr_trainer.serving.metrics import ServerMetrics
    from dgr_trainer.serving.settings import ServeSettings

    settings, metrics = ServeSettings(), ServerMetrics()
    app = create_app([SearchQueue("a", lambda: None, settings, metrics)], settings, metrics)._app
    description = app.openapi()
    page = PAGE.read_text(encoding="utf-8")
    stated = set(re.findall(r"^\| `(\w+) (/[\w.]*)", page, re.MULTILINE))
    routes = {(method.upper(), path.partition("/{")[0]) for path, of in description["paths"].items() for method in of}
    assert stated == routes | {("GET", "/docs")}
    table = page[page.index("| field | meaning |") : page.index("Scores are those of")]
    fields = set(re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in table.splitlines() if "|" in line)))
    schema = description["components"]["schemas"]["SearchRequest"]["properties"]
    assert fields == set(schema) - {"queries", "k"}
    for text in (
        f"`--batch_window` milliseconds ({settings.batch_window:g})",
        f"`--queue_size` queries wait ({settings.queue_size})",
        f"`--timeout` seconds ({settings.timeout:g})",
        f"the best ones first: {schema['identifiers']['default']} by default",
    ):
        assert text in " ".join(page.split()), text


def test_the_page_has_the_names_of_all_metrics():
    from dgr_trainer.serving.metrics import ServerMetrics

    names = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in ServerMetrics().registry.collect()
        if family.name.startswith("dgr_")
    }
    assert set(re.findall(r"`(dgr_\w+)`", PAGE.read_text(encoding="utf-8"))) == names


def test_the_pictures_are_small_and_there():
    names = re.findall(r"\]\((serve-[\w-]+\.webp)\)", PAGE.read_text(encoding="utf-8"))
    pictures = sorted((ROOT / "docs").glob("serve-*.webp"))
    assert set(names) == {path.name for path in pictures} and len(names) == 3
    assert sum(path.stat().st_size for path in pictures) < 300_000
