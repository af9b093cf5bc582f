import copy

import numpy as np
import peft
import pytest
import torch
from retrieval.plain_search import plain_search
from tiny_models import make_bart
from transformers import GPT2Config, GPT2Model

from dgr_trainer.identifiers import VIEWS, Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import legal_tokens
from dgr_trainer.retrieval.beam_search import search_views
from dgr_trainer.retrieval.decoder import decoding_way
from dgr_trainer.student.generation_mode import generation_mode

QUERIES = ["who discovered penicillin", "sea", "town buried by the ash of a volcano near Naples"]
ignore_peft = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
LENGTHS = {"title": 20, "substring": 6, "pseudo_query": 40, "docid": 12}


def find(model, index, identifiers, view, queries=QUERIES, beams=5, length=None):
    with generation_mode(model) as ready:
        return search_views(ready, index, identifiers, queries, {view: length or LENGTHS[view]}, beams)[view]


def assert_same_identifiers(found, expected):
    """The same for each query except for rounding, which may swap identifiers with nearly equal scores."""
    for of_query, others in zip(found, expected, strict=True):
        scores = {(one.ids, one.count): one.score for one in others}
        assert len(of_query) == len(others)
        assert {(one.ids, one.count): one.score for one in of_query} == pytest.approx(scores, rel=1e-5, abs=1e-5)


def teacher_forced(model, prompt, ids):
    """log p of a sequence by one plain forward pass."""
    read = torch.tensor([[model.config.decoder_start_token_id, *ids[:-1]]])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=read, use_cache=False).logits[0]
    return logits.log_softmax(-1)[range(len(ids)), list(ids)].sum().item()


@pytest.mark.parametrize("beams", [1, 5, 30])
@pytest.mark.parametrize("view", VIEWS)
def test_all_identifiers_occur_in_the_corpus_and_are_scored_exactly(
    student, every_index, every_view, text, count, view, beams
):
    model, _ = student
    found = find(model, every_index, every_view, view, beams=beams)
    prompts = every_view.encode_prompts(QUERIES, view)
    for prompt, hypotheses in zip(prompts, found.identifiers, strict=True):
        assert hypotheses
        assert len({hypothesis.ids for hypothesis in hypotheses}) == len(hypotheses)
        end = every_view.end(view)
        for hypothesis in hypotheses[:4] + hypotheses[-4:]:
            assert hypothesis.count == count(text, every_view.pattern(view, hypothesis.ids)) > 0
            assert len(hypothesis.ids) > len(end) and hypothesis.ids[len(hypothesis.ids) - len(end) :] == end
            exact = teacher_forced(model, prompt, hypothesis.ids)
            assert hypothesis.score == pytest.approx(exact, rel=1e-5, abs=1e-5)


def test_every_child_that_the_search_visits_is_kept(student, every_index, every_view):
    found = find(student[0], every_index, every_view, "substring", beams=7).identifiers
    never = every_view.forbidden_token_ids | {every_view.eos_token_id}
    for hypotheses in found:
        by_length = [[h for h in hypotheses if len(h.ids) == length] for length in range(1, 7)]
        assert len(by_length[0]) == 14
        for shorter, longer in zip(by_length, by_length[1:], strict=False):
            kept = {h.ids for h in sorted(shorter, key=lambda h: -h.score)[:7]}
            children = set()
            for ids in kept:
                following, _ = every_index.continuations(every_index.find(ids))
                children |= {(*ids, token) for token in following.tolist() if token not in never}
            assert {h.ids for h in longer} <= children
            assert len(longer) == min(14, len(children))


@pytest.mark.parametrize("view", ["title", "docid", "pseudo_query"])
def test_a_beam_as_wide_as_the_corpus_finds_what_enumerating_finds(student, every_index, every_view, passages, view):
    model, _ = student
    targets = set()
    for segments in every_view.encode_segments(passages):
        own = segments.pseudo_queries if view == "pseudo_query" else [getattr(segments, view)]
        targets |= {every_view.target(view, segment) for segment in own}
    # What holds an unknown character can be indexed but never be generated.
    targets = {ids for ids in targets if not every_view.forbidden_token_ids.intersection(ids)}
    query = QUERIES[0]
    prompt = every_view.encode_prompts([query], view)[0]
    exact = {ids: teacher_forced(model, prompt, ids) for ids in targets}
    found = find(model, every_index, every_view, view, [query], beams=len(targets), length=64).identifiers[0]
    assert {h.ids: h.score for h in found} == pytest.approx(exact, rel=1e-5)
    ranked = [h.ids for h in sorted(found, key=lambda h: -h.score)]
    assert ranked == sorted(targets, key=lambda ids: -exact[ids])


