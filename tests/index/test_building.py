"""Indexes that are built segment by segment on the disk, by processes that are killed at any moment."""

import hashlib
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from dgr_trainer.corpus import Corpus, Passage
from dgr_trainer.identifiers import Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex, building

PASSAGES = [Passage(f"p{n}", f"Title {n}", "the sea and the land " * (1 + n % 3) + str(n)) for n in range(20)]


def files_of(folder):
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*")) if file.is_file() and file.name != "index.lock"
    }  # fmt: skip


@pytest.fixture
def made_of(plain_tokenizer):
    return Corpus.from_passages(PASSAGES), Identifiers(plain_tokenizer)


def build(made_of, folder):
    corpus, identifiers = made_of
    return FMIndex.from_corpus(corpus, identifiers, folder=folder, segment_tokens=120, progress=False)


class Killed(BaseException):
    """In the place of a kill, after which nothing of the process runs."""


def stopped_at(monkeypatch, moment):
    """Let each step that changes something on the disk count, and the one at `moment` not be made any more."""
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
        monkeypatch.setattr(building, name, counted(getattr(building, name)))
    monkeypatch.setattr(building.os, "rename", counted(building.os.rename))
    monkeypatch.setattr(building.shutil, "rmtree", counted(building.shutil.rmtree))
    return steps


@pytest.mark.parametrize("replacing", [False, True])
def test_stopped_between_any_two_steps(made_of, tmp_path, replacing):
    """A build that is stopped again and again, one step later each time, in place of nothing or of another index."""
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


def test_what_is_finished_is_not_built_again(made_of, tmp_path, monkeypatch):
    build(made_of, tmp_path / "index")
    steps = stopped_at(monkeypatch, None)
    assert build(made_of, tmp_path / "index").num_passages == len(PASSAGES)
    assert steps in ([], ["rmtree"])
    # An index that was changed is not of the corpus any more.
    FMIndex.load(tmp_path / "index").remove(["p3"]).save(tmp_path / "index")
    assert build(made_of, tmp_path / "index").num_passages == len(PASSAGES)
    assert steps.count("add_segments") > 3


def test_segments_of_other_views_are_not_gone_on_with(made_of, plain_tokenizer, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        stopped_at(patched, 6)
        with pytest.raises(Killed):
            build(made_of, tmp_path / "index")
    titles = Identifiers(plain_tokenizer, IdentifierSettings(views=("title",)))
    index = FMIndex.from_corpus(made_of[0], titles, folder=tmp_path / "index", segment_tokens=120, progress=False)
    alone = FMIndex.from_corpus(made_of[0], titles, segment_tokens=120, progress=False)
    assert [index.extract(n).tolist() for n in range(20)] == [alone.extract(n).tolist() for n in range(20)]


BUILDER = textwrap.dedent(
    """
    import sys
    sys.path.insert(0, sys.argv[2])
    from tiny_models import bpe_tokenizer
    from dgr_trainer import Corpus, FMIndex, Identifiers, Passage
    from dgr_trainer.index import building
    passages = [Passage(f"p{n}", f"Title {n}", "the sea and the land " * (1 + n % 3) + str(n)) for n in range(2000)]
    made_of = Corpus.from_passages(passages), Identifiers(bpe_tokenizer())
    FMIndex.build([[3]], passage_ids=["p"], vocab_size=4, separator=2, progress=False)  # Compiles what is needed.
    print("begun", flush=True)
    for number in range(int(sys.argv[3])):
        FMIndex.from_corpus(*made_of, folder=f"{sys.argv[1]}/{number}", segment_tokens=1000, progress=False)
    print("done", flush=True)
    """
)


@pytest.mark.slow
def test_builds_killed_at_random_moments(tmp_path):
    tests, chance, kills = str(Path(__file__).parents[1]), random.Random(3), 0
    finished = False
    while not finished:
        command = [sys.executable, "-c", BUILDER, str(tmp_path), tests, "6"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "begun\n"
            time.sleep(chance.random() * 1.5)
            process.send_signal(signal.SIGKILL)
            finished = process.stdout.read() == "done\n"
        kills += not finished
        for folder in tmp_path.iterdir():
            if not folder.name.startswith("."):
                assert FMIndex.load(folder, verify=True).num_passages == 2000
    assert kills > 5
    subprocess.run([sys.executable, "-c", BUILDER, str(tmp_path), tests, "7"], check=True, timeout=300)
    assert sorted(path.name for path in tmp_path.iterdir()) == list("0123456")
    for number in range(6):
        assert files_of(tmp_path / str(number)) == files_of(tmp_path / "6")
