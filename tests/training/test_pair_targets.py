"""Which identifiers are taught: distinctive substrings, and those by which the student itself finds a passage."""

import collections
import logging
import math

import numpy as np
import pytest

from dgr_trainer.candidates import Candidate, Candidates, MatchedIdentifier
from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.identifiers import Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval.settings import SearchSettings
from dgr_trainer.training.pair_substrings import DistinctiveSubstrings, PreparedPassage, PublishedSubstrings, _ends
from dgr_trainer.training.pairs import SUBSTRING_TOKENS, generation_pairs, pairs_from_candidates
from dgr_trainer.training.stop_words import StopWords

VIEW = IdentifierSettings(views=("substring",))


def counted(body, span):
    return sum(tuple(body[i : i + len(span)]) == span for i in range(len(body) - len(span) + 1))


def prepared(passage, identifiers):
    (segments,) = identifiers.encode_segments([passage])
    words = identifiers.words(passage.text, segments.body)
    return PreparedPassage(passage, segments, words, identifiers, StopWords([], identifiers))


def test_the_default_length_is_that_of_a_search():
    assert SUBSTRING_TOKENS == SearchSettings().substring_length


def test_log_odds_by_counting_the_texts(tokenizer, corpus):
    """Against counts in the plain token sequences of all passages."""
    identifiers = Identifiers(tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    whole = identifiers.encode_passages(list(corpus))
    substrings = DistinctiveSubstrings(index, words=4, tokens=6, temperature=1.0)
    for passage in list(corpus)[:6]:
        one = prepared(passage, identifiers)
        substrings.prepare([one])
        for start, odds in zip(one.starts, one.log_odds[6].tolist(), strict=True):
            (span,) = [s for s, n in zip(substrings._spans(one), one.starts, strict=True) if n == start]
            everywhere = sum(counted(ids, span) for ids in whole)
            places = len(one.segments.body) - len(span) + 1
            here, there = counted(one.segments.body, span) / places, everywhere / index.num_tokens
            expected = math.log(here / (1 - here)) - math.log(there / (1 - there))
            assert odds == pytest.approx(max(0.0, expected), abs=1e-9)


@pytest.mark.parametrize("tokens", [1, 3, 6, 100])
def test_substrings_are_whole_words_within_their_length(tokenizer, corpus, tokens):
    identifiers = Identifiers(tokenizer)
    for passage in list(corpus)[:6]:
        one = prepared(passage, identifiers)
        bounds = [*one.starts, len(one.segments.body)]
        for number, end in enumerate(_ends(one, 5, tokens)):
            start = one.starts[number]
            fitting = [b for b in bounds[number + 1 : number + 6] if b - start <= tokens]
            assert end == (fitting[-1] if fitting else start + tokens)


def test_distinctive_targets_are_different_short_and_rare(bpe_tokenizer):
    identifiers = Identifiers(bpe_tokenizer, VIEW)
    common = "the water of the river and the water of the town"
    texts = [f"{common} {word} of the {word} water {common}" for word in ("kestrel", "quartz", "falcon", "granite")]
    corpus = Corpus.from_passages(Passage(f"p{n}", "", text) for n, text in enumerate(texts))
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    arguments = {"queries": {"q": "x"}, "qrels": {"q": {"p1": 1}}, "samples_per_passage": 0, "progress": False}

    def drawn(**others):
        pairs = generation_pairs(corpus, identifiers, **arguments, **others)
        return [tuple(row["labels"][:-1]) for row in pairs]

    for seed in range(5):
        distinctive = drawn(targets="distinctive", index=index, substrings_per_query=4, seed=seed)
        assert len(set(distinctive)) == len(distinctive) == 4
        assert all(len(ids) <= 8 and index.count(ids) >= 1 for ids in distinctive)
    many = [ids for seed in range(30) for ids in drawn(targets="distinctive", index=index, substrings_per_query=1,
                                                         seed=seed)]  # fmt: skip
    published = [ids for seed in range(30) for ids in drawn(substring_length=8, substrings_per_query=1, seed=seed)]
    rare = [sum(index.count(ids) == 1 for ids in each) / len(each) for each in (many, published)]
    assert rare[0] > rare[1] + 0.2
    # At most those that there are.
    every = drawn(targets="distinctive", index=index, substrings_per_query=500)
    assert len(set(every)) == len(every) < 40


def test_distinctive_substrings_are_drawn_in_proportion(bpe_identifiers, corpus):
    """The first of each draw, against the softmax that the docstring states."""
    index = FMIndex.from_corpus(corpus, bpe_identifiers, progress=False)
    substrings = DistinctiveSubstrings(index, words=3, tokens=8, temperature=0.5)
    one = prepared(corpus.get("p01"), bpe_identifiers)
    random = np.random.default_rng(0)
    first = collections.Counter(substrings.draw(one, [], 1, random)[0] for _ in range(3000))
    odds = {}
    for span, value in zip(substrings._spans(one), one.log_odds[8].tolist(), strict=True):
        odds[span] = value**2
    total = sum(odds.values())
    for span, weight in odds.items():
        assert first[span] / 3000 == pytest.approx(weight / total, abs=0.03)


def test_distinctive_substrings_follow_the_query(bpe_tokenizer):
    words = [f"word{i}" for i in range(60)]
    words[40:43] = ["molten", "rock", "surface"]
    corpus = Corpus.from_passages([Passage("p", "", " ".join(words)), Passage("other", "", "a river")])
    identifiers = Identifiers(bpe_tokenizer, VIEW)
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)

    def starts(temperature):
        texts = []
        for seed in range(20):
            pairs = generation_pairs(
                corpus, identifiers, {"q": "molten rock surface"}, {"q": {"p": 1}}, samples_per_passage=0, seed=seed,
                substrings_per_query=2, temperature=temperature, targets="distinctive", index=index, progress=False,
            )  # fmt: skip
            texts += [bpe_tokenizer.decode(row["labels"], skip_special_tokens=True).split()[0] for row in pairs]
        return texts.count("molten")

    assert starts(0.2) > 3 * max(1, starts(1e6))


