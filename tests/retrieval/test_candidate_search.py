"""Candidates on the disk: written batch by batch, by processes that may be killed."""

import os
import random
import signal

import pyarrow as pa
import pytest
from launched_processes import exit_codes, kill, killed_until_done, launch, results_of
from tiny_models import make_bart

from dgr_trainer import Candidates
from dgr_trainer.files.job_lock import JobLock
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import GenerativeRetriever, SearchSettings
from dgr_trainer.retrieval.candidate_search import CandidateSearch
from dgr_trainer.retrieval.search_engine import SearchEngine

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")


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


def test_batches_of_similar_length_change_neither_candidates_nor_their_order(made_of, queries, qrels, tmp_path):
    lengths = [len(query) for query in queries["query"]]
    assert lengths != sorted(lengths, reverse=True)  # Their order is not that of the batches.
    retriever(made_of, batch_size=3).save_candidates(tmp_path / "saved", queries, 4, qrels)
    together = Candidates.load_from_disk(tmp_path / "saved")
    assert list(together) == queries["query_id"]
    for query_id, query in zip(queries["query_id"], queries["query"], strict=True):
        alone = retriever(made_of).candidates({query_id: query}, 4, qrels)
        assert together.passage_ids(query_id) == alone.passage_ids(query_id)
        assert together.scores(query_id) == pytest.approx(alone.scores(query_id), rel=1e-4)
        for found, wanted in zip(together[query_id], alone[query_id], strict=True):
            assert {(one.view, one.ids, one.count) for one in found.identifiers} == {
                (one.view, one.ids, one.count) for one in wanted.identifiers
            }


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


def test_unfinished_work_of_the_first_version_resumes(made_of, asked, qrels, tmp_path, monkeypatch):
    one = retriever(made_of)
    one.save_candidates(tmp_path / "whole", asked, 4, qrels)
    settings = CandidateSearch._settings
    with monkeypatch.context() as patched, pytest.raises(Interruption):
        patched.setattr(CandidateSearch, "_settings", lambda search: {**settings(search), "process": 0})
        stopped_after(patched, 3)
        one.save_candidates(tmp_path / "saved", asked, 4, qrels)
    done = stopped_after(monkeypatch, 1)
    one.save_candidates(tmp_path / "saved", asked, 4, qrels)
    assert len(done) == 1 and files_of(tmp_path / "saved") == files_of(tmp_path / "whole")


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


def test_unfinished_work_with_other_ids_is_refused(made_of, asked, tmp_path, monkeypatch):
    """The same texts under other ids, in an index that was changed and so has no fingerprint of its corpus."""
    *model, index = made_of
    texts = [index.extract(passage) for passage in range(index.num_passages)]
    renamed = [FMIndex.build(texts, passage_ids=[f"{prefix}{n}" for n in range(len(texts))], progress=False,
                             vocab_size=index.vocab_size, separator=index.separator) for prefix in "ab"]  # fmt: skip
    with monkeypatch.context() as patched, pytest.raises(Interruption):
        stopped_after(patched, 2)
        retriever((*model, renamed[0])).save_candidates(tmp_path / "saved", asked, 4)
    with pytest.raises(ValueError, match="was made with passage_ids="):
        retriever((*model, renamed[1])).save_candidates(tmp_path / "saved", asked, 4)
    retriever((*model, renamed[0])).save_candidates(tmp_path / "saved", asked, 4)


def test_a_folder_with_other_files_is_refused_before_the_search(made_of, asked, tmp_path, monkeypatch):
    (tmp_path / "thesis.txt").write_text("precious")
    stopped_after(monkeypatch, 0)
    with pytest.raises(FileExistsError, match="holds other files"):
        retriever(made_of).save_candidates(tmp_path, asked, 4)


