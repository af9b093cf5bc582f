import multiprocessing
import os
import shutil
from collections import Counter

import numpy as np
import pytest
from brute_force_index import BruteForce, has_continuations
from hypothesis import given, settings
from hypothesis import strategies as st

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex

SEPARATOR, VOCABULARY = 2, 6


def build(passages, **options) -> FMIndex:
    return FMIndex.build(
        passages.values(), passage_ids=passages, vocab_size=VOCABULARY, separator=SEPARATOR, progress=False, **options
    )


def check(index, passages, patterns):
    """Compare all answers of the index with the passages that it should hold, in their order."""
    brute = BruteForce(list(passages.values()), SEPARATOR)
    tokens = Counter(token for passage in passages.values() for token in [*passage, SEPARATOR])
    assert list(index.passage_ids) == list(passages) == [index.passage_ids[n] for n in range(len(passages))]
    assert index.passage_positions(passages).tolist() == list(range(len(passages)))
    assert (index.num_passages, index.num_tokens) == (len(passages), sum(tokens.values()))
    assert index.passage_lengths.tolist() == [len(passage) for passage in passages.values()]
    assert index.token_counts.tolist() == [tokens[token] for token in range(VOCABULARY)]
    indptr, text = index.extract_batch(np.arange(len(passages)))
    assert [text[a:b].tolist() for a, b in zip(indptr, indptr[1:], strict=False)] == list(passages.values())

    ranges = index.find_batch(patterns)
    offsets, following, counts = index.continuations_batch(ranges)
    extended = index.extend(ranges, np.tile(np.arange(VOCABULARY), (len(patterns), 1)))
    for number, pattern in enumerate(patterns):
        expected = brute.occurrences(pattern)
        assert index.counts(ranges[number]) == index.count(pattern)
        assert index.count(pattern) == (len(expected) if pattern else index.num_tokens)
        part = slice(offsets[number], offsets[number + 1])
        assert len(set(following[part].tolist())) == len(following[part])
        if has_continuations(pattern, SEPARATOR):
            wanted = brute.continuations(pattern) if pattern else tokens
            assert dict(zip(following[part].tolist(), counts[part].tolist(), strict=True)) == wanted
            assert index.counts(extended[number]).tolist() == [wanted[token] for token in range(VOCABULARY)]
            # A range is empty in every segment where nothing occurs, removed passages or not.
            assert not extended[number][index.counts(extended[number]) == 0].any()
        if pattern:
            arrays = index.locate(ranges[number], len(pattern))
            occurrences = list(zip(*(array.tolist() for array in arrays), strict=True))
            assert sorted(occurrences) == sorted(expected)
            some = zip(*(array.tolist() for array in index.locate(ranges[number], len(pattern), 2)), strict=True)
            assert list(some) == occurrences[:2]


passages_to_add = st.lists(
    st.lists(st.sampled_from([0, 1, 3, 4]), max_size=7), min_size=1, max_size=4
)  # fmt: skip
changes = st.lists(
    st.one_of(passages_to_add, st.lists(st.integers(0, 99), min_size=1, max_size=3), st.just("compact")), max_size=6
)
patterns = st.lists(
    st.one_of(
        st.lists(st.sampled_from([0, 1, 3, 4]), max_size=4),
        st.lists(st.sampled_from([0, 1, 3, 4]), max_size=3).map(lambda ids: [SEPARATOR, *ids]),
        st.lists(st.sampled_from([0, 1, 3, 4]), max_size=3).map(lambda ids: [*ids, SEPARATOR]),
        st.lists(st.integers(0, VOCABULARY - 1), max_size=4),
    ),
    min_size=1, max_size=12,
)  # fmt: skip


@given(passages_to_add, changes, patterns, st.sampled_from([None, 1, 10]))
@settings(max_examples=150, deadline=None)
def test_adds_removes_and_compactions_in_any_order(first, changes, patterns, segment_tokens):
    passages = {f"p{number}": tokens for number, tokens in enumerate(first)}
    index = build(passages, segment_tokens=segment_tokens)
    made = len(first)
    check(index, passages, patterns)
    for change in changes:
        before, passages_before = index, dict(passages)
        if change == "compact":
            index = index.compact(progress=False)
            assert segment_tokens or index.num_segments == 1
        elif isinstance(change[0], list):
            new = {f"p{made + number}": tokens for number, tokens in enumerate(change)}
            index = index.add(new.values(), passage_ids=new)
            passages |= new
            made += len(new)
        else:
            gone = {list(passages)[number % len(passages)] for number in change}
            if len(gone) == len(passages):
                continue
            index = index.remove(gone)
            passages = {name: tokens for name, tokens in passages.items() if name not in gone}
        check(index, passages, patterns)
        check(before, passages_before, patterns[:2])


