from collections import Counter
from dataclasses import replace

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.index.build import build_text_arrays


def build(sequences, vocab_size=9, separator=2, **options) -> FMIndex:
    ids = [f"p{number}" for number in range(len(sequences))]
    return FMIndex.build(
        sequences, passage_ids=ids, vocab_size=vocab_size, separator=separator, progress=False, **options
    )


class BruteForce:
    """What an index over a ring of passages has to answer, by looking at every position."""

    def __init__(self, sequences, separator):
        self.ring = [token for sequence in sequences for token in [*sequence, separator]]
        self.passages = [p for p, sequence in enumerate(sequences) for _ in range(len(sequence) + 1)]
        self.starts = np.cumsum([0, *(len(sequence) + 1 for sequence in sequences)]).tolist()
        self.num_passages, self.separator = len(sequences), separator

    def token(self, position):
        return self.ring[position % len(self.ring)]

    def occurrences(self, pattern):
        return [
            start
            for start in range(len(self.ring))
            if all(self.token(start + place) == token for place, token in enumerate(pattern))
        ]

    def continuations(self, pattern):
        return Counter(self.token(start + len(pattern)) for start in self.occurrences(pattern))

    def place(self, position):
        passage = self.passages[position]
        if self.ring[position] == self.separator:
            return (passage + 1) % self.num_passages, -1
        return passage, position - self.starts[passage]


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
    brute = BruteForce(sequences, separator)
    start = st.integers(0, len(brute.ring) - 1)
    occurring = st.builds(lambda at, size: [brute.token(at + k) for k in range(size)], start, st.integers(0, 7))
    any_tokens = st.lists(st.integers(0, vocab_size - 1), max_size=3)
    return sequences, vocab_size, separator, draw(st.lists(st.one_of(occurring, any_tokens), min_size=1, max_size=6))


@given(corpora_with_patterns())
@settings(max_examples=300, deadline=None)
def test_every_query_equals_brute_force(case):
    sequences, vocab_size, separator, patterns = case
    index = build(sequences, vocab_size, separator)
    brute = BruteForce(sequences, separator)
    assert index.num_tokens == len(brute.ring) and index.num_passages == len(sequences)
    assert index.whole == (0, index.num_tokens)
    for pattern in patterns:
        occurrences = brute.occurrences(pattern)
        low, high = index.find(pattern)
        assert high - low == len(occurrences) == index.count(pattern)
        tokens, counts = index.continuations(low, high)
        assert len(set(tokens.tolist())) == len(tokens)
        assert dict(zip(tokens.tolist(), counts.tolist(), strict=True)) == brute.continuations(pattern)
        if pattern:
            passages, offsets = index.locate_batch(np.arange(low, high), len(pattern))
            found = sorted(zip(passages.tolist(), offsets.tolist(), strict=True))
            assert found == sorted(brute.place(start) for start in occurrences)
    for passage, sequence in enumerate(sequences):
        assert index.extract(passage).tolist() == sequence
    assert index.passage_lengths.tolist() == [len(sequence) for sequence in sequences]
    np.testing.assert_array_equal(index.token_counts, np.bincount(brute.ring, minlength=vocab_size))


@given(corpora_with_patterns())
@settings(max_examples=150, deadline=None)
def test_batches_equal_single_queries(case):
    sequences, vocab_size, separator, patterns = case
    index = build(sequences, vocab_size, separator)
    low, high = index.find_batch(patterns)
    assert list(zip(low.tolist(), high.tolist(), strict=True)) == [index.find(pattern) for pattern in patterns]

    offsets, tokens, counts = index.continuations_batch(low, high)
    for number in range(len(patterns)):
        part = slice(offsets[number], offsets[number + 1])
        for ours, theirs in zip((tokens, counts), index.continuations(low[number], high[number]), strict=True):
            np.testing.assert_array_equal(ours[part], theirs)

    # Extending a range by each token that follows it is finding the longer pattern.
    owner = np.repeat(np.arange(len(patterns)), np.diff(offsets))
    longer = [[*patterns[number], token] for number, token in zip(owner, tokens.tolist(), strict=True)]
    extended = index.extend(low[owner], high[owner], tokens)
    np.testing.assert_array_equal(extended, index.find_batch(longer))
    np.testing.assert_array_equal(extended[1] - extended[0], counts)

    rows = np.arange(index.num_tokens)
    lengths = rows % 4 + 1
    places = index.locate_batch(rows, lengths)
    singles = [index.locate(row, length) for row, length in zip(rows.tolist(), lengths.tolist(), strict=True)]
    assert list(zip(*(array.tolist() for array in places), strict=True)) == singles

    wanted = [len(sequences) - 1, 0, 0]
    indptr, text = index.extract_batch(wanted)
    parts = [text[indptr[number] : indptr[number + 1]].tolist() for number in range(3)]
    assert parts == [sequences[passage] for passage in wanted] and len(text) == indptr[-1]


