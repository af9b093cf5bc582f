"""Indexes built on disk segment by segment, by processes that are killed at any moment."""

import hashlib
import multiprocessing
import os
import random
import shutil
import time

import pytest
from launched_processes import exit_codes, kill, launch, wait_until

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.files.job_lock import JobLock
from dgr_trainer.identifiers import Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex, resumable_build

PASSAGES = [Passage(f"p{n}", f"Title {n}", "the sea and the land " * (1 + n % 3) + str(n)) for n in range(20)]


def files_of(folder):
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*")) if file.is_file()
    }  # fmt: skip


@pytest.fixture
def made_of(plain_tokenizer):
    return Corpus.from_passages(PASSAGES), Identifiers(plain_tokenizer)


def build(made_of, folder, segment_tokens=120):
    corpus, identifiers = made_of
    return FMIndex.from_corpus(corpus, identifiers, folder=folder, segment_tokens=segment_tokens, progress=False)


class Killed(BaseException):
    """Stands for a kill, after which nothing of the process runs."""


def stopped_at(monkeypatch, moment):
    """Record each step that changes the disk, and raise `Killed` before the step at `moment`."""
    steps = []

    def counted(function):
        def step(*arguments, **options):
            if len(steps) == moment:
                raise Killed
            steps.append(function.__name__)
            return function(*arguments, **options)

        return step

    names = ("write_index", "save_index", "add_segments", "_record", "delete_unused")
    for name in names:
        monkeypatch.setattr(resumable_build, name, counted(getattr(resumable_build, name)))
    monkeypatch.setattr(resumable_build.os, "rename", counted(resumable_build.os.rename))
    monkeypatch.setattr(resumable_build.shutil, "rmtree", counted(resumable_build.shutil.rmtree))
    return steps


@pytest.mark.parametrize("replacing", [False, True])
def test_stopped_between_any_two_steps(made_of, tmp_path, replacing):
    """A build that is stopped again and again, one step later each time, with or without an older index."""
    expected = build(made_of, tmp_path / "expected")
    assert expected.num_segments > 3
    folder, moment, finished = tmp_path / "index", 0, False
    while not finished:
        other = None
        if folder.exists():
            other = FMIndex.load(folder)
        elif replacing:
            corpus = Corpus.from_passages(PASSAGES[:2])
            other = FMIndex.from_corpus(corpus, made_of[1], progress=False)
            other.save(folder)
        with pytest.MonkeyPatch.context() as monkeypatch:
            stopped_at(monkeypatch, moment)
            try:
                build(made_of, folder)
                finished = True
            except Killed:
                moment += 1
                if other is not None:  # The old, or the new.
                    assert FMIndex.load(folder, verify=True).num_passages in (other.num_passages, len(PASSAGES))
    assert moment > 3
    assert files_of(folder) == files_of(tmp_path / "expected")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "index"]


def test_compacting_stopped_between_any_two_steps(made_of, tmp_path):
    corpus, identifiers = made_of
    new = Corpus.from_passages([Passage(f"new{n}", "New", f"the land {n}") for n in range(6)])
    build(made_of, tmp_path / "index")
    changed = FMIndex.load(tmp_path / "index").remove(["p3", "p11"]).add_corpus(new, identifiers, progress=False)
    changed.save(tmp_path / "index")
    expected = changed.compact(progress=False)
    assert 3 < expected.num_segments < changed.num_segments
    expected.save(tmp_path / "expected")
    shutil.copytree(tmp_path / "index", tmp_path / "changed")

    def compacted(source):
        return source.compact(folder=tmp_path / "index", progress=False)

    moment, finished, built = 0, False, []
    while not finished:
        with pytest.MonkeyPatch.context() as monkeypatch:
            steps = stopped_at(monkeypatch, moment)
            try:
                made = compacted(FMIndex.load(tmp_path / "index"))
                finished = True
            except Killed:
                moment += 1
                assert list(FMIndex.load(tmp_path / "index", verify=True).passage_ids) == list(expected.passage_ids)
            built.append(steps.count("add_segments"))
    assert moment > 3 and min(built) < expected.num_segments  # Later calls did not begin anew.
    segments = [segment.stored.description["name"] for segment in made.segments]
    assert segments == [segment.stored.description["name"] for segment in expected.segments]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["changed", "expected", "index"]
    # To another folder, from what is not on the disk, and again.
    other = changed.remove(["new5"]).compact(folder=tmp_path / "other", progress=False)
    assert list(other.passage_ids) == list(expected.passage_ids)[:-1] and other.num_segments < changed.num_segments
    before = files_of(tmp_path / "other")
    changed.remove(["new5"]).compact(folder=tmp_path / "other", progress=False)
    assert files_of(tmp_path / "other") == before