@pytest.mark.parametrize("view", VIEWS)
def test_other_queries_of_the_batch_change_nothing(student, every_index, every_view, view):
    together = find(student[0], every_index, every_view, view, beams=4).identifiers
    for query, expected in zip(QUERIES, together, strict=True):
        alone = find(student[0], every_index, every_view, view, [query], beams=4).identifiers[0]
        assert [h.ids for h in alone] == [h.ids for h in expected]
        assert [h.score for h in alone] == pytest.approx([h.score for h in expected], rel=1e-5)


def test_a_checkpoints_generation_settings_do_not_leak_in(bart, corpus):
    model, tokenizer = bart
    identifiers = Identifiers(tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers)
    expected = find(model, index, identifiers, "title").identifiers
    settings = model.generation_config
    for name, value in {
        "forced_eos_token_id": tokenizer.eos_token_id, "forced_bos_token_id": 300, "no_repeat_ngram_size": 1,
        "min_length": 9, "num_beams": 2, "length_penalty": 2.0, "early_stopping": True, "repetition_penalty": 3.0,
        "suppress_tokens": [300, 301], "do_sample": True, "temperature": 0.3, "num_return_sequences": 2,
        "max_length": 3, "use_cache": False, "encoder_repetition_penalty": 2.0, "bad_words_ids": [[305]],
    }.items():  # fmt: skip
        setattr(settings, name, value)
    before = copy.deepcopy(settings.to_dict())
    assert find(model, index, identifiers, "title").identifiers == expected
    assert model.generation_config is settings and settings.to_dict() == before


def test_dropout_is_off_and_every_module_keeps_its_mode(bart, corpus):
    model, tokenizer = bart
    identifiers = Identifiers(tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers)
    expected = find(model, index, identifiers, "substring").identifiers
    model.train()
    model.get_encoder().eval()
    model.config.use_cache = False
    modes = [module.training for module in model.modules()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert find(model, index, identifiers, "substring").identifiers == expected
    assert [module.training for module in model.modules()] == modes
    assert model.config.use_cache is False


def test_autocast_around_the_forward_pass_is_left_out(bart, corpus):
    """A model as Accelerate prepares it for mixed precision."""
    model, tokenizer = bart
    identifiers = Identifiers(tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers)
    expected = find(model, index, identifiers, "title").identifiers
    model._original_forward = model.forward
    model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)
    assert find(model, index, identifiers, "title").identifiers == expected
    assert model.forward is not model._original_forward


@ignore_peft
def test_an_adapter_is_used(bart, corpus):
    model, tokenizer = bart
    identifiers = Identifiers(tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers)
    plain = find(model, index, identifiers, "title").identifiers
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    found = find(adapted, index, identifiers, "title").identifiers
    assert found != plain
    prompt = identifiers.encode_prompts(QUERIES, "title")[0]
    adapted.eval()
    exact = teacher_forced(adapted, prompt, found[0][0].ids)
    assert found[0][0].score == pytest.approx(exact, rel=1e-5)


def test_fewer_identifiers_than_beams(bart, passages):
    model, tokenizer = bart
    identifiers = Identifiers(tokenizer, IdentifierSettings(views=("docid",)))
    sequences = identifiers.encode_passages(passages[:2])
    index = FMIndex.build(sequences, passage_ids=["p01", "p02"], vocab_size=identifiers.vocab_size,
                          separator=identifiers.eos_token_id, progress=False)  # fmt: skip
    for hypotheses in find(model, index, identifiers, "docid", beams=20).identifiers:
        assert sorted(identifiers.text("docid", h.ids) for h in hypotheses) == ["p01", "p02"]
        assert all(-1e3 < h.score < 0 for h in hypotheses)


def test_the_first_scores_are_those_of_every_token(student, every_index, every_view):
    model, _ = student
    found = find(model, every_index, every_view, "substring", beams=3)
    prompt = every_view.encode_prompts(QUERIES, "substring")[1]
    legal = torch.nonzero(found.first_scores[1] > -torch.inf).flatten().tolist()
    assert len(legal) > 100 and not every_view.forbidden_token_ids.intersection(legal)
    for token in legal[::40]:
        exact = teacher_forced(model, prompt, [token])
        assert found.first_scores[1, token].item() == pytest.approx(exact, rel=1e-5, abs=1e-5)