def files_of(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def saving(processes, one, path, queries, qrels, killed_at=None):
    """Write candidates; returns how many batches this process has searched for."""
    search, batches = SearchEngine.query_identifiers, []

    def counted(*arguments):
        if killed_at == [0 if processes is None else processes.process_index, len(batches)]:
            os.kill(os.getpid(), signal.SIGKILL)
        batches.append(1)
        return search(*arguments)

    SearchEngine.query_identifiers = counted  # In this process, which is forked from that of the tests.
    one.save_candidates(path, queries, 4, qrels, processes)
    return len(batches)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("counts", [(2,), (1, 2), (2, 1), (2, 3), (3, 1, 2)], ids=str)
def test_any_number_of_processes_writes_the_same_files(made_of, queries, qrels, tmp_path, counts, batch_size):
    one = retriever(made_of, batch_size=batch_size)
    one.save_candidates(tmp_path / "whole", queries, 4, qrels)
    path, batches = tmp_path / "saved", -(-len(queries) // batch_size)
    for number, count in enumerate(counts[:-1]):
        started = launch(count, saving, one, path, queries, qrels, [count - 1, 1 - number])
        started[-1].join(60)
        assert started[-1].exitcode == -signal.SIGKILL
        kill(started)
        assert not path.exists()
    searched = results_of(counts[-1], saving, one, path, queries, qrels)
    assert sum(searched) == batches if len(counts) == 1 else 0 < sum(searched) < batches
    assert max(searched) - min(searched) <= 1
    assert files_of(path) == files_of(tmp_path / "whole")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["saved", "whole"]


def test_a_second_search_for_the_same_folder_is_refused(made_of, queries, qrels, tmp_path):
    one = retriever(made_of, batch_size=1)
    one.save_candidates(tmp_path / "whole", queries, 4, qrels)
    lock = JobLock(tmp_path / "saved.unfinished.lock")
    assert lock.acquire()
    for count in (1, 2):
        for code in exit_codes(launch(count, refused, one, tmp_path / "saved", queries, qrels)):
            assert code == 0
    lock.release()
    started = [launch(1, saving, one, tmp_path / "saved", queries, qrels) for _ in range(3)]
    codes = [code for processes in started for code in exit_codes(processes)]
    assert 0 in codes and set(codes) <= {0, 1}  # Some were refused, or all came one after the other.
    assert files_of(tmp_path / "saved") == files_of(tmp_path / "whole")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["saved", "whole"]


def refused(processes, one, path, queries, qrels):
    message = rf"{path} is being written by process {os.getppid()} on .* since .*, so this process cannot"
    with pytest.raises(RuntimeError, match=message):
        one.save_candidates(path, queries, 4, qrels, processes)


def test_unfinished_candidates_can_be_read_meanwhile(made_of, asked, tmp_path, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(Interruption):
        stopped_after(patched, 2)
        retriever(made_of).save_candidates(tmp_path / "saved", asked, 4)
    lock = JobLock(tmp_path / "saved.unfinished.lock")
    assert lock.acquire()
    with pa.ipc.open_stream(tmp_path / "saved.unfinished") as reader:
        longest_first = sorted(asked, key=lambda row: len(row["query"]), reverse=True)
        found = reader.read_all().column("query_id").to_pylist()
        assert found == [row["query_id"] for row in longest_first][:4]
    lock.release()


@pytest.mark.slow
@pytest.mark.parametrize("counts", [(1,), (1, 2, 3)], ids=str)
def test_searches_killed_at_random_moments(made_of, queries, qrels, tmp_path, counts):
    one, chance = retriever(made_of, batch_size=1), random.Random(1)
    one.save_candidates(tmp_path / "whole", queries, 4, qrels)
    kills = killed_until_done(
        lambda: launch(chance.choice(counts), saving, one, tmp_path / "saved", queries, qrels),
        lambda kills: 0.05 + 0.02 * kills + chance.random() * 0.15,
    )
    assert kills > 1
    assert files_of(tmp_path / "saved") == files_of(tmp_path / "whole")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["saved", "whole"]
