"""Decoder-only students: packed scores and gradients are those of one sequence per identifier."""

import numpy as np
import pytest
import torch
import transformers
from architectures import (
    CAUSAL,
    CAUSAL_ROWS,
    VOCAB,
    as_batch,
    checkpoint_activations,
    make,
    ordinary_scores,
    random_identifiers,
    score_tokens,
    without_dropout,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PromptTuningConfig, get_peft_model, prepare_model_for_kbit_training

from dgr_trainer.student import causal
from dgr_trainer.student.causal_rows import causal_rows
from dgr_trainer.student.likelihoods import score_identifiers
from dgr_trainer.student.packing import pack_identifiers
from dgr_trainer.student.probing import scoring_way, set_scoring_way
from dgr_trainer.student.scored_tokens import sum_by_identifier, tree_mask
from dgr_trainer.student.students import load_student_model, student_of

FAST = ["gpt2", "qwen3-sliding", "gemma2", "opt"]  # Learned positions, windows, masks by layer, bounded logits.
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in CAUSAL if name not in FAST]


def layers_of(model):
    decoder = student_of(model).base.get_decoder()
    return getattr(decoder, "layers", None) or decoder.h


def scores_in(model, way, pieces, batch, number):
    input_ids, mask, rows = batch
    tokens = score_tokens(model, input_ids, mask, rows, way=way, tokens_at_once=pieces)
    return sum_by_identifier(tokens.log_probabilities, rows["segments"], number)