def test_titles_of_the_first_and_the_last_passage_follow_a_separator():
    index = build([[5, 6, 7], [5, 8], [6, 7]])
    assert [index.count([2, *title]) for title in ([5, 6], [5, 8], [6, 7], [7])] == [1, 1, 1, 0]
    assert index.locate(index.find([2, 5, 6])[0], 3) == (0, -1)
    assert index.locate(index.find([2, 6])[0], 2) == (2, -1)
    assert index.locate(index.find([7, 2])[0], 2)[1] in (1, 2)
    tokens, counts = index.continuations(*index.find([2]))
    assert dict(zip(tokens.tolist(), counts.tolist(), strict=True)) == {5: 2, 6: 1}


def test_the_separator_follows_where_a_passage_ends():
    index = build([[5, 6], [5, 6, 7], [5]])
    tokens, counts = index.continuations(*index.find([5, 6]))
    assert dict(zip(tokens.tolist(), counts.tolist(), strict=True)) == {2: 1, 7: 1}
    assert index.count([2]) == index.token_counts[2] == 3


def test_empty_ranges():
    index = build([[5, 6]])
    assert index.find([6, 5]) == (0, 0) and index.count([8]) == 0
    low, high = index.extend([0, 2, 3, 0], [0, 2, 1, 3], [5, 5, 5, 8])
    assert low.tolist() == high.tolist() == [0, 0, 0, 0]
    offsets, tokens, counts = index.continuations_batch([0, 3, 2], [0, 3, 1])
    assert offsets.tolist() == [0, 0, 0, 0] and len(tokens) == len(counts) == 0


def test_empty_batches():
    index = build([[5, 6]])
    assert [len(array) for array in index.find_batch([])] == [0, 0]
    assert [len(array) for array in index.extend([], [], [])] == [0, 0]
    assert [len(array) for array in index.continuations_batch([], [])] == [1, 0, 0]
    assert [len(array) for array in index.locate_batch([], 3)] == [0, 0]
    assert [len(array) for array in index.extract_batch([])] == [1, 0]
    assert index.find_batch([[]])[1].tolist() == [3]


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
    rows = np.random.default_rng(0).integers(0, index.num_tokens, 5000)

    def results():
        found = index.find_batch(patterns)
        extended = index.extend(*found, np.full(len(patterns), frequent[0]))
        return [*found, *extended, *index.continuations_batch(*ranges), *index.locate_batch(rows, 2)]

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
    low, high = index.find_batch(list(pairs))
    np.testing.assert_array_equal(high - low, list(pairs.values()))
    bare, _ = zip(*pairs.most_common(50), strict=True)
    for pair in bare:
        rows = np.arange(*index.find(pair))
        for passage, offset in zip(*index.locate_batch(rows, 2), strict=True):
            assert tuple(sequences[passage][offset : offset + 2]) == pair
    indptr, tokens = index.extract_batch(np.arange(len(sequences)))
    assert tokens.tolist() == [token for sequence in sequences for token in sequence]
    np.testing.assert_array_equal(np.diff(indptr), [len(sequence) for sequence in sequences])


def test_large_vocabulary_with_many_distinct_tokens():
    rng = np.random.default_rng(0)
    tokens = np.concatenate([rng.permutation(np.arange(1, 100_000)), rng.integers(200_000, 300_000, 1000)])
    index = build([tokens, tokens[:500][::-1]], 300_000, 0)
    assert index.count(tokens[70_000:70_010].tolist()) == 1
    assert index.locate(index.find(tokens[70_000:70_010].tolist())[0], 10) == (0, 70_000)
    np.testing.assert_array_equal(index.extract(0), tokens)
    followers, counts = index.continuations(*index.whole)
    np.testing.assert_array_equal(np.sort(followers), np.flatnonzero(index.token_counts))
    np.testing.assert_array_equal(index.token_counts[followers], counts)


def test_64_bit_positions():
    text = np.array([token for sequence in large_corpus(200) for token in [*sequence, 2]], np.uint16)
    narrow, wide = build_text_arrays(text, 4000), build_text_arrays(text, 4000, force64=True)
    for name, array in narrow.items():
        np.testing.assert_array_equal(array, wide[name])
    index = build(large_corpus(200), 4000)
    wider = FMIndex(replace(index._arrays, samples=index._arrays.samples.astype(np.uint64)), index._settings)
    rows = np.arange(index.num_tokens)
    np.testing.assert_array_equal(wider.locate_batch(rows, 1), index.locate_batch(rows, 1))


