"""Changing an index and the corpus beside it in one step, without writing what does not change."""

import json
import multiprocessing
import os
import random
import shutil
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import make_bart

from dgr_trainer.cli.main import main
from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.corpus_cache import StoredCorpus
from dgr_trainer.data.corpus_folder import verify_corpus, write_changed
from dgr_trainer.data.passages import Passage
from dgr_trainer.files import atomic
from dgr_trainer.files.atomic import read_folder
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.index.corpus_sync import save_changed
from dgr_trainer.retrieval import GenerativeRetriever

WORDS = ["river", "stone", "light", "cloud", "grass", "night", "ship"]


def passage(number):
    return Passage(f"p{number}", WORDS[number % 7], f"{WORDS[number % 5]} and {WORDS[number // 5 % 7]}")


@pytest.fixture(scope="module")
def identifiers(bpe_tokenizer):
    return Identifiers(bpe_tokenizer)


def write(root, identifiers, passages):
    corpus = Corpus.from_passages(passages)
    FMIndex.from_corpus(corpus, identifiers, progress=False).save(root)
    corpus.save_to_disk(root / "corpus")
    (root / "identifiers.json").write_text("{}")


@pytest.fixture
def root(identifiers, tmp_path):
    write(tmp_path / "index", identifiers, [passage(n) for n in range(10)])
    return tmp_path / "index"


def change(root, identifiers, gone=(), new=(), compact=False):
    opened = FMIndex.load(root)
    removed = np.unique(opened.passage_positions(gone))
    index = opened.remove(gone)
    added = Corpus.from_passages(new) if new else None
    if added is not None:
        index = index.add_corpus(added, identifiers, progress=False)
    if compact:
        index = index.compact(progress=False)
    save_changed(root, "index.json", opened, index, removed=removed, added=added, compacted=compact)


def read(root):
    """The passages of index and corpus, which have to be the same."""
    index, corpus = read_folder(root, lambda folder: (FMIndex.load(folder), Corpus.load_from_disk(folder / "corpus")))
    assert list(index.passage_ids) == list(corpus.ids)
    return list(corpus)


def inodes(folder):
    return {str(file.relative_to(folder)): file.stat().st_ino for file in folder.rglob("*") if file.is_file()}


def test_only_what_is_new_is_written(root, identifiers):
    (root / "notes.txt").write_text("of the user")
    before = inodes(root)
    change(root, identifiers, ["p3"], [passage(10), passage(11)])
    after = inodes(root)
    kept = {name for name in before if after.get(name) == before[name]}
    assert set(before) - kept == {"index.json", "index.lock", "corpus/corpus.json"} & set(before)
    assert {name.split("/")[0].split("-")[0] for name in set(after) - kept} == {
        "index.json",
        "segment",
        "removed",
        "corpus",
    }
    assert {name for name in set(after) - kept if name.startswith("corpus/")} == {
        "corpus/corpus.json", "corpus/removed.npy",
        *(f"corpus/part-1/{name}" for name in ("data-00000-of-00001.arrow", "dataset_info.json", "state.json")),
    }  # fmt: skip
    assert read(root) == [passage(n) for n in range(12) if n != 3]
    assert [p.name for p in root.parent.iterdir()] == ["index"]
    verify_corpus(root / "corpus")

    change(root, identifiers, compact=True)
    assert read(root) == [passage(n) for n in range(12) if n != 3]
    assert json.loads((root / "corpus" / "corpus.json").read_text())["layout"] == 1
    assert not (root / "corpus" / "part-1").exists() and (root / "notes.txt").read_text() == "of the user"


def test_a_changed_corpus_is_a_corpus(root, identifiers, tmp_path):
    change(root, identifiers, ["p0", "p9"], [passage(10)])
    change(root, identifiers, ["p10", "p4"], [Passage("p4", "again", "another text")])
    expected = [passage(n) for n in (1, 2, 3, 5, 6, 7, 8)] + [Passage("p4", "again", "another text")]
    corpus = Corpus.load_from_disk(root / "corpus")
    plain = Corpus.from_passages(expected)
    assert list(corpus) == expected == [corpus[n] for n in range(8)] == [corpus.get(p.id) for p in expected]
    assert corpus.fingerprint == plain.fingerprint and "p0" not in corpus
    corpus.save_to_disk(tmp_path / "copy")
    assert list(Corpus.load_from_disk(tmp_path / "copy")) == expected
    assert corpus.dataset.map(lambda row: {"title": row["title"].upper()})["title"][-1] == "AGAIN"


