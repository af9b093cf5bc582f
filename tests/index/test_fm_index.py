from collections import Counter
from dataclasses import replace
from itertools import chain

import numba
import numpy as np
import pytest
from brute_force_index import BruteForce, has_continuations
from hypothesis import given, settings
from hypothesis import strategies as st

from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.index.array_construction import build_text_arrays


def build(sequences, vocab_size=9, separator=2, **options) -> FMIndex:
    ids = [f"p{number}" for number in range(len(sequences))]
    return FMIndex.build(
        sequences, passage_ids=ids, vocab_size=vocab_size, separator=separator, progress=False, **options
    )


@st.composite
def corpora(draw):
    """A small corpus whose tokens recur, in a vocabulary of any size; sometimes the same passages over and over."""
    vocab_size = draw(st.sampled_from([1, 2, 3, 5, 300_000]))
    separator = draw(st.integers(0, vocab_size - 1))
    usable = draw(st.lists(st.integers(0, vocab_size - 1).filter(lambda t: t != separator), max_size=4)) if (
        vocab_size > 1
    ) else []  # fmt: skip
    sequence = st.lists(st.sampled_from(usable), max_size=8) if usable else st.just([])
    sequences = draw(st.lists(sequence, min_size=1, max_size=6)) * draw(st.sampled_from([1, 1, 2, 3]))
    return sequences, vocab_size, separator