def test_published_substrings_are_cut_on_request(bpe_identifiers, corpus):
    one = prepared(corpus.get("p01"), bpe_identifiers)
    whole = PublishedSubstrings(10, None, 1.0).draw(one, [], 20, np.random.default_rng(1))
    short = PublishedSubstrings(10, 5, 1.0).draw(one, [], 20, np.random.default_rng(1))
    assert all(a[: len(b)] == b and len(b) <= 5 for a, b in zip(whole, short, strict=True)) and whole != short


def test_distinctive_targets_in_processes_and_from_passages(bpe_identifiers, corpus, queries, qrels):
    index = FMIndex.from_corpus(corpus, bpe_identifiers, progress=False)
    arguments = {"targets": "distinctive", "index": index, "progress": False}
    one = generation_pairs(corpus, bpe_identifiers, queries, qrels, **arguments)
    two = generation_pairs(corpus, bpe_identifiers, queries, qrels, num_proc=2, **arguments)
    assert one.to_dict() == two.to_dict()
    published = generation_pairs(corpus, bpe_identifiers, queries, qrels, progress=False)
    assert one.to_dict() != published.to_dict()


def test_wrong_targets(bpe_identifiers, unigram_tokenizer, corpus):
    index = FMIndex.from_corpus(corpus, bpe_identifiers, progress=False)
    other = Corpus.from_passages(list(corpus)[:3])
    foreign = FMIndex.from_corpus(corpus, Identifiers(unigram_tokenizer), progress=False)
    for arguments, message in [
        ({"targets": "rare"}, "targets='rare' is unknown; use one of dgr_paper, distinctive"),
        ({"targets": "distinctive"}, "so it needs its index"),
        ({"index": index}, "index counts substrings for targets='distinctive'. Leave it out"),
        ({"targets": "distinctive", "index": foreign}, "tokenizer"),
        ({"substring_length": 0}, "substring_length=0: a substring has at least 1 token"),
    ]:
        with pytest.raises(ValueError, match=message):
            generation_pairs(corpus, bpe_identifiers, **arguments)
    with pytest.raises(ValueError, match="The index holds 24 passages, but the corpus has 3"):
        generation_pairs(other, bpe_identifiers, targets="distinctive", index=index)


def matched(identifiers, view, text, score):
    (ids,) = identifiers.encode_substrings([text])
    return MatchedIdentifier(view, identifiers.target(view, ids), 1, score)