def test_a_changed_index_is_changed_again_and_again(root):
    index = FMIndex.load(root)
    for gone in ("p3", "p5", "p8"):
        changed, position = index.remove([gone]), index.passage_position(gone)
        save_changed(root, "index.json", index, changed, removed=np.array([position]), added=None, compacted=False)
        index = changed
    assert index.loaded_from[0] == root and [p.name for p in root.parent.iterdir()] == ["index"]
    assert read(root) == [passage(n) for n in (0, 1, 2, 4, 6, 7, 9)]
    read_before = FMIndex.load(root)
    index.remove(["p1"]).save(root)
    with pytest.raises(RuntimeError, match="changed by another process"):
        read_before.remove(["p2"]).save(root)


steps = st.lists(
    st.one_of(st.integers(1, 3), st.lists(st.integers(0, 99), min_size=1, max_size=3)), min_size=1, max_size=6
)


@given(steps)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_changes_in_any_order(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("corpus")
    passages, made = [passage(n) for n in range(3)], 3
    Corpus.from_passages(passages).save_to_disk(folder / "old")
    for step in steps:
        removed, added = np.empty(0, np.int64), None
        if isinstance(step, int):
            new = [passage(made + n) for n in range(step)]
            corpus = Corpus.from_passages(new)
            added, made = StoredCorpus(corpus.dataset, corpus.fingerprint), made + step
            changed = passages + new
        else:
            removed = np.unique([n % len(passages) for n in step])
            changed = [p for n, p in enumerate(passages) if n not in removed]
        if not changed:
            continue
        write_changed(folder / "old", folder / "new", removed, added)
        assert list(Corpus.load_from_disk(folder / "new")) == changed
        assert list(Corpus.load_from_disk(folder / "old")) == passages
        verify_corpus(folder / "new")
        passages = changed
        shutil.rmtree(folder / "old")
        os.rename(folder / "new", folder / "old")
    shutil.rmtree(folder)


def test_what_it_refuses(root, identifiers, tmp_path):
    opened = FMIndex.load(root)
    change(root, identifiers, ["p1"])
    nothing = {"removed": np.array([2]), "added": None, "compacted": False}
    match = r"The corpus in .* \(9 passages\) does not belong to the index.*\(10 passages\)"
    with pytest.raises(ValueError, match=match):
        save_changed(root, "index.json", opened, opened.remove(["p2"]), **nothing)
    # Another process changes it between opening and saving.
    opened = FMIndex.load(root)
    FMIndex.load(root).remove(["p5"]).add([[5]], passage_ids=["p99"]).save(root)
    with pytest.raises(RuntimeError, match="changed by another process since it was opened here"):
        save_changed(root, "index.json", opened, opened.remove(["p2"]), **{**nothing, "removed": np.array([1])})
    with pytest.raises(ValueError, match="The index was not loaded from the disk"):
        memory = FMIndex.build([[5]], passage_ids=["p"], vocab_size=9, separator=2, progress=False)
        save_changed(root, "index.json", memory, memory, **nothing)
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


def test_damaged_corpora_are_refused(root, identifiers):
    change(root, identifiers, ["p0"], [passage(10)])
    removed = root / "corpus" / "removed.npy"
    np.save(removed, np.array([1, 2]))
    with pytest.raises(ValueError, match="removed.npy does not belong to the corpus"):
        Corpus.load_from_disk(root / "corpus")
    np.save(removed, np.array([0]))
    file = root / "corpus" / "part-1" / "data-00000-of-00001.arrow"
    content = bytearray(file.read_bytes())
    content[content.index(b"river and light") + 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="The corpus is damaged: the passages at .*part-1 do not have the SHA-256"):
        verify_corpus(root / "corpus")


def test_a_disk_without_links(root, identifiers, monkeypatch):
    def no_links(*paths):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(atomic, "_renameat2", None)
    change(root, identifiers, ["p3"], [passage(10)])
    assert read(root) == [passage(n) for n in range(11) if n != 3]


def test_readers_beside_changes_see_index_and_corpus_of_one_moment(root, identifiers):
    stop, failures, seen = threading.Event(), [], set()

    def reading():
        while not stop.is_set():
            try:
                seen.add(len(read(root)))
            except Exception as error:
                failures.append(error)

    kept_open = FMIndex.load(root), Corpus.load_from_disk(root / "corpus")
    reader = threading.Thread(target=reading)
    reader.start()
    try:
        for number in range(10, 18):
            gone = [f"p{number - 10}"] if number % 2 else []
            change(root, identifiers, gone, [passage(number)], compact=number % 4 == 3)
    finally:
        stop.set()
        reader.join()
    assert not failures and len(seen) > 1
    assert [p.id for p in kept_open[1]] == list(kept_open[0].passage_ids) == [f"p{n}" for n in range(10)]


def test_a_retriever_is_changed_as_a_whole(identifiers, bpe_tokenizer, tmp_path, capsys):
    corpus = Corpus.from_passages([passage(n) for n in range(10)])
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    GenerativeRetriever(make_bart(bpe_tokenizer), identifiers, index, corpus=corpus).save_pretrained(tmp_path / "r")
    weights = (tmp_path / "r" / "model.safetensors").stat().st_ino
    more = [{"id": f"p{n}", "title": passage(n).title, "text": passage(n).text} for n in (10, 11)]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in more))
    (tmp_path / "gone.txt").write_text("p4\n")
    done = main(["index", str(tmp_path / "more.jsonl"), "--output", str(tmp_path / "r"), "--add", "--remove",
                 str(tmp_path / "gone.txt"), "--model", str(tmp_path / "r")])  # fmt: skip
    assert done == 0, capsys.readouterr().err
    retriever = GenerativeRetriever.from_pretrained(tmp_path / "r")
    assert list(retriever.corpus) == [passage(n) for n in range(12) if n != 4]
    assert list(retriever.index.passage_ids) == list(retriever.corpus.ids)
    assert (tmp_path / "r" / "model.safetensors").stat().st_ino == weights
    assert not (tmp_path / "r" / "index" / "corpus").exists()


