import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

from dgr_trainer.identifiers import VIEWS, Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import legal_tokens
from dgr_trainer.retrieval.beam_kernels import best_children, best_tokens, match_prefixes
from dgr_trainer.retrieval.constraint import DEAD_END, IndexConstraint


def legal_by_looking(text, identifiers, view, ids):
    """Tokens that may follow a hypothesis, found by reading the whole text."""
    end = identifiers.end(view)
    if end and len(ids) > len(end) and tuple(ids[-len(end) :]) == end:
        return {identifiers.eos_token_id}
    if identifiers.eos_token_id in ids:
        return set()  # Extends a dead end.
    pattern = [*identifiers.prefix(view), *ids]
    following = {
        text[place + len(pattern)]
        for place in range(len(text) - len(pattern))
        if text[place : place + len(pattern)] == pattern
    }
    following -= identifiers.forbidden_token_ids
    if identifiers.eos_token_id not in end:
        following.discard(identifiers.eos_token_id)
    if tuple(ids) == end[:-1]:
        following -= set(end[-1:])
    return following


@pytest.mark.parametrize("view", VIEWS)
def test_exactly_what_follows_in_the_corpus_is_legal(every_index, every_view, text, view):
    """Random walks, four queries of three beams; every row of every step is checked against the text."""
    rng = np.random.default_rng(0)
    constraint = IndexConstraint(every_index, every_view, view, num_beams=3)
    size = every_view.vocab_size + 5  # Like T5, which embeds more tokens than its tokenizer has.
    rows = torch.zeros((12, 1), dtype=torch.long)
    for step in range(9):
        scores = torch.from_numpy(rng.normal(size=(12, size)).astype(np.float32)).log_softmax(-1)
        masked = constraint(rows, scores.clone())
        assert not masked.isnan().any()
        following = []
        for row, (ids, before, got) in enumerate(zip(rows[:, 1:].tolist(), scores, masked, strict=True)):
            live = torch.nonzero(got > DEAD_END).flatten().tolist()
            followed = step > 0 or row % 3 == 0  # In the first step only the first beam of a query is used.
            legal = legal_by_looking(text, every_view, view, ids) if followed else set()
            assert set(live) == legal
            assert torch.equal(got[live], before[live])
            if not legal:
                assert torch.nonzero(got > -torch.inf).flatten().tolist() == [every_view.eos_token_id]
                assert got[every_view.eos_token_id] == DEAD_END
            following.append(sorted(legal) or [every_view.eos_token_id])
        beams = []
        for row in range(12):  # Each beam extends a random beam of its query.
            parent = row // 3 * 3 + int(rng.integers(3)) * (step > 0)
            beams.append([*rows[parent].tolist(), int(rng.choice(following[parent]))])
        rows = torch.tensor(beams)


@pytest.mark.parametrize("view", VIEWS)
def test_ordinary_generation_gives_identifiers_of_the_corpus(student, every_index, every_view, text, count, view):
    """The constraint alone, with an end-of-sequence token and no recorder."""
    model, _ = student
    prompt = torch.tensor(every_view.encode_prompts(["who discovered penicillin"], view))
    settings = GenerationConfig(
        num_beams=4, num_return_sequences=4, max_new_tokens=40 if view != "substring" else 6, do_sample=False,
        eos_token_id=every_view.eos_token_id, pad_token_id=model.config.pad_token_id,
        decoder_start_token_id=model.config.decoder_start_token_id,
    )  # fmt: skip
    constraint = IndexConstraint(every_index, every_view, view, num_beams=4)
    forced, model.generation_config.forced_eos_token_id = model.generation_config.forced_eos_token_id, None
    try:
        sequences = model.generate(prompt, generation_config=settings, logits_processor=[constraint])
    finally:
        model.generation_config.forced_eos_token_id = forced
    end = every_view.end(view)
    for ids in sequences[:, 1:].tolist():
        if end:
            closing = next(n for n in range(len(end) + 1, len(ids) + 1) if tuple(ids[n - len(end) : n]) == end)
            assert set(ids[closing:]) <= {every_view.eos_token_id, model.config.pad_token_id}
            ids = ids[:closing]
        assert count(text, every_view.pattern(view, ids)) > 0


def test_an_empty_identifier_is_never_complete(bpe_tokenizer):
    identifiers = Identifiers(bpe_tokenizer)
    end = identifiers.end("title")
    index = FMIndex.build([list(end), [300, *end]], passage_ids=["a", "b"], vocab_size=identifiers.vocab_size,
                          separator=identifiers.eos_token_id, progress=False)  # fmt: skip
    constraint = IndexConstraint(index, identifiers, "title")
    masked = constraint(torch.zeros((1, 1), dtype=torch.long), torch.zeros((1, identifiers.vocab_size)))
    assert torch.nonzero(masked[0] > -torch.inf).flatten().tolist() == [300]
    assert not constraint.legal.is_complete(np.array([end])).any()
    assert constraint.legal.is_complete(np.array([[300, *end]])).all()


def test_a_view_that_the_corpus_lacks_is_a_dead_end_and_no_nan(bpe_tokenizer):
    identifiers = Identifiers(bpe_tokenizer)
    index = FMIndex.build([[300, 301]], passage_ids=["a"], vocab_size=identifiers.vocab_size,
                          separator=identifiers.eos_token_id, progress=False)  # fmt: skip
    constraint = IndexConstraint(index, identifiers, "pseudo_query", num_beams=2)
    masked = constraint(torch.zeros((2, 1), dtype=torch.long), torch.zeros((2, identifiers.vocab_size)))
    assert (masked.max(dim=-1).values == DEAD_END).all()
    assert masked.softmax(dim=-1).isfinite().all()


