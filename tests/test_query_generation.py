import json
import logging
import os
import signal

import pytest
import torch
from launched_processes import kill, launch, results_of
from sample_corpus import PASSAGES
from tiny_models import make_bart
from transformers import BertConfig, BertModel

from dgr_trainer import Corpus, Passage, Rankings, query_generation
from dgr_trainer.data.pseudo_queries import read_pseudo_queries
from dgr_trainer.files.job_lock import JobLock
from dgr_trainer.files.resume_log import ResumeLog
from dgr_trainer.query_generation import PseudoQueryGenerator, queries_that_find


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(query_generation, "_PASSAGES_AT_ONCE", 7)


@pytest.fixture
def make(bpe_tokenizer):
    def make(**settings):
        settings = {"queries_per_passage": 3, "max_new_tokens": 6, "batch_tokens": 300, "device": "cpu"} | settings
        return PseudoQueryGenerator(make_bart(bpe_tokenizer), bpe_tokenizer, **settings)

    return make


def test_every_passage_gets_queries_of_its_own(make, corpus, tmp_path, caplog):
    caplog.set_level(logging.INFO, "dgr_trainer")
    found = make().generate(corpus, tmp_path / "p.jsonl", progress=False)
    assert set(found) == set(corpus.ids)
    assert all(1 <= len(queries) <= 3 and len(set(queries)) == len(queries) for queries in found.values())
    assert len(set(found.values())) > 20
    assert [path.name for path in tmp_path.iterdir()] == ["p.jsonl"]
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == list(corpus.ids)
    assert "different queries for 24 passages." in caplog.text
    with_queries = corpus.with_pseudo_queries(found)
    assert with_queries.get("p03").pseudo_queries == found["p03"]


def test_queries_depend_on_the_seed_alone(make, corpus, tmp_path):
    first = make().generate(corpus, tmp_path / "a.jsonl", progress=False)
    state = torch.random.get_rng_state()
    assert dict(make().generate(corpus, tmp_path / "b.jsonl", progress=False)) == dict(first)
    assert torch.equal(torch.random.get_rng_state(), state), "the program's own random numbers are left alone"
    assert dict(make(seed=1).generate(corpus, tmp_path / "c.jsonl", progress=False)) != dict(first)


