"""Searches with decoder-only models: exact, whatever the way in which beams keep their prompt."""

import copy
import itertools

import numpy as np
import peft
import pytest
import torch
from retrieval.causal_students import FAST, SLOW, WINDOW, causal_identifiers, log_likelihood, make_causal
from retrieval.plain_search import beam_settings, model_inputs, plain_search

from dgr_trainer.identifiers import VIEWS
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import decoder
from dgr_trainer.retrieval.beam_search import search_views
from dgr_trainer.retrieval.constraint import DEAD_END, IndexConstraint
from dgr_trainer.retrieval.decoder import decoding_way
from dgr_trainer.student import causal_steps
from dgr_trainer.student.causal_steps import CopiedPromptSteps, RereadingSteps, SharedPromptSteps
from dgr_trainer.student.decoding_ways import known_way, remember_way
from dgr_trainer.student.generation_mode import generation_mode
from dgr_trainer.student.likelihoods import score_identifiers

QUERIES = ["who discovered penicillin", "sea", "town buried by the ash of a volcano near Naples"]
LENGTHS = {"title": 9, "substring": 5, "pseudo_query": 12, "docid": 6}
STEPS = {"shared": SharedPromptSteps, "copied": CopiedPromptSteps, "reread": RereadingSteps}
ignore_peft = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def families(fast=FAST):
    return [*fast, *(pytest.param(name, marks=pytest.mark.slow) for name in [*FAST, *SLOW] if name not in fast)]


@pytest.fixture(scope="module")
def identifiers():
    return causal_identifiers(views=VIEWS)


@pytest.fixture(scope="module")
def index(identifiers, corpus):
    return FMIndex.from_corpus(corpus, identifiers)


def find(model, index, identifiers, view, queries=QUERIES, beams=4):
    with generation_mode(model) as ready:
        return search_views(ready, index, identifiers, queries, {view: LENGTHS[view]}, beams)[view]


def assert_same_identifiers(found, expected, tolerance=1e-5):
    for of_query, others in zip(found, expected, strict=True):
        scores = {(one.ids, one.count): one.score for one in others}
        assert {(one.ids, one.count): one.score for one in of_query} == pytest.approx(scores, rel=tolerance, abs=1e-4)


