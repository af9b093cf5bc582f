"""Candidates on the disk: written batch by batch, by processes that may be killed."""

import multiprocessing
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from tiny_models import make_bart

from dgr_trainer import Candidates
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import GenerativeRetriever, SearchSettings
from dgr_trainer.retrieval.search_engine import SearchEngine


class Interruption(Exception):
    """Stops a search in the middle."""


@pytest.fixture(scope="module")
def made_of(bpe_tokenizer, corpus):
    identifiers = Identifiers(bpe_tokenizer)
    return make_bart(bpe_tokenizer), identifiers, FMIndex.from_corpus(corpus, identifiers)


def retriever(made_of, **settings):
    chosen = {"beam_size": 3, "batch_size": 2, "pseudo_query_length": 12, **settings}
    return GenerativeRetriever(*made_of, settings=SearchSettings(**chosen))


@pytest.fixture
def asked(queries):
    return queries.select(range(7))


def stopped_after(monkeypatch, searches):
    """Interrupt the search after some batches; returns a list that grows with each batch."""
    search, done = SearchEngine.query_identifiers, []

    def searching(*arguments):
        if len(done) == searches:
            raise Interruption
        done.append(1)
        return search(*arguments)

    monkeypatch.setattr(SearchEngine, "query_identifiers", searching)
    return done


def table(path):
    return Candidates.load_from_disk(path).dataset.data.table.combine_chunks()


@pytest.mark.parametrize("batch_size", [1, 2, 10])
def test_what_is_saved_is_what_is_found(made_of, asked, qrels, tmp_path, batch_size):
    one = retriever(made_of, batch_size=batch_size)
    one.candidates(asked, 4, qrels).save_to_disk(tmp_path / "found")
    one.save_candidates(tmp_path / "saved", asked, 4, qrels)
    assert table(tmp_path / "saved").equals(table(tmp_path / "found"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["found", "saved"]
    assert sorted(file.name for file in (tmp_path / "saved").iterdir()) == ["candidates.json", "dataset"]
    assert (tmp_path / "saved" / "candidates.json").read_text() == (tmp_path / "found" / "candidates.json").read_text()


def test_an_interrupted_search_resumes(made_of, asked, qrels, tmp_path, monkeypatch):
    one = retriever(made_of)
    one.save_candidates(tmp_path / "whole", asked, 4, qrels)
    for _ in range(3):
        with monkeypatch.context() as patched, pytest.raises(Interruption):
            stopped_after(patched, 1)
            one.save_candidates(tmp_path / "saved", asked, 4, qrels)
        assert not (tmp_path / "saved").exists() and (tmp_path / "saved.unfinished").is_file()
    done = stopped_after(monkeypatch, 1)
    one.save_candidates(tmp_path / "saved", asked, 4, qrels)
    assert len(done) == 1  # Seven queries are four batches, of which three were finished.
    assert table(tmp_path / "saved").equals(table(tmp_path / "whole"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["saved", "whole"]


def test_unfinished_work_with_other_settings_is_refused(made_of, asked, bpe_tokenizer, tmp_path, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(Interruption):
        stopped_after(patched, 2)
        retriever(made_of).save_candidates(tmp_path / "saved", asked, 4)
    path = tmp_path / "saved"
    with pytest.raises(ValueError, match="saved.unfinished was made with k=4, but now it is 5.*Delete the file"):
        retriever(made_of).save_candidates(path, asked, 5)
    with pytest.raises(ValueError, match="was made with queries="):
        retriever(made_of).save_candidates(path, asked.select(range(6)), 4)
    with pytest.raises(ValueError, match="was made with search="):
        retriever(made_of, beam_size=4).save_candidates(path, asked, 4)
    with pytest.raises(ValueError, match="was made with index="):
        retriever((*made_of[:2], made_of[2].remove(["p02"]))).save_candidates(path, asked, 4)
    with pytest.raises(ValueError, match="was made with weights="):
        retriever((make_bart(bpe_tokenizer, seed=5), *made_of[1:])).save_candidates(path, asked, 4)
    assert [file.name for file in tmp_path.iterdir()] == ["saved.unfinished"]


def test_a_folder_with_other_files_is_refused_before_the_search(made_of, asked, tmp_path, monkeypatch):
    (tmp_path / "thesis.txt").write_text("precious")
    stopped_after(monkeypatch, 0)
    with pytest.raises(FileExistsError, match="holds other files"):
        retriever(made_of).save_candidates(tmp_path, asked, 4)


class Process:
    """One of several processes, which are threads here."""

    def __init__(self, process_index, num_processes):
        self.process_index, self.num_processes = process_index, num_processes


def together(number, run, monkeypatch):
    """Call `run(process)` in several threads, which gather their values at a barrier."""
    meeting, shown, numbers = threading.Barrier(number, timeout=60), {}, threading.local()

    def gather_object(own):
        shown[numbers.own] = own
        meeting.wait()
        everything = [one for rank in range(number) for one in shown[rank]]
        meeting.wait()
        return everything

    def running(rank):
        numbers.own = rank
        try:
            return run(Process(rank, number))
        except BaseException:
            meeting.abort()
            raise

    monkeypatch.setattr("accelerate.utils.gather_object", gather_object)
    with ThreadPoolExecutor(number) as pool:
        return [one.exception() for one in [pool.submit(running, rank) for rank in range(number)]]


@pytest.mark.parametrize("number", [2, 3])
def test_processes_write_what_one_writes(made_of, asked, qrels, tmp_path, monkeypatch, number):
    # Alone in its batch, a query gets the same numbers to the bit whatever the other queries are.
    retriever(made_of, batch_size=1).save_candidates(tmp_path / "whole", asked, 4, qrels)
    models = {rank: retriever((made_of[0], *made_of[1:]), batch_size=1) for rank in range(number)}
    lock = threading.Lock()
    keys = SearchEngine.query_identifiers

    def one_at_a_time(*arguments):  # The threads have one model.
        with lock:
            return keys(*arguments)

    monkeypatch.setattr(SearchEngine, "query_identifiers", one_at_a_time)

    def save(process):
        models[process.process_index].save_candidates(tmp_path / "saved", asked, 4, qrels, process)

    with monkeypatch.context() as patched:
        stopped_after(patched, 4)
        errors = together(number, save, patched)
    assert all(errors) and any(isinstance(error, Interruption) for error in errors)
    assert (tmp_path / f"saved.unfinished-1-of-{number}").is_file() and not (tmp_path / "saved").exists()
    done = stopped_after(monkeypatch, 100)
    assert not any(together(number, save, monkeypatch))
    assert len(done) == 3  # Of seven.
    assert table(tmp_path / "saved").equals(table(tmp_path / "whole"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["saved", "whole"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_searches_killed_at_random_moments(made_of, queries, qrels, tmp_path):
    one, chance, kills = retriever(made_of, batch_size=1), random.Random(1), 0
    one.save_candidates(tmp_path / "whole", queries, 4, qrels)
    while True:
        process = multiprocessing.get_context("fork").Process(
            target=one.save_candidates, args=(tmp_path / "saved", queries, 4, qrels)
        )
        process.start()
        process.join(0.05 + 0.02 * kills + chance.random() * 0.15)
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        kills += 1
    assert kills > 1
    assert table(tmp_path / "saved").equals(table(tmp_path / "whole"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["saved", "whole"]