def test_models_that_cannot_generate_from_a_query_are_refused():
    model = GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=10))
    with pytest.raises(ValueError, match="GPT2Model is not an encoder-decoder model"):
        with generation_mode(model):
            pass


@ignore_peft
def test_adapters_that_work_by_prompts_are_refused(bpe_tokenizer):
    config = peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=2)
    model = peft.get_peft_model(make_bart(bpe_tokenizer), config)
    with pytest.raises(ValueError, match="PROMPT_TUNING, which puts virtual tokens before the query"):
        with generation_mode(model):
            pass


@pytest.mark.parametrize("view", ["title", "substring"])
def test_a_model_in_bfloat16(student, every_index, every_view, view):
    """Log-probabilities are summed in float32, so they are those of the model's own logits."""
    model = copy.deepcopy(student[0]).to(torch.bfloat16)
    found = find(model, every_index, every_view, view).identifiers
    for prompt, hypotheses in zip(every_view.encode_prompts(QUERIES, view), found, strict=True):
        assert hypotheses
        for hypothesis in hypotheses[:5]:
            read = torch.tensor([[model.config.decoder_start_token_id, *hypothesis.ids[:-1]]])
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=read, use_cache=False).logits[0]
            exact = logits.float().log_softmax(-1)[range(len(hypothesis.ids)), list(hypothesis.ids)].sum().item()
            # bfloat16 has 8 bits; caching and padding change the rounding.
            assert hypothesis.score == pytest.approx(exact, rel=0.03)


# Against the plain search


@pytest.mark.parametrize("beams", [2, 5])
@pytest.mark.parametrize("view", VIEWS)
def test_the_search_finds_what_generate_finds_with_everything_illegal_masked(
    student, long_index, every_view, view, beams, monkeypatch
):
    """Equal identifiers, scores and counts, whether tokens are looked up or listed."""
    length = {"title": 9, "substring": 5, "pseudo_query": 14, "docid": 6}[view]
    with generation_mode(student[0]) as ready:
        expected = plain_search(ready, long_index, every_view, QUERIES, view, length, beams)
    assert all(expected.identifiers)
    for listed, tried in ((0, 1), (0, 4), (20, 2), (10**9, 4)):
        monkeypatch.setattr(legal_tokens, "LISTED", listed)
        monkeypatch.setattr(legal_tokens, "_TRIED", tried)
        found = find(student[0], long_index, every_view, view, beams=beams, length=length)
        assert_same_identifiers(found.identifiers, expected.identifiers)
        torch.testing.assert_close(found.first_scores, expected.first_scores, rtol=1e-5, atol=1e-5)


def test_views_searched_together_find_what_each_finds_alone(student, every_index, every_view):
    """Views end after different numbers of steps, and one of them may have no identifiers."""
    lengths = {"substring": 1, "title": 20, "docid": 3, "pseudo_query": 40}
    with generation_mode(student[0]) as ready:
        together = search_views(ready, every_index, every_view, QUERIES, lengths, 4)
    assert list(together) == list(lengths)
    for view, length in lengths.items():
        alone = find(student[0], every_index, every_view, view, beams=4, length=length)
        assert_same_identifiers(together[view].identifiers, alone.identifiers)
        torch.testing.assert_close(together[view].first_scores, alone.first_scores, rtol=1e-5, atol=1e-5)


def test_a_view_that_the_corpus_lacks_finds_nothing(bart):
    model, tokenizer = bart
    identifiers = Identifiers(tokenizer)
    index = FMIndex.build([[300, 301]], passage_ids=["a"], vocab_size=identifiers.vocab_size,
                          separator=identifiers.eos_token_id, progress=False)  # fmt: skip
    with generation_mode(model) as ready:
        found = search_views(ready, index, identifiers, QUERIES, {"pseudo_query": 5, "substring": 5}, 3)
    assert found["pseudo_query"].identifiers == [[], [], []]
    assert (found["pseudo_query"].first_scores == -torch.inf).all()
    assert [sorted(one.ids for one in of_query) for of_query in found["substring"].identifiers] == [
        [(300,), (300, 301), (301,)]
    ] * 3


def test_tokens_that_the_model_itself_rules_out_are_not_found(bart, corpus):
    model, tokenizer = bart
    identifiers = Identifiers(tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers)
    before = find(model, index, identifiers, "substring", beams=40).identifiers
    ruled_out = {before[0][0].ids[0], before[0][-1].ids[-1]}
    model.final_logits_bias[0, list(ruled_out)] = -torch.inf
    for hypotheses in find(model, index, identifiers, "substring", beams=40).identifiers:
        assert hypotheses and not any(ruled_out.intersection(one.ids) for one in hypotheses)
        assert all(one.score > -1e4 for one in hypotheses)