def test_compacting_replaces_no_index_that_others_changed(made_of, tmp_path, monkeypatch):
    build(made_of, tmp_path / "index")
    opened = FMIndex.load(tmp_path / "index")
    FMIndex.load(tmp_path / "index").remove(["p3"]).save(tmp_path / "index")
    steps = stopped_at(monkeypatch, None)
    with pytest.raises(RuntimeError, match="changed by another process since it was opened.*Load it again"):
        opened.compact(folder=tmp_path / "index", progress=False)
    assert "add_segments" not in steps and FMIndex.load(tmp_path / "index").num_passages == 19


@pytest.mark.parametrize("place", ["index", ".index.building"])
def test_what_a_killed_process_was_writing_is_deleted(made_of, tmp_path, monkeypatch, place):
    build(made_of, tmp_path / "expected")
    with monkeypatch.context() as patched:
        stopped_at(patched, 6)
        with pytest.raises(Killed):
            build(made_of, tmp_path / "index")
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / ".made_of.json.0a1b2c.tmp").write_text("{")
    build(made_of, tmp_path / "index")
    assert files_of(tmp_path / "index") == files_of(tmp_path / "expected")


@pytest.mark.parametrize("there", [False, True])
def test_a_link_to_an_empty_folder_or_to_none(made_of, tmp_path, there):
    build(made_of, tmp_path / "expected")
    (tmp_path / "disk").mkdir()
    if there:
        (tmp_path / "disk" / "big").mkdir()
    (tmp_path / "index").symlink_to("disk/big")
    for _ in range(2):
        assert build(made_of, tmp_path / "index").num_passages == len(PASSAGES)
    assert (tmp_path / "index").is_symlink() and files_of(tmp_path / "disk" / "big") == files_of(tmp_path / "expected")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "expected", "index"]
    assert os.listdir(tmp_path / "disk") == ["big"]


def test_the_current_folder(made_of, tmp_path, monkeypatch):
    (tmp_path / "index").mkdir()
    monkeypatch.chdir(tmp_path / "index")
    assert build(made_of, ".").num_passages == len(PASSAGES)
    changed = FMIndex.load(".").remove(["p3"])
    changed.save(".")
    assert changed.loaded_from[0] == tmp_path / "index" and FMIndex.load(".").num_passages == len(PASSAGES) - 1
    assert os.listdir(tmp_path) == ["index"]


def test_what_is_finished_is_not_built_again(made_of, tmp_path, monkeypatch):
    build(made_of, tmp_path / "index")
    steps = stopped_at(monkeypatch, None)
    assert build(made_of, tmp_path / "index").num_passages == len(PASSAGES)
    assert steps in ([], ["rmtree"])
    # An index that was changed is not of the corpus any more.
    FMIndex.load(tmp_path / "index").remove(["p3"]).save(tmp_path / "index")
    assert build(made_of, tmp_path / "index").num_passages == len(PASSAGES)
    assert steps.count("add_segments") > 3


