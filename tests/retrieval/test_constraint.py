import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from dgr_trainer.identifiers import VIEWS, Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval.beams import match_prefixes
from dgr_trainer.retrieval.constraint import DEAD_END, IndexConstraint


def legal_by_looking(text, identifiers, view, ids):
    """Tokens that may follow a hypothesis, found by reading the whole text."""
    end = identifiers.end(view)
    if end and len(ids) > len(end) and tuple(ids[-len(end) :]) == end:
        return {identifiers.eos_token_id}
    if identifiers.eos_token_id in ids:
        return set()  # Grown out of a dead end.
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
    size = every_view.vocab_size + 5  # As T5, which embeds more tokens than its tokenizer has.
    rows = torch.zeros((12, 1), dtype=torch.long)
    for step in range(9):
        scores = torch.from_numpy(rng.normal(size=(12, size)).astype(np.float32)).log_softmax(-1)
        masked = constraint(rows, scores.clone())
        assert not masked.isnan().any()
        following = []
        for row, (ids, given, got) in enumerate(zip(rows[:, 1:].tolist(), scores, masked, strict=True)):
            live = torch.nonzero(got > DEAD_END).flatten().tolist()
            followed = step > 0 or row % 3 == 0  # At first only the first beam of a query counts.
            legal = legal_by_looking(text, every_view, view, ids) if followed else set()
            assert set(live) == legal
            assert torch.equal(got[live], given[live])
            if not legal:
                assert torch.nonzero(got > -torch.inf).flatten().tolist() == [every_view.eos_token_id]
                assert got[every_view.eos_token_id] == DEAD_END
            following.append(sorted(legal) or [every_view.eos_token_id])
        beams = []
        for row in range(12):  # Each beam grows from a random beam of its query.
            parent = row // 3 * 3 + int(rng.integers(3)) * (step > 0)
            beams.append([*rows[parent].tolist(), int(rng.choice(following[parent]))])
        rows = torch.tensor(beams)


@pytest.mark.parametrize("view", VIEWS)
def test_ordinary_generation_gives_identifiers_of_the_corpus(student, every_index, every_view, text, count, view):
    """The constraint by itself, with an end-of-sequence token and no recorder."""
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
    assert not constraint.is_complete(np.array([end])).any()
    assert constraint.is_complete(np.array([[300, *end]])).all()


def test_a_view_that_the_corpus_lacks_is_a_dead_end_and_no_nan(bpe_tokenizer):
    identifiers = Identifiers(bpe_tokenizer)
    index = FMIndex.build([[300, 301]], passage_ids=["a"], vocab_size=identifiers.vocab_size,
                          separator=identifiers.eos_token_id, progress=False)  # fmt: skip
    constraint = IndexConstraint(index, identifiers, "pseudo_query", num_beams=2)
    masked = constraint(torch.zeros((2, 1), dtype=torch.long), torch.zeros((2, identifiers.vocab_size)))
    assert (masked.max(dim=-1).values == DEAD_END).all()
    assert masked.softmax(dim=-1).isfinite().all()


def test_hypotheses_that_fell_from_the_sky_are_refused(every_index, every_view):
    constraint = IndexConstraint(every_index, every_view, "substring")
    with pytest.raises(ValueError, match="without having seen them grow"):
        constraint(torch.zeros((2, 3), dtype=torch.long), torch.zeros((2, every_view.vocab_size)))


def test_a_constraint_starts_anew_with_each_search(every_index, every_view):
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