@pytest.mark.parametrize("attention", ["sdpa", pytest.param("eager", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_packed_scores_are_those_of_one_sequence_per_identifier(name, attention):
    model = make(name, attention)
    identifiers, of_prompt, texts = random_identifiers()
    batch = as_batch(identifiers, of_prompt, texts)
    assert scoring_way(model) == "packed"
    expected = ordinary_scores(model, identifiers, of_prompt, texts)
    calls = []
    layers_of(model)[0].register_forward_hook(lambda *_: calls.append(1))
    for way in ("packed", "rows", "plain"):
        for pieces in (None, 40):
            calls.clear()
            actual = scores_in(model, way, pieces, batch, expected.shape[1])
            torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
            assert (len(calls) > 1) == (way != "plain" and pieces is not None)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_side_of_the_padding_does_not_matter(name):
    model = make(name)
    identifiers, of_prompt, texts = random_identifiers()
    input_ids, mask, rows = as_batch(identifiers, of_prompt, texts)
    shifts = (mask == 0).sum(-1).tolist()
    left = [torch.stack([row.roll(n) for row, n in zip(part, shifts, strict=True)]) for part in (input_ids, mask)]
    assert left[1][:, -1].all() and not left[1][:, 0].all()
    for way in ("packed", "rows"):
        right_scores = scores_in(model, way, None, (input_ids, mask, rows), 9)
        torch.testing.assert_close(scores_in(model, way, None, (*left, rows), 9), right_scores)


@settings(max_examples=40, deadline=None)
@given(
    lists=st.lists(st.lists(st.lists(st.integers(3, 5), min_size=1, max_size=4), max_size=5), min_size=1, max_size=4),
    lengths=st.lists(st.integers(1, 5), min_size=4, max_size=4),
    limit=st.sampled_from([None, 1, 7, 30]),
    max_row_tokens=st.sampled_from([3, 256]),
)
def test_every_cell_sees_its_prompt_and_its_prefix(lists, lengths, limit, max_row_tokens):
    """What a cell sees, read from the left, is the prompt and the prefix that it stands for."""
    packed = pack_identifiers(lists, [[0] * len(ids) for ids in lists], 1, max_row_tokens)
    rows = {name: torch.from_numpy(array) for name, array in packed._asdict().items()}
    prompts = [[100 * (query + 1) + place for place in range(lengths[query])] for query in range(len(lists))]
    width = max(lengths)
    input_ids = torch.tensor([prompt + [0] * (width - len(prompt)) for prompt in prompts])
    mask = torch.tensor([[1] * len(prompt) + [0] * (width - len(prompt)) for prompt in prompts])
    made = causal_rows(input_ids, mask, rows, hidden_size=32, tokens_at_once=limit)
    allowed = tree_mask(made.ends)
    positions = made.positions.flatten()
    cells = made.cells[rows["scored_prefixes"].flatten()][rows["label_prefixes"]]
    for query, ids_of_query in enumerate(lists):
        for number, ids in enumerate(ids_of_query):
            of_identifier = rows["segments"][query] == number
            assert rows["labels"][query][of_identifier].tolist() == ids
            for depth, cell in enumerate(cells[query][of_identifier].tolist()):
                row, column = divmod(cell, made.tokens.shape[1])
                path = made.tokens[row][allowed[row, column]].tolist()
                assert path == prompts[query] + ids[:depth]
                seen = allowed[row, column].nonzero().flatten() + row * made.tokens.shape[1]
                assert positions[seen].tolist() == list(range(len(path)))
    if limit is None and max_row_tokens == 256:
        used = {query for query, ids_of_query in enumerate(lists) if ids_of_query} or {0}
        starts = ((made.tokens >= 100) & (made.tokens % 100 == 0)).sum()
        assert starts in (len(used), len(used | {0})), "each prompt is read once"


def test_short_prompts_share_rows():
    identifiers = [[[5, 6, 7]], [[8, 9]], [[5] * 40], [[6, 7]]]
    packed = pack_identifiers(identifiers, [[0]] * 4, 1, 256)
    rows = {name: torch.from_numpy(array) for name, array in packed._asdict().items()}
    for limit, shape in ((None, (1, 55)), (42, (2, 42)), (10, (2, 42))):
        inputs = torch.full((4, 3), 4), torch.ones(4, 3, dtype=torch.long)
        made = causal_rows(*inputs, rows, hidden_size=64, tokens_at_once=limit)
        assert made.tokens.shape == shape and (made.tokens > 0).sum() == 4 * 3 + 2 + 1 + 39 + 1


@pytest.mark.parametrize("name", CAUSAL_ROWS)
def test_models_without_masks_of_single_tokens(name, caplog):
    model = make(name)
    identifiers, of_prompt, texts = random_identifiers()
    assert scoring_way(model) == "rows"
    expected = ordinary_scores(model, identifiers, of_prompt, texts)
    actual = scores_in(model, "rows", None, as_batch(identifiers, of_prompt, texts), expected.shape[1])
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    assert "so each identifier gets a separate row" in caplog.text and "such as Qwen3, Llama or GPT-2" in caplog.text


def test_attention_without_such_masks_is_said_once(caplog):
    model = make("llama")
    model.config._attn_implementation_internal = "flash_attention_2"
    assert "attn_implementation='flash_attention_2', which does not support" in student_of(model).packing_obstacle()
    model.config._attn_implementation_internal = "sdpa"
    model.config.layer_types = ["full_attention", "linear_attention"]
    assert "layers of the type linear_attention" in student_of(model).packing_obstacle()


def with_adapter(model):
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, lora_dropout=0.0)
    return get_peft_model(model, config)


def loss_and_gradients(model, tokens_at_once, way):
    scores = scores_in(model, way, tokens_at_once, as_batch(*random_identifiers()), 9)
    loss = scores.square().mean().sqrt()
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return loss.detach(), gradients


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_losses_and_gradients_with_and_without_checkpointing(name, adapter):
    model = without_dropout(make(name))
    for module in model.modules():  # GPT-2 and GPT-NeoX hold dropout in the configuration or in modules.
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model = with_adapter(model) if adapter else model
    expected_loss, expected = loss_and_gradients(model, None, "plain")
    assert expected
    for use_reentrant in (None, False, True):
        if use_reentrant is not None:
            checkpoint_activations(model, use_reentrant=use_reentrant)
        for pieces in (None, 40):
            loss, gradients = loss_and_gradients(model, pieces, "packed")
            torch.testing.assert_close(loss, expected_loss, atol=1e-5, rtol=1e-5)
            assert gradients.keys() == expected.keys()
            scale = max(float(gradient.abs().max()) for gradient in expected.values())
            for key, gradient in expected.items():
                error = float((gradients[key] - gradient).abs().max()) / scale
                assert error < 2e-5, f"{use_reentrant}, {pieces}: {key} is off by {error}"


@pytest.mark.slow
@pytest.mark.parametrize("name", CAUSAL)
def test_packed_scores_in_bfloat16_are_those_of_float32_but_for_rounding(name):
    model = make(name)
    identifiers, of_prompt, texts = random_identifiers()
    expected = ordinary_scores(model, identifiers, of_prompt, texts)
    packed = scores_in(model.bfloat16(), "packed", 40, as_batch(identifiers, of_prompt, texts), 9)
    rounding = (ordinary_scores(model, identifiers, of_prompt, texts).float() - expected).abs().max()
    assert 0 < float((packed.float() - expected).abs().max()) < 2 * float(rounding) + 0.1


def test_a_model_that_looks_ahead_is_no_student():
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    bert = transformers.BertLMHeadModel(transformers.BertConfig(vocab_size=VOCAB, **sizes)).eval()
    with pytest.raises(ValueError, match="BertLMHeadModel predicts a token with the tokens after it.*is_decoder=True"):
        scoring_way(bert)
    bert = transformers.BertLMHeadModel(transformers.BertConfig(vocab_size=VOCAB, is_decoder=True, **sizes)).eval()
    assert scoring_way(bert) in ("packed", "rows")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_no_difference(dtype):
    assert scoring_way(make("gemma2").to(dtype)) == scoring_way(make("qwen3").to(dtype)) == "packed"


def test_scores_outside_training():
    model = make("qwen3")
    identifiers, _, texts = random_identifiers(prompts=1)
    found = torch.tensor(score_identifiers(model, [text[0] for text in texts], identifiers))
    expected = ordinary_scores(model, identifiers, [[0] * 9] * 3, texts)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


PAIRS = {
    "input_ids": torch.tensor([[5, 6, 7], [8, 9, 1]]),
    "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
    "labels": torch.tensor([[11, 12, 13, 2], [14, 2, -100, -100]]),
}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", ["gpt2", "gemma3_text"])
@pytest.mark.parametrize("way", ["packed", "rows", "plain"])
def test_pairs_are_a_prompt_and_its_labels(way, name, side):
    model = make(name)
    batch = PAIRS
    if side == "left":
        batch = {
            "input_ids": torch.tensor([[5, 6, 7], [1, 8, 9]]),
            "attention_mask": torch.tensor([[1, 1, 1], [0, 1, 1]]),
            "labels": torch.tensor([[11, 12, 13, 2], [-100, -100, 14, 2]]),
        }
    scores = student_of(model).score_pairs(batch, way).log_probabilities
    for row, (prompt, labels) in enumerate([([5, 6, 7], [11, 12, 13, 2]), ([8, 9], [14, 2])]):
        logits = model(input_ids=torch.tensor([prompt + labels])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1)[range(len(labels)), labels]
        torch.testing.assert_close(scores[row][batch["labels"][row] >= 0], expected)
    assert (scores[batch["labels"] < 0] == 0).all()


def test_pairs_without_labels_have_no_scores():
    labels = torch.full_like(PAIRS["labels"], -100)
    assert (student_of(make("llama")).score_pairs({**PAIRS, "labels": labels}, "packed").log_probabilities == 0).all()


def test_pairs_share_rows_and_only_labels_have_logits(monkeypatch):
    """Two long prompts and many short ones: about as many cells as tokens, in whatever order the pairs come."""
    rng = np.random.default_rng(0)
    sizes = [(60, 4), (4, 60), *((int(rng.integers(3, 9)), int(rng.integers(2, 7))) for _ in range(30))]
    batch = {"input_ids": torch.full((32, 60), 5), "labels": torch.full((32, 60), -100)}
    batch["attention_mask"] = torch.zeros_like(batch["input_ids"])
    for row, (prompt, labels) in enumerate(sizes):
        batch["attention_mask"][row, :prompt] = 1
        batch["labels"][row, :labels] = torch.from_numpy(rng.integers(10, VOCAB, labels))
    seen = []

    def predict(model, inputs, targets, **options):
        seen.append((inputs["input_ids"].numel(), len(targets.states)))
        return original(model, inputs, targets, **options)

    original = causal.predict
    monkeypatch.setattr(causal, "predict", predict)
    model = make("qwen3")
    scores = [student_of(model).score_pairs(batch, way) for way in ("packed", "rows")]
    for packed, separate in zip(*scores, strict=True):
        torch.testing.assert_close(packed, separate, atol=1e-4, rtol=1e-4)
    (cells, logits), (separate_cells, _) = seen
    assert logits == sum(labels for _, labels in sizes)
    assert cells < 1.2 * sum(prompt + labels for prompt, labels in sizes) < separate_cells / 5


@pytest.mark.filterwarnings("ignore:Position ids")
def test_pairs_train_a_learned_prompt():
    torch.manual_seed(0)
    model = get_peft_model(make("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    way = scoring_way(model, pairs=True)
    loss = -student_of(model).score_pairs(PAIRS, way).log_probabilities.sum() / 6
    joined = torch.tensor([[5, 6, 7, 11, 12, 13, 2], [8, 9, 14, 2, 1, 1, 1]])
    labels = torch.tensor([[-100, -100, -100, 11, 12, 13, 2], [-100, -100, 14, 2, -100, -100, -100]])
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    torch.testing.assert_close(loss, model(input_ids=joined, attention_mask=mask, labels=labels).loss)


@pytest.mark.slow
def test_a_four_bit_base_trains_an_adapter(tmp_path):
    pytest.importorskip("bitsandbytes")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.Qwen3Config(
        vocab_size=VOCAB, num_key_value_heads=2, head_dim=16, initializer_range=0.2, **sizes
    )
    torch.manual_seed(0)
    transformers.Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    four_bits = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    base = load_student_model(tmp_path, quantization_config=four_bits, device_map="cpu", dtype=torch.float32)
    assert scoring_way(base) == "packed"
    prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    model = with_adapter(base)
    expected_loss, expected = loss_and_gradients(model, None, "plain")
    loss, gradients = loss_and_gradients(model, 40, "packed")
    torch.testing.assert_close(loss, expected_loss, rtol=5e-3, atol=0)
    assert gradients.keys() == expected.keys() and all("lora" in name for name in expected)
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        assert float((gradients[name] - gradient).abs().max()) < 0.02 * scale, name


@pytest.mark.parametrize("way", ["packed", "rows"])
def test_an_empty_prompt_is_refused(way):
    input_ids, mask, rows = as_batch(*random_identifiers())
    with pytest.raises(ValueError, match="A prompt has no tokens"):
        score_tokens(make("llama"), input_ids, mask * 0, rows, way=way)
    with pytest.raises(ValueError, match="A prompt has no tokens"):
        student_of(make("llama")).score_pairs({**PAIRS, "attention_mask": PAIRS["attention_mask"] * 0}, way)


def test_identifiers_after_a_prompt_have_fewer_positions():
    assert student_of(make("gpt2")).identifier_limit(10) == student_of(make("opt")).identifier_limit(10) == 119
    for name in ("llama", "gemma2", "gpt_neox", "mamba"):
        assert student_of(make(name)).identifier_limit(10) is None


def test_another_process_decides():
    model = make("llama")
    set_scoring_way(model, "rows")
    assert scoring_way(model) == "rows"


@pytest.mark.parametrize("name", ["gpt2", "bart"])
def test_a_model_is_loaded_as_its_configuration_says(name, tmp_path):
    model = make(name)
    model.save_pretrained(tmp_path)
    loaded = load_student_model(tmp_path, dtype=torch.float32)
    assert type(loaded) is type(model)
    assert all(torch.equal(*pair) for pair in zip(loaded.parameters(), model.parameters(), strict=True))


def test_a_model_in_the_cache_is_loaded_without_asking_the_hub(tmp_path, monkeypatch):
    make("gpt2").save_pretrained(tmp_path)
    asked = []
    from_pretrained = transformers.AutoConfig.from_pretrained

    def noted(name, **arguments):
        asked.append(arguments.get("local_files_only"))
        return from_pretrained(name, **arguments)

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", noted)
    load_student_model(tmp_path, local_files_only=True)
    assert asked[0] is True