def test_segments_hold_no_more_tokens_than_they_may():
    passages = {f"p{number}": [3] * (number % 5) for number in range(20)}
    index = build(passages, segment_tokens=7)
    sizes = [segment.arrays.num_rows for segment in index._segments]
    assert max(sizes) <= 7 and all(left + right > 7 for left, right in zip(sizes, sizes[1:], strict=False))
    check(index, passages, [[3], [2, 3, 3, 3, 3, 2], []])
    assert [s.arrays.num_rows for s in index.compact(progress=False)._segments] == sizes


def test_an_id_that_was_removed_can_be_used_again():
    index = build({"a": [3, 4], "b": [3]})
    with pytest.raises(ValueError, match="id 'b' is in the index already.*1 of these.*Remove the older passages"):
        index.add([[4], [4]], passage_ids=["c", "b"])
    changed = index.remove(["b"]).add([[4, 4]], passage_ids=["b"])
    check(changed, {"a": [3, 4], "b": [4, 4]}, [[4], [3]])
    check(changed.remove(["b"]), {"a": [3, 4]}, [[4], [3]])


def test_removing_what_is_not_there():
    index = build({"a": [3, 4], "b": [3]})
    with pytest.raises(KeyError, match="the id 'c'"):
        index.remove(["a", "c"])
    with pytest.raises(KeyError, match="the id 'a'"):
        index.remove(["a"]).remove(["a"])
    with pytest.raises(ValueError, match="All 2 passages of the index would be removed.*at least one"):
        index.remove(["a", "b", "a"])
    assert index.remove([]).num_passages == 2


def test_a_changed_index_is_of_no_corpus_and_of_the_same_tokenizer():
    index = build({"a": [3, 4], "b": [3]}, corpus_fingerprint="corpus", tokenizer_fingerprint="tokenizer")
    for changed in (index.remove(["a"]), index.add([[4]], passage_ids=["c"]), index.compact(progress=False)):
        assert (changed.corpus_fingerprint, changed.tokenizer_fingerprint) == ("", "tokenizer")


def large(number_of_passages, start=0):
    rng = np.random.default_rng(start)
    return {f"p{start + n}": rng.integers(3, 6, rng.integers(0, 30)).tolist() for n in range(number_of_passages)}


def test_many_passages_and_removals_against_building_anew():
    passages = large(800)
    index = build(passages).remove([f"p{n}" for n in range(0, 800, 3)])
    more = large(300, 800)
    index = index.add(more.values(), passage_ids=more).remove([f"p{n}" for n in range(1, 1100, 6)])
    remaining = {
        name: tokens for n, (name, tokens) in enumerate((passages | more).items())
        if (n >= 800 or n % 3) and n % 6 != 1
    }  # fmt: skip
    anew = build(remaining)
    patterns = [[3], [4, 5], [2, 3, 3], [5, 5, 2], [3, 4, 5, 3], [2]]
    for ours, theirs in ((index, anew), (index.compact(progress=False), anew)):
        assert list(ours.passage_ids) == list(theirs.passage_ids)
        for pattern in patterns:
            assert ours.count(pattern) == theirs.count(pattern)
            found = [
                sorted(zip(*(a.tolist() for a in one.locate(one.find(pattern), len(pattern))), strict=True))
                for one in (ours, theirs)
            ]
            assert found[0] == found[1]


# On the disk


@pytest.fixture
def saved(tmp_path):
    build({"a": [3, 4], "b": [3], "c": []}).save(tmp_path / "index")
    return tmp_path / "index"


def parts(folder):
    return {name for name in os.listdir(folder) if not name.startswith("index.")}


def test_saving_writes_only_what_is_new(saved, monkeypatch):
    before, written = parts(saved), []
    save = np.save
    monkeypatch.setattr(np, "save", lambda stream, array, **options: (written.append(array), save(stream, array)))
    index = FMIndex.load(saved).add([[4, 4]], passage_ids=["d"])
    index.save(saved)
    assert len(written) == 14 and before < parts(saved) and len(parts(saved)) == 2
    index.remove(["a"]).save(saved)
    assert len(written) == 16
    smaller = FMIndex.load(saved)
    check(smaller, {"b": [3], "c": [], "d": [4, 4]}, [[3], [4]])
    smaller.compact(progress=False).save(saved)
    assert len(parts(saved)) == 1 and not before & parts(saved)
    check(FMIndex.load(saved), {"b": [3], "c": [], "d": [4, 4]}, [[3], [4]])