@st.composite
def corpora_with_patterns(draw):
    sequences, vocab_size, separator = draw(corpora())
    ring = [token for sequence in sequences for token in [*sequence, separator]] * 2
    start = st.integers(0, len(ring) // 2 - 1)
    occurring = st.builds(lambda at, size: ring[at : at + size], start, st.integers(0, 7))
    any_tokens = st.lists(st.integers(0, vocab_size - 1), max_size=3)
    return sequences, vocab_size, separator, draw(st.lists(st.one_of(occurring, any_tokens), min_size=1, max_size=6))


def check_queries(index, sequences, separator, patterns):
    brute = BruteForce(sequences, separator)
    assert index.num_tokens == sum(len(sequence) + 1 for sequence in sequences)
    assert index.num_passages == len(sequences) and index.counts(index.whole) == index.num_tokens
    for pattern in patterns:
        expected = brute.occurrences(pattern)
        found = index.find(pattern)
        assert index.counts(found) == index.count(pattern) == (len(expected) if pattern else index.num_tokens)
        if has_continuations(pattern, separator):
            tokens, counts = index.continuations(found)
            assert len(set(tokens.tolist())) == len(tokens)
            following = dict(zip(tokens.tolist(), counts.tolist(), strict=True))
            assert following == (brute.continuations(pattern) if pattern else token_counts(sequences, separator))
        if pattern:
            occurrences = zip(*(array.tolist() for array in index.locate(found, len(pattern))), strict=True)
            assert sorted(occurrences) == sorted(expected)


def token_counts(sequences, separator):
    return Counter(token for sequence in sequences for token in [*sequence, separator])


@given(corpora_with_patterns())
@settings(max_examples=300, deadline=None)
def test_every_query_equals_brute_force(case):
    sequences, vocab_size, separator, patterns = case
    index = build(sequences, vocab_size, separator)
    check_queries(index, sequences, separator, patterns)
    for passage, sequence in enumerate(sequences):
        assert index.extract(passage).tolist() == sequence
    assert index.passage_lengths.tolist() == [len(sequence) for sequence in sequences]
    tokens = [token for sequence in sequences for token in [*sequence, separator]]
    np.testing.assert_array_equal(index.token_counts, np.bincount(tokens, minlength=vocab_size))


@given(corpora_with_patterns())
@settings(max_examples=150, deadline=None)
def test_batches_equal_single_queries(case):
    sequences, vocab_size, separator, patterns = case
    index = build(sequences, vocab_size, separator)
    ranges = index.find_batch(patterns)
    np.testing.assert_array_equal(ranges, [index.find(pattern) for pattern in patterns])
    np.testing.assert_array_equal(index.counts(ranges), [index.count(pattern) for pattern in patterns])

    offsets, tokens, counts = index.continuations_batch(ranges)
    for number in range(len(patterns)):
        part = slice(offsets[number], offsets[number + 1])
        for ours, theirs in zip((tokens, counts), index.continuations(ranges[number]), strict=True):
            np.testing.assert_array_equal(ours[part], theirs)

    # Extending a range by each token that follows it is finding the longer pattern.
    owner = np.repeat(np.arange(len(patterns)), np.diff(offsets))
    useful = np.array([has_continuations(patterns[number], separator) for number in owner], bool)
    owner, tokens, counts = owner[useful], tokens[useful], counts[useful]
    longer = [[*patterns[number], token] for number, token in zip(owner, tokens.tolist(), strict=True)]
    extended = index.extend(ranges[owner], tokens)
    np.testing.assert_array_equal(extended, index.find_batch(longer))
    np.testing.assert_array_equal(index.counts(extended), counts)

    some = [number for number, pattern in enumerate(patterns) if pattern]
    lengths = np.array([len(patterns[number]) for number in some], np.int64)
    for limit in (None, 0, 1, 2):
        numbers, passages, occurrences = index.locate_batch(ranges[some], lengths, limit)
        for number, length in enumerate(lengths.tolist()):
            of_number = numbers == number
            expected = index.locate(ranges[some[number]], length, limit)
            np.testing.assert_array_equal((passages[of_number], occurrences[of_number]), expected)
            every = set(zip(*index.locate(ranges[some[number]], length), strict=True))
            assert set(zip(*expected, strict=True)) <= every
            assert len(expected[0]) == (len(every) if limit is None else min(limit, len(every)))

    wanted = [len(sequences) - 1, 0, 0]
    indptr, text = index.extract_batch(wanted)
    parts = [text[indptr[number] : indptr[number + 1]].tolist() for number in range(3)]
    assert parts == [sequences[passage] for passage in wanted] and len(text) == indptr[-1]


@given(corpora_with_patterns(), st.data())
@settings(max_examples=150, deadline=None)
def test_trying_many_tokens_of_each_range(case, data):
    sequences, vocab_size, separator, patterns = case
    index = build(sequences, vocab_size, separator)
    ranges = index.find_batch(patterns)
    known = sorted({separator, *chain.from_iterable(sequences), 0, vocab_size - 1})
    width = data.draw(st.integers(0, 2 * len(known)))
    tokens = np.array(data.draw(
        st.lists(st.lists(st.sampled_from(known), min_size=width, max_size=width), min_size=len(patterns),
                 max_size=len(patterns))
    ), np.int64).reshape(len(patterns), width)  # fmt: skip
    alone = index.extend(np.repeat(ranges, width, axis=0), tokens.reshape(-1))
    together = index.extend(ranges, tokens)
    assert together.shape == (len(patterns), width, index.num_segments, 2)
    np.testing.assert_array_equal(together.reshape(alone.shape), alone)
    enough = data.draw(st.integers(1, 3))
    occurs = index.counts(together) > 0
    untried = np.cumsum(occurs, axis=1) - occurs >= enough
    expected = np.where(untried[..., None, None], 0, together)
    np.testing.assert_array_equal(index.extend(ranges, tokens, enough=enough), expected)


def test_titles_of_the_first_and_the_last_passage_follow_a_separator():
    index = build([[5, 6, 7], [5, 8], [6, 7]])
    assert [index.count([2, *title]) for title in ([5, 6], [5, 8], [6, 7], [7])] == [1, 1, 1, 0]
    assert index.locate(index.find([2, 5, 6]), 3) == (0, -1)
    assert index.locate(index.find([2, 6]), 2) == (2, -1)
    assert index.locate(index.find([7, 2]), 2, limit=1)[1] in (1, 2)
    tokens, counts = index.continuations(index.find([2]))
    assert dict(zip(tokens.tolist(), counts.tolist(), strict=True)) == {5: 2, 6: 1}


def test_the_separator_follows_where_a_passage_ends():
    index = build([[5, 6], [5, 6, 7], [5]])
    tokens, counts = index.continuations(index.find([5, 6]))
    assert dict(zip(tokens.tolist(), counts.tolist(), strict=True)) == {2: 1, 7: 1}
    assert index.count([2]) == index.token_counts[2] == 3


def test_empty_ranges():
    index = build([[5, 6]])
    assert not index.find([6, 5]).any() and index.count([8]) == 0
    empty = index.empty(2)
    assert empty.shape == (2, 1, 2) and index.counts(empty).tolist() == [0, 0]
    assert not index.extend(empty, [5, 8]).any()
    assert not index.extend(np.array([index.whole]), [8]).any()
    assert not index.extend(empty, [[5, 6], [8, 2]]).any()
    offsets, tokens, counts = index.continuations_batch(empty)
    assert offsets.tolist() == [0, 0, 0] and len(tokens) == len(counts) == 0
    assert [len(array) for array in index.locate_batch(empty, 1)] == [0, 0, 0]


def test_empty_batches():
    index = build([[5, 6]])
    none = index.empty(0)
    assert index.find_batch([]).shape == index.extend(none, []).shape == (0, 1, 2)
    assert index.extend(none, np.empty((0, 4), np.int64)).shape == (0, 4, 1, 2)
    assert index.counts(none).shape == (0,)
    assert [len(array) for array in index.continuations_batch(none)] == [1, 0, 0]
    assert [len(array) for array in index.locate_batch(none, 3)] == [0, 0, 0]
    assert [len(array) for array in index.extract_batch([])] == [1, 0]
    np.testing.assert_array_equal(index.find_batch([[]]), [index.whole])


def large_corpus(num_passages=3000, vocab_size=4000):
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 40, num_passages)
    tokens = np.minimum(rng.zipf(1.2, lengths.sum()) + 2, vocab_size - 1)
    return [part.tolist() for part in np.split(tokens, np.cumsum(lengths)[:-1])]