@pytest.mark.parametrize("chunks", [0, 1, 2])
def test_an_interruption_changes_nothing(make, corpus, tmp_path, monkeypatch, chunks):
    whole = make().generate(corpus, tmp_path / "whole.jsonl", progress=False)
    generator = make()
    sample, calls = generator._sample, []

    def interrupted(passages, start):
        if len(calls) == chunks:
            raise KeyboardInterrupt
        calls.append(start)
        return sample(passages, start)

    monkeypatch.setattr(generator, "_sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generator.generate(corpus, tmp_path / "p.jsonl", progress=False)
    unfinished = tmp_path / "p.jsonl.unfinished"
    assert not (tmp_path / "p.jsonl").exists() and unfinished.exists()
    with open(unfinished, "ab") as file:
        file.write(b'{"ids": ["p0')  # The machine went down in the middle of a line.
    again = make()
    sampled = []
    monkeypatch.setattr(
        again, "_sample", lambda passages, start: sampled.append(start) or make()._sample(passages, start)
    )
    assert dict(again.generate(corpus, tmp_path / "p.jsonl", progress=False)) == dict(whole)
    assert sampled == list(range(7 * chunks, 24, 7)), "nothing is made twice"
    assert (tmp_path / "p.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not unfinished.exists()


def test_unfinished_work_of_another_kind_is_refused(make, corpus, tmp_path):
    ResumeLog(tmp_path / "p.jsonl.unfinished", make()._settings(corpus) | {"round_trip": None, "round_trip_k": None})
    with pytest.raises(ValueError, match=r"unfinished was made with seed=42, but now it is 7"):
        make(seed=7).generate(corpus, tmp_path / "p.jsonl", progress=False)
    with pytest.raises(ValueError, match="was made with corpus="):
        make().generate(Corpus.from_passages([Passage("1", "A")]), tmp_path / "p.jsonl", progress=False)
    other = make()
    with torch.no_grad():
        next(other.model.parameters()).add_(1)
    with pytest.raises(ValueError, match="was made with weights="):
        other.generate(corpus, tmp_path / "p.jsonl", progress=False)
    (tmp_path / "q.jsonl.unfinished").write_text("notes\n")
    with pytest.raises(ValueError, match="does not say how it was made, so it cannot be resumed"):
        make().generate(corpus, tmp_path / "q.jsonl", progress=False)
    (tmp_path / "r.jsonl").touch()
    with pytest.raises(FileExistsError, match="r.jsonl exists already"):
        make().generate(corpus, tmp_path / "r.jsonl", progress=False)


@pytest.mark.parametrize("name", ["p", "p.txt", "p.jsonl.gz"])
def test_a_file_that_could_not_be_read_as_what_it_is_is_refused(name, make, corpus, tmp_path):
    with pytest.raises(ValueError, match=f"{name}: pseudo-queries are written as JSON Lines.* Name it .jsonl"):
        make().generate(corpus, tmp_path / name, progress=False)
    assert not list(tmp_path.iterdir())


class Searcher:
    """Finds passages whose id is in the query, and the first ones of the corpus."""

    def __init__(self, ids):
        self.ids = list(ids)

    def rank(self, queries, *, k):
        return Rankings.from_order(
            {name: [id for id in self.ids if id in query.split()][:k] for name, query in queries.items()}
        )


def test_queries_that_do_not_find_their_passage_are_left_out():
    passages = [Passage("p1"), Passage("p2"), Passage("p3")]
    queries = [["ask p1", "ask p2"], ["p1 p2", "what"], []]
    assert queries_that_find(passages, queries, Searcher(["p1", "p2"]), 2) == [["ask p1"], ["p1 p2"], []]
    assert queries_that_find(passages, queries, Searcher(["p1", "p2"]), 1) == [["ask p1"], [], []]
    assert queries_that_find(passages, [[], [], []], Searcher([]), 1) == [[], [], []]


def test_the_round_trip_is_part_of_the_work(make, corpus, tmp_path, monkeypatch):
    generator = make()
    monkeypatch.setattr(generator, "_sample", lambda passages, start: [[p.id, "elsewhere"] for p in passages])
    found = generator.generate(corpus, tmp_path / "p.jsonl", round_trip=Searcher(corpus.ids), progress=False)
    assert dict(found) == {id: (id,) for id in corpus.ids}
    with pytest.raises(ValueError, match="None of the 48 queries generated for 24 passages is kept"):
        generator.generate(corpus, tmp_path / "q.jsonl", round_trip=Searcher([]), progress=False)


def test_bm25_makes_the_round_trip(make, corpus, tmp_path, monkeypatch):
    from dgr_trainer import BM25Teacher

    generator = make()
    monkeypatch.setattr(generator, "_sample", lambda passages, start: [[p.title, "zzz"] for p in passages])
    teacher = BM25Teacher(corpus, progress=False)
    found = generator.generate(corpus, tmp_path / "p.jsonl", round_trip=teacher, round_trip_k=3, progress=False)
    assert len(found) > 20 and all(queries == (corpus.get(id).title,) for id, queries in found.items())


def test_what_the_model_reads(make):
    long = Passage("1", "Title", "word  " * 2000)
    generator = make(template="{title}: {text}", max_passage_tokens=20)
    assert generator._text(Passage("1", "A", "b\nc")) == "A: b c"
    assert make()._text(Passage("1", "Only a title")) == "Only a title"
    sizes = [
        len(ids) for ids in generator.tokenizer([generator._text(long)], truncation=True, max_length=20)["input_ids"]
    ]
    assert sizes == [20]
    inputs = [[0] * length for length in (5, 100, 40, 60, 1, 300)]
    batches = list(make(batch_tokens=200)._batches(inputs))
    assert sorted(place for batch in batches for place in batch) == list(range(6))
    assert batches == [[5], [1, 3], [2, 0, 4]]


def test_a_model_is_loaded_by_name(make, corpus, tmp_path):
    generator = make()
    generator.model.save_pretrained(tmp_path / "model")
    generator.tokenizer.save_pretrained(tmp_path / "model")
    named = PseudoQueryGenerator(
        tmp_path / "model", queries_per_passage=3, max_new_tokens=6, batch_tokens=300, device="cpu"
    )
    wanted = generator.generate(corpus, tmp_path / "a.jsonl", progress=False)
    assert dict(named.generate(corpus, tmp_path / "b.jsonl", progress=False)) == dict(wanted)
    assert dict(read_pseudo_queries(tmp_path / "b.jsonl")) == dict(wanted)


def test_settings_that_make_no_sense_are_refused(make, bpe_tokenizer, corpus, tmp_path):
    with pytest.raises(ValueError, match="top_k=0, batch_tokens=-1: has to be above 0"):
        make(top_k=0, batch_tokens=-1)
    with pytest.raises(ValueError, match="temperature=0: has to be above 0"):
        make(temperature=0)
    with pytest.raises(ValueError, match=r"has fields other than \{title\} and \{text\} \(KeyError\('body'\)\)"):
        make(template="{body}")
    with pytest.raises(ValueError, match="has no field, so the model would read the same text"):
        make(template="{{text}}")
    with pytest.raises(
        ValueError, match="max_new_tokens=5000, but the decoder of BartForConditionalGeneration has .* positions"
    ):
        make(max_new_tokens=5000)
    with pytest.raises(ValueError, match="without its tokenizer"):
        PseudoQueryGenerator(make_bart(bpe_tokenizer))
    encoder = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8))
    with pytest.raises(ValueError, match="BertModel is not a sequence-to-sequence model"):
        PseudoQueryGenerator(encoder, bpe_tokenizer)
    with pytest.raises(ValueError, match="round_trip_k=0"):
        make().generate(corpus, tmp_path / "p.jsonl", round_trip_k=0)


