"""Queries divided among processes: the result is that of one process."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from launched_processes import results_of
from tiny_models import make_bart

from dgr_trainer import Candidates, Rankings
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.processes import (
    default_device,
    from_main,
    gather,
    gather_on_main,
    is_main_process,
    launched_processes,
    map_across_processes,
    merge_results,
    process_group,
    process_rank,
)
from dgr_trainer.retrieval import GenerativeRetriever, SearchSettings
from dgr_trainer.retrieval.hits import Hit
from dgr_trainer.retrieval.search_engine import SearchEngine, SearchResult

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")

# Alone in its batch, a query gets the same numbers to the bit whatever the other queries are.
SETTINGS = SearchSettings(beam_size=3, batch_size=1, pseudo_query_length=12)


class Process:
    """One of several processes."""

    def __init__(self, process_index, num_processes):
        self.process_index, self.num_processes = process_index, num_processes

    def wait_for_everyone(self):
        """There is no other process."""


@pytest.mark.parametrize("results_on", ["main", "all"])
@pytest.mark.parametrize("block", [1, 3, 7])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_results_come_in_the_order_of_the_items(number, block, results_on):
    sizes = [0, 1, 5, 7, 8, 20]

    def run(processes):
        found, worked = [], []

        def work(items):
            worked.append(list(items))
            return (item * item for item in items)

        for size in sizes:
            items = list(range(10, 10 + size))
            found.append(
                list(
                    map_across_processes(
                        items, work, processes, block=block, results_on=results_on, results_per_message=2
                    )
                )
            )
        return found, worked

    for rank, (found, worked) in enumerate(results_of(number, run)):
        for size, squares, share in zip(sizes, found, worked, strict=True):
            expected = [item * item for item in range(10, 10 + size)]
            assert squares == (expected if results_on == "all" or rank == 0 else [])
            # Whole blocks, in turns.
            blocks = [list(range(10, 10 + size))[start : start + block] for start in range(0, size, block)]
            assert share == [item for one in blocks[rank::number] for item in one]


def test_results_of_all_processes_are_merged():
    found = [np.array([1.5, np.nan, np.nan]), np.array([np.nan, np.nan, -2.0]), np.array([np.nan, 3.0, 9.0])]

    def run(processes):
        own = found[processes.process_index]
        return merge_results(own, processes), merge_results(own, processes, "main")

    (everywhere, on_main), *others = results_of(3, run)
    assert everywhere.tolist() == on_main.tolist() == [1.5, 3.0, -2.0]
    assert all(both.tolist() == [1.5, 3.0, -2.0] and main is None for both, main in others)
    assert merge_results(found[0], None) is found[0]


def test_values_go_to_the_main_process_and_come_from_it():
    def run(processes):
        own = {"number": processes.process_index}
        return gather_on_main(own, processes), gather(own, processes), from_main(own, processes)

    everything = [{"number": number} for number in range(3)]
    assert results_of(3, run) == [
        (everything if number == 0 else [], everything, {"number": 0}) for number in range(3)
    ]
    assert gather_on_main(5, None) == gather(5, None) == [5] and from_main(5, None) == 5


def growth(run):
    """By how many bytes the memory of this process grows at most. What was freed before is used first."""
    Path("/proc/self/clear_refs").write_text("5")  # The most memory so far is what there is now.
    before = most_memory()
    result = run()
    del result
    return most_memory() - before


def most_memory():
    return 1024 * int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of memory differs")
@pytest.mark.parametrize("number", [2, 3])
def test_processes_without_results_need_no_memory_for_them(number):
    """200 MB of results. Messages of 4 MB are in memory several times, as results, bytes and tensors."""
    items = range(4000)

    def run(processes, results_on):
        def work(share):
            return (os.urandom(50_000) for _ in share)

        return growth(lambda: list(map_across_processes(items, work, processes, results_on=results_on)))

    main, *others = results_of(number, run, "main")
    assert main > 130e6 and max(others) < 60e6
    assert min(results_of(number, run, "all")) > 130e6


def test_alone_there_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launched_processes() is None and process_rank(None) == (0, 1) and is_main_process(None)
    assert not is_main_process(Process(1, 2))
    with process_group("cpu") as processes:
        assert processes is None
    if not torch.accelerator.is_available():
        assert default_device(None).type == "cpu"


@pytest.fixture(scope="module")
def made_of(bpe_tokenizer, corpus):
    identifiers = Identifiers(bpe_tokenizer)
    return make_bart(bpe_tokenizer), identifiers, FMIndex.from_corpus(corpus, identifiers)


@pytest.mark.parametrize("results_on", ["main", "all"])
@pytest.mark.parametrize(("number", "batch_size"), [(2, 1), (2, 2), (3, 2), (2, 20)])
def test_processes_find_what_one_finds(made_of, queries, qrels, number, batch_size, results_on):
    """To the last bit, since batches do not depend on the number of processes."""
    settings = SearchSettings(beam_size=3, batch_size=batch_size, pseudo_query_length=12)
    retriever = GenerativeRetriever(*made_of, settings=settings)
    queries = queries.select(range(5))
    include = [["p01"], [], ["p05", "p06"], [], []]

    def run(processes):
        own = {} if processes is None else {"accelerator": processes, "results_on": results_on}
        found = retriever.search(queries["query"], 4, include, **own)
        ranked, candidates = retriever.rank(queries, 4, **own), retriever.candidates(queries, 4, qrels, **own)
        lists = {id: (ranked[id].passage_ids, ranked[id].scores.tolist()) for id in ranked}
        return found, lists, dict(candidates), list(candidates)

    alone = run(None)
    assert alone[3] == queries["query_id"] and len(alone[0]) == 5
    main, *others = results_of(number, run)
    assert main == alone
    assert all(other == (alone if results_on == "all" else ([], {}, {}, [])) for other in others)


def test_by_default_the_main_process_gets_the_results(made_of, queries):
    retriever = GenerativeRetriever(*made_of, settings=SETTINGS)

    def run(processes):
        kept = {"accelerator": processes}
        return len(retriever.search(queries["query"], **kept)), len(retriever.rank(queries, **kept)), len(
            retriever.candidates(queries, **kept)
        )  # fmt: skip

    assert results_of(2, run) == [(len(queries),) * 3, (0, 0, 0)]
    for call in (retriever.search, retriever.rank, retriever.candidates):
        with pytest.raises(ValueError, match="results_on is 'first'. Give 'main' .* or 'all'"):
            call({"q": "sea"} if call != retriever.search else "sea", results_on="first")


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of memory differs")
@pytest.mark.parametrize("name", ["search", "rank", "candidates"])
def test_searching_processes_need_memory_for_their_batches_only(made_of, name, monkeypatch):
    """120 MB of results: 600 queries with 50 hits, whose ids are long."""
    retriever = GenerativeRetriever(*made_of, settings=SETTINGS)
    asked = {f"q{number}": "sea" for number in range(600)}

    def results(engine, requests, k, processes):
        for number, _ in enumerate(requests):
            hits = [Hit(f"{number}-{rank}".ljust(4000), 1 / (1 + rank), ()) for rank in range(50)]
            yield SearchResult(hits, engine.index)

    monkeypatch.setattr(SearchEngine, "results", results)

    def run(processes, results_on):
        queries = list(asked.values()) if name == "search" else asked
        return growth(lambda: getattr(retriever, name)(queries, accelerator=processes, results_on=results_on))

    main, other = results_of(2, run, "main")
    assert main > 130e6 and other < main / 3
    assert min(results_of(2, run, "all")) > 130e6


@pytest.mark.slow
def test_two_processes_are_one(bpe_tokenizer, corpus, queries, qrels, tmp_path):
    """The API and the command line in two processes."""
    identifiers = Identifiers(bpe_tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers)
    retriever = GenerativeRetriever(make_bart(bpe_tokenizer), identifiers, index, corpus=corpus, settings=SETTINGS)
    retriever.save_pretrained(tmp_path / "retriever")
    asked = dict(zip(queries["query_id"], queries["query"], strict=True))
    (tmp_path / "queries.tsv").write_text("".join(f"{id}\t{text}\n" for id, text in asked.items()))
    judged = [f"{query} 0 {passage} {grade}\n" for query, of in qrels.items() for passage, grade in of.items()]
    (tmp_path / "qrels.txt").write_text("".join(judged))
    script = tmp_path / "search.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            from accelerate import Accelerator
            from sample_corpus import QUERIES
            from dgr_trainer import GenerativeRetriever
            from dgr_trainer.cli.main import main

            accelerator = Accelerator(cpu=True)
            assert accelerator.num_processes == 2
            retriever = GenerativeRetriever.from_pretrained("retriever")
            queries = list(QUERIES.values())
            assert retriever.search(queries, accelerator=accelerator, results_on="all") == retriever.search(queries)
            """
        )
    )
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
                   "ACCELERATE_USE_CPU": "true"}  # fmt: skip

    def launch(*command):
        start = ["torch.distributed.run", "--nproc_per_node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
        done = subprocess.run(
            [sys.executable, "-m", *start, *map(str, command)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done

    launch(script)
    cli = ("-m", "dgr_trainer.cli.main")
    launch(*cli, "search", "retriever", "--queries", "queries.tsv", "-k", 4, "--output", "run.jsonl")
    alone = retriever.rank(queries, 4)
    run = Rankings.from_jsonl(tmp_path / "run.jsonl")
    assert {query: run[query].passage_ids for query in run} == {query: alone[query].passage_ids for query in alone}
    launch(*cli, "candidates", "retriever", "--queries", "queries.tsv", "--qrels", "qrels.txt", "-k", 4,
           "--output", "candidates")  # fmt: skip
    candidates = Candidates.load_from_disk(tmp_path / "candidates")
    assert dict(candidates) == dict(retriever.candidates(queries, 4, qrels))
    printed = launch(*cli, "search", "retriever", *list(asked.values())[:3], "--json").stdout
    assert [line.count('"query"') for line in printed.splitlines()] == [1, 1, 1]
