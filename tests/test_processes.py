"""Queries divided among processes: the result is that of one process."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import make_bart

from dgr_trainer import Candidates, Rankings
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.processes import (
    default_device,
    is_main_process,
    launched_processes,
    map_across_processes,
    merge_results,
    process_group,
    process_rank,
)
from dgr_trainer.retrieval import GenerativeRetriever, SearchSettings

# Alone in its batch, a query gets the same numbers to the bit whatever the other queries are.
SETTINGS = SearchSettings(beam_size=3, batch_size=1, pseudo_query_length=12)


class Process:
    """One of several processes."""

    def __init__(self, process_index, num_processes):
        self.process_index, self.num_processes = process_index, num_processes

    def wait_for_everyone(self):
        """There is no other process."""


def in_turn(run, number, monkeypatch):
    """The result of `run(process)` in the last of several processes, with a gather that collects the values."""
    shares = []
    with monkeypatch.context() as patched:
        patched.setattr("accelerate.utils.gather_object", lambda found: shares.extend(found) or shares)
        for index in range(number):
            try:
                result = run(Process(index, number))
            except KeyError:  # Not all processes have run yet.
                assert index < number - 1
    return result


@pytest.mark.parametrize("size", [0, 1, 5])
@pytest.mark.parametrize("number", [1, 2, 7])
def test_results_come_in_the_order_of_the_items(size, number, monkeypatch):
    worked = []

    def work(items):
        worked.append(list(items))
        return (item * item for item in items)

    items = list(range(size))
    assert list(in_turn(lambda one: map_across_processes(items, work, one), number, monkeypatch)) == [
        item * item for item in items
    ]
    assert sorted(item for share in worked for item in share) == items
    assert max(map(len, worked)) - min(map(len, worked)) <= 1


def test_results_of_all_processes_are_merged(monkeypatch):
    found = [np.array([1.5, np.nan, np.nan]), np.array([np.nan, np.nan, -2.0]), np.array([np.nan, 3.0, 9.0])]
    parts = []
    monkeypatch.setattr("accelerate.utils.gather_object", lambda own: parts.extend(own) or parts)
    together = [merge_results(values, Process(index, 3)) for index, values in enumerate(found)][-1]
    assert together.tolist() == [1.5, 3.0, -2.0]
    assert merge_results(found[0], None) is found[0]


def test_alone_there_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launched_processes() is None and process_rank(None) == (0, 1) and is_main_process(None)
    assert not is_main_process(Process(1, 2))
    with process_group("cpu") as processes:
        assert processes is None
    if not torch.accelerator.is_available():
        assert default_device(None).type == "cpu"


def test_each_process_returns_what_one_returns(bpe_tokenizer, corpus, queries, qrels, monkeypatch):
    identifiers = Identifiers(bpe_tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers)
    retriever = GenerativeRetriever(make_bart(bpe_tokenizer), identifiers, index, settings=SETTINGS)
    queries = queries.select(range(5))
    texts = queries["query"]
    include = [["p01"], [], ["p05", "p06"], [], []]
    found = in_turn(lambda one: retriever.search(texts, 4, include, accelerator=one), 2, monkeypatch)
    assert found == retriever.search(texts, 4, include)
    ranked = in_turn(lambda one: retriever.rank(queries, 4, one), 3, monkeypatch)
    alone = retriever.rank(queries, 4)
    assert list(ranked) == list(alone)
    assert all(ranked[query].scores.tolist() == alone[query].scores.tolist() for query in alone)
    together = in_turn(lambda one: retriever.candidates(queries, 4, qrels, one), 2, monkeypatch)
    assert dict(together) == dict(retriever.candidates(queries, 4, qrels))
    assert list(together) == queries["query_id"]


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
            assert retriever.search(queries, accelerator=accelerator) == retriever.search(queries)
            """
        )
    )
    tests = Path(__file__).parent
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
