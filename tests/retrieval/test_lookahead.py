"""Look-ahead: beam searches against a plain one that looks for each child in the texts, and searches end to end."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval.causal_students import FAST, SLOW, causal_identifiers, make_causal
from sample_corpus import PASSAGES
from sample_corpus import QUERIES as QUESTIONS
from tiny_models import make_bart

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.identifiers import VIEWS, Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import GenerativeRetriever, SearchSettings, lookahead
from dgr_trainer.retrieval.beam_search import search_views
from dgr_trainer.retrieval.legal_tokens import LegalTokens
from dgr_trainer.retrieval.outlook import NextTokens, Outlook, PromisingPassages, with_next_tokens
from dgr_trainer.retrieval.passage_scoring import PassageScorer
from dgr_trainer.retrieval.query_identifiers import QueryIdentifiers, query_ngrams
from dgr_trainer.student.generation_mode import generation_mode

QUERIES = ["who discovered penicillin", "sea"]
LENGTHS = {"title": 9, "substring": 4, "pseudo_query": 12, "docid": 6}
FAST_STUDENT = ("bart", "more_tokens")


def occurs(text, pattern):
    return any(text[start : start + len(pattern)] == pattern for start in range(len(text) - len(pattern) + 1))


def made_up(index, seed, number=6):
    """Some passages with bonuses for each query, with their texts as an index gives them."""
    rng = np.random.default_rng(seed)
    positions = rng.choice(index.num_passages, number, replace=False)
    return PromisingPassages(rng.uniform(0, 9, number).astype(np.float32), *index.extract_batch(positions))


def texts_of(passages, separator):
    """The texts with a separator on both sides, and their bonuses."""
    ends = zip(passages.indptr, passages.indptr[1:], strict=False)
    texts = [[separator, *passages.tokens[start:end].tolist(), separator] for start, end in ends]
    return list(zip(texts, passages.bonuses.tolist(), strict=True))


def plain_lookahead(log_p, index, identifiers, view, length, beams, passages):
    """A beam search that asks an ordinary model, the index and the texts anew for each hypothesis.

    `log_p(hypotheses)` gives the log-probabilities of all next tokens.
    """
    prefix, end = list(identifiers.prefix(view)), list(identifiers.end(view))
    never = set(identifiers.forbidden_token_ids) | ({index.separator} - set(end))
    texts = texts_of(passages, index.separator)
    found, complete, hypotheses = {}, [], [([], 0.0)]
    for _ in range(length):
        children = []
        for (ids, total), scores in zip(hypotheses, log_p([ids for ids, _ in hypotheses]), strict=True):
            following, _ = index.continuations(index.find([*prefix, *ids])) if prefix or ids else (
                np.flatnonzero(index.token_counts), None)  # fmt: skip
            for token in set(following.tolist()) - never:
                child = [*ids, token]
                if child != end:
                    bonus = max([b for text, b in texts if occurs(text, [*prefix, *child])], default=0.0)
                    children.append((child, total + scores[token].item(), bonus))
        children = sorted(children, key=lambda one: -(one[1] + one[2]))[: 2 * beams]
        is_complete = [bool(end) and len(ids) > len(end) and ids[-len(end) :] == end for ids, _, _ in children]
        found |= {tuple(ids): total for (ids, total, _), whole in zip(children, is_complete, strict=True)
                  if whole or not end}  # fmt: skip
        complete += [total for (_, total, _), whole in zip(children, is_complete, strict=True) if whole]
        still_open = [(ids, total) for (ids, total, _), whole in zip(children, is_complete, strict=True) if not whole]
        best = sorted(complete, reverse=True)[:beams]
        if not still_open or (len(best) == beams and max(total for _, total in still_open) <= best[-1]):
            break
        hypotheses = still_open[:beams]
    return found


def ordinary_calls(model, prompt):
    """Log-probabilities of the next token by plain forward passes."""

    def log_p(hypotheses):
        with torch.no_grad():
            if model.config.is_encoder_decoder:
                start = model.config.decoder_start_token_id
                read = torch.tensor([[start, *ids] for ids in hypotheses])
                prompts = torch.tensor([prompt] * len(hypotheses))
                logits = model(input_ids=prompts, decoder_input_ids=read, use_cache=False).logits
            else:
                logits = model(input_ids=torch.tensor([[*prompt, *ids] for ids in hypotheses]), use_cache=False).logits
        return logits[:, -1].float().log_softmax(-1)

    return log_p


def assert_is_the_plain_search(model, index, identifiers, view, beams=4):
    passages = [made_up(index, seed) for seed in range(len(QUERIES))]
    asked = []

    def look_ahead(first_scores):
        asked.append({of: scores.shape for of, scores in first_scores.items()})
        return Outlook(passages, index.separator, index.vocab_size)

    with generation_mode(model) as ready:
        lengths = {view: LENGTHS[view]}
        found = search_views(ready, index, identifiers, QUERIES, lengths, beams, look_ahead=look_ahead)[view]
        plain = search_views(ready, index, identifiers, QUERIES, lengths, beams)[view]
    torch.testing.assert_close(found.first_scores, plain.first_scores, rtol=0, atol=0)
    assert asked == [{view: found.first_scores.shape}]
    different = 0
    for number, prompt in enumerate(identifiers.encode_prompts(QUERIES, view)):
        expected = plain_lookahead(
            ordinary_calls(model.eval(), prompt), index, identifiers, view, LENGTHS[view], beams, passages[number]
        )
        of_query = found.identifiers[number]
        assert {one.ids: one.score for one in of_query} == pytest.approx(expected, rel=1e-5, abs=1e-4)
        counts = index.counts(index.find_batch([identifiers.pattern(view, one.ids) for one in of_query]))
        assert [one.count for one in of_query] == counts.tolist()
        different += {one.ids for one in of_query} != {one.ids for one in plain.identifiers[number]}
    assert different


_STUDENTS = [
    pytest.param(*pair, view, marks=[] if pair == FAST_STUDENT else pytest.mark.slow)
    for pair, view in product(product(("bart", "t5"), ("one_token", "more_tokens")), VIEWS)
]


@pytest.mark.parametrize(("student", "every_view", "view"), _STUDENTS, indirect=["student", "every_view"])
def test_the_search_is_a_plain_one_with_a_bonus_for_what_occurs_in_the_texts(student, every_view, long_index, view):
    assert_is_the_plain_search(student[0], long_index, every_view, view)


@pytest.mark.parametrize("view", ["title", *(pytest.param(view, marks=pytest.mark.slow) for view in VIEWS[1:])])
@pytest.mark.parametrize(
    "name", [FAST[1], *(pytest.param(name, marks=pytest.mark.slow) for name in (FAST[0], SLOW[0]))]
)
def test_a_decoder_only_student_looks_ahead(name, view, corpus):
    identifiers = causal_identifiers(views=VIEWS)
    model = make_causal(name, identifiers.vocab_size)
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    assert_is_the_plain_search(model, index, identifiers, view)


one_student = pytest.mark.parametrize(("student", "every_view"), [FAST_STUDENT], indirect=True)


@one_student
def test_bonuses_of_zero_change_nothing_to_the_last_bit(student, every_view, long_index):
    """Views together, where one ends before another."""
    passages = [made_up(long_index, seed)._replace(bonuses=np.zeros(6, np.float32)) for seed in (0, 1)]
    with generation_mode(student[0]) as ready:
        arguments = (ready, long_index, every_view, QUERIES, LENGTHS, 3)
        plain = search_views(*arguments)
        found = search_views(
            *arguments, look_ahead=lambda _: Outlook(passages, long_index.separator, long_index.vocab_size)
        )
        nothing = PromisingPassages(np.zeros(0, np.float32), np.zeros(1, np.int64), np.zeros(0, np.int64))
        empty = search_views(
            *arguments, look_ahead=lambda _: Outlook([nothing] * 2, long_index.separator, long_index.vocab_size)
        )
    for view, of_view in plain.items():
        assert found[view].identifiers == of_view.identifiers == empty[view].identifiers
        assert torch.equal(found[view].first_scores, of_view.first_scores)


# From a query to passages


@pytest.fixture
def likely(monkeypatch):
    """Makes the words of queries likely, which a random model does not."""

    def scores(model, prompts, ids):
        return [[-0.3 - 0.01 * (sum(one) % 7) for one in of_query] for of_query in ids]

    monkeypatch.setattr("dgr_trainer.retrieval.search_engine.score_identifiers", scores)


SETTINGS = SearchSettings(beam_size=3, batch_size=3, title_length=8, pseudo_query_length=14, lookahead=9.0)
TEXTS = [*list(QUESTIONS.values())[2:5], "", "who discovered penicillin"]


def retriever_of(bart, passages=PASSAGES, identifiers=None, **changes):
    identifiers = identifiers or Identifiers(bart[1])
    index = FMIndex.from_corpus(Corpus.from_passages(passages), identifiers, progress=False)
    return GenerativeRetriever(bart[0], identifiers, index, settings=replace(SETTINGS, **changes))


def exactly(results):
    return [[(hit.passage_id, hit.score, hit.identifiers) for hit in hits] for hits in results]


def roughly(results):
    return [[(hit.passage_id, pytest.approx(hit.score, rel=1e-4)) for hit in hits] for hits in results]


def test_a_search_that_looks_ahead(bart, likely):
    """It differs from one that does not, twice the same, and batches and the device of the index change nothing."""
    found = retriever_of(bart).search(TEXTS, 5)
    again = retriever_of(bart, constraint_device="model").search(TEXTS, 5)
    assert exactly(found) == exactly(again)
    alone = retriever_of(bart, batch_size=1).search(TEXTS, 5)
    assert [[(hit.passage_id, hit.score) for hit in hits] for hits in alone] == roughly(found)
    assert exactly(retriever_of(bart, lookahead=0.0).search(TEXTS, 5)) != exactly(found)
    assert found[3] == []


def test_passages_are_those_that_the_words_of_the_query_score_highest(bart, likely, monkeypatch):
    """The bonuses of all passages, from the scores of all passages, against what the search is given."""
    monkeypatch.setattr(lookahead, "PASSAGES", 4)
    seen = []
    made = lookahead.promising_passages

    def watched(*arguments):
        seen.append((*arguments, made(*arguments)))
        return seen[-1][-1]

    monkeypatch.setattr("dgr_trainer.retrieval.search_engine.promising_passages", watched)
    retriever = retriever_of(bart)
    retriever.search(TEXTS[:3])
    assert len(seen) == 3
    for index, identifiers, early, *_, looked_at in seen:
        words = {one.ids for one in early.weighted if one.view == "substring"}
        assert words and early.unigram_weights.any()
        scorer = PassageScorer(index, identifiers, early.weighted, early.unigram_weights, retriever.scoring.repetition)
        scores = scorer.score(np.arange(index.num_passages))
        texts = [index.extract(position).tolist() for position in range(index.num_passages)]
        # Only passages with an identifier are scored at all.
        led = [any(occurs(text, list(ids)) for ids in words) for text in texts]
        ranked = sorted((-score, number) for number, score in enumerate(scores.tolist()) if led[number])
        floor = -ranked[4][0]
        expected = {number: 9 * (-score - floor) / (-ranked[0][0] - floor) for score, number in ranked[:4]}
        found = {texts.index(text[1:-1]): bonus for text, bonus in texts_of(looked_at, index.separator)}
        assert found == pytest.approx(expected, rel=1e-5)
        assert max(found.values()) == pytest.approx(9)


def test_few_passages_and_equal_ones(bart):
    """Where all passages fit, what the words do not lead to is the floor; equal passages have no order."""
    query = "who discovered penicillin"
    for passages, bonuses in ((PASSAGES[6:7], [9]), ([replace(PASSAGES[6], id=str(n)) for n in range(60)], [0] * 50)):
        retriever = retriever_of(bart, passages)
        words = query_ngrams(query, retriever.index, retriever.identifiers, 3)
        early = QueryIdentifiers([replace(one, score=1.0) for one in words], np.zeros(retriever.index.vocab_size))
        given = lookahead.promising_passages(
            retriever.index, retriever.identifiers, early, SETTINGS, retriever.scoring
        )
        assert words and given.bonuses.tolist() == bonuses


def test_among_some_passages_it_is_a_search_of_an_index_of_these(bart, likely):
    ids = {passage.id for passage in PASSAGES[::2]}
    few = retriever_of(bart, [passage for passage in PASSAGES if passage.id in ids])
    whole = retriever_of(bart)
    expected = exactly(few.search(TEXTS, 4))
    assert exactly(whole.search(TEXTS, 4, among=ids)) == expected
    others = [passage.id for passage in PASSAGES if passage.id not in ids]
    assert exactly(whole.search(TEXTS, 4, exclude=others)) == expected


def test_texts_of_queries_are_left_out_of_what_it_looks_at(bart, likely):
    query = "who discovered penicillin"
    reduced = [
        replace(one, pseudo_queries=tuple(text for text in one.pseudo_queries if text != query)) for one in PASSAGES
    ]
    whole, other = retriever_of(bart), retriever_of(bart, reduced)
    expected = exactly(other.search([query], 6))
    assert exactly(whole.search([query], 6, leave_out_own_text=True)) == expected
    assert exactly(whole.search([query], 6)) != expected
    asked, relevant = {"q": query, "other": TEXTS[0]}, {"q": {"p20": 1}}
    found = whole.candidates(asked, 4, relevant)["q"]
    expected = other.candidates(asked, 4, relevant, leave_out_own_text=False)["q"]
    assert [(one.passage_id, tuple(one.identifiers)) for one in found] == [
        (one.passage_id, tuple(replace(i, score=pytest.approx(i.score, rel=1e-4)) for i in one.identifiers))
        for one in expected
    ]


# What is refused


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), True, "3"])
def test_bonuses_that_mean_nothing_are_refused(value):
    with pytest.raises(ValueError, match=r"lookahead=.* must be a number of at least 0"):
        SearchSettings(lookahead=value)


def test_look_ahead_without_what_it_needs_is_refused(bpe_tokenizer, corpus):
    with pytest.raises(ValueError, match=r"lookahead=3 scores passages by the words .* query_ngrams=False"):
        SearchSettings(lookahead=3, query_ngrams=False)
    model, titles = make_bart(bpe_tokenizer), Identifiers(bpe_tokenizer, IdentifierSettings(views=("title",)))
    index = FMIndex.from_corpus(corpus, titles, progress=False)
    likelihood = ScoringSettings(kind="log_likelihood")
    for scoring, message in (
        (likelihood, "lookahead=3 .* kind='log_likelihood' scores a passage by its one identifier"),
        (ScoringSettings(), "lookahead=3 .* the views are title. Use lookahead=0"),
    ):
        with pytest.raises(ValueError, match=message):
            GenerativeRetriever(model, titles, index, settings=SearchSettings(lookahead=3), scoring=scoring)
        retriever = GenerativeRetriever(model, titles, index, scoring=scoring)
        with pytest.raises(ValueError, match=message):
            retriever.settings = SearchSettings(lookahead=3)
    every = Identifiers(bpe_tokenizer)
    retriever = GenerativeRetriever(
        model, every, FMIndex.from_corpus(corpus, every, progress=False), settings=SearchSettings(lookahead=3)
    )
    retriever.scoring = likelihood
    with pytest.raises(ValueError, match="kind='log_likelihood'"):
        retriever.search("sea")


# Texts and kernels

_TOKENS = st.lists(st.integers(0, 4), max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.tuples(_TOKENS, st.integers(0, 9)), max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(0, 5), max_size=2),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), max_size=5),
)
def test_an_outlook_follows_hypotheses_through_the_texts(queries, prefix, steps):
    """Separator 5; hypotheses of random tokens, which may not occur at all."""
    passages = [
        PromisingPassages(
            np.array([bonus for _, bonus in of_query], np.float32),
            np.cumsum([0, *(len(text) for text, _ in of_query)]),
            np.array([token for text, _ in of_query for token in text], np.int64),
        )
        for of_query in queries
    ]
    outlook = Outlook(passages, 5, 6)
    rows = [(number, list(prefix)) for number in range(len(queries))]
    occurrences = outlook.roots(prefix)
    for chosen, token in [(0, None), *steps]:
        if token is not None:
            parents = np.array([chosen % len(rows), len(rows) - 1])
            rows = [(rows[parent][0], [*rows[parent][1], token]) for parent in parents.tolist()]
            occurrences = outlook.extend(occurrences, parents, np.array([token, token]))
        expected = {}
        for row, (number, pattern) in enumerate(rows):
            # A separator ends a passage and begins the next.
            text = [(5, 0)] + [
                pair for text, bonus in queries[number] for pair in [*((t, bonus) for t in text), (5, bonus)]
            ]
            tokens = [token for token, _ in text]
            for start in range(len(text) - len(pattern)):
                if tokens[start : start + len(pattern)] == pattern:
                    token_after, bonus = text[start + len(pattern)]
                    key = row, token_after
                    expected[key] = max(expected.get(key, -1), bonus)
        found = outlook.next_tokens(occurrences)
        triples = list(zip(*(values.tolist() for values in found), strict=True))
        assert {(row, token): bonus for row, token, bonus in triples} == expected and len(triples) == len(expected)


_PAIRS = st.sets(st.tuples(st.integers(0, 3), st.integers(0, 5)))


@settings(max_examples=60, deadline=None)
@given(_PAIRS, _PAIRS, st.randoms(use_true_random=False))
def test_children_are_joined_once_each(children, more, random):
    children, more = list(children), sorted(more)
    random.shuffle(children)
    values = [random.randint(1, 9) for _ in more]
    following = NextTokens(*(np.array(one, np.int64).reshape(-1) for one in (
        [row for row, _ in more], [token for _, token in more])), np.array(values, np.float32))  # fmt: skip
    rows, tokens = (np.array([pair[n] for pair in children], np.int64) for n in (0, 1))
    joined = list(zip(*(one.tolist() for one in with_next_tokens(rows, tokens, following, 4, 6)), strict=True))
    expected = dict.fromkeys(children, 0) | dict(zip(more, values, strict=True))
    assert {(row, token): bonus for row, token, bonus in joined} == expected and len(joined) == len(expected)


@one_student
@pytest.mark.parametrize("view", VIEWS)
def test_legal_tokens_are_told_from_others(every_view, every_index, view):
    """The same that are listed after every hypothesis of the view's first tokens, the start of a marker included."""
    legal = LegalTokens(every_index, every_view, view)
    tokens = legal.first
    every = np.arange(every_index.vocab_size)
    counts = every_index.counts(every_index.extend(legal.roots(1).repeat(len(every), 0), every))
    following = every[counts > 0]
    none = np.zeros((1, 0), np.int64)
    assert following[legal.are_legal(none, np.zeros_like(following), following)].tolist() == sorted(tokens.tolist())
    ids = tokens[:, None]
    ranges = legal.extend(legal.roots(len(ids)), tokens)
    offsets, follow, _ = every_index.continuations_batch(ranges)
    rows = np.repeat(np.arange(len(ids)), np.diff(offsets))
    told = legal.are_legal(ids, rows, follow)
    listed = legal.next(ids, ranges, torch.zeros(len(ids), every_index.vocab_size))
    assert set(zip(rows[told].tolist(), follow[told].tolist(), strict=True)) == set(
        zip(*(one.tolist() for one in listed), strict=True)
    )