@pytest.fixture
def found(bpe_identifiers):
    def one(*parts):
        return tuple(matched(bpe_identifiers, *part) for part in parts)

    lists = {
        "q1": [
            Candidate("wrong", 90.0, one(("substring", "a town", 90.0))),
            Candidate(
                "p01",
                70.0,
                one(
                    ("substring", "river water", 60.0),
                    ("pseudo_query", "which river is it", 50.0),
                    ("title", "River", 20.0),
                    ("substring", "town", 10.0),
                    ("pseudo_query", "Which river", 40.0),
                    ("substring", "the", 0.0),
                ),
            ),
        ],
        "q2": [Candidate("p02", 0.0, one(("title", "Water", 0.0), ("substring", "water of", 0.0)))],
        "q3": [Candidate("wrong", 9.0, one(("substring", "water", 9.0)))],
    }
    candidates = Candidates.from_lists(lists, corpus_tokens=500, tokenizer_fingerprint=bpe_identifiers.fingerprint)
    queries = {"q1": "which  river", "q2": "water", "q3": "town", "q4": "rivers", "q5": "none"}
    qrels = {"q1": {"p01": 1, "p09": 1, "wrong": 0}, "q2": {"p02": 1}, "q3": {"p03": 1}, "q4": {"p04": 1}}
    return candidates, queries, qrels


def readable(dataset, identifiers):
    return [(identifiers.decode(row["input_ids"]), identifiers.decode(row["labels"][:-1])) for row in dataset]


def test_pairs_of_what_the_student_found(bpe_identifiers, found, caplog):
    candidates, queries, qrels = found
    with caplog.at_level(logging.WARNING):
        made = pairs_from_candidates(candidates, bpe_identifiers, queries, qrels, progress=False)
    pairs = readable(made, bpe_identifiers)
    first = {pair for pair in pairs if "which river" in pair[0]}
    # Neither the query itself nor what added nothing; each with the prompt of its view.
    assert {(p.split("||")[1].strip(), t) for p, t in first} == {
        ("body", "river water"), ("body", "town"), ("title", "River @@"), ("query", "which river is it @@"),
    }  # fmt: skip
    # Nothing led to this passage: what was added for it.
    assert {t for p, t in pairs if p.split("||")[0].strip().endswith("water")} == {"Water @@", "water of"}
    assert len(pairs) == 6
    assert "1 of 4 queries with relevant passages have no candidates" in caplog.text
    assert all(row["labels"][-1] == bpe_identifiers.eos_token_id for row in made)


def test_what_earns_more_is_drawn_more_often(bpe_identifiers, found):
    candidates, queries, qrels = found
    drawn = collections.Counter()
    for seed in range(150):
        made = pairs_from_candidates(
            candidates, bpe_identifiers, {"q1": queries["q1"]}, qrels, identifiers_per_query=1, seed=seed,
            progress=False,
        )  # fmt: skip
        drawn.update(target for _, target in readable(made, bpe_identifiers))
    total = 60 + 50 + 20 + 10
    expected = {"river water": 60, "which river is it @@": 50, "River @@": 20, "town": 10}
    assert set(drawn) == set(expected)
    for target, credit in expected.items():
        assert drawn[target] / 150 == pytest.approx(credit / total, abs=0.12)


def test_pairs_of_candidates_in_processes_and_in_any_order(bpe_identifiers, found):
    candidates, queries, qrels = found
    first = pairs_from_candidates(candidates, bpe_identifiers, queries, qrels, progress=False)
    again = pairs_from_candidates(
        candidates, bpe_identifiers, dict(reversed(queries.items())), qrels, num_proc=2, progress=False
    )
    assert first.to_dict() == again.to_dict()


def test_wrong_candidates(bpe_identifiers, bpe_tokenizer, unigram_tokenizer, found):
    candidates, queries, qrels = found
    with pytest.raises(ValueError, match="No relevant passage is among the candidates: 1 queries were given, 1 of"):
        pairs_from_candidates(candidates, bpe_identifiers, {"q3": "town"}, qrels, progress=False)
    with pytest.raises(ValueError, match="identifiers_per_query=0: make at least 1"):
        pairs_from_candidates(candidates, bpe_identifiers, queries, qrels, identifiers_per_query=0)
    with pytest.raises(ValueError, match="another tokenizer"):
        pairs_from_candidates(candidates, Identifiers(unigram_tokenizer), queries, qrels)
    with pytest.raises(ValueError, match=r"identifiers of the views \['pseudo_query', 'title'\], but the student has"):
        pairs_from_candidates(candidates, Identifiers(bpe_tokenizer, VIEW), queries, qrels, progress=False)