def test_a_finished_index_is_opened_whoever_holds_the_lock(made_of, tmp_path):
    build(made_of, tmp_path / "index")
    lock = JobLock(tmp_path / ".index.building.lock")
    assert lock.acquire()
    assert build(made_of, tmp_path / "index").num_passages == len(PASSAGES)
    assert lock.path.exists()
    lock.release()
    lock.path.touch()  # Of a process that was killed between its last step and the release.
    tmp_path.chmod(0o555)
    try:
        assert build(made_of, tmp_path / "index").num_passages == len(PASSAGES)
    finally:
        tmp_path.chmod(0o755)
    assert build(made_of, tmp_path / "index").num_passages == len(PASSAGES)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_build_with_other_views_does_not_resume(made_of, plain_tokenizer, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        stopped_at(patched, 6)
        with pytest.raises(Killed):
            build(made_of, tmp_path / "index")
    titles = Identifiers(plain_tokenizer, IdentifierSettings(views=("title",)))
    index = FMIndex.from_corpus(made_of[0], titles, folder=tmp_path / "index", segment_tokens=120, progress=False)
    alone = FMIndex.from_corpus(made_of[0], titles, segment_tokens=120, progress=False)
    assert [index.extract(n).tolist() for n in range(20)] == [alone.extract(n).tolist() for n in range(20)]


def building(processes, made_of, folder, log, segment_tokens=120):
    """Build an index, and add a line to a file for each segment that this process makes."""
    add_segments = resumable_build.add_segments

    def logged(*arguments):
        with open(log, "a") as file:
            print(os.getpid(), file=file)
        time.sleep(0.05)
        return add_segments(*arguments)

    resumable_build.add_segments = logged  # In this process, which is forked from that of the tests.
    build(made_of, folder, segment_tokens)


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_jobs_that_start_together_build_one_index(made_of, tmp_path):
    segments = build(made_of, tmp_path / "expected").num_segments
    jobs = [launch(1, building, made_of, tmp_path / "index", tmp_path / "log") for _ in range(3)]
    assert [exit_codes(job) for job in jobs] == [[0]] * 3
    pids = (tmp_path / "log").read_text().split()
    assert len(pids) == segments and len(set(pids)) == 1
    assert files_of(tmp_path / "index") == files_of(tmp_path / "expected")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "index", "log"]


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_job_that_waits_goes_on_where_the_first_one_was_killed(made_of, tmp_path):
    segments = build(made_of, tmp_path / "expected").num_segments
    first = launch(1, building, made_of, tmp_path / "index", tmp_path / "log")
    log = tmp_path / "log"
    wait_until(lambda: log.exists() and len(log.read_text().split()) >= 3)
    second = launch(1, building, made_of, tmp_path / "index", tmp_path / "second")
    time.sleep(0.02)
    kill(first)
    assert exit_codes(second) == [0]
    assert len((tmp_path / "second").read_text().split()) < segments
    assert files_of(tmp_path / "index") == files_of(tmp_path / "expected")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "index", "log", "second"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_builds_killed_at_random_moments(plain_tokenizer, tmp_path):
    passages = [Passage(f"p{n}", f"Title {n}", "the sea and the land " * (1 + n % 3) + str(n)) for n in range(300)]
    made_of = Corpus.from_passages(passages), Identifiers(plain_tokenizer)
    build(made_of, tmp_path / "expected", 800)
    context, chance, kills = multiprocessing.get_context("fork"), random.Random(3), 0
    for number in range(10):
        while True:
            process = context.Process(target=build, args=(made_of, tmp_path / "index", 800))
            process.start()
            process.join(chance.random() * 0.4)
            process.kill()
            process.join()
            if (tmp_path / "index").exists():
                assert FMIndex.load(tmp_path / "index", verify=True).num_passages in (299, 300)
            if process.exitcode == 0:
                break
            kills += 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "index"]
        assert files_of(tmp_path / "index") == files_of(tmp_path / "expected")
        if number % 2:
            shutil.rmtree(tmp_path / "index")
        else:  # The next one replaces an index.
            FMIndex.load(tmp_path / "index").remove(["p3"]).save(tmp_path / "index")
            assert FMIndex.load(tmp_path / "index").num_passages == 299
    assert kills > 5


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("batch_size", [3, 100])
def test_several_processes_build_the_same_files(unigram_tokenizer, tmp_path, batch_size, caplog):
    strange = [Passage(f"s{n}", "river", "a long river 大阪", ("a river in 京",)) for n in range(4)]
    corpus, identifiers = Corpus.from_passages([*PASSAGES, *strange]), Identifiers(unigram_tokenizer)
    told = []
    for num_proc in (None, 2):
        caplog.clear()
        FMIndex.from_corpus(
            corpus, identifiers, folder=tmp_path / str(num_proc), segment_tokens=120, batch_size=batch_size,
            num_proc=num_proc, progress=False,
        )  # fmt: skip
        told.append(caplog.messages[:])
    assert files_of(tmp_path / "None") == files_of(tmp_path / "2")
    assert told[0] == told[1] and "does not know" in told[0][0]


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_passages_are_added_in_several_processes(made_of):
    corpus, identifiers = made_of
    index = FMIndex.from_corpus(Corpus.from_passages(PASSAGES[:5]), identifiers, progress=False)
    others = Corpus.from_passages(PASSAGES[5:])
    one, two = (index.add_corpus(others, identifiers, num_proc=n, progress=False) for n in (None, 2))
    assert [one.extract(n).tolist() for n in range(len(corpus))] == [
        two.extract(n).tolist() for n in range(len(corpus))
    ]
    for method in (index.add_corpus, FMIndex.from_corpus):
        with pytest.raises(ValueError, match="num_proc=-1: give the number of processes, at least 1"):
            method(others, identifiers, num_proc=-1, progress=False)