@pytest.fixture(scope="module")
def large() -> tuple[list[list[int]], FMIndex]:
    sequences = large_corpus()
    return sequences, build(sequences, 4000)


def test_threads_do_not_change_results(large, monkeypatch):
    sequences, index = large
    patterns = [sequence[:4] for sequence in sequences] * 3
    frequent = np.argsort(-index.token_counts)[:200].tolist()
    ranges = index.find_batch([[token] for token in frequent])

    def results():
        found = index.find_batch(patterns)
        extended = index.extend(found, np.full(len(patterns), frequent[0]))
        tried = index.extend(ranges, np.tile(frequent, (len(ranges), 1)), enough=30)
        return [found, extended, tried, *index.continuations_batch(ranges), *index.locate_batch(ranges, 1, 50)]

    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 1)
    alone = results()
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 5)
    for one, five in zip(alone, results(), strict=True):
        np.testing.assert_array_equal(one, five)


def test_many_passages_against_counting(large):
    sequences, index = large
    pairs = Counter(
        pair for sequence in sequences for pair in zip(sequence, sequence[1:], strict=False)
    )  # fmt: skip
    np.testing.assert_array_equal(index.counts(index.find_batch(list(pairs))), list(pairs.values()))
    np.testing.assert_array_equal(index.counts(index.find_batch(np.array(list(pairs)))), list(pairs.values()))
    bare, _ = zip(*pairs.most_common(50), strict=True)
    for pair in bare:
        for passage, offset in zip(*index.locate(index.find(pair), 2), strict=True):
            assert tuple(sequences[passage][offset : offset + 2]) == pair
    indptr, tokens = index.extract_batch(np.arange(len(sequences)))
    assert tokens.tolist() == [token for sequence in sequences for token in sequence]
    np.testing.assert_array_equal(np.diff(indptr), [len(sequence) for sequence in sequences])


@pytest.mark.slow
def test_large_vocabulary_with_many_distinct_tokens():
    rng = np.random.default_rng(0)
    tokens = np.concatenate([rng.permutation(np.arange(1, 100_000)), rng.integers(200_000, 300_000, 1000)])
    index = build([tokens, tokens[:500][::-1]], 300_000, 0)
    assert index.count(tokens[70_000:70_010].tolist()) == 1
    assert index.locate(index.find(tokens[70_000:70_010].tolist()), 10) == (0, 70_000)
    np.testing.assert_array_equal(index.extract(0), tokens)
    followers, counts = index.continuations(index.whole)
    np.testing.assert_array_equal(np.sort(followers), np.flatnonzero(index.token_counts))
    np.testing.assert_array_equal(index.token_counts[followers], counts)


def laid_out(sequences, separator):
    text = np.array([token for sequence in sequences for token in [*sequence, separator]], np.uint32)
    return text, np.cumsum([0, *(len(sequence) + 1 for sequence in sequences)])