@pytest.mark.parametrize("view", ["title", "substring", pytest.param("pseudo_query", marks=pytest.mark.slow), "docid"])
@pytest.mark.parametrize("name", families())
def test_the_search_finds_what_generate_finds_with_everything_illegal_masked(name, view, index, identifiers):
    """Prompts of different lengths, padded by `generate`; a window shorter than some of them."""
    model = make_causal(name, identifiers.vocab_size)
    with generation_mode(model) as ready:
        expected = plain_search(ready, index, identifiers, QUERIES, view, LENGTHS[view], 4)
    assert all(expected.identifiers)
    for way in STEPS:
        remember_way(model, way)
        found = find(model, index, identifiers, view)
        assert_same_identifiers(found.identifiers, expected.identifiers)
        torch.testing.assert_close(found.first_scores, expected.first_scores, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", families())
def test_a_wide_search_gives_what_scoring_every_text_gives(name):
    """All texts of three tokens over a tiny vocabulary, scored one by one; the model reads plain ids."""
    model = make_causal(name, 12)
    texts = [list(text) for text in itertools.product(range(3, 7), repeat=3)]
    prompts = [[7, 8, 9, 10, 11, 3, 7, 8, 9], [10, 9]]
    with torch.no_grad():
        steps = SharedPromptSteps(model, prompts)
        scores, rows, totals = steps.scores, [(0, []), (1, [])], torch.zeros(2)
        for _ in range(3):
            parents = np.repeat(np.arange(len(rows)), 4)
            tokens = np.tile(np.arange(3, 7), len(rows))
            totals = totals[parents] + scores[parents, tokens]
            rows = [
                (rows[parent][0], [*rows[parent][1], int(token)])
                for parent, token in zip(parents, tokens, strict=True)
            ]
            scores = steps.step(parents, tokens)
    found = {(prompt, tuple(ids)): total for (prompt, ids), total in zip(rows, totals.tolist(), strict=True)}
    exact = {(p, tuple(t)): log_likelihood(model, prompts[p], t) for p in (0, 1) for t in texts}
    assert found == pytest.approx(exact, rel=1e-5, abs=1e-4)


_FAST_WAYS = {("mistral", "shared", "sdpa"), ("mistral", "shared", "eager"), ("mistral", "copied", "sdpa")}


@pytest.mark.parametrize(
    ("name", "way", "attention"),
    [
        pytest.param(*case, marks=[] if case in _FAST_WAYS else pytest.mark.slow)
        for case in itertools.product([*FAST, *SLOW], STEPS, ["sdpa", "eager"])
    ],
)
def test_hypotheses_that_branch_move_and_end_are_read_as_by_ordinary_calls(name, way, attention, monkeypatch):
    """Random beams, far beyond the window, while the cache drops what no hypothesis sees any more."""
    monkeypatch.setattr(causal_steps, "_ABANDONED", 4)
    model = make_causal(name, 40, attention=attention)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 40, length).tolist() for length in (11, 4, 9, 4)]
    rows = [(number, []) for number in range(len(prompts))]
    with torch.no_grad():
        steps = STEPS[way](model, prompts)
        scores = steps.scores
        for step in range(2 * WINDOW):
            for (prompt, ids), actual in zip(rows, scores, strict=True):
                logits = model(input_ids=torch.tensor([prompts[prompt] + ids]), use_cache=False).logits[0, -1]
                torch.testing.assert_close(actual, logits.log_softmax(-1), rtol=1e-4, atol=1e-4)
            prompts_left = sorted({prompt for prompt, _ in rows})[: 4 - step // 4]
            own = [[number for number, (other, _) in enumerate(rows) if other == prompt] for prompt in prompts_left]
            parents = np.concatenate([rng.choice(numbers, rng.integers(1, 5)) for numbers in own])
            if step % 3 == 2:
                rng.shuffle(parents)
            tokens = rng.integers(3, 40, len(parents))
            scores = steps.step(parents, tokens)
            rows = [
                (rows[parent][0], [*rows[parent][1], int(token)])
                for parent, token in zip(parents, tokens, strict=True)
            ]
    if way == "shared":
        # 11 tokens of the prompt, and no more than twice what the hypotheses see.
        assert steps._cache.get_seq_length() < 11 + 2 * WINDOW * 4


def test_beams_share_the_keys_of_their_prompt():
    model = make_causal("llama", 40)
    prompts = [list(range(3, 33)), list(range(5, 30))]
    with torch.no_grad():
        steps = SharedPromptSteps(model, prompts)
        parents = np.repeat([0, 1], 15)
        for _ in range(3):
            steps.step(parents, np.arange(30) % 37 + 3)
            parents = np.arange(30)
    keys = steps._cache.layers[0].keys
    assert keys.shape == (2, 2, 30 + 3 * 15, 8)


@pytest.mark.parametrize("name", families(fast=["llama"]))
def test_other_queries_of_the_batch_change_nothing(name, index, identifiers):
    model = make_causal(name, identifiers.vocab_size)
    together = find(model, index, identifiers, "title").identifiers
    for query, expected in zip(QUERIES, together, strict=True):
        assert_same_identifiers(find(model, index, identifiers, "title", [query]).identifiers, [expected])


def test_views_searched_together_find_what_each_finds_alone(index, identifiers):
    model = make_causal("mistral", identifiers.vocab_size)
    with generation_mode(model) as ready:
        together = search_views(ready, index, identifiers, QUERIES, LENGTHS, 4)
    for view in VIEWS:
        alone = find(model, index, identifiers, view)
        assert_same_identifiers(together[view].identifiers, alone.identifiers)


@ignore_peft
@pytest.mark.parametrize("name", families(fast=["llama"]))
def test_an_adapter_is_used(name, index, identifiers):
    model = make_causal(name, identifiers.vocab_size)
    plain = find(model, index, identifiers, "title").identifiers
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False)
    adapted = peft.get_peft_model(copy.deepcopy(model), config).eval()
    found = find(adapted, index, identifiers, "title").identifiers
    assert found != plain
    prompt = identifiers.encode_prompts(QUERIES, "title")[0]
    assert found[0][0].score == pytest.approx(log_likelihood(adapted, prompt, found[0][0].ids), rel=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", families(fast=["llama"]))
def test_a_model_in_bfloat16(name, attention, index, identifiers):
    model = make_causal(name, identifiers.vocab_size, attention=attention).to(torch.bfloat16)
    found = find(model, index, identifiers, "substring").identifiers
    for prompt, hypotheses in zip(identifiers.encode_prompts(QUERIES, "substring"), found, strict=True):
        assert hypotheses and all(np.isfinite(one.score) for one in hypotheses)
        for one in hypotheses[:5]:
            assert one.score == pytest.approx(log_likelihood(model, prompt, one.ids), rel=0.05, abs=0.2)


@pytest.mark.parametrize("name", families(fast=["llama"]))
def test_identifiers_that_are_given_are_scored_like_those_that_are_found(name, index, identifiers):
    model = make_causal(name, identifiers.vocab_size)
    found = find(model, index, identifiers, "substring").identifiers
    prompts = identifiers.encode_prompts(QUERIES, "substring")
    scores = score_identifiers(model, prompts, [[one.ids for one in of_query] for of_query in found])
    for of_query, others in zip(found, scores, strict=True):
        assert [one.score for one in of_query] == pytest.approx(others, rel=1e-4, abs=1e-4)


def test_the_constraint_alone_takes_the_length_of_the_prompts(index, identifiers):
    model = make_causal("llama", identifiers.vocab_size)
    inputs = model_inputs(model, identifiers, QUERIES, "substring")
    width = inputs["input_ids"].shape[1]
    constraint = IndexConstraint(index, identifiers, "substring", num_beams=4, best=8, prompt_length=width)
    found = find(model, index, identifiers, "substring").identifiers
    sequences = model.generate(
        **inputs, generation_config=beam_settings(4, LENGTHS["substring"]), logits_processor=[constraint]
    )
    for of_query, ids in zip(found, sequences[:, width:].tolist(), strict=True):
        longest = [one for one in of_query if len(one.ids) == LENGTHS["substring"]]
        assert tuple(ids) == max(longest, key=lambda one: one.score).ids
    assert DEAD_END < min(one.score for of_query in found for one in of_query)
    wrong = IndexConstraint(index, identifiers, "substring", num_beams=4)
    with pytest.raises(ValueError, match="prompt_length=1 tokens .of decoder-only models those of the prompts"):
        model.generate(**inputs, generation_config=beam_settings(4, 2), logits_processor=[wrong])


# The way is found by trying


def test_most_models_share_prompts(identifiers, caplog):
    for name in FAST:
        model = make_causal(name, 120)
        assert decoding_way(model) == "shared" == known_way(model)
        model.set_attn_implementation("eager")
        assert known_way(model) is None and decoding_way(model) == "shared"
    assert not caplog.text


def test_a_model_that_takes_no_mask_copies_prompts_and_says_so(caplog):
    model = make_causal("bloom", 120, attention="eager", hidden_size=32, n_layer=2, n_head=4)
    assert decoding_way(model) == "copied"
    assert "BloomForCausalLM cannot share the keys and values of their prompt" in caplog.text
    assert "as many times their memory as there are beams" in caplog.text


@pytest.mark.slow
def test_a_model_without_keys_reads_again_and_says_so(index, identifiers, caplog):
    model = make_causal(
        "mamba", identifiers.vocab_size, attention="eager", hidden_size=32, num_hidden_layers=2, state_size=8
    )
    assert decoding_way(model) == "reread"
    assert "cache of MambaForCausalLM cannot be used for search" in caplog.text and "such as Qwen3" in caplog.text
    hypotheses = find(model, index, identifiers, "substring").identifiers[0]
    prompt = identifiers.encode_prompts(QUERIES, "substring")[0]
    for one in hypotheses[::9]:
        assert one.score == pytest.approx(log_likelihood(model, prompt, one.ids), rel=1e-4)


def test_a_model_whose_masks_are_not_followed_is_found_out(monkeypatch, caplog):
    """Beams that see each other get other scores than alone: the probe notices."""
    model = make_causal("llama", 120)
    everything = lambda base, seen, *positions: torch.ones_like(seen[:, None])  # noqa: E731
    monkeypatch.setattr(causal_steps, "masks_by_layer_type", everything)
    assert decoding_way(model) == "copied"
    assert "log-probabilities that are off by" in caplog.text


def test_a_model_that_cannot_be_run_step_by_step_is_refused(monkeypatch):
    model = make_causal("llama", 120)
    monkeypatch.setattr(decoder, "_largest_difference", lambda student, way: 2.0)
    with pytest.raises(ValueError, match="cannot generate step by step.*such as Qwen3, Llama or GPT-2"):
        decoding_way(model)