def test_readers_keep_what_they_opened(saved):
    reader = FMIndex.load(saved)
    FMIndex.load(saved).add([[4, 4]], passage_ids=["d"]).remove(["a"]).save(saved)
    between = FMIndex.load(saved)
    between.compact(progress=False).save(saved)
    check(reader, {"a": [3, 4], "b": [3], "c": []}, [[3], [4]])
    for later in (between, FMIndex.load(saved)):
        check(later, {"b": [3], "c": [], "d": [4, 4]}, [[3], [4]])


def test_a_reader_that_is_overtaken_opens_the_newer_index(saved, monkeypatch):
    from dgr_trainer.index import storage

    newer = FMIndex.load(saved).remove(["a"]).compact(progress=False)
    read, overtaken = storage._read_description, []

    def read_and_be_overtaken(folder):
        description = read(folder)
        if not overtaken:
            overtaken.append(True)
            newer.save(saved)
        return description

    monkeypatch.setattr(storage, "_read_description", read_and_be_overtaken)
    check(FMIndex.load(saved), {"b": [3], "c": []}, [[3]])
    assert overtaken


def test_two_writers_do_not_undo_each_other(saved):
    first, second = FMIndex.load(saved), FMIndex.load(saved)
    first.remove(["a"]).save(saved)
    with pytest.raises(RuntimeError, match="changed by another process.*would undo that. Load it again"):
        second.remove(["b"]).save(saved)
    check(FMIndex.load(saved), {"b": [3], "c": []}, [[3]])
    build({"x": [3]}).save(saved)  # Not made from the older index: it is meant to take its place.
    check(FMIndex.load(saved), {"x": [3]}, [[3]])


OLD = {"a": [3, 4], "b": [3], "c": []}
NEW = {"b": [3], "c": [], "d": [4, 4]}


def changed_until_killed(folder, calls, then):
    """In a separate process: change an index on the disk, and exit without notice at the call `calls`."""
    left = [calls]

    def counted(function):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)
            return function(*arguments, **options)

        return call

    for module, names in ((np, ["save"]), (os, ["fsync", "rename", "replace"]), (shutil, ["rmtree"])):
        for name in names:
            setattr(module, name, counted(getattr(module, name)))
    then(folder)
    os._exit(0)


def add_and_remove(folder):
    FMIndex.load(folder).remove(["a"]).add([[4, 4]], passage_ids=["d"]).save(folder)


def compact(folder):
    FMIndex.load(folder).compact(progress=False).save(folder)


def build_new(folder):
    build(NEW).save(folder)


@pytest.mark.parametrize(
    ("change", "old", "new"),
    [
        (add_and_remove, OLD, NEW),
        (build_new, None, NEW),
        pytest.param(compact, NEW, NEW, marks=pytest.mark.slow),
        pytest.param(build_new, OLD, NEW, marks=pytest.mark.slow),
    ],
)
def test_a_kill_at_any_moment_leaves_the_old_or_the_new(tmp_path, change, old, new):
    context = multiprocessing.get_context("fork")
    outcomes = []
    for calls in range(1, 100):
        folder = tmp_path / str(calls) / "index"
        if old is not None:
            build(OLD).save(folder)
            if old == NEW:
                add_and_remove(folder)
        process = context.Process(target=changed_until_killed, args=(folder, calls, change))
        process.start()
        process.join(60)
        assert process.exitcode in (0, 9)
        if old is None and not folder.exists():
            outcomes.append("none")
        else:
            found = FMIndex.load(folder, verify=True)
            outcomes.append("new" if list(found.passage_ids) == list(new) else "old")
            check(found, new if outcomes[-1] == "new" else old, [[3], [4, 4], [2, 3]])
        if process.exitcode == 0:
            break
        # What was left behind is in nobody's way.
        change(folder) if outcomes[-1] != "new" or old == NEW else None
        check(FMIndex.load(folder, verify=True), new, [[3]])
    assert process.exitcode == 0 and outcomes[-1] == "new"
    assert len(set(outcomes)) == (1 if old == NEW else 2) and outcomes == sorted(
        outcomes, key=["none", "old", "new"].index
    )


# Building segment by segment