def test_64_bit_positions():
    text, starts = laid_out(large_corpus(200), 2)
    narrow, wide = build_text_arrays(text, starts, 4000), build_text_arrays(text, starts, 4000, force64=True)
    for name, array in narrow.items():
        np.testing.assert_array_equal(array, wide[name])
    index = build(large_corpus(200), 4000)
    (segment,) = index._segments
    wide = {name: wide[name] for name in ("samples", "first_rows", "end_passages")}
    assert all(array.dtype == np.uint64 for array in wide.values())
    wider = FMIndex([replace(segment, arrays=replace(segment.arrays, **wide))], index._settings)
    np.testing.assert_array_equal(wider.locate(wider.whole, 1), index.locate(index.whole, 1))
    for ours, theirs in zip(wider.extract_batch(np.arange(200)), index.extract_batch(np.arange(200)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    smaller, expected = wider.remove(["p7"]), index.remove(["p7"])
    np.testing.assert_array_equal(smaller.locate(smaller.whole, 1), expected.locate(expected.whole, 1))


@given(corpora_with_patterns())
@settings(max_examples=100, deadline=None)
def test_the_way_of_sorting_does_not_matter(case):
    sequences, vocab_size, separator, patterns = case
    index = build(sequences, vocab_size, separator)
    (segment,) = index._segments
    text, starts = laid_out(sequences, separator)
    made = build_text_arrays(text, starts, vocab_size, force_rotations=True)
    other = FMIndex([replace(segment, arrays=replace(segment.arrays, **made))], index._settings)
    check_queries(other, sequences, separator, patterns)
    assert [other.extract(passage).tolist() for passage in range(len(sequences))] == sequences


@pytest.mark.parametrize("length", [30_000, 60_000])
def test_passages_that_repeat_themselves(length):
    # Compared up to their ends, the suffixes of these passages would take the square of their length.
    sequences = [[5] * length, [5, 6] * (length // 2), [7] * 10, [5, 6] * (length // 2)]
    index = build(sequences)
    assert [index.count(pattern) for pattern in ([5] * 20_000, [2, 5, 5], [5, 6] * 10_000 + [2], [2, 7])] == [
        length - 19_999, 1, 2, 1,
    ]  # fmt: skip
    assert index.locate(index.find([2, 7]), 2) == (2, -1)
    for passage, sequence in enumerate(sequences):
        assert index.extract(passage).tolist() == sequence


@pytest.mark.slow
def test_symbols_with_codes_of_more_than_31_bits():
    counts = [1, 2]  # Fibonacci's numbers, of which the first is the separator's
    while len(counts) < 32:
        counts.append(counts[-1] + counts[-2])
    tokens = np.random.default_rng(0).permutation(np.repeat(np.arange(1, 33), counts))
    index = build([tokens], 33, 0)
    assert len(index._segments[0].arrays.levels) > 32
    np.testing.assert_array_equal(index.token_counts[1:], counts)
    for start in (0, 1000, len(tokens) - 12):
        found = index.find(tokens[start : start + 12].tolist())
        assert (0, start) in zip(*index.locate(found, 12), strict=True)


def test_input_may_be_arrays_generators_and_tensors():
    torch = pytest.importorskip("torch")
    lists = [[5, 6, 7], [], [7, 5]]
    index = build(lists)
    arrays = build([np.array(sequence, np.int32) for sequence in lists])
    lazily = FMIndex.build(
        (sequence for sequence in lists),
        passage_ids=(f"p{n}" for n in range(3)), vocab_size=9, separator=2, progress=False,
    )  # fmt: skip
    for other in (arrays, lazily):
        assert [other.extract(passage).tolist() for passage in range(3)] == lists
        np.testing.assert_array_equal(other.find([7, 5]), index.find([7, 5]))
    extended = index.extend(torch.from_numpy(index.whole.copy())[None], torch.tensor([5], dtype=torch.int32))
    np.testing.assert_array_equal(extended, [index.find([5])])
    for pattern in (np.array([7, 5]), (7, 5)):
        np.testing.assert_array_equal(index.find(pattern), index.find([7, 5]))


def test_passage_positions(large):
    _, index = large
    assert index.passage_ids[17] == "p17" and index.passage_position("p2999") == 2999
    np.testing.assert_array_equal(index.passage_positions(["p5", "p0", "p5"]), [5, 0, 5])
    with pytest.raises(KeyError, match="the id 'nobody'.*1 of 2 ids are unknown.*ids of the corpus"):
        index.passage_positions(["p5", "nobody"])
    with pytest.raises(KeyError, match="the id 'p3000'"):
        index.passage_position("p3000")


@pytest.mark.parametrize(
    "call",
    [
        lambda index, ids: index.remove(ids),
        lambda index, ids: index.passage_positions(ids),
        lambda index, ids: index.passage_ids.positions(ids),
    ],
)
def test_ids_are_given_as_a_collection_of_strings(call):
    index = FMIndex.build([[5]] * 5, passage_ids=["4", "2", "42", "1", "3"], vocab_size=9, separator=2)
    with pytest.raises(TypeError, match=r"passage_ids is '42' \(str\)\. Give a collection of passage ids, which are"):
        call(index, "42")
    with pytest.raises(TypeError, match=r"passage_ids holds 42 \(int\)"):
        call(index, ["4", 42])
    with pytest.raises(TypeError, match=r"passage_ids holds None"):
        call(index, [None])
    with pytest.raises(TypeError, match=r"passage_ids is 42 \(int\)"):
        call(index, 42)


def test_new_ids_are_given_as_a_collection():
    with pytest.raises(TypeError, match=r"passage_ids is 'ab' \(str\)"):
        FMIndex.build([[5], [6]], passage_ids="ab", vocab_size=9, separator=2)
    with pytest.raises(TypeError, match=r"passage_ids is 'x' \(str\)"):
        build([[5]]).add([[6]], passage_ids="x")


def test_describes_itself():
    index = build([[5, 6]])
    assert repr(index) == "FMIndex(1 passages, 3 tokens, 9 token ids)"
    assert index.num_bytes == sum(array.nbytes for array in vars(index._segments[0].arrays).values())
    with pytest.raises(ValueError, match="read-only"):
        index.token_counts[0] = 1


@pytest.mark.parametrize("tokenizer_name", ["bpe_tokenizer", "unigram_tokenizer", "plain_tokenizer"])
def test_from_corpus(corpus, request, tokenizer_name):
    identifiers = Identifiers(request.getfixturevalue(tokenizer_name))
    index = FMIndex.from_corpus(corpus, identifiers, batch_size=5, progress=False)
    assert list(index.passage_ids) == list(corpus.ids)
    assert (index.vocab_size, index.separator) == (identifiers.vocab_size, identifiers.eos_token_id)
    assert index.corpus_fingerprint == corpus.fingerprint
    index.check_tokenizer(identifiers)
    for passage in (corpus[0], corpus[len(corpus) - 1]):
        position = index.passage_position(passage.id)
        assert index.extract(position).tolist() == list(identifiers.encode_passage(passage))
        title = [*identifiers.prefix("title"), *identifiers.target("title", identifiers.encode(passage.title))]
        occurrences = index.locate(index.find(title), len(title))
        assert (position, -1) in zip(*occurrences, strict=True)


def test_check_tokenizer_refuses_another(corpus, bpe_tokenizer, unigram_tokenizer):
    index = FMIndex.from_corpus(corpus, Identifiers(bpe_tokenizer), progress=False)
    with pytest.raises(ValueError, match="made with another tokenizer.*build the index again"):
        index.check_tokenizer(Identifiers(unigram_tokenizer))
    unnamed = build([[5, 6]])
    with pytest.raises(ValueError, match="9 token ids and separator 2, but the tokenizer has .*another tokenizer"):
        unnamed.check_tokenizer(Identifiers(bpe_tokenizer))


@pytest.mark.parametrize(
    ("sequences", "options", "error", "match"),
    [
        ([], {}, ValueError, "corpus is empty.*at least one"),
        (
            [[5], [6, 2]],
            {},
            ValueError,
            r"passage 1 \(id '.+'\) holds the separator \(token id 2\).*without special tokens",
        ),
        (
            [[5], [], [6, 9]],
            {},
            ValueError,
            r"passage 2 \(id '.+'\) holds token id 9, which is outside the vocabulary \(0 to 8\)",
        ),
        ([[-1]], {}, ValueError, r"passage 0 \(id 'p0'\) holds token id -1, which is outside"),
        ([[5], [1.5]], {}, TypeError, "passages 0 to 1 holds values of type float64"),
        ([["a"]], {}, TypeError, "holds values of type <U1.*sequences of integers"),
        ([[5]], {"passage_ids": ["a", "b"]}, ValueError, "1 sequences but 2 passage ids.*one id for each"),
        ([[5], [6]], {"passage_ids": ["a", "a"]}, ValueError, r"'a' occurs twice \(passages 0 and 1\)"),
        ([[5]], {"passage_ids": ["a b"]}, ValueError, "'a b' holds whitespace"),
        ([[5]], {"separator": 9}, ValueError, r"separator is 9, which is outside the vocabulary \(0 to 8\)"),
        ([[5]], {"separator": -1}, ValueError, "separator is -1, which is outside"),
        ([[5]], {"vocab_size": 0}, ValueError, "vocab_size is 0, but an index has 1 to 16777216"),
        ([[5]], {"segment_tokens": 0}, ValueError, "segment_tokens is 0, but a segment has at least 1 token"),
        ([[5]], {"vocab_size": 2**24 + 1}, ValueError, "vocab_size is 16777217"),
    ],
)
def test_input_that_cannot_be_indexed(sequences, options, error, match):
    defaults = {"passage_ids": [f"p{n}" for n in range(len(sequences))], "vocab_size": 9, "separator": 2}
    with pytest.raises(error, match=match):
        FMIndex.build(sequences, **(defaults | options), progress=False)


def test_the_number_of_a_bad_passage_counts_from_the_start():
    with pytest.raises(ValueError, match=r"passage 9001 \(id '.+'\) holds the separator"):
        build([[5, 6]] * 9001 + [[2]])


@pytest.mark.parametrize(
    ("query", "error", "match"),
    [
        (
            lambda index: index.find([5, 9]),
            ValueError,
            r"Token id 9 is outside the vocabulary of the index \(0 to 8\)",
        ),
        (lambda index: index.find([-1]), ValueError, "Token id -1 is outside"),
        (lambda index: index.find_batch([[5], [6, 300]]), ValueError, "Token id 300 is outside"),
        (lambda index: index.find([5.0]), TypeError, "patterns holds values of type float64"),
        (lambda index: index.extend([[[0, 3]]], [9]), ValueError, "Token id 9 is outside"),
        (lambda index: index.extend([[[0, 3]]], [[5, 9]]), ValueError, "Token id 9 is outside"),
        (lambda index: index.extend([[[0, 3]]], [5], enough=0), ValueError, "enough is 0, but it must be at least 1"),
        (
            lambda index: index.extend([[[0, 4]]], [5]),
            ValueError,
            r"range is \[0, 4\) in segment 0, which has suffix-array rows 0 to 2.*this index returned",
        ),
        (lambda index: index.extend([[[0, 3]]], [5, 6]), ValueError, "tokens has 2 values, but 1 are needed"),
        (lambda index: index.extend([[[0, 3]]], [[[5]]]), ValueError, "tokens has 3 dimensions, but 1 or 2 are"),
        (lambda index: index.extend([[0, 3]], [5]), ValueError, r"ranges have the shape \(1, 2\).*\(n, 1, 2\)"),
        (lambda index: index.counts([[[0, 3], [0, 3]]]), ValueError, r"shape \(1, 2, 2\).*shape \(..., 1, 2\)"),
        (lambda index: index.continuations([[-1, 2]]), ValueError, r"range is \[-1, 2\)"),
        (lambda index: index.continuations_batch([[[0, 2.0]]]), TypeError, "ranges are of type float64"),
        (lambda index: index.locate([[0, 4]], 1), ValueError, r"range is \[0, 4\)"),
        (lambda index: index.locate([[0, 1]], 0), ValueError, "length of pattern 0 is 0.*at least 1"),
        (lambda index: index.locate([[0, 1]], 1, -1), ValueError, "limit is -1"),
        (lambda index: index.locate_batch([[[0, 1]]] * 2, [1]), ValueError, "lengths has 1 values, but 2"),
        (lambda index: index.extract(1), IndexError, r"no passage 1 \(item 0\): the index holds passages 0 to 0"),
        (lambda index: index.extract_batch([0, -1]), IndexError, r"no passage -1 \(item 1\)"),
    ],
)
def test_queries_outside_the_index(query, error, match):
    with pytest.raises(error, match=match):
        query(build([[5, 6]]))