def test_hypotheses_without_their_previous_step_are_refused(every_index, every_view):
    constraint = IndexConstraint(every_index, every_view, "substring")
    with pytest.raises(ValueError, match="has not seen the step before"):
        constraint(torch.zeros((2, 3), dtype=torch.long), torch.zeros((2, every_view.vocab_size)))


def test_each_search_resets_the_constraint(every_index, every_view):
    constraint = IndexConstraint(every_index, every_view, "substring")
    start, scores = torch.zeros((2, 1), dtype=torch.long), torch.zeros((2, every_view.vocab_size))
    first = constraint(start, scores.clone())
    token = int(first[0].argmax())
    constraint(torch.tensor([[0, token], [0, token]]), scores.clone())
    assert torch.equal(constraint(start, scores.clone()), first)


def test_prefixes_match_within_their_query_and_only_usable_ones():
    ids = np.array([[7, 1], [8, 2], [7, 3], [9, 4]])
    before = np.array([[7], [7], [8], [7]])
    rows, found = match_prefixes(ids, before, 2, np.array([False, True, True, True]))
    assert found.tolist() == [True, False, True, False]
    assert rows[found].tolist() == [1, 3]


# Looking up the model's best tokens instead of listing all


def test_ranges_are_tried_and_listed_as_they_are_wide(long_index, every_view, monkeypatch):
    """Both ways are taken, and each gives the best legal tokens of the row."""
    monkeypatch.setattr(legal_tokens, "LISTED", 30)
    listed = []
    continuations_batch = long_index.continuations_batch
    monkeypatch.setattr(
        long_index, "continuations_batch", lambda ranges: listed.append(len(ranges)) or continuations_batch(ranges)
    )
    plain = IndexConstraint(long_index, every_view, "substring", num_beams=4)
    pruned = IndexConstraint(long_index, every_view, "substring", num_beams=4, best=8)
    scores = torch.randn(4, every_view.vocab_size).log_softmax(-1)
    start = torch.zeros((4, 1), dtype=torch.long)
    first = plain(start, scores.clone())
    assert torch.equal(pruned(start, scores.clone()), first)
    frequent = np.argsort(-long_index.token_counts)
    frequent = [t for t in frequent.tolist() if first[0, t] > -torch.inf]
    rows = torch.tensor([[0, frequent[0]], [0, frequent[1]], [0, frequent[-1]], [0, frequent[-2]]])
    expected = plain(rows, scores.clone())
    listed.clear()
    got = pruned(rows, scores.clone())
    assert sum(listed) < 4
    assert listed[0] >= 2
    for one, other in zip(got, expected, strict=True):
        legal = torch.nonzero(other > DEAD_END).flatten()
        best = legal[other[legal].argsort(descending=True)][:8]
        assert torch.equal(one[best], other[best])
        assert set(torch.nonzero(one > DEAD_END).flatten().tolist()) <= set(legal.tolist())


def test_scores_elsewhere_than_in_float32_on_the_cpu_are_ranked_by_the_device(long_index, every_view, monkeypatch):
    """The code path of accelerators, run here with another dtype."""
    monkeypatch.setattr(legal_tokens, "LISTED", 0)
    processors = [IndexConstraint(long_index, every_view, "substring", num_beams=2, best=4) for _ in range(2)]
    size = every_view.vocab_size + 5
    scores = torch.randn(4, size).log_softmax(-1).double()
    rows = torch.zeros((4, 1), dtype=torch.long)
    for _ in range(3):
        one, other = (p(rows, scores.to(d)) for p, d in zip(processors, (torch.float32, torch.float64), strict=True))
        assert torch.equal(one.double() > -torch.inf, other > -torch.inf)
        rows = torch.cat([rows, one[[0, 0, 2, 2]].topk(2, dim=-1).indices[[0, 1, 2, 3], [0, 1, 0, 1], None]], dim=1)


@settings(max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 700), st.integers(1, 40))
def test_best_tokens_are_the_best_by_sorting(seed, size, number):
    rng = np.random.default_rng(seed)
    allowed = rng.random(size) < 0.8
    number = min(number, int(allowed.sum()))
    scores = rng.integers(-20, 0, size=(4, size + 3)).astype(np.float32)
    scores[2] = -np.inf
    got = best_tokens(scores, np.array([3, 2, 0]), allowed, number)
    for row, tokens in zip([3, 2, 0], got, strict=True):
        ranked = np.lexsort((np.arange(size), -scores[row, :size]))
        assert tokens.tolist() == ranked[allowed[ranked]][:number].tolist()


@settings(max_examples=60)
@given(st.integers(0, 2**31), st.integers(0, 200), st.integers(1, 5), st.integers(1, 12))
def test_best_children_are_the_best_by_sorting(seed, size, groups, number):
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, size=size)
    values = rng.integers(-9, 0, size=size).astype(np.float32)
    values[rng.random(size) < 0.1] = -np.inf
    codes = rng.permutation(size)
    expected = []
    for one in range(groups):
        own = np.flatnonzero(group == one)
        expected += own[np.lexsort((codes[own], -values[own]))][:number].tolist()
    assert best_children(group, values, codes, groups, number).tolist() == expected