@pytest.mark.slow
def test_symbols_with_codes_of_more_than_31_bits():
    counts = [1, 2]  # Fibonacci's numbers, of which the first is the separator's
    while len(counts) < 32:
        counts.append(counts[-1] + counts[-2])
    tokens = np.random.default_rng(0).permutation(np.repeat(np.arange(1, 33), counts))
    index = build([tokens], 33, 0)
    assert len(index._arrays.levels) > 32
    np.testing.assert_array_equal(index.token_counts[1:], counts)
    for start in (0, 1000, len(tokens) - 12):
        low, high = index.find(tokens[start : start + 12].tolist())
        assert (0, start) in zip(*index.locate_batch(np.arange(low, high), 12), strict=True)


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
        assert other.find([7, 5]) == index.find([7, 5])
    low, high = index.extend(torch.tensor([0]), torch.tensor([8]), torch.tensor([5], dtype=torch.int32))
    assert (low[0], high[0]) == index.find([5])
    assert index.find(np.array([7, 5])) == index.find((7, 5)) == index.find([7, 5])


def test_passage_positions(large):
    _, index = large
    assert index.passage_ids[17] == "p17" and index.passage_position("p2999") == 2999
    np.testing.assert_array_equal(index.passage_positions(["p5", "p0", "p5"]), [5, 0, 5])
    with pytest.raises(KeyError, match="the id 'nobody'.*1 of 2 ids are unknown.*ids of the corpus"):
        index.passage_positions(["p5", "nobody"])
    with pytest.raises(KeyError, match="the id 'p3000'"):
        index.passage_position("p3000")


def test_describes_itself():
    index = build([[5, 6]])
    assert repr(index) == "FMIndex(1 passages, 3 tokens, 9 token ids)"
    assert index.num_bytes == sum(array.nbytes for array in vars(index._arrays).values())
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
        places = index.locate_batch(np.arange(*index.find(title)), len(title))
        assert (position, -1) in zip(*places, strict=True)


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
        ([[5], [6, 2]], {}, ValueError, r"passage 1 holds the separator \(token id 2\).*without special tokens"),
        ([[5], [], [6, 9]], {}, ValueError, r"passage 2 holds token id 9, which is outside the vocabulary \(0 to 8\)"),
        ([[-1]], {}, ValueError, "passage 0 holds token id -1, which is outside"),
        ([[5], [1.5]], {}, TypeError, "passages 0 to 1 holds values of type float64"),
        ([["a"]], {}, TypeError, "holds values of type <U1.*sequences of integers"),
        ([[5]], {"passage_ids": ["a", "b"]}, ValueError, "1 sequences but 2 passage ids.*one id for each"),
        ([[5], [6]], {"passage_ids": ["a", "a"]}, ValueError, r"'a' occurs twice \(passages 0 and 1\)"),
        ([[5]], {"passage_ids": ["a b"]}, ValueError, "'a b' holds whitespace"),
        ([[5]], {"separator": 9}, ValueError, r"separator is 9, which is outside the vocabulary \(0 to 8\)"),
        ([[5]], {"separator": -1}, ValueError, "separator is -1, which is outside"),
        ([[5]], {"vocab_size": 0}, ValueError, "vocab_size is 0, but an index has 1 to 16777216"),
        ([[5]], {"vocab_size": 2**24 + 1}, ValueError, "vocab_size is 16777217"),
    ],
)
def test_input_that_cannot_be_indexed(sequences, options, error, match):
    defaults = {"passage_ids": [f"p{n}" for n in range(len(sequences))], "vocab_size": 9, "separator": 2}
    with pytest.raises(error, match=match):
        FMIndex.build(sequences, **(defaults | options), progress=False)


def test_the_place_of_a_bad_passage_counts_from_the_start():
    with pytest.raises(ValueError, match="passage 9001 holds the separator"):
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
        (lambda index: index.extend([0], [3], [9]), ValueError, "Token id 9 is outside"),
        (lambda index: index.extend([0], [4], [5]), ValueError, r"Range 0 is \[0, 4\), but the index has rows 0 to 2"),
        (lambda index: index.extend([0, 0], [3], [5]), ValueError, "high has 1 values where 2 are needed"),
        (lambda index: index.extend([0], [3], [5, 6]), ValueError, "tokens has 2 values where 1 are needed"),
        (lambda index: index.extend([[0]], [[3]], [[5]]), ValueError, "low has 2 dimensions"),
        (lambda index: index.continuations(-1, 2), ValueError, r"Range 0 is \[-1, 2\)"),
        (lambda index: index.continuations_batch([0], [2.0]), TypeError, "high holds values of type float64"),
        (lambda index: index.locate(3, 1), IndexError, r"Row 3 \(number 0\) is outside the index.*rows 0 to 2"),
        (lambda index: index.locate_batch([0, -1], 1), IndexError, r"Row -1 \(number 1\)"),
        (lambda index: index.locate(0, 0), ValueError, "length of pattern 0 is 0.*at least 1"),
        (lambda index: index.locate_batch([0, 1], [1]), ValueError, "lengths has 1 values where 2"),
        (lambda index: index.extract(1), IndexError, r"no passage 1 \(number 0\): the index holds passages 0 to 0"),
        (lambda index: index.extract_batch([0, -1]), IndexError, r"no passage -1 \(number 1\)"),
    ],
)
def test_queries_outside_the_index(query, error, match):
    with pytest.raises(error, match=match):
        query(build([[5, 6]]))