def test_a_model_without_a_cache_reads_all_tokens_at_each_step(bart, corpus, caplog):
    model, tokenizer = bart
    identifiers = Identifiers(tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers)
    expected = find(model, index, identifiers, "title").identifiers
    forward = model.forward

    def forgetful(**inputs):
        outputs = forward(**inputs)
        if inputs.get("use_cache"):
            outputs["cache" if "cache" in outputs else "past_key_values"] = None
        return outputs

    model.forward = forgetful
    assert decoding_way(model) == "reread"
    assert "does not return an EncoderDecoderCache" in caplog.text and "slower" in caplog.text
    for hypotheses, wanted in zip(find(model, index, identifiers, "title").identifiers, expected, strict=True):
        assert [one.ids for one in hypotheses] == [one.ids for one in wanted]
        assert [one.score for one in hypotheses] == pytest.approx([one.score for one in wanted], rel=1e-5)


@pytest.mark.parametrize("cached", [True, False])
def test_a_model_that_forgets_is_found_out(cached, bart):
    """Step by step, a decoder has to give what it gives at once."""
    model, _ = bart
    forward = model.forward

    def forgetful(**inputs):
        if inputs.get("encoder_outputs") is not None and (cached or not inputs["use_cache"]):
            inputs["attention_mask"] = inputs["attention_mask"].clone()
            inputs["attention_mask"][:, 1:] = 0
        return forward(**inputs)

    model.forward = forgetful
    if cached:
        with pytest.raises(ValueError, match="cannot generate step by step.*off by .*off by .*such as BART or T5"):
            decoding_way(model)
    else:
        assert decoding_way(model) == "cached"


# Closed sets


@pytest.mark.parametrize("view", ["title", "docid"])
@pytest.mark.parametrize("seed", [0, 1])
def test_only_complete_members_of_a_closed_set_are_found_and_prefixes_are_members_too(student, every_view, view, seed):
    """Semantic ids: a tree of short codes in which inner nodes and leaves are members."""
    model, _ = student
    rng = np.random.default_rng(seed)
    never = every_view.forbidden_token_ids | {every_view.eos_token_id}
    codes = [token for token in range(every_view.vocab_size - 40, every_view.vocab_size) if token not in never][:4]
    nodes = [(a, b, c)[:depth] for a in codes for b in codes for c in codes for depth in (1, 2, 3)]
    members = sorted(set(nodes))
    members = [members[place] for place in rng.choice(len(members), size=40, replace=False)]
    assert sum(one[:depth] in members for one in members for depth in (1, 2) if depth < len(one)) > 10
    around = [every_view.prefix("docid"), ()] if view == "docid" else [(), every_view.end("title")]
    # The text after a title, or before a docid, contains the same codes, which are not members.
    text = rng.choice(codes, size=(len(members), 5)).tolist()
    passages = [[*(of_text if view == "docid" else []), *around[0], *one, *around[1],
                 *(of_text if view == "title" else [])]
                for of_text, one in zip(text, members, strict=True)]  # fmt: skip
    index = FMIndex.build(
        passages, passage_ids=[f"p{number}" for number in range(len(members))], vocab_size=every_view.vocab_size,
        separator=every_view.eos_token_id, progress=False,
    )  # fmt: skip
    targets = {every_view.target(view, one) for one in members}
    everything = find(model, index, every_view, view, QUERIES[:2], beams=len(members), length=12).identifiers
    narrow = find(model, index, every_view, view, QUERIES[:2], beams=3, length=12).identifiers
    for prompt, of_query, few in zip(every_view.encode_prompts(QUERIES[:2], view), everything, narrow, strict=True):
        assert {one.ids for one in of_query} == targets and len(of_query) == len(targets)
        exact = {ids: teacher_forced(model, prompt, ids) for ids in targets}
        assert {one.ids: one.score for one in of_query} == pytest.approx(exact, rel=1e-5)
        assert all(one.count == 1 for one in of_query)
        assert few and {one.ids for one in few} <= targets
    # Cut short, it finds the members that fit and no pieces of others.
    short = 1 + len(every_view.end(view))
    cut = find(model, index, every_view, view, QUERIES[:1], beams=len(members), length=short).identifiers[0]
    assert {one.ids for one in cut} == {ids for ids in targets if len(ids) <= short}