# Kills


OLD, NEW = [passage(n) for n in range(10)], [passage(n) for n in range(11) if n != 3]


def changed_until_killed(root, identifiers, calls, compact):
    """In a separate process: change the folder, and exit without notice at the call `calls`."""
    left = [calls]

    def counted(function):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)
            return function(*arguments, **options)

        return call

    atomic._renameat2 = atomic._renameat2 and counted(atomic._renameat2)
    for module, names in ((np, ["save"]), (os, ["link", "rename", "replace"]), (shutil, ["rmtree"])):
        for name in names:
            setattr(module, name, counted(getattr(module, name)))
    change(root, identifiers, ["p3"], [passage(10)], compact)
    os._exit(0)


def check_kills(tmp_path, identifiers, moments, compact):
    """Kill at these moments; `None` is after a random time. Then make the same change, unless it was made."""
    context, outcomes = multiprocessing.get_context("fork"), []
    chance = random.Random(1)
    write(tmp_path / "master", identifiers, OLD)
    for number, calls in enumerate(moments):
        folder = tmp_path / str(number)
        root = folder / "index"
        shutil.copytree(tmp_path / "master", root)
        process = context.Process(target=changed_until_killed, args=(root, identifiers, calls or -1, compact))
        process.start()
        if calls is None:
            time.sleep(chance.random() * 0.4)
            process.kill()
        process.join(60)
        found = read(root)
        assert found in (OLD, NEW)
        outcomes.append("old" if found == OLD else "new")
        FMIndex.load(root, verify=True)
        verify_corpus(root / "corpus")
        if found == OLD:
            change(root, identifiers, ["p3"], [passage(10)], compact)
        assert read(root) == NEW
        change(root, identifiers, ["p5"])
        assert [p.name for p in folder.iterdir()] == ["index"]
        shutil.rmtree(folder)
    assert set(outcomes) == {"old", "new"}


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_change_killed_at_some_moments(tmp_path, identifiers):
    check_kills(tmp_path, identifiers, [3, 17, 30, 45, 10_000], False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("compact", [False, True])
def test_a_change_killed_at_any_moment(tmp_path, identifiers, compact):
    check_kills(tmp_path, identifiers, [*range(1, 80), *[None] * 20], compact)