@pytest.fixture(scope="module")
def corpus():
    words = ["river", "stone", "light", "cloud", "grass"]
    return Corpus.from_passages(
        [Passage(f"p{n}", f"{words[n % 5]} {words[n % 3]}", f"{words[n % 4]} and {words[n // 5]}") for n in range(25)]
    )


def test_a_corpus_is_indexed_segment_by_segment(corpus, bpe_tokenizer, tmp_path):
    identifiers = Identifiers(bpe_tokenizer)
    whole = FMIndex.from_corpus(corpus, identifiers, progress=False)
    index = FMIndex.from_corpus(
        corpus, identifiers, folder=tmp_path / "index", segment_tokens=whole.num_tokens // 4, progress=False
    )
    assert index.num_segments > 3 and os.listdir(tmp_path) == ["index"]
    assert list(index.passage_ids) == list(whole.passage_ids)
    np.testing.assert_array_equal(index.token_counts, whole.token_counts)
    ids = identifiers.encode(" river")
    assert index.count(ids) == whole.count(ids) > 0
    index.check_tokenizer(identifiers)


def test_an_interrupted_build_goes_on_where_it_stopped(corpus, bpe_tokenizer, tmp_path, monkeypatch):
    identifiers = Identifiers(bpe_tokenizer)
    folder = tmp_path / "index"
    whole = FMIndex.from_corpus(corpus, identifiers, progress=False)
    options = {"folder": folder, "segment_tokens": whole.num_tokens // 4, "batch_size": 3, "progress": False}
    encoded = []
    joined = Identifiers.joined

    def interrupted(self, segments):
        if len(encoded) >= 15 and monkeypatch_active:
            raise KeyboardInterrupt
        encoded.append(segments)
        return joined(self, segments)

    monkeypatch.setattr("dgr_trainer.index.token_texts._CHUNK", 4)
    monkeypatch.setattr(Identifiers, "joined", interrupted)
    monkeypatch_active = True
    with pytest.raises(KeyboardInterrupt):
        FMIndex.from_corpus(corpus, identifiers, **options)
    assert not folder.exists()
    begun = FMIndex.load(tmp_path / ".index.building")
    assert 0 < begun.num_passages < 15
    monkeypatch_active, encoded = False, []
    index = FMIndex.from_corpus(corpus, identifiers, **options)
    assert len(encoded) == len(corpus) - begun.num_passages and os.listdir(tmp_path) == ["index"]
    assert list(index.passage_ids) == list(corpus.ids)
    np.testing.assert_array_equal(index.token_counts, whole.token_counts)
    # Another corpus does not go on from there.
    begun.save(tmp_path / ".index.building")
    other = Corpus.from_passages([Passage("x", "stone", "light")])
    assert list(FMIndex.from_corpus(other, identifiers, **options).passage_ids) == ["x"]


def test_a_folder_of_the_users_is_refused_before_anything_is_built(corpus, bpe_tokenizer, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists but is not an index"):
        FMIndex.from_corpus(corpus, Identifiers(bpe_tokenizer), folder=tmp_path, progress=False)


def test_adding_a_corpus(corpus, bpe_tokenizer, unigram_tokenizer):
    identifiers = Identifiers(bpe_tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    other = Corpus.from_passages([Passage("x", "stone", "light")])
    larger = index.add_corpus(other, identifiers, progress=False)
    assert list(larger.passage_ids) == [*corpus.ids, "x"] and larger.num_segments == 2
    with pytest.raises(ValueError, match="made with another tokenizer"):
        index.add_corpus(other, Identifiers(unigram_tokenizer), progress=False)


def test_the_digest_of_ids_tells_ids_and_their_order_whatever_the_segments():
    passages = {"a": [3], "bc": [4, 5], "d": [3], "é": [4]}
    whole, parts = build(passages), build(passages, segment_tokens=2)
    assert parts.num_segments == 4 and whole.passage_ids.digest() == parts.passage_ids.digest()
    kept = build({name: tokens for name, tokens in passages.items() if name not in ("bc", "d")})
    assert {index.remove(["d", "bc"]).passage_ids.digest() for index in (whole, parts)} == {kept.passage_ids.digest()}
    others = [["a", "bc", "d", "e"], ["bc", "a", "d", "é"], ["ab", "c", "d", "é"], ["a", "bc", "d"]]
    digests = {build(dict.fromkeys(names, [3])).passage_ids.digest() for names in others}
    assert len(digests) == 4 and whole.passage_ids.digest() not in digests