def generating(processes, generator, corpus, path, killed_at=None):
    """Generate pseudo-queries; returns them and the starts of the chunks that this process has made."""
    sample, made = generator._sample, []

    def counted(passages, start):
        if killed_at == [0 if processes is None else processes.process_index, len(made)]:
            os.kill(os.getpid(), signal.SIGKILL)
        made.append(start)
        return sample(passages, start)

    generator._sample = counted
    found = generator.generate(corpus, path, round_trip=Everything(), progress=False, accelerator=processes)
    return dict(found), made


class Everything:
    """Finds every passage of the sample corpus for queries of an even length, and none for the others."""

    def rank(self, queries, *, k):
        ids = [passage.id for passage in PASSAGES]
        return Rankings.from_order({name: ids if len(query) % 2 == 0 else [] for name, query in queries.items()})


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("counts", [(2,), (1, 2), (2, 1), (2, 3)], ids=str)
def test_any_number_of_processes_writes_the_same_file(make, corpus, tmp_path, monkeypatch, counts):
    monkeypatch.setattr(query_generation, "_PASSAGES_AT_ONCE", 3)
    whole, _ = generating(None, make(), corpus, tmp_path / "whole.jsonl")
    for count in counts[:-1]:
        started = launch(count, generating, make(), corpus, tmp_path / "p.jsonl", [count - 1, 2])
        started[-1].join(60)
        assert started[-1].exitcode == -signal.SIGKILL
        kill(started)
    results = results_of(counts[-1], generating, make(), corpus, tmp_path / "p.jsonl")
    assert all(found == whole for found, _ in results)
    made = sorted(start for _, starts in results for start in starts)
    assert made == list(range(0, 24, 3)) if len(counts) == 1 else 0 < len(made) <= 6
    assert (tmp_path / "p.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.jsonl", "whole.jsonl"]


def test_a_second_job_for_the_same_file_is_refused(make, corpus, tmp_path):
    lock = JobLock(tmp_path / "p.jsonl.unfinished.lock")
    assert lock.acquire()
    with pytest.raises(RuntimeError, match=rf"p.jsonl is being written by process {os.getpid()} on .* since .*, so"):
        make().generate(corpus, tmp_path / "p.jsonl", progress=False)
    lock.release()
    assert len(make().generate(corpus, tmp_path / "p.jsonl", progress=False)) == 24
